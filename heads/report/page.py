"""One self-contained page about a trained head: tables, figures, and what they were made from.

The page has no script and loads nothing; every string in it is escaped.
"""

import base64
import pathlib
import re
from collections.abc import Mapping, Sequence

import jinja2

from ..labels.changes import CLASSES
from ..statistics.results import Measurements, Results, SplitCounts
from . import panels

POINT = 96 / 72  # pixels of CSS
CAPTIONS = {  # in the order of the page
    "forest": "AUROC of each finding with its 95 % interval, largest first.",
    "roc": "ROC curves. The dot is the first operating point on the {split} films; dotted: chance.",
    "precision_recall": "Precision-recall curves. Dotted: chance, which is the prevalence.",
    "scores": "Probabilities of the positive films (upwards) and the negative ones (downwards), "
    "each as a share of its class, with the threshold of the first operating point.",
    "calibration": "Calibration before and after temperature scaling. The films are sorted by "
    "probability and cut into groups of equal size; a dot is a group, a vertical line the 95 % "
    "interval (Wilson, by patient) of its share of positives. Scales differ between panels.",
    "course": "Probabilities of the {split} patient with the most films over time.",
    "distances": "Distances to the training films, in units of the limit. 1 % of the tune films "
    "(at least one) lie beyond the limit. The training films themselves lie nearer than new films, "
    "because the distance was fitted on them.",
    "data_efficiency": "AUROC by the number of labelled films that the head was trained on: mean "
    "and central 95 % of the draws. All of tune chose its settings; that the films of test are a "
    "sample is not in the band.",
    "subgroups": "AUROC in groups of films with 95 % intervals; the vertical line is that of all "
    "films. In brackets: films of a group; right of each panel: positive films. No mark: "
    "undefined, see the tables.",
}


def write_report(
    path: pathlib.Path,
    title: str,
    provenance: Mapping[str, object],
    measured: Measurements,
    svgs: Mapping[str, bytes],
    warnings: Sequence[str] = (),
) -> None:
    """Writes the page; the same arguments give the same bytes.

    Args:
        path: of the HTML file.
        title: of the page.
        provenance: plain values, nested: what has a value is printed; `encoder.trained` says
            whether the encoder was trained (None or missing: unknown), and `note` what there is to
            know of the training, sentences with semicolons between them.
        measured: of the head.
        svgs: of `figures.save`.
        warnings: what else a reader must know first.
    """
    split, counts, results = measured["split"], measured["counts"], measured["results"]
    page = render(
        "report.html",
        title=title,
        provenance=told({k: v for k, v in provenance.items() if k != "note"}),
        counts=counts,
        definitions=measured.get("definitions", []),
        notes=measured["notes"],
        results=results,
        efficiency=measured["data_efficiency"],
        comparison=measured["comparison"],
        parts=measured.get("parts", {}),
        changes=measured.get("changes", {}),
        classes=CLASSES,
        flagged=measured["out_of_distribution"],
        split=split,
        warnings=[*warnings, *_warnings(split, provenance, counts)],
        pictures=_pictures(svgs, split, results),
    )
    path.write_text(page, encoding="utf-8")


def render(template: str, **values: object) -> str:
    """The page of a template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    filters = {"number": panels.number, "bounds": panels.bounds, "patients": panels.patients}
    environment.filters |= filters | {
        "p": lambda p: "< 0.001" if p < 0.001 else panels.number(p, 3)
    }
    return environment.get_template(template).render(values)


def _finalize(value: object) -> object:
    """Text without control characters; what the template itself marked up stays."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return panels.printable(value)
    return value


def told(value: object) -> object:
    """Without what is empty or unset, and numbers with as many digits as one reads."""
    if isinstance(value, Mapping):
        whole = {key: told(inner) for key, inner in value.items()}
        return {key: inner for key, inner in whole.items() if inner not in (None, "", [], {})}
    if isinstance(value, list | tuple):
        return [told(inner) for inner in value]
    return f"{value:.4g}" if isinstance(value, float) else value


def _warnings(
    split: str, provenance: Mapping[str, object], counts: Mapping[str, SplitCounts]
) -> list[str]:
    """What a reader must know before any number."""
    found = []
    if split == "tune":
        found.append(
            "There is no test split: all numbers are of the tune split, on which temperature, "
            "thresholds and settings were chosen. Expect less on new films."
        )
    encoder = provenance.get("encoder")
    trained = encoder.get("trained") if isinstance(encoder, Mapping) else None
    if trained is False:
        found.append(
            "The encoder is untrained: its weights are random numbers. The page shows how things "
            "work; the numbers say nothing about chest X-rays."
        )
    elif trained is not True:
        found.append("It is not known whether the encoder was trained.")
    unknown = sum(part["films_of_unknown_patients"] for part in counts.values())
    if unknown:
        films = sum(part["films"] for part in counts.values())
        found.append(
            f"The patients of {unknown:,} of {films:,} films are unknown. Each of these films is "
            "counted by itself: intervals are too narrow where patients have several films, and no "
            "check can tell whether a patient is in two splits."
        )
    notes = filter(None, str(provenance.get("note") or "").split("; "))
    found += [f"Training: {note}." for note in notes]
    return found


def _pictures(
    svgs: Mapping[str, bytes], split: str, results: Results
) -> list[dict[str, str | int]]:
    """The figures as the page shows them: images with an alternative text of their key numbers.

    As images, not inline, several SVGs cannot disturb one another's ids.
    """
    pictures: list[dict[str, str | int]] = []
    for kind, caption in CAPTIONS.items():
        caption = caption.format(split=split)
        words = f"{caption.split('. ')[0].removesuffix('.')}. {_key_numbers(kind, results)}"
        for name, svg in svgs.items():
            if name.rstrip("0123456789").rstrip("_") != kind:
                continue
            picture = image(svg, kind, len(pictures) + 1, caption, words)
            pictures.append(picture)
    return pictures


def image(
    svg: bytes, kind: str, number: int, caption: str, alternative: str
) -> dict[str, str | int]:
    """A figure for the macro `show`."""
    width, height = map(float, re.findall(rb'<svg [^>]*width="(.+?)pt" height="(.+?)pt"', svg)[0])
    return {
        "kind": kind,
        "number": number,
        "source": "data:image/svg+xml;base64," + base64.b64encode(svg).decode(),
        "width": round(width * POINT),
        "height": round(height * POINT),
        "caption": caption,
        "alternative": alternative,
    }


def _key_numbers(kind: str, results: Results) -> str:
    """What a figure shows, in words, for those who cannot see it."""
    if kind in ("subgroups", "data_efficiency", "distances", "course"):
        return "The table below has the numbers."
    words = []
    for name, found in results["findings"].items():
        if found["undefined"]:
            continue
        if kind == "precision_recall":
            words.append(f"{name}: AUPRC {panels.interval(found['auprc'])}")
        elif kind == "calibration":
            before, after = (found["calibration"][when]["ece"] for when in ("before", "after"))
            words.append(f"{name}: ECE {panels.interval(before)}, then {panels.interval(after)}")
        elif kind == "scores":
            threshold = panels.number(found["operating_points"][0]["threshold"], 3)
            words.append(f"{name}: threshold {threshold}")
        else:
            words.append(f"{name}: AUROC {panels.interval(found['auroc'])}")
    return "; ".join(words) + "."
