"""Forests: AUROC with intervals, of findings and of groups of films."""

from collections.abc import Iterator, Sequence
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..statistics.results import Group, Interval, MeanResults, Results
from . import panels
from .panels import BLACK, BLUE, DIM, Heading, Tested

MEAN = Heading("Mean of findings", [""])


def forest(tested: Sequence[Tested], mean: MeanResults) -> Figure:
    """One row a finding, below the mean; names and numbers stand beside."""
    rows = [(f"Mean of {mean['findings']} findings", "", mean["auroc"])]
    for one in tested:
        counts = f"{one.result['positives']:,} / {one.result['n']:,}"
        rows.append((panels.plain(one.name, 40)[0], counts, one.result["auroc"]))
    left = 0.1 + max(panels.BOLD * len(rows[0][0]), *(panels.LETTER * len(n) for n, *_ in rows))
    axis, top, bottom = panels.WIDTH - left - 2.15, 0.22, 0.42  # inches, as above
    height = 0.2 * (len(rows) + 0.5) + top + bottom
    figure = Figure(figsize=(panels.WIDTH, height), facecolor="white")
    place = left / panels.WIDTH, bottom / height, axis / panels.WIDTH
    ax = figure.add_axes((*place, 1 - (top + bottom) / height))
    starts = 72 * (0.05 - left), 72 * (axis + 0.12), 72 * (axis + 1.32)  # of the columns of text
    for start, text in zip(starts, ("Finding", "AUROC [95 %]", "positives / n"), strict=True):
        panels.note(ax, text, (0, 1), (start, 4), color=DIM)
    for y, (name, counts, found) in enumerate(rows):
        _mark(ax, found, y, **{"color": BLUE} if y else {"color": BLACK, "marker": "D"})
        weight, height = "normal" if y else "bold", 1 - (y + 0.75) / (len(rows) + 0.5)
        for start, text in zip(starts, (name, panels.interval(found), counts), strict=True):
            panels.note(ax, text, (0, height), (start, 0), va="center_baseline", weight=weight)
    ax.set(ylim=(len(rows) - 0.25, -0.75), yticks=[], xlabel="AUROC")
    panels.auroc_axis(ax, "x", [found for _, _, found in rows])
    ax.spines["left"].set_visible(False)
    return figure


def subgroups(tested: Sequence[Tested], results: Results) -> Iterator[Figure]:
    """Rows are groups; panels are the mean and the findings; the line is that of all films."""
    all_films = {"findings": results["findings"], "mean_auroc": results["mean"]["auroc"]}
    rows: list[tuple[str, Group | None]] = [("All films", cast(Group, all_films))]
    for column, groups in results["subgroups"].items():
        rows += [(column, None), *groups.items()]
    labels = [f"{label} ({group['n']:,})" if group else label for label, group in rows[1:]]
    labels = [panels.plain(label, 22)[0] for label in ("All films", *labels)]
    left = 0.1 + panels.LETTER * max(map(len, labels))
    tall = 0.145 * len(rows)
    everything = [None, *tested] if len(tested) > 1 else tested  # None: the mean
    marks = [[_mark_of(group, one) for _, group in rows] for one in everything]
    fit = max(1, int((panels.TALLEST - 0.5) / (tall + 0.5)))  # rows of panels on a page
    for some in panels.parts(range(len(marks)), panels.columns(len(marks)) * fit):
        chosen = [everything[k] for k in some]
        headings = [
            Heading(one.name, [panels.count(one.result)]) if one else MEAN for one in chosen
        ]
        figure, axes = panels.grid(
            headings, "AUROC [95 % interval]", "", tall=tall, left=left, gap=0.48, right=0.42
        )
        for place, (ax, k) in enumerate(zip(axes, some, strict=True)):
            for y, (found, positives) in enumerate(marks[k]):
                _mark(ax, found, y, **{"color": BLUE} if y else {"color": BLACK, "marker": "D"})
                height, style = 1 - (y + 0.5) / len(rows), {"va": "center_baseline"}
                panels.note(ax, positives, (1, height), (6, 0), **style)
                if not place % panels.columns(len(some)):
                    style |= {} if rows[y][1] else {"weight": "bold"}
                    panels.note(ax, labels[y], (0, height), (-4, 0), ha="right", **style)
            if of_all := marks[k][0][0]:
                ax.axvline(of_all["value"], color=BLACK, lw=0.6, zorder=0.5)
            ax.set(ylim=(len(rows) - 0.5, -0.5), yticks=[])
            panels.auroc_axis(ax, "x", [found for column in marks for found, _ in column])
            ax.spines["left"].set_visible(False)
        yield figure


def _mark_of(group: Group | None, one: Tested | None) -> tuple[Interval | None, str]:
    """The AUROC and the positives of a finding in a group; the mean for no finding."""
    if group is None:
        return None, ""
    if one is None:
        return group["mean_auroc"], ""
    found = group["findings"].get(one.name)
    return (found.get("auroc"), f"{found['positives']:,}") if found else (None, "0")


def _mark(ax: Axes, found: Interval | None, y: int, **style: str) -> None:
    """A value with its interval at a row of a forest; nothing where it is undefined."""
    if not found:
        return
    low, high = found["low"], found["high"]
    if low is not None and high is not None:
        ax.hlines(y, low, high, color=style["color"], lw=1.2, clip_on=False)
    style = {"marker": "o"} | style
    ax.plot(found["value"], y, ms=4, color=style["color"], marker=style["marker"], clip_on=False)
