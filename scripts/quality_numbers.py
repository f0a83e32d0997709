"""Numbers of docs/quality.md, as its tables, its pictures and quality.json have them."""

from collections.abc import Iterator, Mapping
from typing import Any

from scripts import quality_claim

NAMES = {
    "supcon": "contrastive",
    "cross_entropy": "cross-entropy",
    "random": "random weights",
    "pixels": "PCA of pixels",
}
OTHERS = [name for name in NAMES if name != "supcon"]
SETS = {"kermany": "Kermany", "nih": "ChestX-ray14"}
TITLES = {
    "pneumonia": "pneumonia (Kermany)",
    "abnormal": "abnormal (ChestX-ray14)",
    "findings": "mean of the findings (ChestX-ray14)",
    "pneumonia to abnormal": "abnormal (ChestX-ray14, by Kermany's head)",
    "abnormal to pneumonia": "pneumonia (Kermany, by ChestX-ray14's head)",
    "pneumonia_unseen": "pneumonia (Kermany, new films)",
    "abnormal_unseen": "abnormal (ChestX-ray14, new films)",
}


def auroc_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Question, positives and films, and representation -> AUROC; the mean before its findings."""
    for task in (task for task in TITLES if task in found["auroc"]):
        of_names = found["auroc"][task]
        if task == "findings":
            yield TITLES[task], "", {name: one["mean"]["auroc"] for name, one in of_names.items()}
        for finding, one in of_names["supcon"]["findings"].items():
            intervals = {
                name: some["findings"][finding]["auroc"] for name, some in of_names.items()
            }
            count = f"{one['positives']:,} / {one['n']:,}"
            yield finding if task == "findings" else TITLES[task], count, intervals


def mean_difference(found: Mapping[str, Any], other: str) -> dict[str, Any] | None:
    """Of the mean over findings, with all labels."""
    curves = found["curves"]["findings"]
    return quality_claim.difference_at(curves, other, max(curves["supcon"]))


def nih_widths(found: Mapping[str, Any]) -> list[float]:
    """Half the widths of the intervals of differences of single questions, on its test part."""
    return sorted(
        (one["high"] - one["low"]) / 2
        for key, paired in found["paired"].items()
        if found["tasks"][key.rpartition(" to ")[2]].dataset == "nih"
        for of_findings in paired.values()
        for one in of_findings.values()
        if not one["undefined"]
    )


def label_curves(found: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Question -> films of test, and representation -> number of labels -> AUROC."""
    curves = {}
    for task, some in found["curves"].items():
        points = {
            name: {labels: quality_claim.auroc_at(some, name, labels) for labels in curve}
            for name, curve in some.items()
        }
        films = len(found["tasks"][task].films["test"].row)
        curves[TITLES[task]] = f"{films:,} films of test", points
    return curves


def curve_differences(found: Mapping[str, Any]) -> dict[str, Any]:
    """Question -> other representation -> number of labels -> contrastive less the other."""
    return {
        TITLES[task]: {
            other: {n: quality_claim.difference_at(some, other, n) for n in some[other]}
            for other in OTHERS
        }
        for task, some in found["curves"].items()
    }
