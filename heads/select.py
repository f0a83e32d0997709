"""Trains every candidate, and keeps the one whose AUROC on tune is the highest."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from typing_extensions import TypedDict

from cxr_embeddings.configs.schema import TrainingConfig

from . import logistic, sgd
from .features import select, standardisation
from .network import HeadNetwork, Variables, logits

OPTIMIZERS = ("lbfgs", *sgd.OPTIMIZERS)


class SplitFilms(NamedTuple):
    """Labelled films: rows of the embeddings, labels of 0 and 1, and which of them are known."""

    row: Int[np.ndarray, " film"]
    label: Float32[np.ndarray, "film finding"]
    mask: Bool[np.ndarray, "film finding"]

    def counts(self) -> tuple[Int[np.ndarray, " finding"], Int[np.ndarray, " finding"]]:
        """Positives and negatives."""
        positive = self.mask & (self.label > 0)
        return positive.sum(0), (self.mask & ~positive).sum(0)

    def with_both_classes(self) -> Bool[np.ndarray, " finding"]:
        return np.minimum(*self.counts()) > 0


class Candidate(TypedDict):
    """A run of the training; `seed` and `epoch` are None for lbfgs, the AUROC where it diverged."""

    weight_decay: float
    seed: int | None
    epoch: int | None
    tune_auroc: float | None


class Trained(NamedTuple):
    """A head that was chosen."""

    head: HeadNetwork
    variables: Variables
    mean: Float32[np.ndarray, " dim"]  # with `scale`, the standardisation of the embeddings
    scale: Float32[np.ndarray, " dim"]
    candidates: list[Candidate]  # all that were trained
    chosen: int  # which of them this is
    note: str  # what the user should know of the training; "" if nothing


def check(recipe: TrainingConfig) -> None:
    """Raises ValueError where a recipe cannot be followed."""
    for what, fine, expected in (
        ("optimizer", recipe.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
        ("hidden", all(width > 0 for width in recipe.hidden), "positive widths"),
        ("dropout", 0 <= recipe.dropout < 1, "at least 0 and below 1"),
        ("learning_rate", 0 < recipe.learning_rate < np.inf, "a finite positive number"),
        ("weight_decays", len(recipe.weight_decays) > 0, "at least one"),
        ("weight_decays", all(0 <= d < np.inf for d in recipe.weight_decays), "finite ones from 0"),
        ("seeds", len({*recipe.seeds}) == len(recipe.seeds) > 0, "at least one, each once"),
        ("seeds", all(0 <= seed < 2**32 for seed in recipe.seeds), "0 or more, below 2^32"),
        ("batch_size", recipe.batch_size > 0, "a positive number"),
        ("epochs", recipe.epochs > 0, "a positive number"),
        ("patience", recipe.patience >= 0, "0 or more"),
    ):
        if not fine:
            raise ValueError(f"training.{what} is {getattr(recipe, what)!r}; expected {expected}")
    if recipe.optimizer == "lbfgs" and recipe.hidden:
        raise ValueError(
            f"training.optimizer is lbfgs, which trains linear probes, and training.hidden is "
            f"{recipe.hidden}: choose adamw, or hidden=()"
        )
    if recipe.optimizer == "lbfgs" and min(recipe.weight_decays) <= 0:
        raise ValueError(
            "training.weight_decays has a 0: without a penalty logistic regression may have no "
            "optimum; choose a small positive one, such as 1e-6"
        )


def fit(
    embedding: Float[np.ndarray, "table dim"],
    films: SplitFilms,
    tune: SplitFilms,
    recipe: TrainingConfig,
    after_epoch: Callable[[np.ndarray], object] = lambda auroc: None,
    gain: Float32[np.ndarray, " dim"] | None = None,
) -> Trained:
    """Trains all weight decays and seeds of a recipe at once, and chooses on tune.

    Among equally good candidates the one with the largest weight decay and then the first seed is
    taken. A finding without any known label among `films` is not learnt. Stochastic optimisers tell
    `after_epoch` the AUROCs on tune. Each number is multiplied by its `gain` after standardisation:
    with more of it the penalty holds its weight back less.
    """
    dim, findings = embedding.shape[1], films.label.shape[1]
    mean, scale = np.zeros(dim, np.float32), np.ones(dim, np.float32)
    if recipe.standardise:
        mean, scale = standardisation(embedding, films.row)
    if gain is not None:
        scale = scale / gain
    to_train, to_tune = (select(embedding, s.row, mean, scale) for s in (films, tune))
    head = HeadNetwork(findings, recipe.hidden, recipe.dropout)
    weight = films.mask.astype(np.float32)

    def tune_auroc(variables: Variables) -> np.ndarray:
        return sgd.mean_auroc(np.asarray(logits(head, variables, to_tune)), tune.label, tune.mask)

    notes, decays = [], sorted(recipe.weight_decays, reverse=True)
    if recipe.optimizer == "lbfgs":
        probe = logistic.fit(to_train, films.label, weight, decays)
        if not (furthest := float(probe.distance.max())) <= logistic.TOLERANCE:
            notes.append(
                f"not at the optimum after {probe.steps} steps, but {furthest:.1%} of a kernel's "
                "length away: leave out the smallest training.weight_decays"
            )
        kernel = jnp.swapaxes(probe.kernel, 1, 2)
        variables = {"params": {"logit": {"kernel": kernel, "bias": probe.bias}}}
        auroc, seeds, epochs = tune_auroc(variables), [None], [None] * len(decays)
    else:
        ordered = dataclasses.replace(recipe, weight_decays=tuple(decays))
        runs = sgd.fit(
            head, to_train, films.label, weight, ordered, tune_auroc, after_epoch=after_epoch
        )
        variables, auroc = runs.variables, runs.tune_auroc
        seeds, epochs = list(recipe.seeds), runs.epoch.tolist()
    pairs = [(decay, seed) for decay in decays for seed in seeds]
    candidates: list[Candidate] = [
        {
            "weight_decay": decay,
            "seed": seed,
            "epoch": epoch,
            "tune_auroc": float(value) if np.isfinite(value) else None,
        }
        for (decay, seed), epoch, value in zip(pairs, epochs, auroc, strict=True)
    ]
    auroc = np.where(np.isfinite(auroc), auroc, -np.inf)
    chosen = int(np.argmax(auroc))
    if not np.isfinite(auroc[chosen]):
        raise ValueError(
            "no training gave a head that tune can judge: all diverged; choose a "
            "smaller training.learning_rate or weight decay"
        )
    notes += [f"{n} of {len(auroc)} candidates diverged" for n in [np.isinf(auroc).sum()] if n]
    if len(decays) > 1 and candidates[chosen]["weight_decay"] in (decays[0], decays[-1]):
        notes.append("the weight decay chosen is at the end of training.weight_decays: try more")
    variables = jax.tree.map(lambda leaf: np.array(leaf[chosen]), variables)
    note = "; ".join(notes)
    return Trained(head, variables, mean, scale, candidates, chosen, note)


def score(
    trained: Trained, embedding: Float[np.ndarray, "table dim"], row: Int[np.ndarray, " film"]
) -> Float32[np.ndarray, "film finding"]:
    """Logits of films."""
    films = select(embedding, row, trained.mean, trained.scale)
    return np.asarray(logits(trained.head, trained.variables, films))
