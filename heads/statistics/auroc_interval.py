"""Intervals of the AUROC that hold their level near 1, with few patients, and by patient.

The variance of an AUROC that is estimated from the films is nothing where the classes are
separated, and far too small close to it. Here it is modelled as a function of the AUROC, scaled by
what the films show, and the interval holds those values that the measured AUROC does not refute, as
Newcombe's method 5 does (Statistics in Medicine 2006;25:559-573). docs/statistics.md says
how often it covers.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Real
from scipy import optimize, special

from .bootstrap import CONFIDENCE

# Fewer patients with, or without, the finding say too little of how patients differ.
MIN_PATIENTS = 2
_TRUST = 5.0  # degrees of freedom that an assumed variance is worth beside the measured one

Groups = list[tuple[float, float]]  # films, and the sum of squares of each patient's, by class


class Ranked(NamedTuple):
    """The AUROC, and what each film adds to its deviation from its expectation, in first order.

    That is its placement among the films of the other class, less the mean, divided by the films of
    its class (the structural components of DeLong et al., Biometrics 1988;44:837-845).
    """

    value: float
    share: Float64[np.ndarray, " n"]


def rank(score: Float[np.ndarray, " n"], label: Real[np.ndarray, " n"]) -> Ranked:
    """AUROC and components, in the time that sorting takes; both labels must occur."""
    positive, placement = label > 0, np.empty(len(score))
    for inside in (positive, ~positive):
        others = np.sort(score[~inside])
        sides = (np.searchsorted(others, score[inside], side) for side in ("left", "right"))
        placement[inside] = sum(sides) / (2 * len(others))
    placement[~positive] = 1 - placement[~positive]
    value = float(placement[positive].mean())
    films = np.where(positive, np.count_nonzero(positive), np.count_nonzero(~positive))
    return Ranked(value, (placement - value) / films)


def by_patient(
    share: Float64[np.ndarray, " n"],
    label: Real[np.ndarray, " n"],
    patient: Int64[np.ndarray, " n"],
) -> tuple[float, float]:
    """Variance of an AUROC, or of a difference of two, from what films add to it.

    Films of one patient are added up first (Obuchowski, Biometrics 1997;53:567-578). With one film
    a patient it is DeLong's variance.

    Returns:
        The variance, NaN with one patient of a class; and of how many patients it consists: those
        that add nothing do not count.
    """
    sums, films, variance, everyone = [], [], 0.0, int(patient.max()) + 1
    for inside in (label > 0, label <= 0):
        films.append(np.bincount(patient[inside], minlength=everyone))
        sums.append(np.bincount(patient[inside], share[inside], minlength=everyone))
        variance += _unbiased(int(np.count_nonzero(films[-1]))) * np.square(sums[-1]).sum()
    both = _unbiased(int(np.count_nonzero(films[0] + films[1])))
    variance += 2 * both * (sums[0] * sums[1]).sum()
    return float(np.maximum(0.0, variance)), effective_patients(np.square(sums[0] + sums[1]))


def effective_patients(squares: Float64[np.ndarray, " patient"]) -> float:
    """How many patients make up a variance, by what each adds: (sum)² / sum of squares."""
    part = squares / (squares.max(initial=0.0) or 1.0)
    return float(np.square(part.sum()) / (np.square(part).sum() or 1.0))


def moderated(ratio: float, patients: float | int) -> float:
    """The variance that so many patients show over the assumed one, drawn towards 1."""
    return (_TRUST + patients * ratio) / (_TRUST + patients)


def _unbiased(patients: int) -> float:
    return patients / (patients - 1) if patients > 1 else np.nan


def why_none(
    label: Real[np.ndarray, " n"], patient: Int64[np.ndarray, " n"], unit: str = "patient"
) -> str | None:
    """Why there is no interval; None where there is one. `unit`: what `patient` numbers."""
    with_, without = (len(np.unique(patient[inside])) for inside in (label > 0, label <= 0))
    if min(with_, without) >= MIN_PATIENTS:
        return None
    return (
        f"{with_} {unit}{'s' * (with_ != 1)} with the finding and {without} without: an interval "
        f"needs at least {MIN_PATIENTS} of each"
    )


def interval(
    score: Float[np.ndarray, " n"],
    label: Real[np.ndarray, " n"],
    patient: Int64[np.ndarray, " n"],
    confidence: float = CONFIDENCE,
    inflation: float = 1.0,
) -> tuple[float, float] | None:
    """The AUROCs that the measured one does not refute: never without width, within 0 and 1.

    An AUROC A is within if |measured - A| <= t sqrt(c V(A)). V (`model_variance`) is the variance
    if the scores of both classes are normal and alike in spread, and films of one patient
    correlate. c is the variance that the films show (`by_patient`) over V there, drawn towards 1:
    the model counts as 5 degrees of freedom, the films as many as patients make up their variance,
    and t has the sum of both (as Smyth moderates variances, Statistical Applications in Genetics
    2004;3:3).

    Args:
        score, label, patient: of each film.
        confidence: how often the interval is to hold the true AUROC.
        inflation: by how much the variance is larger than that of scores which do not depend on
            one another.

    Returns:
        low and high; None with fewer than two patients of a class.
    """
    if why_none(label, patient):
        return None
    value, share = rank(score, label)
    measured, patients = by_patient(share, label, patient)
    positive = label > 0
    groups = []
    for inside in (positive, ~positive):
        films = np.bincount(patient[inside])
        groups.append((float(films.sum()), float(np.square(films).sum())))
    alike = correlation(score, positive, patient)
    pairs = 1 + np.count_nonzero(positive) * float(np.count_nonzero(~positive))
    inner = min(max(value, 0.5 / pairs), 1 - 0.5 / pairs)
    factor = moderated(measured / model_variance(inner, alike, groups), patients)
    student = special.stdtrit(_TRUST + patients, (1 + confidence) / 2)  # quantile of Student's t
    factor *= inflation * student**2

    def refuted(auroc: float) -> float:
        return (value - auroc) ** 2 - factor * model_variance(auroc, alike, groups)

    least = 1e-9  # there the model still has enough digits
    start = min(max(value, least), 1 - least)
    low = 0.0 if refuted(least) <= 0 else optimize.brentq(refuted, least, start, xtol=1e-8)
    high = 1.0 if refuted(1 - least) <= 0 else optimize.brentq(refuted, start, 1 - least, xtol=1e-8)
    return float(min(low, value)), float(max(high, value))


def model_variance(auroc: float, correlation: float, groups: Groups) -> float:
    """Variance of the AUROC of normal scores whose films correlate within patients.

    Two films of a class have correlated placements: P(X > Y and X' > Y) - AUROC² for one film with
    itself (correlation 1), less for two films of a patient, nothing for others. That probability is
    of two normal variables, by Owen's T (Annals of Mathematical Statistics 1956;27:1075-1090).

    Args:
        auroc: between 0 and 1, both excluded.
        correlation: of the scores of two films of a patient and class.
        groups: of the films with the finding, and of those without.
    """
    at = special.ndtri(auroc)
    alone, together = (
        auroc - 2 * special.owens_t(at, np.sqrt((2 - c) / (2 + c))) - auroc**2
        for c in (1.0, correlation)
    )
    (with_, _), (without, _) = groups
    variance = max(0.0, auroc * (1 - auroc) - 2 * alone) / (with_ * without)
    for films, squares in groups:
        variance += (films * alone + (squares - films) * together) / films**2
    return float(variance)


def correlation(
    score: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    patient: Int64[np.ndarray, " n"],
) -> float:
    """The correlation of the normal scores of a patient's films of a class: ANOVA's, 0 to 1.

    1 where no patient has two films that could show it: such films are taken for copies.
    """
    ordered = np.sort(score)
    ranks = sum(np.searchsorted(ordered, score, side) for side in ("left", "right")) / 2
    normal = special.ndtri(ranks / len(score))
    between = within = groups = pairs = 0.0
    for inside in (positive, ~positive):
        deviation = normal[inside] - normal[inside].mean()
        _, number, films = np.unique(patient[inside], return_inverse=True, return_counts=True)
        of_patients = np.square(np.bincount(number, deviation)) / films
        between += of_patients.sum()
        within += np.square(deviation).sum() - of_patients.sum()
        groups += len(films) - 1
        pairs += films.sum() - np.square(films).sum() / films.sum()
    freedom = len(score) - 2 - groups
    if not freedom or not between + within > 0:
        return 1.0
    between, within, size = between / groups, max(within, 0.0) / freedom, pairs / groups
    return float(np.clip((between - within) / (between + (size - 1) * within), 0.0, 1.0))
