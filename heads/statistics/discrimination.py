"""How well scores rank films: AUROC, DeLong's limits, and the paired test of two heads."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Real, Shaped
from scipy import stats

from . import auprc_interval, auroc_interval, bootstrap
from .results import ComparedFinding, Comparison, Interval


def auroc(
    score: Float[np.ndarray, "*batch n"], label: Real[np.ndarray, " n"]
) -> Float64[np.ndarray, "*batch"]:
    """AUROC of many sets of scores for the same films at once, from ranks (Mann-Whitney).

    Ties count half. NaN where a class is missing or a score is NaN.
    """
    positive = label > 0
    positives = np.count_nonzero(positive)
    pairs = positives * (len(label) - positives)
    if not pairs:
        return np.full(score.shape[:-1], np.nan)
    ranks = stats.rankdata(score, axis=-1)[..., positive].sum(axis=-1)
    return np.asarray((ranks - positives * (positives + 1) / 2) / pairs, np.float64)


def why_undefined(split: str, label: Real[np.ndarray, " n"]) -> str | None:
    """Why metrics of both classes are undefined on these films; None where they are defined."""
    films, positives = len(label), np.count_nonzero(label)
    if not films:
        return f"{split} has no film with a known label"
    if 0 < positives < films:
        return None
    kind = "negatives" if positives else "positives"
    return f"{split} has 0 {kind} among {films} film{'s' if films > 1 else ''}"


def measure(
    score: Float[np.ndarray, " n"],
    label: Real[np.ndarray, " n"],
    patient: Int64[np.ndarray, " n"],
    resampled: Mapping[str, Float64[np.ndarray, "resample ..."]],
) -> dict[str, bootstrap.Measured]:
    """AUROC and AUPRC with their limits by patient; `resampled` is of `bootstrap.replicates`."""
    value = auroc_interval.rank(score, label).value
    limits = auroc_interval.interval(score, label, patient) or (None, None)
    return {
        "auroc": bootstrap.Measured(value, resampled["auroc"], limits),
        "auprc": auprc_interval.measure(score, label, patient, resampled["auprc"]),
    }


def comparison(
    other: str,
    findings: Sequence[str],
    label: Real[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
    logit: Float[np.ndarray, "n finding"],
    other_logit: Float[np.ndarray, "n finding"],
    patient_id: Shaped[np.ndarray, " n"],
) -> Comparison:
    """`compare`, with the name of the other head and of the test; patients are "" where unknown."""
    number = bootstrap.patients(patient_id)
    found = compare(findings, label, mask, logit, other_logit, number)
    test = "DeLong" if len(np.unique(number)) == len(number) else "DeLong by patient"
    if (patient_id == "").any():
        test += ", patients unknown" if (patient_id == "").all() else ", some patients unknown"
    return {"other": other, "test": test, "n": len(label), "findings": found}


def with_interval(
    score: Float[np.ndarray, " n"], label: Real[np.ndarray, " n"], patient: Int64[np.ndarray, " n"]
) -> Interval | None:
    """AUROC with its score interval by patient; None where a class is missing."""
    if why_undefined("", label):
        return None
    score = score.astype(np.float64)
    low, high = auroc_interval.interval(score, label, patient) or (None, None)
    return {"value": auroc_interval.rank(score, label).value, "low": low, "high": high}


def delong(
    ranked: auroc_interval.Ranked, label: Real[np.ndarray, " n"], patient: Int64[np.ndarray, " n"]
) -> tuple[float, float] | tuple[None, None]:
    """Limits of DeLong, DeLong and Clarke-Pearson (Biometrics 1988;44:837-845), by patient.

    With several films a patient the variance is Obuchowski's. They are shown for comparison with
    other work only: they take the AUROC as normally distributed, so that they cover far less than
    95 % near 1, and have no width at 1. None with one patient of a class.
    """
    variance, _ = auroc_interval.by_patient(ranked.share, label, patient)
    if not np.isfinite(variance):
        return None, None
    half = stats.norm.ppf((1 + bootstrap.CONFIDENCE) / 2) * np.sqrt(variance)
    return float(max(0.0, ranked.value - half)), float(min(1.0, ranked.value + half))


def compare(
    findings: Sequence[str],
    label: Real[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
    logit: Float[np.ndarray, "n finding"],
    other_logit: Float[np.ndarray, "n finding"],
    patient: Int64[np.ndarray, " n"],
) -> dict[str, ComparedFinding]:
    """The paired test of DeLong et al. between two heads on the same films, by patient.

    The variance of the difference is Obuchowski's (`auroc_interval.by_patient`), which is DeLong's
    with one film a patient. z, the difference by its deviation, is judged by Student's t with as
    many degrees of freedom as patients make up the variance: films that both heads rank alike say
    nothing of it, and a normal z rejected too often with few patients. p_holm is p adjusted for the
    number of findings tested (Holm, Scand J Statist 1979;6:65-70). Where no film ranks differently,
    difference and z are 0 and p is 1.

    Films whose label is not known, by the mask, are left out.
    """
    results: dict[str, ComparedFinding] = {}
    for j, finding in enumerate(findings):
        rows = mask[:, j]
        known, of_film = label[rows, j], patient[rows]
        reason = why_undefined("the comparison", known)
        reason = reason or auroc_interval.why_none(known, of_film)
        positives = int(np.count_nonzero(known))
        results[finding] = {"n": len(known), "positives": positives, "undefined": reason}
        if not reason:
            ours, theirs = (
                auroc_interval.rank(one[rows, j], known) for one in (logit, other_logit)
            )
            _compare_one(results[finding], ours, theirs, known, of_film)
    tested = [result for result in results.values() if not result["undefined"]]
    highest = 0.0
    for rank, result in enumerate(sorted(tested, key=lambda result: result["p"])):
        highest = max(highest, min(1.0, (len(tested) - rank) * result["p"]))
        result["p_holm"] = highest
    return results


def _compare_one(
    result: ComparedFinding,
    ours: auroc_interval.Ranked,
    theirs: auroc_interval.Ranked,
    label: np.ndarray,
    patient: np.ndarray,
) -> None:
    """Adds what the test says to the result of a finding, or why there is none."""
    variance, patients = auroc_interval.by_patient(ours.share - theirs.share, label, patient)
    difference, freedom, deviation = (
        ours.value - theirs.value,
        max(1.0, patients),
        np.sqrt(variance),
    )
    if variance > 0:
        z = difference / deviation
        p = 2 * stats.t.sf(abs(z), freedom)
    elif abs(difference) < 1e-12:
        z, p, difference = 0.0, 1.0, 0.0
    else:
        both = f"AUROC {theirs.value:.3f} and {ours.value:.3f}"
        result["undefined"] = f"{both}, without variance: no test is possible"
        return
    half = stats.t.ppf((1 + bootstrap.CONFIDENCE) / 2, freedom) * deviation
    result |= {
        "auroc": ours.value,
        "other_auroc": theirs.value,
        "difference": float(difference),
        "low": float(difference - half),
        "high": float(difference + half),
        "z": float(z),
        "p": float(p),
    }
