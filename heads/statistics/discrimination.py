"""How well scores rank films: AUROC, DeLong's interval, and the paired test of two heads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Real
from MLstatkit import Delong_test
from scipy import stats
from sklearn.metrics import roc_auc_score

from heads.statistics import bootstrap


def auroc(
    score: Float[np.ndarray, "*batch n"], label: Real[np.ndarray, " n"]
) -> Float64[np.ndarray, "*batch"]:
    """AUROC of many sets of scores for the same films at once, from ranks (Mann-Whitney).

    Args:
        score: the last axis runs over films; ties count half.
        label: 0 or 1.

    Returns:
        One number for each set of scores; NaN where a class is missing or a score is NaN.
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


def delong(score: Float[np.ndarray, " n"], label: Real[np.ndarray, " n"]) -> dict[str, Any]:
    """AUROC with the interval of DeLong, DeLong and Clarke-Pearson (Biometrics 1988;44:837-845).

    The interval takes films as independent and the AUROC as normally distributed: it has no width
    at 0 and 1, and says too little with few films of a class.

    Args:
        score: any monotone score.
        label: 0 or 1; both must occur.

    Returns:
        value, low and high; low and high are None where a class has one film.
    """
    value = float(roc_auc_score(label, score))
    if min(np.count_nonzero(label), np.count_nonzero(label == 0)) < 2:
        return {"value": value, "low": None, "high": None}
    found = _delong_test(label, score, -score)
    low, high = found[2] if found else (value, value)
    return {"value": value, "low": float(low), "high": float(high)}


def _delong_test(label: np.ndarray, score_a: np.ndarray, score_b: np.ndarray) -> tuple | None:
    """MLstatkit's result; None where the difference of the two has no variance.

    The test wants two scores, and where their difference has no variance it bootstraps, slowly and
    film by film. So the interval of one score is asked for with its negative, whose difference from
    it has four times the variance; and no resamples are allowed, which makes MLstatkit raise
    instead.
    """
    try:
        return Delong_test(label, score_a, score_b, alpha=bootstrap.CONFIDENCE, n_boot=0)
    except FloatingPointError:
        return None


def compare(
    findings: Sequence[str],
    label: Real[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
    logit_a: Float[np.ndarray, "n finding"],
    logit_b: Float[np.ndarray, "n finding"],
) -> dict[str, dict[str, Any]]:
    """The paired test of DeLong et al. between two heads on the same films.

    Args:
        findings: names of the columns.
        label: 0 or 1.
        mask: whether the label is known; films without are left out.
        logit_a, logit_b: of the two heads.

    Returns:
        For each finding n, positives, undefined (None or the reason, then nothing more follows),
        auroc_a, auroc_b, difference (b - a), its low and high (95 %), z, p, and p_holm: p adjusted
        for the number of findings tested (Holm, Scand J Statist 1979;6:65-70). The test takes films
        as independent. Where no film ranks differently, difference and z are 0 and p is 1.
    """
    results: dict[str, dict[str, Any]] = {}
    for j, finding in enumerate(findings):
        rows = mask[:, j]
        known = label[rows, j]
        positives = int(np.count_nonzero(known))
        reason = why_undefined("the comparison", known)
        if not reason and min(positives, len(known) - positives) < 2:
            reason = "a class has one film only: the test needs two of each"
        results[finding] = {"n": len(known), "positives": positives, "undefined": reason}
        if not reason:
            results[finding] |= _compare_one(known, logit_a[rows, j], logit_b[rows, j])
    _adjust(results)
    return results


def compare_by_patient(
    results: dict[str, dict[str, Any]],
    draws: bootstrap.Draws,
    label: Real[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
    logit_a: Float[np.ndarray, "n finding"],
    logit_b: Float[np.ndarray, "n finding"],
) -> None:
    """Puts limits and tests of the bootstrap, by patient, in place of those of `compare`.

    z is the difference by its standard deviation over the resamples; p is that of a normal z.
    """
    for j, result in enumerate(results.values()):
        if result["undefined"]:
            continue
        rows = np.flatnonzero(mask[:, j])
        known, nothing = label[rows, j], {"": np.zeros((len(rows), 1))}
        a, b = (
            bootstrap.replicates(draws, rows, logit[rows, j], known, nothing)["auroc"]
            for logit in (logit_a, logit_b)
        )
        differences = (b - a)[np.isfinite(b - a)]
        if len(differences) < bootstrap.CONFIDENCE * len(a):
            result["undefined"] = "too few patients: resamples lack one of the classes"
            continue
        low, high = np.percentile(differences, [2.5, 97.5])
        deviation = differences.std(ddof=1) if len(differences) > 1 else 0.0
        z = result["difference"] / deviation if deviation > 0 else 0.0
        p = 2 * stats.norm.sf(abs(z))
        result |= {"low": float(low), "high": float(high), "z": float(z), "p": float(p)}
    _adjust(results)


def _adjust(results: dict[str, dict[str, Any]]) -> None:
    """Adds p_holm."""
    tested = [result for result in results.values() if not result["undefined"]]
    highest = 0.0
    for rank, result in enumerate(sorted(tested, key=lambda result: result["p"])):
        highest = max(highest, min(1.0, (len(tested) - rank) * result["p"]))
        result["p_holm"] = highest


def _compare_one(label: np.ndarray, logit_a: np.ndarray, logit_b: np.ndarray) -> dict[str, Any]:
    a, b = (float(roc_auc_score(label, logit)) for logit in (logit_a, logit_b))
    found = _delong_test(label, logit_a, logit_b)
    if found:
        z, p, variance = found[0], found[1], found[-1]["var_diff"]
    elif a == b:
        z, p, variance = 0.0, 1.0, 0.0
    else:
        return {"undefined": f"AUROC {a:.3f} and {b:.3f}, without variance: no test is possible"}
    half = stats.norm.ppf((1 + bootstrap.CONFIDENCE) / 2) * np.sqrt(variance)
    difference = b - a
    return {
        "auroc_a": a,
        "auroc_b": b,
        "difference": difference,
        "low": float(difference - half),
        "high": float(difference + half),
        "z": z,
        "p": p,
    }
