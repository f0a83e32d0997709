"""Intervals of shares between 0 and 1, by patient: Wilson's, with the films that they are worth."""

import math

import numpy as np
from jaxtyping import Bool, Int64
from scipy import stats

from .auroc_interval import effective_patients, moderated


def wilson(value: float, films: float, critical: float) -> tuple[float, float]:
    """The shares that `value` does not refute (Wilson, JASA 1927;22:209-212).

    It is worth so many independent films, not always a whole number; a `critical` quantile is 1.96.
    """
    extra = critical**2 / films
    half = critical * math.sqrt(value * (1 - value) / films + extra / (4 * films))
    middle = value + extra / 2
    return max(0.0, (middle - half) / (1 + extra)), min(1.0, (middle + half) / (1 + extra))


def interval(hit: Bool[np.ndarray, " n"], patient: Int64[np.ndarray, " n"]) -> tuple[float, float]:
    """95 % limits of the share of films that are hits.

    n films are worth n / d: d is the variance between patients over that of independent films (the
    design effect; Rao and Scott, Biometrics 1992;48:577-585), drawn towards that of copies, which
    counts as 5 degrees of freedom beside the patients of whom the variance consists. So a share of
    0 or 1, which shows no variance, counts about each patient once.
    """
    _, number, films = np.unique(patient, return_inverse=True, return_counts=True)
    value, total = float(hit.mean()), len(hit)
    squares = np.square(np.bincount(number, hit - value))
    effect = copies = float(np.square(films).sum()) / total
    if squares.sum() > 0 and len(films) > 1:
        between = squares.sum() * len(films) / (len(films) - 1) / total
        effect *= moderated(between / (value * (1 - value)) / copies, effective_patients(squares))
    critical = float(stats.norm.ppf(0.975))
    low, high = wilson(value, total / effect, critical)
    return min(low, value), max(high, value)
