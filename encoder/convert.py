"""Published checkpoints to bundles: which variant they are, the strict merge, and a self-check."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float

from .card import Card
from .efficientnet import EMBEDDING_WIDTH, VARIANTS, EfficientNet, stage_blocks, stage_widths
from .embedding_layers import embedding_widths
from .sources import efficientnet_pytorch, elixr_c, keras, tf, timm
from .sources.checkpoint import Checkpoint
from .weights import HasShape, Variables, abstract_variables, merge, model_for

SOURCES = {
    **{"timm": timm.read, "keras": keras.read, "tf": tf.read, "elixr_c": elixr_c.read},
    "efficientnet_pytorch": efficientnet_pytorch.read,
}
CHECK_SIZE = 64  # pixels: a second for L2, and every stage still has more than one


def variant_of(leaves: Mapping[str, HasShape], origin: str) -> str:
    """The key of `VARIANTS` whose stages have as many blocks, as wide, as the leaves of a network.

    B0 and Lite0 are told apart by squeeze-and-excite.

    Raises:
        ValueError: no variant is like that.
    """
    stages: dict[str, list[int]] = {}
    for path, leaf in leaves.items():
        match = re.fullmatch(r"params/stage([1-7])_block\d+/project_conv/kernel", path)
        if match and leaf.shape:
            stages.setdefault(match[1], []).append(leaf.shape[-1])
    blocks = [len(stages[i]) for i in sorted(stages)]
    widths = [stages[i][-1] for i in sorted(stages)]
    lite = not any("/squeeze_excite/" in path for path in leaves)
    for variant, scale in VARIANTS.items():
        sizes = stage_blocks(variant), stage_widths(variant), scale.lite
        if (blocks, widths, lite) == sizes:
            return variant
    names = [getattr(leaf, "name", path) for path, leaf in leaves.items()]
    raise ValueError(
        f"{origin} holds none of the EfficientNets {', '.join(VARIANTS)}: recognised were stages "
        f"of {blocks} blocks and {widths} channels (l2 has {stage_blocks('l2')} and "
        f"{stage_widths('l2')}); the first of its {len(names)} names are {', '.join(names[:5])}"
    )


def orthonormal(inputs: int, outputs: int, seed: int) -> np.ndarray:
    """A fixed map between widths that keeps inner products: kernel [inputs outputs], float32.

    Randomised Hartley transform: random signs, then columns or rows, drawn at random, of the
    orthonormal matrix cas(2 pi j k / n) / sqrt(n), cas = cos + sin, n the larger width (Hartley
    1942; as a random projection: Ailon and Chazelle 2009). Widening keeps every inner product;
    narrowing keeps it times outputs / inputs on average. The entries take n values only, without
    any matrix factorisation, so every machine makes the same bits.
    """
    size = max(inputs, outputs)
    generator = np.random.Generator(np.random.SFC64([seed, inputs, outputs]))
    signs = generator.integers(0, 2, (inputs, 1), np.int8) * np.float32(2) - 1
    chosen = np.sort(generator.permutation(size)[: min(inputs, outputs)])
    rows, columns = (np.arange(inputs), chosen) if inputs == size else (chosen, np.arange(outputs))
    angles = 2 * np.pi / size * np.arange(size)
    cas = ((np.cos(angles) + np.sin(angles)) / math.sqrt(size)).astype(np.float32)
    return signs * cas[np.outer(rows, columns) % size]


def read(
    checkpoint: Checkpoint,
    *,
    variant: str | None = None,
    resolution: int | None = None,
    progress: Callable[[Sequence], Iterable] = iter,
) -> tuple[Card, Variables]:
    """Reads a published checkpoint into float32 variables, in memory once, and a card.

    Args:
        checkpoint: from a reader of `SOURCES`.
        variant: the one that it must be; None takes what it is.
        resolution: in pixels, for a checkpoint that does not say; None: the variant's own.
        progress: wraps the arrays while they are read, to draw a bar.

    Raises:
        ValueError: it is another variant or resolution than asked, its leaves do not fit, or it is
            untrained.
    """
    found = variant_of(checkpoint.leaves, checkpoint.origin)
    for name, asked, there in (
        ("variant", variant, found),
        ("resolution", resolution, checkpoint.resolution),
    ):
        if asked != there and None not in (asked, there):
            raise ValueError(f"{checkpoint.origin}: asked for {name} {asked}, but it is {there}")
    head = checkpoint.leaves.get("params/head_conv/kernel")
    head_width = head.shape[-1] if head and head.shape else None
    card = Card(
        variant=found,
        head_width=head_width,
        projection=None,
        embeddings=embedding_widths(found, head_width),
        resolution=checkpoint.resolution or resolution or VARIANTS[found].resolution,
        preset=checkpoint.preset,
        mean=checkpoint.mean,
        std=checkpoint.std,
        source=checkpoint.origin,
        licence=checkpoint.licence,
        terms_of_use=checkpoint.terms_of_use,
        dtype="float32",
        training_data=checkpoint.training_data,
        dropped=checkpoint.dropped,
        trained=True,
    )
    merged = merge(checkpoint.leaves, abstract_variables(model_for(card)), checkpoint.origin)
    leaves = progress([*flatten_dict(merged).items()])
    variables = unflatten_dict({path: jnp.asarray(leaf.read()) for path, leaf in leaves})
    statistics = flatten_dict(variables["batch_stats"]).items()
    if all((leaf == float(path[-1] == "var")).all() for path, leaf in statistics):
        raise ValueError(
            f"{checkpoint.origin} is untrained: all its BatchNorms have mean 0 and variance 1. "
            "Expected trained weights; for random numbers embed.py has weights=random"
        )
    return card, variables


def projection_seed(rule: str) -> int:
    """The seed of "orthonormal:SEED"; any other rule raises ValueError."""
    match = re.fullmatch(r"orthonormal:(\d{1,9})", rule)
    if not match:
        raise ValueError(f"projection is {rule!r}; expected orthonormal:SEED, as orthonormal:0")
    return int(match[1])


def add_projection(card: Card, variables: Variables, seed: int) -> tuple[Card, Variables]:
    """Adds an untrained map from the widest vector to `EMBEDDING_WIDTH`, and says so in the card.

    Raises ValueError where the network gives as many numbers already.
    """
    layer, width = next(iter(card.embeddings.items()))
    if width == EMBEDDING_WIDTH:
        raise ValueError(
            f"{card.source} gives {width} numbers already, as {layer}: leave --projection out"
        )
    kernel = orthonormal(width, EMBEDDING_WIDTH, seed)
    card = dataclasses.replace(
        card,
        projection=f"orthonormal:{seed} of {layer} (untrained)",
        embeddings=embedding_widths(card.variant, card.head_width, projection=True),
    )
    params = variables["params"] | {"projection": {"kernel": jnp.asarray(kernel)}}
    return card, variables | {"params": params}


def self_check(card: Card, variables: Variables) -> Float[np.ndarray, "2 16"]:
    """Runs the network on two fixed pseudo-random images of `CHECK_SIZE`, in float32.

    Gives 16 numbers of each that two people can compare: the embedding seen from 16 fixed
    directions, of unit variance.

    Raises:
        ValueError: an embedding is not finite, or the two are the same: no signal gets through.
    """
    generator = np.random.Generator(np.random.SFC64(0))
    images = generator.random((2, CHECK_SIZE, CHECK_SIZE, 3), np.float32)
    mean, std = (np.asarray(values, np.float32) for values in (card.mean, card.std))
    forward = jax.jit(EfficientNet.apply, static_argnums=0)
    embedding, _ = forward(model_for(card), variables, (images - mean) / std)
    embedding = np.asarray(embedding)
    if not np.isfinite(embedding).all():
        raise ValueError(f"{card.source}: its network gives numbers that are not finite")
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    if np.linalg.norm(embedding[0] - embedding[1]) <= 1e-5 * length.max():
        raise ValueError(
            f"{card.source}: its network gives the same embedding for two different images; the "
            "weights are damaged, or untrained"
        )
    signs = generator.integers(0, 2, (embedding.shape[1], 16)) * np.float32(2) - 1
    return embedding / length @ signs
