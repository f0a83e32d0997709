"""Trains heads by stochastic gradients: all seeds and weight decays at once, the best kept."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32, Int32

from cxr_embeddings.configs.schema import TrainingConfig

from .features import Features, take
from .network import HeadNetwork, Variables
from .statistics import discrimination


class Runs(NamedTuple):
    """What training gives: one run for each weight decay (outer) and seed (inner)."""

    variables: Variables  # of the kept epochs, runs in front
    tune_auroc: Float[np.ndarray, " run"]  # mean over findings, in the kept epoch
    epoch: np.ndarray  # the kept one, counted from 1
    history: Float[np.ndarray, "epoch run"]  # of the AUROC on tune


class Rate(NamedTuple):
    """What an optimiser is made from, besides the weight decay of a run."""

    optimizer: str
    learning_rate: float  # at its highest
    steps: int  # of the whole training


def _adamw(rate: Rate, weight_decay: Array) -> optax.GradientTransformation:
    """Warm-up over a twentieth of all steps, then a cosine towards zero; only kernels decay.

    The first step has a part of the rate, not 0, which would waste it; and a single step has all.
    """
    warmup, peak = max(rate.steps // 20, 1), rate.learning_rate
    schedule = optax.warmup_cosine_decay_schedule(peak / warmup, peak, warmup - 1, rate.steps)
    kernels = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
    return optax.adamw(schedule, weight_decay=weight_decay, mask=kernels)


def _lars(rate: Rate, weight_decay: Array) -> optax.GradientTransformation:
    """The toolkit's: momentum 0.9, trust coefficient 0.001, constant rate, nothing excluded."""
    return optax.lars(rate.learning_rate, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[[Rate, Array], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "lars": _lars,
}


def mean_auroc(
    logit: Float[np.ndarray, "*runs film finding"],
    label: Float32[np.ndarray, "film finding"],
    mask: Bool[np.ndarray, "film finding"],
) -> Float[np.ndarray, "*runs"]:
    """AUROC averaged over the findings that have both classes; nan if none has."""
    of_finding = [
        discrimination.auroc(logit[..., known, i], label[known, i])
        for i, known in enumerate(mask.T)
        if 0 < label[known, i].sum() < known.sum()
    ]
    return np.asarray(np.mean(of_finding, 0) if of_finding else np.full(logit.shape[:-2], np.nan))


def fit(
    head: HeadNetwork,
    features: Features,
    label: Float32[np.ndarray, "film finding"],
    weight: Float32[np.ndarray, "film finding"],
    recipe: TrainingConfig,
    tune_auroc: Callable[[Variables], np.ndarray],
    *,
    after_epoch: Callable[[np.ndarray], object] = lambda auroc: None,
) -> Runs:
    """Trains a head for every weight decay and seed; minimises the sum of the findings' losses.

    Args:
        head, features, label, recipe: what is trained, and on which films.
        weight: of each label in the loss; 0 where it is unknown.
        tune_auroc: variables with runs in front -> what the best epoch is chosen by, [runs].
        after_epoch: is told the AUROCs of the epoch.
    """
    films, dim = features.films, features.embedding.shape[1]
    batch = min(recipe.batch_size, films)
    rate = Rate(recipe.optimizer, recipe.learning_rate, recipe.epochs * -(-films // batch))
    decays = np.repeat(np.array(recipe.weight_decays, np.float32), len(recipe.seeds))
    seeds = np.tile(np.array(recipe.seeds), len(recipe.weight_decays))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    state = start(head, dim, rate, jnp.asarray(decays), keys)
    labels = jnp.asarray(label), jnp.asarray(weight)

    kept = jax.tree.map(jnp.copy, state.variables)  # the state itself is overwritten
    best = np.full(len(seeds), -np.inf)
    kept_epoch, history = np.zeros(len(seeds), np.int64), []
    for epoch in range(recipe.epochs):
        order = _order(films, batch, seeds, epoch if recipe.shuffle else None)
        state = _epoch(head, rate, state, features, labels, jnp.asarray(order))
        auroc = tune_auroc(state.variables)
        history.append(auroc)
        running = epoch - kept_epoch <= recipe.patience
        better = (auroc > best) & running if recipe.patience else np.full(len(seeds), True)
        kept = _keep(jnp.asarray(better), state.variables, kept)
        best, kept_epoch = np.where(better, auroc, best), np.where(better, epoch, kept_epoch)
        after_epoch(auroc)
        if recipe.patience and np.all(epoch - kept_epoch >= recipe.patience):
            break
    return Runs(kept, best, kept_epoch + 1, np.array(history))


class RunStates(NamedTuple):
    variables: Variables
    optimizer: optax.OptState
    weight_decay: Float32[Array, " run"]
    key: Array


def _order(films: int, batch: int, seeds: np.ndarray, epoch: int | None) -> np.ndarray:
    """Positions of the films, int32 [step run film_of_batch]; -1 fills the last batch up."""
    size = -(-films // batch) * batch
    order = np.full((len(seeds), size), -1, np.int32)
    for seed in np.unique(seeds):
        generator = np.random.default_rng((int(seed), epoch or 0))
        order[seeds == seed, :films] = (
            np.arange(films) if epoch is None else generator.permutation(films)
        )
    return order.reshape(len(seeds), -1, batch).swapaxes(0, 1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def start(head: HeadNetwork, dim: int, rate: Rate, decays: Array, keys: Array) -> RunStates:
    """The states of the runs before the first step, runs in front."""

    def one(decay: Array, key: Array) -> RunStates:
        variables = {"batch_stats": {}, **head.init(key, jnp.zeros((1, dim)))}
        optimizer = OPTIMIZERS[rate.optimizer](rate, decay)
        return RunStates(variables, optimizer.init(variables["params"]), decay, key)

    return jax.vmap(one)(decays, keys)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _epoch(
    head: HeadNetwork,
    rate: Rate,
    state: RunStates,
    features: Features,
    labels: tuple[Array, Array],
    order: Int32[Array, "step run film"],
) -> RunStates:
    def one(state: RunStates, index: Array) -> RunStates:
        """A step of one run."""
        real, index = index >= 0, jnp.maximum(index, 0)
        label, weight = (array[index] for array in labels)
        key, dropout = jax.random.split(state.key)

        def loss(params: Variables) -> tuple[Array, Variables]:
            logit, updates = head.apply(
                {**state.variables, "params": params},
                take(features, index),
                train=True,
                real=real,
                rngs={"dropout": dropout},
                mutable=["batch_stats"],
            )
            each = optax.sigmoid_binary_cross_entropy(logit, label) * weight
            mean = jnp.where(real[:, None], each, 0).sum() / real.sum(dtype=jnp.float32)
            return mean, updates.get("batch_stats", {})

        params = state.variables["params"]
        gradient, batch_stats = jax.grad(loss, has_aux=True)(params)
        optimizer = OPTIMIZERS[rate.optimizer](rate, state.weight_decay)
        with jax.numpy_dtype_promotion("standard"):  # Optax counts steps in integers
            updates, moments = optimizer.update(gradient, state.optimizer, params)
        variables = {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}
        return RunStates(variables, moments, state.weight_decay, key)

    def step(state: RunStates, index: Array) -> tuple[RunStates, None]:
        return jax.vmap(one)(state, index), None

    return jax.lax.scan(step, state, order)[0]


@jax.jit
def _keep(better: Bool[Array, " run"], new: Variables, old: Variables) -> Variables:
    def choose(new: Array, old: Array) -> Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)
