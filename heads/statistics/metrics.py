"""What a head can do, with intervals: each finding, their mean, subgroups and the gaps between.

Everything that is chosen (temperature, thresholds) is chosen on tune; test only measures.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Real, Shaped
from scipy import special

from . import auroc_interval, bootstrap, calibration, discrimination, operating_points, subgroups
from .discrimination import why_undefined
from .results import (
    CalibrationMetrics,
    FindingResult,
    Interval,
    Patients,
    Recalibration,
    Results,
)

_INTERVALS = (
    "95 %, {by}. auroc: a score interval, which holds its level near 1; auprc and rates: Wilson's; "
    "ece: what chance adds is taken off; their means: from the intervals of the findings and the "
    "correlation of their resamples. All else: percentile bootstrap, without limits where fewer "
    "than 95 % of the resamples define the value. Temperature and thresholds are held fixed."
)


class Scored(NamedTuple):
    """The films of a split, scored; what stands where the mask is False is never looked at."""

    logit: Float[np.ndarray, "n finding"]
    label: Real[np.ndarray, "n finding"]
    mask: Bool[np.ndarray, "n finding"]
    patient_id: Shaped[np.ndarray, " n"]  # "" where unknown


class Chosen(NamedTuple):
    """What is chosen on tune for a finding: 1 and None where a class is missing there."""

    temperature: float  # the logit is divided by it
    thresholds: dict[str, float | None]  # of the probability after that, by rule
    kept: str | None  # why the temperature is 1, where tune could not tell one


def choose(findings: Sequence[str], tune: Scored) -> dict[str, Chosen]:
    """Chooses the temperature and the thresholds of every finding.

    Raises:
        ValueError: a known logit is not finite.
    """
    _check("tune", findings, tune)
    chosen = {}
    for j, finding in enumerate(findings):
        _, logit, label = _known(tune, j)
        scale, kept = calibration.temperature(logit, label)
        thresholds = operating_points.thresholds(special.expit(logit / scale), label)
        chosen[finding] = Chosen(scale, thresholds, kept)
    return chosen


def evaluate(
    findings: Sequence[str],
    tune: Scored | None,
    test: Scored,
    chosen: Mapping[str, Chosen],
    groups: Mapping[str, Shaped[np.ndarray, " n"]],
    *,
    local: Scored | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Results:
    """Measures a head on test; thresholds that `choose` gave are shown on tune, too.

    `groups` are columns of attributes, such as sex, with the value of each film of test, "" where
    unknown. Resamples and seed are of the bootstrap; all else has no chance in it. Tune is None
    where its films are not known. `local` are films like those of test, of other patients, on which
    the head is recalibrated.

    Raises:
        ValueError: a known logit is not finite.
    """
    _check("test", findings, test)
    draws = bootstrap.draw(test.patient_id, resamples, seed)
    results, measured, films = {}, [], {}
    for j, finding in enumerate(findings):
        results[finding], of_means, films[finding] = _finding(
            j, tune, test, local, chosen[finding], draws
        )
        if of_means:
            measured.append(of_means)
    by_column = {
        column: subgroups.measure(films, np.asarray(values, str), draws)
        for column, values in groups.items()
    }

    def mean(metric: str) -> Interval | None:
        return bootstrap.interval(bootstrap.mean([one[metric] for one in measured]))

    return {
        "confidence": bootstrap.CONFIDENCE,
        "resamples": resamples,
        "seed": seed,
        "intervals": _INTERVALS.format(by=_by(test.patient_id)),
        "mean": {  # of probabilities after scaling
            "auroc": mean("auroc"),
            "auprc": mean("auprc"),
            "brier": mean("brier"),
            "ece": mean("ece"),
            "calibration_slope": mean("slope"),
            "findings": len(measured),
        },
        "findings": results,
        "subgroups": {column: found for column, (found, _) in by_column.items()},
        "gaps": {column: gaps for column, (_, gaps) in by_column.items()},
    }


def count_patients(patient_id: Shaped[np.ndarray, " n"]) -> Patients:
    """The patients of films; "" is an unknown one."""
    unknown = int(np.count_nonzero(patient_id == ""))
    known = len({*patient_id} - {""})
    return {
        "patients": known if known or not unknown else None,
        "films_of_unknown_patients": unknown,
    }


def _by(patient_id: Shaped[np.ndarray, " n"]) -> str:
    """What is taken as independent."""
    unknown = patient_id == ""
    if not unknown.any():
        return "by patient"
    also = "" if unknown.all() else "patient, or by "
    return f"by {also}film where patients are unknown (too narrow where one has several films)"


def _check(split: str, findings: Sequence[str], scored: Scored) -> None:
    for j, finding in enumerate(findings):
        if unknown := np.count_nonzero(~np.isfinite(scored.logit[scored.mask[:, j], j])):
            raise ValueError(
                f"{split}: {unknown} logits of {finding} are not finite: look at the embeddings "
                "and at the training"
            )


def _known(split: Scored, finding: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.flatnonzero(split.mask[:, finding])
    logit, label = split.logit[rows, finding], split.label[rows, finding]
    return rows, logit.astype(np.float64), label.astype(np.int64)


def _refitted(local: Scored, finding: int) -> Recalibration:
    """The line of the local labels of a finding."""
    rows, logit, label = _known(local, finding)
    result: Recalibration = {
        "n": len(rows),
        "positives": int(label.sum()),
        **count_patients(local.patient_id[rows]),
        "undefined": why_undefined("the local part", label),
    }
    if result["undefined"]:
        return result
    if fitted := calibration.fit_line(logit, label):
        return {**result, "intercept": fitted[0], "slope": fitted[1]}
    result["undefined"] = "one threshold separates the local labels, or almost: no line fits best"
    return result


def _finding(
    finding: int,
    tune: Scored | None,
    test: Scored,
    local: Scored | None,
    chosen: Chosen,
    draws: bootstrap.Draws,
) -> tuple[FindingResult, dict[str, bootstrap.Measured], subgroups.FindingFilms]:
    """One finding's results, what of it enters the means, and its films for the subgroups."""
    tune_logit, tune_label = np.empty(0), np.empty(0, np.int64)
    tune_undefined = None
    if tune:
        _, tune_logit, tune_label = _known(tune, finding)
        tune_undefined = why_undefined("tune", tune_label)
    scale, limits, kept = chosen
    tune_probability = special.expit(tune_logit / scale)

    rows, logit, label = _known(test, finding)
    lines = {"before": (0.0, 1.0), "after": (0.0, 1 / scale)}  # from the logit to another
    after = special.expit(logit / scale)
    films = subgroups.FindingFilms(rows, logit, label, after, next(iter(limits.values())))
    result: FindingResult = {
        "n": len(rows),
        "positives": int(label.sum()),
        **count_patients(test.patient_id[rows]),
        "undefined": why_undefined("test", label),
    }
    if result["undefined"]:
        return result, {}, films

    if local:
        result["recalibration"] = _refitted(local, finding)
        if not result["recalibration"]["undefined"]:
            lines["local"] = result["recalibration"]["intercept"], result["recalibration"]["slope"]
    probabilities = {time: special.expit(line[0] + line[1] * logit) for time, line in lines.items()}
    columns = {time: calibration.columns(one, label) for time, one in probabilities.items()}
    sums = bootstrap.replicates(draws, rows, logit, label, columns)
    patient, ranked = draws.patient[rows], auroc_interval.rank(logit, label)
    measured = discrimination.measure(logit, label, patient, sums)
    percentiles = bootstrap.defined(measured["auroc"]._replace(limits=None))
    unit = "patient" if result["patients"] else "film"
    delong = discrimination.delong(ranked, label, patient)
    result["auroc"] = {
        **bootstrap.defined(measured["auroc"]),
        "method": f"score interval {_by(test.patient_id[rows])}",
        "no_interval": auroc_interval.why_none(label, patient, unit),
        "bootstrap_low": percentiles["low"],
        "bootstrap_high": percentiles["high"],
        "delong_low": delong[0],
        "delong_high": delong[1],
    }
    result["auprc"] = bootstrap.defined(measured["auprc"])

    slope, intercept = calibration.line(draws, rows, logit, label)
    no_line = "one threshold separates the classes, or almost: no line fits best"
    times: dict[str, CalibrationMetrics] = {}
    for time, by in lines.items():
        found = calibration.measure(probabilities[time], label, sums[time], patient)
        found["slope"], found["intercept"] = calibration.moved(slope, intercept, by)
        times[time] = {
            "brier": bootstrap.interval(found["brier"]),
            "ece": bootstrap.interval(found["ece"]),
            "slope": bootstrap.interval(found["slope"]),
            "intercept": bootstrap.interval(found["intercept"]),
        }
        measured |= found if time == "after" else {}
    if "local" in times:
        result["recalibration"]["after"] = times["local"]
    result["calibration"] = {
        "undefined": no_line if slope.value is None else None,
        "before": times["before"],
        "after": times["after"],
    }

    result["temperature"] = None if tune_undefined else scale
    result["temperature_kept"] = kept
    result["tune"] = {
        "n": len(tune_label),
        "positives": int(tune_label.sum()),
        "undefined": tune_undefined,
    }
    result["operating_points"] = operating_points.measure(
        limits, tune_probability, tune_label, after, label, patient
    )
    return result, measured, films
