"""The metrics within groups of films, such as women and men, and the gaps between groups."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from sklearn.metrics import average_precision_score

from heads.statistics import (
    auroc_interval,
    bootstrap,
    calibration,
    discrimination,
    operating_points,
)

# With fewer films of a class the interval is so wide that the AUROC says nothing, and the largest
# and the smallest AUROC would most often be those of the smallest groups.
MIN_OF_A_CLASS = 10


class Films(NamedTuple):
    """The films of test whose label is known for one finding.

    Attributes:
        rows: their numbers in test.
        logit: before scaling.
        label: 0 or 1.
        probability: after scaling.
        threshold: the first operating point; None where tune gave none.
    """

    rows: Int64[np.ndarray, " k"]
    logit: Float64[np.ndarray, " k"]
    label: Int64[np.ndarray, " k"]
    probability: Float64[np.ndarray, " k"]
    threshold: float | None


def measure(
    films: Mapping[str, Films], values: Shaped[np.ndarray, " n"], draws: bootstrap.Draws
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All findings in each group of one column, and the gap of each finding.

    Args:
        films: of each finding.
        values: of the column, for each film of test; films with "" are left out.
        draws: of test: all groups see the same resamples.

    Returns:
        subgroups: for each value n (films), findings and mean_auroc, which is over those findings
            that the group defines; their number is its `findings`. Compare it between groups only
            where these are the same.
        gaps: for each finding the groups of the largest and the smallest AUROC, and the difference
            with its interval. The pair is held fixed in the resamples. As the two are picked among
            all groups by their AUROC, the difference tends to be too large, the more so the more
            groups there are.
    """
    groups: dict[str, Any] = {}
    aurocs: dict[str, dict[str, bootstrap.Measured]] = {finding: {} for finding in films}
    for value in map(str, np.unique(values)):
        if not value:
            continue
        inside = values == value
        found = {finding: _group(one, inside[one.rows], draws) for finding, one in films.items()}
        defined = {finding: auroc for finding, (_, auroc) in found.items() if auroc}
        for finding, auroc in defined.items():
            aurocs[finding][value] = auroc
        mean = bootstrap.interval(bootstrap.mean([*defined.values()]))
        groups[value] = {
            "n": int(np.count_nonzero(inside)),
            "findings": {finding: result for finding, (result, _) in found.items()},
            "mean_auroc": mean and mean | {"findings": len(defined)},
        }
    return groups, {finding: _gap(of_groups) for finding, of_groups in aurocs.items()}


def _group(
    films: Films, inside: np.ndarray, draws: bootstrap.Draws
) -> tuple[dict[str, Any], bootstrap.Measured | None]:
    rows, logit, label, probability = (part[inside] for part in films[:4])
    n, positives = len(label), int(label.sum())
    result: dict[str, Any] = {
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
    if films.threshold is not None:
        columns["cells"] = operating_points.cells(probability, label, films.threshold)
    sums = bootstrap.replicates(draws, rows, logit, label, columns)
    auprc = bootstrap.Measured(float(average_precision_score(label, logit)), sums["auprc"])
    brier = calibration.measure(probability, label, sums["calibration"])["brier"]
    ranked, patient = auroc_interval.rank(logit, label), draws.patient[rows]
    auroc = discrimination.measure(ranked, logit, label, patient, sums["auroc"])
    result |= {
        "auroc": bootstrap.interval(auroc),
        "auprc": bootstrap.interval(auprc),
        "brier": bootstrap.interval(brier),
        "sensitivity": None,
        "specificity": None,
    }
    if "cells" in sums:
        rates = operating_points.rates(columns["cells"], sums["cells"], draws.patient[rows])
        result |= {rate: rates[rate] for rate in ("sensitivity", "specificity")}
    return result, auroc


def _gap(of_groups: Mapping[str, bootstrap.Measured]) -> dict[str, Any]:
    if len(of_groups) < 2:
        reason = f"fewer than two groups with {MIN_OF_A_CLASS} films of each class"
        return {"undefined": reason, "largest": None, "smallest": None, "auroc": None}
    ranked = sorted(of_groups, key=lambda value: of_groups[value].value)
    large, small = of_groups[ranked[-1]], of_groups[ranked[0]]
    difference = bootstrap.Measured(
        large.value - small.value, large.of_resamples - small.of_resamples
    )
    return {
        "undefined": None,
        "largest": ranked[-1],
        "smallest": ranked[0],
        "auroc": bootstrap.interval(difference),
    }
