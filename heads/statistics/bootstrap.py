"""The bootstrap by patient: films as weights, all resamples of a metric at once, intervals.

Patients are drawn with replacement, and a film counts as often as its patient was drawn: films of
one patient are alike, and to draw them one by one would give intervals that are too narrow. The
same draws serve every finding, subgroup and metric, so that differences and means keep what they
have in common (Davison and Hinkley, Bootstrap Methods and their Application, 1997).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float, Float64, Int64, Real, Shaped, UInt8

from .results import Interval

CONFIDENCE = 0.95
USABLE = 0.95  # share of resamples that must define a metric: the rest is left out, not hidden
BLOCK_BYTES = 4_000_000  # of weights at once: a few such arrays fit the cache of one core


@dataclasses.dataclass(frozen=True)
class Draws:
    """How often each resample holds a patient, and the patient of each film.

    More than 255 times does not happen: with P patients a count is at most P, and close to
    Poisson(1) when P is large.
    """

    count: UInt8[np.ndarray, "resample patient"]
    patient: Int64[np.ndarray, " n"]


class Measured(NamedTuple):
    """A metric on the films as they are, and on each resample, NaN where it is undefined.

    Limits has a metric between 0 and 1 with a better interval than the percentiles; they are None
    and None where its films give none.
    """

    value: float | None
    of_resamples: Float64[np.ndarray, " resample"]
    limits: tuple[float, float] | tuple[None, None] | None = None

    def times(self, factor: float) -> "Measured":
        """The same in another unit."""
        value = None if self.value is None else self.value * factor
        return Measured(value, self.of_resamples * factor)


def patients(patient_id: Shaped[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Numbers the patients of films from 0; a film of an unknown patient ("") is its own."""
    names = np.asarray(patient_id, dtype=str)
    known = names != ""
    number = np.empty(names.shape, np.int64)
    distinct, number[known] = np.unique(names[known], return_inverse=True)
    number[~known] = len(distinct) + np.arange(np.count_nonzero(~known))
    return number


def draw(patient_id: Shaped[np.ndarray, " n"], resamples: int, seed: int) -> Draws:
    """Draws as many patients as there are, with replacement, `resamples` times."""
    patient = patients(patient_id)
    total = int(patient.max(initial=-1)) + 1
    count = np.zeros((resamples, total), np.uint8)
    random = np.random.default_rng(seed)
    for row in count if total else ():
        row[:] = np.bincount(random.integers(total, size=total), minlength=total)
    return Draws(count, patient)


