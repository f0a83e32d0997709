"""The page and the picture of `benchmarks/quality.py`, from its rows and `quality_page.md`."""

import itertools
import pathlib
import string
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from cxr_embeddings.heads.report import panels
from cxr_embeddings.heads.statistics import bootstrap
from cxr_embeddings.heads.statistics.bootstrap import Measured

Found = Mapping[str, Mapping[str, Measured]]  # encoder -> row -> what was measured

NEW = " new"  # ends the questions that only the films answer which the first weights had not seen
ROWS = {
    "pneumonia": "children: pneumonia",
    "pneumonia new": "children: pneumonia, films new to `{saw}`",
    "abnormal": "adults: abnormal",
    "abnormal new": "adults: abnormal, films new to `{saw}`",
    "findings": "adults: mean of the findings",
    "sex": "adults: sex",
    "view": "adults: view, AP or PA",
    "age": "adults: older than 60",
    "abnormal by pneumonia": "adults: abnormal, by the head of pneumonia",
    "pneumonia by abnormal": "children: pneumonia, by the head of abnormal",
    "drawn400": "400 drawn films: mean of 14 findings",
    "drawn400 No Finding": "400 drawn films: No Finding",
    "drawn1200": "1,200 drawn films: mean of 14 findings",
    "drawn1200 No Finding": "1,200 drawn films: No Finding",
    "pneumonia 8": "8 labels: pneumonia",
    "pneumonia new 8": "8 labels: pneumonia, films new to `{saw}`",
    "abnormal 8": "8 labels: abnormal",
}
SUMMARY = ("pneumonia", "abnormal", "findings", "pneumonia 8")
RANKS = {
    "rank": "effective rank, all adults",
    "rank of a fold": "effective rank, adults of one fold",
}
CURVES = {
    "pneumonia": "Pneumonia",
    "abnormal": "Abnormal",
    "pneumonia new": "Pneumonia, films new to `{saw}`",
}
COLOURS = (panels.BLUE, panels.AMBER, "#009E73", "#CC79A7", panels.GREY, "#D55E00", panels.BLACK)
CLAIM = """The claim to test: contrastive embeddings need fewer labels than those of cross-entropy
(Sellergren et al., Radiology 2022; 305:454-465). `cross_entropy` had the same start, films and
settings as `{0}`, except for the loss. The claim holds for a question if the interval of `{0}`
minus `cross_entropy` lies above 0 at more than half of the numbers of labels, and below 0 at none.
It is contradicted in the reverse case. Otherwise it is not shown.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def minus(one: Measured, other: Measured) -> Measured:
    """The difference on the same resamples."""
    if one.value is None or other.value is None:
        return Measured(None, np.empty(0))
    return Measured(one.value - other.value, one.of_resamples - other.of_resamples)


def sign(difference: Measured) -> int:
    """1 or -1 if the interval of a difference lies above or below 0, else 0."""
    found = bootstrap.interval(difference)
    if not found or found["low"] is None or found["high"] is None:
        return 0
    return int(found["low"] > 0) - int(found["high"] < 0)


def cell(measured: Measured) -> str:
    return panels.interval(bootstrap.interval(measured), 3)


def signed(difference: Measured) -> str:
    text = cell(difference)
    text = f"+{text}" if difference.value and difference.value > 0 else text
    return f"**{text}**" if sign(difference) else text


def verdict(signs: Sequence[int]) -> str:
    """What the signs of the differences at each number of labels say of the claim."""
    above, below = signs.count(1), signs.count(-1)
    if not below and 2 * above > len(signs):
        return "holds"
    return "is contradicted" if not above and 2 * below > len(signs) else "is not shown"


def claim(found: Found, questions: Mapping[str, str], sizes: Mapping[str, Sequence[int]]) -> str:
    """The paragraph on the first encoder against `cross_entropy`, where that was measured."""
    if "cross_entropy" not in found:
        return ""
    (reference, ours), theirs = next(iter(found.items())), found["cross_entropy"]
    lines = ["", CLAIM.format(reference)]
    for key, title in questions.items():
        rows = [f"{key} {size}" for size in sizes[key]]
        differences = [minus(ours[row], theirs[row]) for row in rows]
        parts = [
            f"{size}: {signed(one)}" for size, one in zip(sizes[key], differences, strict=True)
        ]
        said = verdict([sign(one) for one in differences])
        lines.append(f"- {title}: the claim **{said}**. By number of labels, {'; '.join(parts)}.")
    return "\n".join(lines)


def draw(
    found: Found, questions: Mapping[str, str], sizes: Mapping[str, Sequence[int]], path: str
) -> None:
    """A panel a question: AUROC by number of labels, a line an encoder."""
    colours = dict(zip(found, COLOURS, strict=False))
    legend = [Line2D([], [], color=colour, marker="o", ms=3, label=name)
              for name, colour in colours.items()]  # fmt: skip
    points = {
        (name, key): [bootstrap.defined(found[name][f"{key} {size}"]) for size in sizes[key]]
        for name in colours
        for key in questions
    }
    with rc_context(panels.STYLE):
        headings = [panels.Heading(title.replace("`", ""), []) for title in questions.values()]
        figure, axes = panels.grid(headings, "Labelled films", "AUROC", legend=legend)
        for ax, key in zip(axes, questions, strict=True):
            for step, (name, colour) in enumerate(colours.items()):
                at = np.array(sizes[key]) * 1.04 ** (step - len(colours) / 2)
                value, low, high = (
                    [point[one] for point in points[name, key]] for one in ("value", "low", "high")
                )
                ax.plot(at, value, color=colour, marker="o", ms=3)
                ax.vlines(at, low, high, color=colour, lw=0.8)
            panels.auroc_axis(ax, "y", [*itertools.chain(*points.values())])
            ax.set_xscale("log", base=2)
            ax.set_xlim(6.5, 310)
            ax.set_xticks([8, 32, 128], ["8", "32", "128"])
            ax.xaxis.set_minor_locator(NullLocator())
        figure.savefig(path, dpi=150)


def write(found: Found, facts: Mapping[str, str], page: pathlib.Path, saw: str) -> None:
    """Writes the page, and its picture beside it.

    Args:
        found: the first encoder is compared with each other one.
        facts: what else the template names.
        page: its path.
        saw: the encoder that was trained on films of all folds.
    """
    reference, *others = found
    ours = found[reference]

    def chosen(titles: Mapping[str, str]) -> dict[str, str]:
        return {
            key: title.format(saw=saw)
            for key, title in titles.items()
            if NEW not in key or saw in found
        }

    def mark(name: str, row: str) -> str:
        real = NEW not in row and not row.startswith("drawn")
        return " †" if name == saw and real else ""

    rows, questions = chosen(ROWS), chosen(CURVES)
    sizes = {
        key: [int(row.removeprefix(key)) for row in ours if row.removeprefix(key)[1:].isdigit()]
        for key in questions
    }
    measured = [
        [title, *(cell(one[row]) + mark(name, row) for name, one in found.items())]
        for row, title in rows.items()
    ]
    measured += [
        [
            title,
            *(panels.number(one[row].value, 1) + mark(name, row) for name, one in found.items()),
        ]
        for row, title in RANKS.items()
    ]
    differences = [
        [title, *(signed(minus(ours[row], found[name][row])) + mark(name, row) for name in others)]
        for row, title in rows.items()
    ]
    curves = []
    for key, title in questions.items():
        lines = [
            [str(n), *(cell(one[f"{key} {n}"]) + mark(name, key) for name, one in found.items())]
            for n in sizes[key]
        ]
        curves.append(f"{title}:\n\n{table(['Labels', *found], lines)}")
    draw(found, questions, sizes, str(page.with_suffix(".png")))
    marked = f"† `{saw}` was trained on a part of these films, so that its numbers may be too good."
    template = string.Template(pathlib.Path(__file__).with_suffix(".md").read_text("utf-8"))
    text = template.substitute(
        facts,
        reference=reference,
        summary="\n".join(f"- {rows[row]}: {cell(ours[row])}" for row in SUMMARY),
        table=table(["", *found], measured),
        differences=table(["", *(f"minus {name}" for name in others)], differences),
        curves="\n\n".join(curves),
        claim=claim(found, questions, sizes),
        marked=marked if saw in found else "",
    )
    page.write_text(text, "utf-8")
