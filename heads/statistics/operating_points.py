"""Thresholds on the probability, chosen on tune, and what they do on test."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64, Int64, Real
from sklearn.metrics import roc_curve

from . import proportion
from .discrimination import why_undefined
from .results import Interval, OperatingPoint, Rates

_CELLS = ("tp", "fp", "tn", "fn")


def _youden(sensitivity: np.ndarray, specificity: np.ndarray) -> int | None:
    # Rounded: sums of fractions that are equal may differ in the last bit, and be no tie.
    return int(np.argmax(np.round(sensitivity + specificity, 12)))


def _sensitivity_90(sensitivity: np.ndarray, specificity: np.ndarray) -> int | None:
    return int(np.argmax(sensitivity >= 0.90))  # reached at the latest where all are positive


def _specificity_90(sensitivity: np.ndarray, specificity: np.ndarray) -> int | None:
    reached = np.flatnonzero(specificity >= 0.90)
    return int(reached[np.argmax(sensitivity[reached])]) if len(reached) else None


# Each picks a point of the ROC curve, which runs from the highest threshold to the lowest. Of
# points that are as good the first is taken: it calls the fewest films positive.
RULES: dict[str, Callable[[np.ndarray, np.ndarray], int | None]] = {
    "Youden's J on tune": _youden,
    "sensitivity 0.90 on tune": _sensitivity_90,  # at least; with the highest specificity
    "specificity 0.90 on tune": _specificity_90,  # at least; with the highest sensitivity
}


def thresholds(
    probability: Float64[np.ndarray, " n"], label: Real[np.ndarray, " n"]
) -> dict[str, float | None]:
    """The threshold of each of `RULES`; a film is called positive at `probability >= threshold`.

    It lies half way between two neighbours on tune, so that no film lies on it and the last bit
    decides nothing; below the lowest, half way from it to 0. None where a class is missing, or
    where no threshold reaches the fixed value.
    """
    if why_undefined("tune", label):
        return dict.fromkeys(RULES)
    false, true, offered = roc_curve(label, probability, drop_intermediate=False)
    # The first point calls no film positive; its threshold is infinite and no use to anybody.
    false, true, offered = false[1:], true[1:], offered[1:]
    middle = (offered + np.append(offered[1:], 0.0)) / 2
    middle[:-1] = np.where(middle[:-1] > offered[1:], middle[:-1], offered[:-1])  # last bits
    picked = {rule: pick(true, 1 - false) for rule, pick in RULES.items()}
    return {rule: None if at is None else float(middle[at]) for rule, at in picked.items()}


def cells(
    probability: Float64[np.ndarray, " n"], label: Real[np.ndarray, " n"], threshold: float
) -> Float64[np.ndarray, "n 4"]:
    """1 in the column of the film's cell of the two by two table (tp, fp, tn, fn), else 0."""
    called, present = probability >= threshold, label > 0
    columns = [called & present, called & ~present, ~called & ~present, ~called & present]
    return np.column_stack(columns).astype(np.float64)


def measure(
    chosen: Mapping[str, float | None],
    tune_probability: Float64[np.ndarray, " m"],
    tune_label: Real[np.ndarray, " m"],
    probability: Float64[np.ndarray, " n"],
    label: Real[np.ndarray, " n"],
    patient: Int64[np.ndarray, " n"],
) -> list[OperatingPoint]:
    """Each operating point that `thresholds` chose, by rule, on test and, if known, on tune."""
    points: list[OperatingPoint] = []
    for rule, threshold in chosen.items():
        point: OperatingPoint = {
            "rule": rule,
            "threshold": threshold,
            "undefined": None,
            "tune": None,
            "test": None,
        }
        if threshold is None:
            reason = why_undefined("tune", tune_label)
            point["undefined"] = reason or "no threshold reaches it on tune"
        else:
            tp, fp, tn, fn = cells(tune_probability, tune_label, threshold).sum(axis=0).tolist()
            if tp + fn and tn + fp:
                point["tune"] = {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp)}
            point["test"] = rates(cells(probability, label, threshold), patient)
        points.append(point)
    return points


def rates(cell: Float64[np.ndarray, "n 4"], patient: Int64[np.ndarray, " n"]) -> Rates:
    """Sensitivity, specificity, PPV and NPV with intervals, and how many films `cells` counts.

    The limits are Wilson's by patient (`proportion.interval`): resamples of few films cover too
    little, and have no width where the rate is 0 or 1.
    """

    def rate(hit: str, miss: str) -> Interval | None:
        hits, misses = (cell[:, _CELLS.index(name)] > 0 for name in (hit, miss))
        counted = hits | misses
        if not counted.any():
            return None
        low, high = proportion.interval(hits[counted], patient[counted])
        return {"value": float(hits[counted].mean()), "low": low, "high": high}

    tp, fp, tn, fn = map(int, cell.sum(axis=0))
    return {
        "sensitivity": rate("tp", "fn"),
        "specificity": rate("tn", "fp"),
        "ppv": rate("tp", "fp"),
        "npv": rate("tn", "fn"),
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
    }
