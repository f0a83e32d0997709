"""The compiled, sharded forward pass and the loop that keeps the devices busy."""

import collections
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32

from . import depthwise, efficientnet, embedding_layers, sharding
from .card import Card
from .weights import Variables

Tag = TypeVar("Tag")
Forward = Callable[[Variables, Float32[Array, "b h w 1"]], Float32[Array, "b dim"]]

_IN_FLIGHT = 2  # one batch computes while the next is already on its way to the devices
_CPU_FILMS, _MOST_FILMS = 8, 64  # of a batch for each device; more are no faster
_LARGE_TENSORS = 5  # as large as the largest one, at a time: of L2 at 1280 px XLA's programs for
# an H200 hold two, for a TPU v5e four


def make_forward(
    model: efficientnet.EfficientNet,
    variables: Variables,
    mesh: Mesh,
    layer: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> Forward:
    """Compiles (at first use) the program from grey images to embeddings.

    Args:
        model: the network.
        variables: its variables, or their shapes.
        mesh: where to run it.
        layer: an intermediate of the network: head, head_map, pooled, feature_map, ...
        mean, std: of the three channels the network was trained with, for values in [0, 1].

    Returns:
        `forward(variables, images)`: `images` float32 [b h w 1] in [0, 1], with `b` a multiple of
        the mesh's `data` axis, to embeddings float32 [b dim]; maps are flattened row by row.
    """

    if model.conv_general_dilated is depthwise.conv_general_dilated:
        platform = mesh.devices.flat[0].platform
        known = functools.partial(depthwise.conv_general_dilated, platform=platform)
        model = model.clone(conv_general_dilated=known)

    def forward(variables: Variables, images: Float32[Array, "b h w 1"]) -> Float32[Array, "b dim"]:
        centre, scale = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (mean, std))
        _, out = model.apply(variables, (images - centre) / scale)
        return out[layer].reshape(images.shape[0], -1).astype(jnp.float32)

    rows = sharding.batch_sharding(mesh)
    weights = sharding.variable_shardings(mesh, variables)
    return jax.jit(forward, in_shardings=(weights, rows), out_shardings=rows)


def films_that_fit(card: Card, dtype: str, memory: Mapping[str, int] | None) -> int:
    """Films a batch on each device that has the weights already: a power of two.

    Reckoned from the memory that is free, as `memory_stats` says (of a CPU nothing), and the
    largest tensor; where that is too many, `embed` computes fewer at once.
    """
    if not memory or "bytes_limit" not in memory:
        return _CPU_FILMS
    numbers = embedding_layers.largest_map(card.variant, card.resolution)
    largest = jnp.dtype(dtype).itemsize * numbers
    free = 0.9 * memory["bytes_limit"] - memory["bytes_in_use"]
    fit = max(1, int(free / (_LARGE_TENSORS * largest)))
    return min(_MOST_FILMS, 2 ** (fit.bit_length() - 1))


def embed(
    forward: Forward,
    variables: Variables,
    mesh: Mesh,
    batches: Iterable[tuple[Tag, Float[np.ndarray, "b h w 1"]]],
) -> Iterator[tuple[Tag, Float32[np.ndarray, "b dim"]]]:
    """Runs `forward` over batches and gives back each tag with its embeddings, in order.

    Each host gives and gets its own rows, and all run the same number of batches. The devices
    compute one batch while the next is fetched, prepared and sent to them. A single host for which
    a batch is too large computes it, and those after it, in as few parts as its memory allows.

    Raises:
        JaxRuntimeError: the memory is too small for one film a device; or for a batch, of several
            hosts.
    """
    running: collections.deque[tuple[Tag, np.ndarray, list[Array]]] = collections.deque()
    parts = 1

    def start(images: np.ndarray) -> list[Array]:
        nonlocal parts
        while True:
            try:
                pieces = np.split(images, parts)
                return [forward(variables, sharding.put_rows(mesh, piece)) for piece in pieces]
            except jax.errors.JaxRuntimeError as error:
                parts = _more_parts(error, parts, len(images) // mesh.shape["data"])

    def finish() -> tuple[Tag, np.ndarray]:
        nonlocal parts
        tag, images, pieces = running.popleft()
        while True:
            try:
                return tag, np.concatenate([sharding.local_rows(piece) for piece in pieces])
            except jax.errors.JaxRuntimeError as error:
                finer = _more_parts(error, len(pieces), len(images) // mesh.shape["data"])
                parts = max(parts, finer)  # it may have been started before the last error
                pieces = start(images)

    for tag, images in batches:
        running.append((tag, images, start(images)))
        if len(running) == _IN_FLIGHT:
            yield finish()
    while running:
        yield finish()


def _more_parts(error: Exception, parts: int, films: int) -> int:
    """The next larger number of equal parts of so many films of a device; else raises the error."""
    finer = [n for n in range(parts + 1, films + 1) if films % n == 0]
    if "RESOURCE_EXHAUSTED" not in str(error) or not finer or jax.process_count() > 1:
        raise error
    logging.warning(
        "a batch does not fit into the memory: it is computed in %d parts from now on", finer[0]
    )
    return finer[0]
