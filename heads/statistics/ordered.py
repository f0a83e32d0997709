"""Three classes in order: agreement beyond chance, and how well each class is told from the rest.

Cohen's kappa with quadratic weights (Cohen, Psychological Bulletin 1968;70:213-220): a film that
lies two classes off counts four times as much as one that lies one class off.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int, Real, Shaped

from . import bootstrap, discrimination
from .results import Interval, OrderedResult


def weighted_kappa(table: Real[np.ndarray, "*batch true called"]) -> Float64[np.ndarray, "*batch"]:
    """Quadratic weighted kappa of tables of counts; NaN where chance alone would agree fully."""
    place = np.arange(table.shape[-1], dtype=np.float64)
    weight = np.square(place[:, None] - place)
    rows, columns = table.sum(axis=-1), table.sum(axis=-2)
    chance = np.einsum("...i,...j,ij->...", rows, columns, weight)
    found = np.einsum("...ij,ij->...", table, weight) * table.sum(axis=(-2, -1))
    return np.asarray(1 - bootstrap.ratio(np.asarray(found), np.asarray(chance, np.float64)))


def measure(
    classes: Sequence[str],
    true: Int[np.ndarray, " n"],
    called: Int[np.ndarray, " n"] | None,
    score: Float[np.ndarray, "n kind"],
    patient_id: Shaped[np.ndarray, " n"],
    *,
    resamples: int,
    seed: int,
) -> OrderedResult:
    """What a head makes of an ordered label.

    Args:
        classes: their names, in order.
        true, called: places in `classes`; `called` is None where tune gave no thresholds.
        score: of each class, which ranks films by it against all others.
        patient_id: "" where unknown.
        resamples, seed: of the bootstrap by patient, whose percentiles are kappa's interval.
    """
    count = len(classes)
    aurocs: dict[str, Interval | None] = {}
    number = bootstrap.patients(patient_id)
    for j, name in enumerate(classes):
        aurocs[name] = discrimination.with_interval(score[:, j], (true == j).astype(int), number)
    result: OrderedResult = {
        "n": len(true),
        "classes": np.bincount(true, minlength=count).tolist(),
        "auroc": aurocs,
        "kappa": None,
        "table": None,
    }
    if called is not None and len(true):
        cell = np.eye(count * count)[true * count + called]
        draws = bootstrap.draw(patient_id, resamples, seed)
        weights = bootstrap.weights(draws, np.arange(len(true)))
        tables = np.concatenate([weight @ cell for weight in weights])
        of_resamples = weighted_kappa(tables.reshape(-1, count, count))
        table = cell.sum(axis=0).reshape(count, count)
        value = float(weighted_kappa(table))
        found = bootstrap.Measured(value if np.isfinite(value) else None, of_resamples)
        result["kappa"] = bootstrap.interval(found)
        result["table"] = table.astype(int).tolist()
    return result
