"""What is measured across sites, as it stands in metrics.json; None where it is undefined."""

from __future__ import annotations

from typing_extensions import TypedDict

from .results import ComparedFinding, DataEfficiency, Interval, Note, Results, SplitCounts


class Told(TypedDict):
    """How well a linear probe tells `what`; no AUROC with too few patients of a class."""

    what: str
    n: int
    positives: int
    auroc: Interval | None


class SiteFacts(TypedDict):
    """A site: its labels, who its patients are, and heads trained on few of its labels."""

    counts: dict[str, SplitCounts]
    definitions: list[str]
    notes: list[Note]
    prevalence: dict[str, Interval | None]
    mix: dict[str, dict[str, Interval]]  # factor -> value -> share
    covered: float  # share of the test films that lie in the common mix
    local_labels: DataEfficiency | None


class HeadAtSite(TypedDict):
    """A head on the test films of a site; by finding where it says so.

    `difference`: to the AUROC of the site's own head. `caught_up`: the fewest local labels with
    which a local head reaches this one on average; None where even all do not.
    """

    results: Results
    difference: dict[str, ComparedFinding]
    standardised: dict[str, Interval | None]
    caught_up: dict[str, int | None]


class SitesMeasured(TypedDict):
    """`heads`: head -> site -> what was measured; `common_mix`: stratum -> share."""

    findings: list[str]
    notes: list[Note]
    trained_on: dict[str, list[str]]
    sites: dict[str, SiteFacts]
    heads: dict[str, dict[str, HeadAtSite]]
    factors: list[str]
    common_mix: dict[str, float]
    told: list[Told]
