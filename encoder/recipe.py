"""What is trained, and how: the recipe, and the objectives and optimisers that it names."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int32, PyTree

from cxr_embeddings.configs.schema_pretraining import PretrainingConfig

from . import augment, supcon

HEAD_STAGE = 8
PROJECTION_HIDDEN, PROJECTION_WIDTH = 2048, 128  # arXiv 2004.11362: ReLU between, no BatchNorm


@dataclasses.dataclass(frozen=True)
class Recipe(PretrainingConfig):
    """The settings of a training, each of them given; `micro_batch` divides `batch_size`."""

    first_stage: int = 0
    first_share: float = 0.0
    learning_rate: float = 1e-3
    seed: int = 0  # of the views and of the projection's first weights
    columns: int = 1  # of the labels


class Projection(nn.Module):
    """Embedding to the space of the contrastive loss; dropped after training."""

    @nn.compact
    def __call__(self, embedding: Float[Array, "n dim"]) -> Float[Array, "n width"]:
        # of length sqrt(dim), not 1: else Adam's first steps are larger than the weights' effect
        x = supcon.normalise(embedding) * embedding.shape[-1] ** 0.5
        x = nn.relu(nn.Dense(PROJECTION_HIDDEN, name="hidden")(x))
        return nn.Dense(PROJECTION_WIDTH, name="out")(x)


class Classifier(nn.Module):
    """Embedding to a logit of each finding: what the contrastive loss is compared with."""

    findings: int

    @nn.compact
    def __call__(self, embedding: Float[Array, "n dim"]) -> Float[Array, "n finding"]:
        return nn.Dense(self.findings, name="out")(embedding)


def cross_entropy(
    logits: Float[Array, "n finding"], label: Int32[Array, "n finding"], _: float
) -> Float32[Array, ""]:
    """Mean over all known labels of the logistic loss.

    For one finding it is the softmax cross-entropy of two classes, whose logits differ by this one.
    """
    each = optax.sigmoid_binary_cross_entropy(logits, (label == 1).astype(logits.dtype))
    known = label >= 0
    return jnp.where(known, each, 0).sum(dtype=jnp.float32) / jnp.maximum(
        known.sum(dtype=jnp.float32), 1
    )


# name -> what stands on the embedding, made for a number of findings, and the loss of its outputs
OBJECTIVES: dict[str, tuple[Callable[[int], nn.Module], Callable[[Array, Array, float], Array]]] = {
    "supcon": (lambda _: Projection(), supcon.supervised_contrastive_loss),
    "cross_entropy": (Classifier, cross_entropy),
}


def _kernels(params: PyTree) -> PyTree[bool]:
    """Where weight decay and LARS's rates apply: not to biases, nor to BatchNorm."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


OPTIMIZERS = {
    "lars": functools.partial(optax.lars, weight_decay_mask=_kernels, trust_ratio_mask=_kernels),
    "adamw": functools.partial(optax.adamw, mask=_kernels),
}


def check(recipe: Recipe, rows_on: int) -> None:
    """Raises ValueError where a recipe cannot be followed on `rows_on` devices along `data`."""
    augment.check(recipe.augmentation)
    for name, fine, expected in (
        ("objective", recipe.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
        ("optimizer", recipe.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
        ("first_stage", recipe.first_stage in range(HEAD_STAGE + 1), f"0 to {HEAD_STAGE}"),
        ("first_share", 0 <= recipe.first_share < 1, "at least 0 and below 1"),
        ("temperature", 1e-3 <= recipe.temperature <= 10, "0.001 to 10"),
        ("batch_size", recipe.batch_size > 1, "2 or more"),
        (
            "micro_batch",
            recipe.micro_batch > 0 and recipe.batch_size % recipe.micro_batch == 0,
            f"a divisor of batch_size, {recipe.batch_size}",
        ),
        (
            "micro_batch",
            recipe.micro_batch % rows_on == 0,
            f"a multiple of {rows_on}, the number of devices that share it",
        ),
        ("steps", recipe.steps > 0, "1 or more"),
        ("warmup_steps", 0 <= recipe.warmup_steps < recipe.steps, "less than steps"),
        ("learning_rate", 0 < recipe.learning_rate < np.inf, "a positive number"),
        ("weight_decay", 0 <= recipe.weight_decay < np.inf, "0 or more"),
        ("average_decay", 0 <= recipe.average_decay < 1, "at least 0 and below 1"),
    ):
        if not fine:
            raise ValueError(f"training.{name} is {getattr(recipe, name)!r}; expected {expected}")
    if not 0 <= recipe.seed < 2**32:
        raise ValueError(f"seed is {recipe.seed}; expected 0 or more, below 2^32")


def learning_rate(recipe: Recipe) -> optax.Schedule:
    """The rate of each step, counted from 0; the first one's is not 0, which would waste it."""
    peak, warmup = recipe.learning_rate, max(recipe.warmup_steps, 1)
    return optax.warmup_cosine_decay_schedule(peak / warmup, peak, warmup - 1, recipe.steps)


def stage_of(layer: str) -> int:
    """Where a layer of the encoder stands: stem 0, stages 1 to 7, behind them `HEAD_STAGE`."""
    found = re.match(r"stem|stage(\d)", layer)
    return int(found[1] or 0) if found else HEAD_STAGE


def is_trained(recipe: Recipe, params: Mapping[str, Mapping]) -> PyTree[bool]:
    """Of the parameters of "encoder" and "head", which a step changes."""

    def mark(path: tuple[jax.tree_util.DictKey, ...], _: Array) -> bool:
        part, layer = path[0].key, path[1].key
        return part == "head" or stage_of(layer) >= recipe.first_stage

    return jax.tree_util.tree_map_with_path(mark, params)


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """The recipe's optimiser, at its rate of each step, for the parameters that are trained."""
    made = OPTIMIZERS[recipe.optimizer]
    optimize = made(learning_rate(recipe), weight_decay=recipe.weight_decay)
    if not recipe.first_stage:
        return optimize
    return optax.masked(optimize, functools.partial(is_trained, recipe))
