"""What is measured of a head, as it stands in metrics.json; None where something is undefined."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict


class Interval(TypedDict):
    """A value with its 95 % interval; the limits are None where the films cannot give them."""

    value: float
    low: float | None
    high: float | None
    resamples: NotRequired[int]  # that define the value, where it is of the bootstrap
    findings: NotRequired[int]  # of which it is the mean, in a group of films


class AurocInterval(Interval):
    """The score interval, with other intervals for comparison."""

    method: str
    no_interval: str | None  # why there are no limits
    bootstrap_low: float | None
    bootstrap_high: float | None
    delong_low: float | None
    delong_high: float | None


class Patients(TypedDict):
    """Known patients (None if none is known), and the films of unknown ones."""

    patients: int | None
    films_of_unknown_patients: int


class SplitCounts(Patients):
    """What a split holds; positives and negatives by finding."""

    films: int
    positives: dict[str, int]
    negatives: dict[str, int]


class Rates(TypedDict):
    """None where no film is in the denominator; and the cells of the two by two table."""

    sensitivity: Interval | None
    specificity: Interval | None
    ppv: Interval | None
    npv: Interval | None
    tp: int
    fp: int
    tn: int
    fn: int


class OperatingPoint(TypedDict):
    """A threshold that a rule chose on tune; where there is none, `undefined` says why."""

    rule: str
    threshold: float | None
    undefined: str | None
    tune: dict[Literal["sensitivity", "specificity"], float] | None
    test: Rates | None


CalibrationMetrics = dict[Literal["brier", "ece", "slope", "intercept"], Interval | None]


class Calibration(TypedDict):
    """Before and after temperature scaling; `undefined` says why there is no line."""

    undefined: str | None
    before: CalibrationMetrics
    after: CalibrationMetrics


class Recalibration(Patients):
    """The line refitted on local labels, and calibration after it; `undefined`: why there is none.

    The new logit is intercept + slope * logit. The films are of other patients than those measured.
    """

    n: int
    positives: int
    undefined: str | None
    intercept: NotRequired[float]
    slope: NotRequired[float]
    after: NotRequired[CalibrationMetrics]


class TuneFilms(TypedDict):
    n: int
    positives: int
    undefined: str | None


class FindingResult(Patients):
    """A finding on test; where `undefined` says why, nothing more follows."""

    n: int
    positives: int
    undefined: str | None
    auroc: NotRequired[AurocInterval]
    auprc: NotRequired[Interval]
    calibration: NotRequired[Calibration]
    recalibration: NotRequired[Recalibration]  # where there are local labels
    temperature: NotRequired[float | None]
    temperature_kept: NotRequired[str | None]  # why it is 1, where tune could not tell one
    tune: NotRequired[TuneFilms]
    operating_points: NotRequired[list[OperatingPoint]]


class GroupFinding(TypedDict):
    """A finding in a group of films; where `undefined` says why, nothing more follows."""

    n: int
    positives: int
    prevalence: float | None
    undefined: str | None
    auroc: NotRequired[Interval]
    auprc: NotRequired[Interval]
    brier: NotRequired[Interval]
    sensitivity: NotRequired[Interval | None]
    specificity: NotRequired[Interval | None]


class Group(TypedDict):
    """`mean_auroc` is over the findings that the group defines: compare it with care."""

    n: int
    findings: dict[str, GroupFinding]
    mean_auroc: Interval | None


class Gap(TypedDict):
    """Largest less smallest AUROC among the groups, and which groups these are."""

    undefined: str | None
    largest: str | None
    smallest: str | None
    auroc: Interval | None


class MeanResults(TypedDict):
    """Over the findings with both classes in test; `findings` is their number."""

    auroc: Interval | None
    auprc: Interval | None
    brier: Interval | None
    ece: Interval | None
    calibration_slope: Interval | None
    findings: int


class Results(TypedDict):
    """A head on test. `subgroups` and `gaps`: column -> group, or finding, -> values."""

    confidence: float
    resamples: int
    seed: int
    intervals: str  # how they are made, for the reader
    mean: MeanResults
    findings: dict[str, FindingResult]
    subgroups: dict[str, dict[str, Group]]
    gaps: dict[str, dict[str, Gap]]


class SizePoint(TypedDict):
    """Heads trained on so many films: mean patients, draws that count, and their AUROC."""

    size: int
    patients: float | None
    draws: int
    auroc: Interval | None


class DataEfficiency(TypedDict):
    """The mean is of draws in which every finding that test can measure counts."""

    sizes: list[int]
    draws: int
    findings: dict[str, list[SizePoint]]
    mean: list[SizePoint]


class ComparedFinding(TypedDict):
    """Difference: this head's AUROC less the other's. p_holm: by Holm, for all findings tested."""

    n: int
    positives: int
    undefined: str | None
    auroc: NotRequired[float]
    other_auroc: NotRequired[float]
    difference: NotRequired[float]
    low: NotRequired[float]
    high: NotRequired[float]
    z: NotRequired[float]
    p: NotRequired[float]
    p_holm: NotRequired[float]


class Comparison(TypedDict):
    """With another head on the `n` films of the split that both have."""

    other: str
    test: str  # which
    n: int
    findings: dict[str, ComparedFinding]


class Part(TypedDict):
    """A head on a part of the input: its AUROC by finding, and that of the whole head less it."""

    auroc: dict[str, Interval | None]
    less: Comparison
    data_efficiency: NotRequired[DataEfficiency]


class OrderedResult(TypedDict):
    """An ordered label on test. Kappa and table (true, called) are None where nothing is called."""

    n: int
    classes: list[int]  # films of each class
    kappa: Interval | None
    auroc: dict[str, Interval | None]  # of each class against the rest
    table: list[list[int]] | None


class Note(TypedDict):
    """What was left out or, if `used`, taken in a way to know of: how many, ids of some."""

    what: str
    count: int
    examples: list[str]
    used: bool


class Flagged(TypedDict):
    """Films of a split, and those of them that are out of distribution."""

    films: int
    flagged: int


class Measurements(TypedDict):
    """The content of metrics.json. `split` is test, or tune where there is no test."""

    split: Literal["tune", "test"]
    counts: dict[str, SplitCounts]
    definitions: NotRequired[list[str]]  # of the labels; files of earlier versions have none
    notes: list[Note]
    results: Results
    out_of_distribution: dict[str, Flagged]  # by split
    data_efficiency: DataEfficiency | None
    comparison: Comparison | None
    parts: NotRequired[dict[str, Part]]  # of heads that see more than the film
    changes: NotRequired[dict[str, OrderedResult]]  # by column of changes, if there is any
