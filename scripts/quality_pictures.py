"""The pictures of docs/quality.md: AUROC by question, and by number of labels."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from heads.report import panels
from heads.report.panels import AMBER, BLACK, BLUE, DIM, GREY, Heading

LOOKS = {  # of each representation
    "supcon": {"color": BLUE, "marker": "o"},
    "cross_entropy": {"color": AMBER, "marker": "s"},
    "random": {"color": GREY, "marker": "^"},
    "pixels": {"color": BLACK, "marker": "x"},
}
DPI = 150


def draw_auroc(
    path: pathlib.Path,
    names: Mapping[str, str],
    rows: Sequence[tuple[str, str, Mapping[str, Any]]],
) -> None:
    """A forest: for each question the AUROC of every representation.

    Args:
        path: of the PNG.
        names: of the representations, for the legend.
        rows: question, positives and films, and representation -> value, low and high.
    """
    with matplotlib.style.context(["default", panels.STYLE]):
        left = 0.2 + panels.LETTER * max(len(name) for name, *_ in rows)
        top, bottom, right = 0.45, 0.42, 1.1
        height = 0.34 * len(rows) + top + bottom
        figure = Figure(figsize=(panels.WIDTH, height), facecolor="white")
        place = left / panels.WIDTH, bottom / height
        wide = (panels.WIDTH - left - right) / panels.WIDTH
        ax = figure.add_axes((*place, wide, 1 - (top + bottom) / height))
        panels.note(ax, "positives / films", (1, 1), (6, 4), color=DIM)
        for y, (name, count, of_names) in enumerate(rows):
            middle = 1 - (y + 0.5) / len(rows)
            panels.note(ax, name, (0, middle), (-6, 0), ha="right", va="center_baseline")
            panels.note(ax, count, (1, middle), (6, 0), va="center_baseline", color=DIM)
            for k, key in enumerate(names):
                _mark(ax, of_names[key], LOOKS[key], y=y + 0.18 * (k - (len(names) - 1) / 2))
        for y in range(1, len(rows)):
            ax.axhline(y - 0.5, color=panels.FAINT, lw=0.5)
        ax.set(ylim=(len(rows) - 0.5, -0.5), yticks=[], xlabel="AUROC on test, with 95 % interval")
        panels.auroc_axis(ax, "x", [one for *_, row in rows for one in row.values()])
        _legend(figure, names)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def draw_labels(
    path: pathlib.Path,
    names: Mapping[str, str],
    curves: Mapping[str, tuple[str, Mapping[str, Mapping[int, Any]]]],
) -> None:
    """A panel a question: AUROC against the number of labels.

    Args:
        path: of the PNG.
        names: of the representations, for the legend.
        curves: question -> a line below it, and representation -> number of labels -> value, low
            and high.
    """
    with matplotlib.style.context(["default", panels.STYLE]):
        figure, axes = panels.grid(
            [Heading(title, [line]) for title, (line, _) in curves.items()],
            "Labelled films to train on, log scale",
            "AUROC on test, with 95 % interval",
            legend=[_handle(names, key) for key in names],
            gap=0.28,
            own_ticks=True,
        )
        shown = [
            p for _, some in curves.values() for curve in some.values() for p in curve.values()
        ]
        for ax, (_, some) in zip(axes, curves.values(), strict=True):
            sizes = sorted(next(iter(some.values())))
            for k, key in enumerate(names):  # moved, so that intervals lie side by side
                moved = (sizes[-1] / sizes[0]) ** (0.012 * (k - (len(names) - 1) / 2))
                points = {size * moved: found for size, found in some[key].items() if found}
                values = [found["value"] for found in points.values()]
                ax.plot([*points], values, color=LOOKS[key]["color"], lw=0.8)
                for x, found in points.items():
                    _mark(ax, found, LOOKS[key], x=x)
            ax.set(xscale="log", xlim=(sizes[0] / 1.3, sizes[-1] * 1.3))
            panels.auroc_axis(ax, "y", shown)
            ax.xaxis.set_minor_locator(NullLocator())
            ticks = [*sizes[:-2:2], sizes[-1]]
            ax.set_xticks(ticks, [f"{size:,}" for size in ticks])
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _mark(
    ax: Axes, found: Mapping[str, Any], look: Mapping[str, str], x: Any = None, y: Any = None
) -> None:
    """A value with its interval, at a height (lying) or at a place (standing)."""
    if panels.bounds(found):
        line = (ax.vlines, x) if y is None else (ax.hlines, y)
        line[0](line[1], found["low"], found["high"], color=look["color"], lw=0.9)
    place = (x, found["value"]) if y is None else (found["value"], y)
    ax.plot(*place, **look, ms=3.5, ls="")


def _handle(names: Mapping[str, str], key: str) -> Line2D:
    return Line2D([], [], label=names[key], lw=0.9, ms=3.5, **LOOKS[key])


def _legend(figure: Figure, names: Mapping[str, str]) -> None:
    handles = [_handle(names, key) for key in names]
    figure.legend(handles=handles, loc="upper left", ncols=len(names), borderaxespad=0.2)