def weights(
    draws: Draws, rows: Int64[np.ndarray, " k"]
) -> Iterator[Float64[np.ndarray, "block k"]]:
    """Weights of the films `rows` in all resamples, a block of resamples at a time."""
    patient = draws.patient[rows]
    size = max(1, BLOCK_BYTES // (8 * max(1, len(rows))))
    for start in range(0, len(draws.count), size):
        yield draws.count[start : start + size].take(patient, axis=1).astype(np.float64)


def replicates(
    draws: Draws,
    rows: Int64[np.ndarray, " k"],
    score: Float[np.ndarray, " k"],
    label: Real[np.ndarray, " k"],
    columns: Mapping[str, Float64[np.ndarray, "k _"]],
    worth: Float64[np.ndarray, " k"] | None = None,
) -> dict[str, Float64[np.ndarray, "resample ..."]]:
    """The ranking metrics, and weighted sums, of every resample.

    With sorted films one running sum of the weights gives the weight of the films below a score,
    and of those up to it; AUROC (Mann-Whitney, ties count half) and average precision are sums
    over the positive films of what lies below and above them. Both equal what scikit-learn gives
    with `sample_weight`. `columns` are summed with the weights, which are times a film's `worth`.

    Returns:
        "auroc" and "auprc", NaN in resamples without both classes, and the sums under their names.
    """
    order = np.argsort(score, kind="stable")
    score, positive = score[order], np.flatnonzero(label[order])
    first, last = (np.searchsorted(score, score[positive], side) for side in ("left", "right"))
    first_positive, last_positive = (
        np.searchsorted(score[positive], score[positive], side) for side in ("left", "right")
    )
    matrix = np.concatenate([*columns.values()], axis=1)[order]
    aurocs, auprcs, sums = [], [], []
    for weight in weights(draws, rows[order]):
        if worth is not None:
            weight *= worth[order]
        of_positive = weight[:, positive]
        up_to, positives_up_to = _running(weight), _running(of_positive)
        all_films, positives = up_to[:, -1:], positives_up_to[:, -1:]
        below = up_to[:, first]
        positives_below = positives_up_to[:, first_positive]
        negatives_below = below - positives_below
        negatives_up_to = up_to[:, last] - positives_up_to[:, last_positive]
        wins = np.sum(of_positive * (negatives_below + negatives_up_to), axis=1) / 2
        aurocs.append(ratio(wins, (positives * (all_films - positives))[:, 0]))
        precision = ratio(positives - positives_below, all_films - below, otherwise=0.0)
        found = np.sum(of_positive * precision, axis=1)
        auprcs.append(np.where(np.isnan(aurocs[-1]), np.nan, ratio(found, positives[:, 0])))
        sums.append(weight @ matrix)
    ends = np.cumsum([column.shape[1] for column in columns.values()])
    parts = np.split(np.concatenate(sums), ends[:-1], axis=1)
    named = dict(zip(columns, parts, strict=True))
    return {"auroc": np.concatenate(aurocs), "auprc": np.concatenate(auprcs), **named}


def _running(weight: np.ndarray) -> np.ndarray:
    total = np.zeros((weight.shape[0], weight.shape[1] + 1))
    np.cumsum(weight, axis=1, out=total[:, 1:])
    return total


def ratio(
    numerator: Float64[np.ndarray, "*shape"],
    denominator: Float64[np.ndarray, "*shape"],
    otherwise: float = np.nan,
) -> Float64[np.ndarray, "*shape"]:
    """Numerator over denominator, `otherwise` where the denominator is 0."""
    out = np.full(numerator.shape, otherwise)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def interval(measured: Measured) -> Interval | None:
    """As `defined`; None where the value is undefined."""
    return None if measured.value is None else defined(measured)


def defined(measured: Measured) -> Interval:
    """The value with its limits, or with the 95 % percentile interval of its resamples.

    Percentiles are None where fewer than 95 % of the resamples define the metric.
    """
    value, of_resamples, limits = measured
    used = of_resamples[np.isfinite(of_resamples)]
    low, high = limits or (None, None)
    if not limits and len(used) >= USABLE * len(of_resamples):
        outside = 50 * (1 - CONFIDENCE)
        low, high = map(float, np.percentile(used, [outside, 100 - outside]))
    return {"value": cast(float, value), "low": low, "high": high, "resamples": len(used)}


def mean(measured: Sequence[Measured]) -> Measured:
    """The mean over findings, on the films as they are and in each resample.

    A resample's mean is over the findings that it defines, so that one rare finding does not take
    the interval from all others; there is none where more than 5 % of all are undefined. One
    finding without a value leaves the mean without: a mean over the rest would be another one.
    Where the findings have limits, the mean has them, too (`_mean_limits`).
    """
    values = [one.value for one in measured if one.value is not None]
    if not values or len(values) < len(measured):
        return Measured(None, np.empty(0))
    table = np.stack([one.of_resamples for one in measured])
    defined = np.isfinite(table)
    means = ratio(np.where(defined, table, 0.0).sum(axis=0), defined.sum(axis=0, dtype=np.float64))
    if defined.mean() < USABLE:
        means[:] = np.nan
    limits = _mean_limits(measured, table) if measured[0].limits else None
    return Measured(float(np.mean(values)), means, limits)


def _mean_limits(
    measured: Sequence[Measured], table: Float64[np.ndarray, "finding resample"]
) -> tuple[float, float]:
    """Limits of a mean from those of its parts (MOVER: Zou, Psychological Methods 2007;12:399-413).

    The distances of the parts' limits from their values are added as standard deviations are, with
    the correlations of the resamples. The mean of one finding has the finding's own limits. A
    finding without limits may lie anywhere between 0 and 1.
    """
    values = np.array([one.value for one in measured])
    given = (one.limits or (None, None) for one in measured)
    limits = np.array([(0.0, 1.0) if low is None else (low, high) for low, high in given])
    defined = np.isfinite(table)
    centred = np.where(defined, table - values[:, None], 0.0)
    centred -= centred.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(centred).sum(axis=1))
    correlation = ratio(centred @ centred.T, np.outer(deviation, deviation), otherwise=0.0)
    np.fill_diagonal(correlation, 1.0)  # of resamples that all agree, too
    down, up = np.abs(limits - values[:, None]).T / len(values)
    low, high = (np.sqrt(max(0.0, part @ correlation @ part)) for part in (down, up))
    return float(values.mean() - low), float(values.mean() + high)
