"""What a head says of change: three classes in order from two yes-or-no findings."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int64
from scipy import special

from .labels.changes import CLASSES, TARGETS, columns
from .statistics import ordered
from .statistics.metrics import Chosen, Scored
from .statistics.results import OrderedResult


def probabilities(
    not_improved: Float[np.ndarray, " n"], worse: Float[np.ndarray, " n"]
) -> Float64[np.ndarray, "n 3"]:
    """Of improved, stable and worse, which sum to 1.

    Two heads may say that worse is more probable than not improved, which holds it: not improved is
    then as probable as worse.
    """
    at_least = np.maximum(not_improved, worse).astype(np.float64)
    return np.stack([1 - at_least, at_least - worse, worse], axis=1)


def called(
    not_improved: Float[np.ndarray, " n"],
    worse: Float[np.ndarray, " n"],
    limits: Sequence[float | None],
) -> Int64[np.ndarray, " n"] | None:
    """The class, -1, 0 or 1: worse where its probability reaches its limit, else stable where that
    of not improved does. None without limits of both, in the order of the arguments.
    """
    stable, severe = limits
    if stable is None or severe is None:
        return None
    return np.where(worse >= severe, 1, np.where(not_improved >= stable, 0, -1))


def scores(
    findings: Sequence[str],
    probability: Mapping[str, Float[np.ndarray, " n"]],
    thresholds: Mapping[str, float | None],
) -> dict[str, object]:
    """NAME_improved_probability, NAME_stable_probability and NAME_class of all columns of changes.

    All are of findings of the head; NAME_worse_probability is there already. The class is NA where
    tune gave no thresholds.
    """
    added: dict[str, object] = {}
    for name in columns(findings):
        targets = [f"{name}{target}" for target in TARGETS]
        not_improved, worse = (probability[target] for target in targets)
        shares = probabilities(not_improved, worse)
        found = called(not_improved, worse, [thresholds[target] for target in targets])
        for j, kind in enumerate(CLASSES[:2]):
            added[f"{name}_{kind}_probability"] = shares[:, j]
        none = [pd.NA] * len(shares)
        added[f"{name}_class"] = pd.array(none if found is None else found, "Int64")
    return added


def with_prior(
    predicted: pd.DataFrame, findings: Sequence[str], days: Float[np.ndarray, " n"]
) -> pd.DataFrame:
    """Adds `prior_days`, and takes the class of changes from films that have no prior film."""
    predicted = predicted.assign(prior_days=pd.Series(days).convert_dtypes())
    for name in columns(findings):
        predicted[f"{name}_class"] = predicted[f"{name}_class"].mask(np.isnan(days))
    return predicted


def measure(
    findings: Sequence[str],
    scored: Scored,
    chosen: Mapping[str, Chosen],
    *,
    resamples: int,
    seed: int,
) -> dict[str, OrderedResult]:
    """What a head makes of each column of changes, on the films of a split where it is known."""
    found: dict[str, OrderedResult] = {}
    for name, places in columns(findings).items():
        of = [chosen[findings[place]] for place in places]
        known = scored.mask[:, places].all(axis=1)
        logit = scored.logit[known][:, places].astype(np.float64)
        not_improved, worse = special.expit(logit / [one.temperature for one in of]).T
        limits = [next(iter(one.thresholds.values())) for one in of]
        classes = called(not_improved, worse, limits)
        stable = probabilities(not_improved, worse)[:, 1]
        found[name] = ordered.measure(
            CLASSES,
            scored.label[known][:, places].sum(axis=1).astype(int),
            None if classes is None else classes + 1,
            np.stack([-logit[:, 0], stable, logit[:, 1]], axis=1),
            scored.patient_id[known],
            resamples=resamples,
            seed=seed,
        )
    return found
