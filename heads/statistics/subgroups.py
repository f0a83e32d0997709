"""The metrics within groups of films, such as women and men, and the gaps between groups."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from scipy import stats

from . import auroc_interval, bootstrap, calibration, discrimination
from .operating_points import cells, rates
from .results import Gap, Group, GroupFinding, Interval

# With fewer films of a class the interval is so wide that the AUROC says nothing, and the largest
# and the smallest AUROC would most often be those of the smallest groups.
MIN_OF_A_CLASS = 10
# of an AUROC, at a confidence; None with fewer than two patients of a class
Limits = Callable[[float], tuple[float, float] | None]


class FindingFilms(NamedTuple):
    """The films of test whose label is known for one finding."""

    rows: Int64[np.ndarray, " k"]  # their numbers in test
    logit: Float64[np.ndarray, " k"]  # before scaling
    label: Int64[np.ndarray, " k"]
    probability: Float64[np.ndarray, " k"]  # after scaling
    threshold: float | None  # of the first operating point; None where tune gave none


def measure(
    films: Mapping[str, FindingFilms], values: Shaped[np.ndarray, " n"], draws: bootstrap.Draws
) -> tuple[dict[str, Group], dict[str, Gap]]:
    """All findings in each group of one column, and the gap of each finding.

    The groups of a gap are picked by their AUROC, so that the difference is too large on average,
    the more so the more groups there are; its interval allows for that: it holds the gap between
    the true AUROCs, whichever groups these are of. A difference of two groups has the limits that
    MOVER gives (Zou and Donner, Statistics in Medicine 2008;27:1693-1702) from the groups' own, at
    the level of Tukey's range for all pairs; the gap lies between the largest lower and the largest
    upper one, and is at least 0.

    Films of test whose value is "" are left out. All groups see the same resamples.
    """
    groups: dict[str, Group] = {}
    aurocs: dict[str, dict[str, tuple[float, Limits]]] = {finding: {} for finding in films}
    for value in map(str, np.unique(values)):
        if not value:
            continue
        inside = values == value
        found = {finding: _group(one, inside[one.rows], draws) for finding, one in films.items()}
        defined = {finding: auroc for finding, (_, auroc) in found.items() if auroc}
        for finding, auroc in defined.items():
            if auroc.limits == (None, None):
                continue
            one, rows = films[finding], inside[films[finding].rows]
            known = one.logit[rows], one.label[rows], draws.patient[one.rows[rows]]
            limits = functools.partial(auroc_interval.interval, *known)
            aurocs[finding][value] = cast(float, auroc.value), limits
        mean = bootstrap.interval(bootstrap.mean([*defined.values()]))
        groups[value] = {
            "n": int(np.count_nonzero(inside)),
            "findings": {finding: result for finding, (result, _) in found.items()},
            "mean_auroc": mean and {**mean, "findings": len(defined)},
        }
    return groups, {finding: _gap(of_groups) for finding, of_groups in aurocs.items()}


def _group(
    films: FindingFilms, inside: np.ndarray, draws: bootstrap.Draws
) -> tuple[GroupFinding, bootstrap.Measured | None]:
    rows, logit, label, probability = (part[inside] for part in films[:4])
    n, positives = len(label), int(label.sum())
    result: GroupFinding = {
        "n": n,
        "positives": positives,
        "prevalence": positives / n if n else None,
        "undefined": None,
    }
    if min(positives, n - positives) < MIN_OF_A_CLASS:
        result["undefined"] = (
            f"{positives} positives and {n - positives} negatives, fewer than {MIN_OF_A_CLASS} of "
            "a class"
        )
        return result, None
    columns = {"calibration": calibration.columns(probability, label)}
    sums = bootstrap.replicates(draws, rows, logit, label, columns)
    patient = draws.patient[rows]
    measured = discrimination.measure(logit, label, patient, sums)
    measured |= calibration.measure(probability, label, sums["calibration"], patient)
    result["auroc"] = bootstrap.defined(measured["auroc"])
    result["auprc"] = bootstrap.defined(measured["auprc"])
    result["brier"] = bootstrap.defined(measured["brier"])
    result["sensitivity"] = result["specificity"] = None
    if films.threshold is not None:
        found = rates(cells(probability, label, films.threshold), patient)
        result |= {"sensitivity": found["sensitivity"], "specificity": found["specificity"]}
    return result, measured["auroc"]


def _gap(of_groups: Mapping[str, tuple[float, Limits]]) -> Gap:
    if len(of_groups) < 2:
        reason = f"fewer than two groups with {MIN_OF_A_CLASS} films of each class"
        return {"undefined": reason, "largest": None, "smallest": None, "auroc": None}
    aurocs = np.array([auroc for auroc, _ in of_groups.values()])
    confidence = _of_pairs(len(of_groups))
    limits = np.array([limits(confidence) for _, limits in of_groups.values()])
    down, up = np.square(limits - aurocs[:, None]).T
    differences = aurocs[:, None] - aurocs
    low = float((differences - np.sqrt(down[:, None] + up)).max())
    upper = differences + np.sqrt(up[:, None] + down)
    high = float(upper[~np.eye(len(aurocs), dtype=bool)].max())
    gap: Interval = {
        "value": float(differences.max()),
        "low": max(0.0, low),
        "high": min(1.0, high),
    }
    largest, smallest = ([*of_groups][at] for at in (aurocs.argmax(), aurocs.argmin()))
    return {"undefined": None, "largest": largest, "smallest": smallest, "auroc": gap}


@functools.cache
def _of_pairs(groups: int) -> float:
    """Confidence of each interval, so that 95 % of all pairs of groups hold theirs (Tukey)."""
    critical = stats.studentized_range.ppf(bootstrap.CONFIDENCE, groups, np.inf) / np.sqrt(2)
    return float(1 - 2 * stats.norm.sf(critical))
