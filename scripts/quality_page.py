"""docs/quality.md: tables, and sentences that are computed from the numbers they speak of."""

import importlib.metadata
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from heads.report import panels
from scripts import quality_claim, quality_films, quality_pictures
from scripts.quality_numbers import (
    NAMES,
    OTHERS,
    SETS,
    TITLES,
    auroc_rows,
    curve_differences,
    label_curves,
    mean_difference,
    nih_widths,
)

CLAIM = (
    "Question",
    "contrastive against",
    "above at",
    "interval above 0",
    "interval below 0",
    "the claim",
    "the other's AUROC with all labels",
    "contrastive stays there from",
)
SETTINGS = (
    "objective", "temperature", "steps", "batch_size", "learning_rate", "optimizer", "films",
    "first_weights",
)  # fmt: skip
LIBRARIES = ("cxr-embeddings", "jax", "flax", "numpy", "scipy", "scikit-learn")
TEXT = pathlib.Path(__file__).with_suffix(".md")


def write(place: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Writes the numbers, the page and its pictures.

    Args:
        place: a folder.
        found: what `quality.py` measured: encoders, trainings, recipe, tasks, auroc, paired, notes,
            draws and curves.
    """
    rows, curves = [*auroc_rows(found)], label_curves(found)
    numbers = {
        "auroc": rows,
        "differences": found["paired"],
        "curves": {title: points for title, (_, points) in curves.items()},
        "differences of curves": curve_differences(found),
    }
    (place / "quality.json").write_text(json.dumps(numbers, indent=1, default=float) + "\n")
    quality_pictures.draw_auroc(place / "quality_auroc.png", NAMES, rows)
    quality_pictures.draw_labels(place / "quality_labels.png", NAMES, curves)
    tasks, first, widths = found["tasks"], found["encoders"]["supcon"], nih_widths(found)
    tested = tasks["abnormal"].films["test"]
    fields = {
        "encoder": f"EfficientNet-{first['variant'].upper()} at {first['resolution']} px, layer "
        f"`{first['embedding']}` ({first['shape'][0]:,} numbers)",
        "components": quality_films.COMPONENTS,
        "side": quality_films.SIDE,
        "frequent": quality_films.FREQUENT,
        "digests": table(
            ("Embeddings", "Weights", "Digest"),
            (
                (NAMES[name], one["weights"], f"`{one['weights_digest'][:16]}`")
                for name, one in found["encoders"].items()
            ),
        ),
        "trainings": table(
            ("Training", *(NAMES[name] for name in found["trainings"])),
            ((one.replace("_", " "), *settings(found, one)) for one in SETTINGS),
        ),
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES),
        "penalties": ", ".join(f"{value:g}" for value in found["recipe"].weight_decays),
        "notes": notes(found["notes"]),
        "counts": counts(tasks),
        "auroc": table(
            ("Question", "Positives / films", *NAMES.values()),
            (
                (name, count, *(panels.interval(one[key], 3) for key in NAMES))
                for name, count, one in rows
            ),
        ),
        "differences": table(
            ("Question", *(f"less {NAMES[name]}" for name in OTHERS)), difference_rows(found)
        ),
        "told_apart": "\n".join(f"- {line}" for line in told_apart(found)),
        "verdict": quality_claim.verdict(found["curves"], TITLES, "cross_entropy"),
        "claim": table(CLAIM, quality_claim.rows(found["curves"], TITLES, NAMES)),
        "draws": draws(found["draws"]),
        "curves": "\n\n".join(curve_tables(found, curves)),
        "nih_test": len(tested.row),
        "nih_widths": " to ".join(panels.number(one, 3) for one in widths[:1] + widths[-1:]),
        "nih_normal": int((tested.mask & (tested.label == 0)).sum()),
        "kermany_unseen": len(tasks["pneumonia_unseen"].films["train"].row),
        "nih_unseen": len(tasks["abnormal_unseen"].films["train"].row),
        "nih_unseen_tune": len(tasks["abnormal_unseen"].films["tune"].row),
    }
    (place / "quality.md").write_text(TEXT.read_text().format(**fields))


def table(heading: Sequence[str], rows: Any) -> str:
    """A table of Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def signed(found: Mapping[str, Any] | None) -> str:
    """A difference with its interval."""
    return "+" * bool(found and found["value"] > 0) + panels.interval(found, 3)


def settings(found: Mapping[str, Any], name: str) -> Iterator[str]:
    """One of each training; of a digest its start."""
    for of_training in found["trainings"].values():
        yield re.sub("([0-9a-f]{16})[0-9a-f]+", r"\1", of_training[name])


def notes(of_kinds: Mapping[str, Mapping[str, int]]) -> str:
    """What was noted of how many heads."""
    parts = (
        f"{kind} ({', '.join(f'{NAMES[name]}: {count}' for name, count in some.items())})"
        for kind, some in of_kinds.items()
    )
    return "; ".join(parts) or "nothing"


def counts(tasks: Mapping[str, Any]) -> str:
    """How many films have each finding, by split."""
    rows = []
    for name in ("pneumonia", "abnormal", "findings"):
        task = tasks[name]
        for j, finding in enumerate(task.findings):
            cells = []
            for split in ("train", "tune", "test"):
                films, patients = task.films[split], {*task.patient_id[split]}
                positives = int((films.label * films.mask)[:, j].sum())
                cells.append(f"{positives:,} of {len(films.row):,} ({len(patients):,})")
            rows.append((f"{finding} ({SETS[task.dataset]})", *cells))
    return table(("Positives of films (of so many patients)", "train", "tune", "test"), rows)


def difference_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Question, and contrastive less each other representation."""
    for task in (task for task in TITLES if task in found["paired"]):
        paired = found["paired"][task]
        if task == "findings":
            yield TITLES[task], *(signed(mean_difference(found, other)) for other in OTHERS)
        for finding in paired[OTHERS[0]]:
            cells = []
            for other in OTHERS:
                one = paired[other][finding]
                if one["undefined"]:
                    cells.append(one["undefined"])
                    continue
                p = "p < 0.001" if one["p_holm"] < 0.001 else f"p {one['p_holm']:.3f}"
                cells.append(f"{signed(one | {'value': one['difference']})}, {p}")
            yield finding if task == "findings" else TITLES[task], *cells


def told_apart(found: Mapping[str, Any]) -> Iterator[str]:
    """Against each other representation: on which side of 0 the intervals lie."""
    for other in OTHERS:
        told: dict[int, list[str]] = {1: [], -1: [], 0: []}
        for task in (task for task in TITLES if task in found["paired"]):
            one = mean_difference(found, other)
            if task != "findings":
                [one] = found["paired"][task][other].values()
                one = None if one["undefined"] else one
            told[quality_claim.side(one)].append(TITLES[task])
        words = {1: "better for", -1: "worse for", 0: "not told apart for"}
        parts = [f"{words[side]} {', '.join(some)}" for side, some in told.items() if some]
        yield f"against {NAMES[other]}: {'; '.join(parts)}."


def curve_tables(found: Mapping[str, Any], curves: Mapping[str, Any]) -> Iterator[str]:
    """A table for each question."""
    heading = ("Labels", *NAMES.values(), "contrastive less cross-entropy")
    for some, (title, (_, points)) in zip(found["curves"].values(), curves.items(), strict=True):
        rows = []
        for labels in points["supcon"]:
            less = signed(quality_claim.difference_at(some, "cross_entropy", labels))
            values = (panels.interval(points[name][labels], 3) for name in NAMES)
            rows.append((f"{labels:,}", *values, less))
        yield f"{title[0].upper()}{title[1:]}:\n\n{table(heading, rows)}"


def draws(plans: Mapping[str, Mapping[int, int]]) -> str:
    """How many draws there are of which number of labels."""
    number = {labels: n for plan in plans.values() for labels, n in plan.items() if n > 1}
    most = max(number.values())
    fewer = (f"{n} of {labels:,}" for labels, n in sorted(number.items()) if n < most)
    return "; ".join([f"{most} draws of each number of labels", *fewer, "one of all"])
