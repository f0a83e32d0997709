"""How good the probe is: on labelled films that it was not trained on, and what to be wary of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy import special
from typing_extensions import TypedDict

from cxr_embeddings.common import machine
from cxr_embeddings.explorer.classifier import MOST, PENALTY, Examples, Probe, solve
from cxr_embeddings.explorer.label_file import FindingLabels
from cxr_embeddings.heads.statistics import auroc_interval, operating_points
from cxr_embeddings.heads.statistics.results import Interval, Rates
from cxr_embeddings.heads.statistics.subgroups import MIN_OF_A_CLASS

FOLDS, FIRST_SIZE, BINS = 10, 8, 20
# In cross-validation a pair of films counts twice: each helps to score the other. Without signal
# the AUROC's variance is twice that of scores that do not depend on one another. Simulated, 95 %
# intervals hold the AUROC of the probe in 86 to 94 % of cases without this factor, in 95 to 100 %
# with it.
INFLATION = 2.0
NOT_RANDOM = {  # how films were chosen whose AUROC is not that of others
    "chosen by the classifier itself": ("uncertain", "likely"),
    "chosen to be unlike one another": ("diverse",),
    "looked up": ("looked_up",),
}


class Scored(NamedTuple):
    """Labelled films with logits of probes that were not trained on their patients."""

    logit: Float64[np.ndarray, " n"]
    label: Float32[np.ndarray, " n"]  # 0 or 1
    patient: Int64[np.ndarray, " n"]
    inflation: float = 1.0  # of the AUROC's variance


class CurvePoint(TypedDict):
    """The AUROC of so many labels, the first that were given; None where it is undefined."""

    labels: int
    positives: int
    auroc: Interval | None


class Measured(TypedDict):
    """What is shown of scored films; where `undefined` says why, the fields below it are empty."""

    labels: int
    positives: int
    undefined: str | None
    auroc: Interval | None
    roc: list[tuple[float, float, float]]  # 1 - specificity, sensitivity, and the logit's threshold
    edges: list[float]  # of the bins of the logit
    histogram: dict[str, list[int]]  # films in each bin, "positive" and "negative"
    thresholds: dict[str, float | None]  # of the logit, by rule


class Validation(Measured):
    """Of the labels so far."""

    of_random: Interval | None  # AUROC of the films that were drawn at random alone
    curve: list[CurvePoint]
    warnings: list[str]


@machine.one_blas_thread()
def validate(
    examples: Examples, penalty: float = PENALTY, seed: int = 0
) -> tuple[Validation, Scored | None]:
    """Measures the probe by cross-validation, in which no patient is trained on and measured.

    It needs a second or so with hundreds of labels. The films that it scored are for `rates_at`;
    None where it is undefined.
    """
    scored = cross_validate(examples, penalty, seed)
    of_random = scored and _auroc(only(scored, examples.chosen == "random"))
    total, size, curve = len(examples.label), FIRST_SIZE, list[CurvePoint]()
    while size < total:
        some = first(examples, size)
        curve.append(_point(some, cross_validate(some, penalty, seed)))
        size *= 2
    curve.append(_point(examples, scored))
    whole = measure(scored or Scored(np.empty(total), examples.label, examples.patient))
    more = Validation(**whole, of_random=of_random, curve=curve, warnings=warnings(examples))
    return more, scored


def cross_validate(examples: Examples, penalty: float, seed: int) -> Scored | None:
    """Logits of probes trained on the films of other patients; None where that is not possible.

    Patients are dealt to as many as ten folds at random, so that both labels occur in each.
    """
    label, patient, gram = examples.label, examples.patient, examples.gram
    number = [len(np.unique(patient[label == value])) for value in (1, 0)]
    folds = min(FOLDS, *number)
    if folds < 2:
        return None
    fold = deal(label, patient, folds, seed)
    logit = np.empty(len(label))
    for one in range(folds):
        out, rest = fold == one, fold != one
        dual, bias = solve(gram[np.ix_(rest, rest)], label[rest], penalty)
        logit[out] = gram[np.ix_(out, rest)] @ dual + bias
    return Scored(logit, label, patient, INFLATION)


def deal(
    label: Float32[np.ndarray, " n"], patient: Int64[np.ndarray, " n"], folds: int, seed: int
) -> Int64[np.ndarray, " n"]:
    """The fold of each film, the same for all of a patient; each fold has films of both labels.

    `folds` is at most the number of patients of each label. In the order by which patients are
    dealt those of a label stand side by side, so that so many of them come to every fold.
    """
    _, number = np.unique(patient, return_inverse=True)
    has = [np.bincount(number, label == value) > 0 for value in (1, 0)]
    kind = np.where(has[0], np.where(has[1], 1, 0), 2)  # positive only, both, negative only
    chance = np.random.default_rng(seed).permutation(len(kind))
    of_patient = np.empty(len(kind), np.int64)
    of_patient[np.lexsort((chance, kind))] = np.arange(len(kind)) % folds
    return of_patient[number]


def first(examples: Examples, size: int) -> Examples:
    """The labels that were given first."""
    film, label, chosen, patient = (part[:size] for part in examples[:4])
    return Examples(film, label, chosen, patient, examples.gram[:size, :size], 0, 0)


def _point(examples: Examples, scored: Scored | None) -> CurvePoint:
    labels, positives = len(examples.label), int(examples.label.sum())
    return {"labels": labels, "positives": positives, "auroc": scored and _auroc(scored)}


def only(scored: Scored, these: Bool[np.ndarray, " n"]) -> Scored:
    """Some of the films."""
    logit, label, patient, inflation = scored
    return Scored(logit[these], label[these], patient[these], inflation)


def measure(scored: Scored) -> Measured:
    """AUROC, ROC curve, histograms by class, and thresholds by the rules of `operating_points`."""
    from sklearn.metrics import roc_curve

    logit, label, patient, _ = scored
    measured: Measured = {
        "labels": len(label),
        "positives": int(label.sum()),
        "undefined": auroc_interval.why_none(label, patient),
        "auroc": None,
        "roc": [],
        "edges": [],
        "histogram": {},
        "thresholds": {},
    }
    if measured["undefined"]:
        return measured
    false, true, offered = roc_curve(label, logit)
    offered[0] = offered[1] + 1  # in place of infinity; it calls no film positive
    edges = np.histogram_bin_edges(logit, BINS)
    scale = max(1.0, np.abs(logit).max() / 20)  # beyond 37 probabilities round to 1
    rules = operating_points.thresholds(special.expit(logit / scale), label)
    measured["auroc"] = _auroc(scored)
    measured["roc"] = list(zip(false.tolist(), true.tolist(), offered.tolist(), strict=True))
    measured["edges"] = edges.tolist()
    measured["histogram"] = {
        name: np.histogram(logit[label == value], edges)[0].tolist()
        for name, value in (("positive", 1), ("negative", 0))
    }
    measured["thresholds"] = {
        rule.removesuffix(" on tune"): None if at is None else float(scale * special.logit(at))
        for rule, at in rules.items()
    }
    return measured


def _auroc(scored: Scored) -> Interval | None:
    if auroc_interval.why_none(scored.label, scored.patient):
        return None
    limits = auroc_interval.interval(*scored[:3], inflation=scored.inflation) or (None, None)
    value = auroc_interval.rank(scored.logit, scored.label).value
    return {"value": value, "low": limits[0], "high": limits[1]}


def rates_at(scored: Scored, threshold: float) -> Rates:
    """Sensitivity, specificity, PPV and NPV with Wilson's intervals by patient, and the counts.

    A film whose logit is `threshold` or more is called positive. Simulated, the intervals hold what
    the probe does in 88 to 95 % of cases after cross-validation.
    """
    cells = operating_points.cells(scored.logit, scored.label, threshold)
    return operating_points.rates(cells, scored.patient)


def of_held_out(
    labels: FindingLabels,
    probe: Probe,
    patient: Int64[np.ndarray, " film"],
    held_out: Bool[np.ndarray, " film"],
) -> Scored:
    """The labelled films of the held-out part, for `measure` and `rates_at`."""
    at = held_out[labels.film]
    film = labels.film[at]
    return Scored(probe.logit[film].astype(np.float64), labels.label[at], patient[film])


def warnings(examples: Examples) -> list[str]:
    """What a reader should know of these labels before trusting their AUROC, in plain words."""
    labels, positives = len(examples.label), int(examples.label.sum())
    said = []
    if min(positives, labels - positives) == 0:
        lacking = "without" if positives else "with"
        said.append(f"No film {lacking} the finding is labelled: a classifier needs some of both.")
    elif (fewest := min(positives, labels - positives)) < MIN_OF_A_CLASS:
        which = "with" if positives == fewest else "without"
        said.append(
            f"Only {fewest} films {which} the finding are labelled. With fewer than "
            f"{MIN_OF_A_CLASS} the AUROC may change much with the next labels."
        )
    counts = {how: int(np.isin(examples.chosen, ways).sum()) for how, ways in NOT_RANDOM.items()}
    if chosen := sum(counts.values()):
        listed = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
        said.append(
            f"{chosen} of {labels} films were not drawn at random: {listed}. The AUROC is of films "
            "like these, and does not hold for others: label films at random, or set a part aside."
        )
    if examples.unknown:
        said.append(
            f"The patients of {examples.unknown} films are unknown. Each counts as another one: if "
            "some have several films, the AUROC is too high, and its interval too narrow."
        )
    if examples.left_out:
        said.append(
            f"{examples.left_out} labels are left out, as the page trains on {MOST} at most. The "
            "head that you take home is trained on all."
        )
    return said
