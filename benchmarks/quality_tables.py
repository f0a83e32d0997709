"""The tables and the picture of `docs/quality.md`, from the rows of `benchmarks/quality.py`."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from cxr_embeddings.heads.report import panels
from cxr_embeddings.heads.statistics import bootstrap
from cxr_embeddings.heads.statistics.bootstrap import Measured

Found = Mapping[str, Mapping[str, Measured]]  # encoder -> row -> what was measured

RANKS = ("effective rank, all adults", "effective rank, adults of one fold")
CURVES = {"pneumonia": "Pneumonia", "abnormal": "Abnormal", "pneumonia new": "Pneumonia, new films"}
COLOURS = (panels.BLUE, panels.AMBER, "#009E73", "#CC79A7", panels.GREY, "#D55E00", panels.BLACK)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def minus(one: Measured, other: Measured) -> Measured:
    """The difference on the same resamples."""
    if one.value is None or other.value is None:
        return Measured(None, np.empty(0))
    return Measured(one.value - other.value, one.of_resamples - other.of_resamples)


def cell(measured: Measured) -> str:
    return panels.interval(bootstrap.interval(measured), 3)


def signed(difference: Measured) -> str:
    """A difference, bold where its interval lies above or below 0."""
    found, text = bootstrap.interval(difference), cell(difference)
    text = f"+{text}" if difference.value and difference.value > 0 else text
    if not found or found["low"] is None or found["high"] is None:
        return text
    return f"**{text}**" if found["low"] > 0 or found["high"] < 0 else text


def tables(found: Found) -> str:
    """AUROCs and ranks; the first encoder's less each other's; AUROCs by number of labels."""
    reference, *others = found
    ours = found[reference]
    few = [row for row in ours if row.rpartition(" ")[2].isdigit()]

    def measured(rows: Sequence[str]) -> str:
        return table(
            ["", *found], [[row, *(cell(one[row]) for one in found.values())] for row in rows]
        )

    rows = [row for row in ours if row not in few]
    compared = [row for row in (*rows, *few) if row not in RANKS]
    differences = [
        [row, *(signed(minus(ours[row], found[name][row])) for name in others)] for row in compared
    ]
    heading = ["", *(f"{reference} minus {name}" for name in others)]
    return "\n\n".join([measured(rows), table(heading, differences), measured(few)])


def draw(found: Found, path: pathlib.Path) -> None:
    """A panel a question: AUROC by number of labels, a line an encoder."""
    colours = dict(zip(found, COLOURS, strict=False))
    legend = [Line2D([], [], color=colour, marker="o", ms=3, label=name)
              for name, colour in colours.items()]  # fmt: skip
    ours = next(iter(found.values()))
    sizes = {
        key: [int(row.removeprefix(key)) for row in ours if row.removeprefix(key)[1:].isdigit()]
        for key in CURVES
    }
    with rc_context(panels.STYLE):
        headings = [panels.Heading(title, []) for title in CURVES.values()]
        figure, axes = panels.grid(headings, "Labelled films", "AUROC", legend=legend)
        for ax, key in zip(axes, CURVES, strict=True):
            shown = []
            for step, (name, colour) in enumerate(colours.items()):
                at = np.array(sizes[key]) * 1.04 ** (step - len(colours) / 2)
                points = [bootstrap.defined(found[name][f"{key} {size}"]) for size in sizes[key]]
                value, low, high = (
                    [point[one] for point in points] for one in ("value", "low", "high")
                )
                ax.plot(at, value, color=colour, marker="o", ms=3)
                ax.vlines(at, low, high, color=colour, lw=0.8)
                shown += points
            panels.auroc_axis(ax, "y", shown)
            ax.set_xscale("log", base=2)
            ax.set_xlim(6.5, 310)
            ax.set_xticks([8, 32, 128], ["8", "32", "128"])
            ax.xaxis.set_minor_locator(NullLocator())
        figure.savefig(path, dpi=150)
