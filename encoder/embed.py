"""The compiled, sharded forward pass and the loop that keeps the devices busy."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32

from encoder import sharding

Tag = TypeVar("Tag")
Forward = Callable[[Any, Float32[Array, "b h w 1"]], Float32[Array, "b dim"]]

_IN_FLIGHT = 2  # one batch computes while the next is already on its way to the devices


def make_forward(
    model: nn.Module,
    variables: Any,
    mesh: Mesh,
    layer: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> Forward:
    """Compiles (at first use) the program from grey images to embeddings.

    Args:
        model: an `EfficientNet`.
        variables: its variables, or their shapes.
        mesh: where to run it.
        layer: an intermediate of the network: head, pooled, feature_map, ...
        mean: of the three channels the network was trained with, for values in [0, 1].
        std: likewise.

    Returns:
        `forward(variables, images)`: `images` float32 [b h w 1] in [0, 1], with `b` a multiple of
        the mesh's `data` axis, to embeddings float32 [b dim]; maps are flattened row by row.
    """

    def forward(variables: Any, images: Float32[Array, "b h w 1"]) -> Float32[Array, "b dim"]:
        centre, scale = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (mean, std))
        _, out = model.apply(variables, (images - centre) / scale)
        return out[layer].reshape(images.shape[0], -1).astype(jnp.float32)

    rows = sharding.batch_sharding(mesh)
    weights = sharding.variable_shardings(mesh, variables)
    return jax.jit(forward, in_shardings=(weights, rows), out_shardings=rows)


def embed(
    forward: Forward,
    variables: Any,
    mesh: Mesh,
    batches: Iterable[tuple[Tag, Float[np.ndarray, "b h w 1"]]],
) -> Iterator[tuple[Tag, Float32[np.ndarray, "b dim"]]]:
    """Runs `forward` over batches and gives back each tag with its embeddings, in order.

    Each host gives and gets its own rows, and all run the same number of batches. The devices
    compute one batch while the next is fetched, prepared and sent to them.
    """
    running: collections.deque[tuple[Tag, Array]] = collections.deque()
    for tag, images in batches:
        running.append((tag, forward(variables, sharding.put_rows(mesh, images))))
        if len(running) == _IN_FLIGHT:
            tag, embeddings = running.popleft()
            yield tag, sharding.local_rows(embeddings)
    for tag, embeddings in running:
        yield tag, sharding.local_rows(embeddings)
