"""What all figures of a head share: colours, numbers as text, and panels on a page.

Panels are laid out by hand, in inches: that takes no time, and nothing moves between two runs.
Colours are Okabe and Ito's, which stay apart for the colour-blind; shapes, line styles and places
carry the same meaning in grey print.
"""

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float, Int64
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..statistics.results import ComparedFinding, FindingResult, Interval, Patients

UNDEFINED = "–"  # noqa: RUF001
BLUE, AMBER, BLACK = "#0072B2", "#E69F00", "#1a1a1a"
DIM, GREY, FAINT = "#404040", "#707070", "#d0d0d0"
BASELINE: dict[str, Any] = {"color": GREY, "ls": ":", "lw": 1}  # what chance would do
WIDTH, TALLEST = 7.0, 9.5  # inches between the margins of an A4 page, and less a caption
WIDEST = 2.7  # inches of a panel
PANELS = 16  # of one figure at most; what is more goes on in another
LINE, LETTER, BOLD = 0.15, 0.062, 0.074  # inches: height of a line; width of a letter, on average
STYLE = {
    "font.size": 8,
    "axes.edgecolor": GREY,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "text.color": BLACK,
    "text.parse_math": False,  # a finding's name may hold dollar signs
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "cxr-embeddings",  # without it ids inside an SVG differ from run to run
}


class Tested(NamedTuple):
    """A finding with both classes among the films."""

    name: str
    logit: Float[np.ndarray, " film"]  # before temperature scaling: films are ranked by it
    label: Bool[np.ndarray, " film"]
    patient: Int64[np.ndarray, " film"]
    result: FindingResult

    @property
    def scaled(self) -> Float[np.ndarray, " film"]:
        """The logit after temperature scaling."""
        return self.logit / (self.result["temperature"] or 1.0)


class Heading(NamedTuple):
    """What stands above a panel: a name in bold, and short lines of numbers."""

    name: str
    lines: Sequence[str]


def printable(text: str) -> str:
    """Text with U+FFFD for what no page shows: control characters, marks of direction, halves."""
    shown = (c if c.isprintable() or c in "\t\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "".join(shown)


def plain(text: str, letters: int, lines: int = 1) -> list[str]:
    """Printable text, broken into at most so many lines of so many letters."""
    return textwrap.wrap(printable(text), letters, max_lines=lines, placeholder="…") or [""]


def number(value: int | float | None, digits: int = 2) -> str:
    """A number with a true minus sign; an en dash for None."""
    if value is None:
        return UNDEFINED
    text = f"{value:,.{digits}f}"
    return text.replace("-", "−" if text.strip("-0.,") else "")  # noqa: RUF001


def bounds(found: Interval | ComparedFinding, digits: int = 2) -> str:
    """Such as "[0.77, 0.88]"; nothing where an interval has no bounds."""
    if found.get("low") is None or found.get("high") is None:
        return ""
    return f"[{number(found['low'], digits)}, {number(found['high'], digits)}]"


def interval(found: Interval | None, digits: int = 2) -> str:
    """Such as "0.83 [0.77, 0.88]"; an en dash for None."""
    if found is None:
        return UNDEFINED
    return f"{number(found['value'], digits)} {bounds(found, digits)}".strip()


def patients(found: Patients) -> str:
    """Such as "31", "unknown", or "31 and, of 5 films, unknown"."""
    known, unknown = found["patients"], found["films_of_unknown_patients"]
    if not unknown:
        return f"{known:,}"
    return f"{known:,} and, of {unknown:,} films, unknown" if known else "unknown"


def columns(count: int) -> int:
    """How many panels of so many stand beside each other."""
    return count if count < 4 else 4 if count == 4 or count > 6 else 3


def grid(
    headings: Sequence[Heading],
    x: str,
    y: str,
    *,
    legend: Sequence[Artist] = (),
    foot: str = "",
    tall: float | None = None,
    left: float = 0.58,
    gap: float = 0.2,
    right: float = 0.12,
    own_ticks: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Panels with headings, a legend above and a sentence below; one label for all axes of a kind.

    Args:
        headings: one a panel.
        x, y: labels of the axes.
        legend: handles with labels.
        foot: the sentence.
        tall: height of a panel in inches; None: it is square.
        left, gap, right: inches left of the panels, between two of them, and right of them.
        own_ticks: every panel has its own scale; otherwise the outermost show it for all.

    Returns:
        the figure and its axes, in the order of the headings.
    """
    across = columns(len(headings))
    wide = min(WIDEST, (WIDTH - left - right - gap * (across - 1)) / across)
    tall = tall or wide
    width = left + across * wide + (across - 1) * gap + right
    names = [plain(heading.name, int((wide + gap - 0.08) / BOLD), 2) for heading in headings]
    lines = [len(name) + len(head.lines) for name, head in zip(names, headings, strict=True)]
    above = [LINE * max(lines[k : k + across]) + 0.07 for k in range(0, len(lines), across)]
    key_columns, key = _key(legend, width)
    footer = plain(foot, int((width - 0.2) / LETTER), 3) if foot else []
    between, below = (0.22, 0.44) if own_ticks else (0.06, 0.44)
    below += LINE * len(footer) + 0.06 * bool(footer)
    panels = sum(above) + len(above) * tall + (len(above) - 1) * between
    height = key + panels + below

    figure = Figure(figsize=(width, height), facecolor="white")
    axes = []
    for k, (name, heading) in enumerate(zip(names, headings, strict=True)):
        row, column = divmod(k, across)
        bottom = height - key - sum(above[: row + 1]) - (row + 1) * tall - row * between
        place = (left + column * (wide + gap)) / width, bottom / height
        ax = figure.add_axes((*place, wide / width, tall / height))
        outermost = k + across >= len(headings)
        ax.tick_params(labelleft=own_ticks or not column, labelbottom=own_ticks or outermost, pad=2)
        for line, text in enumerate(reversed([*name, *heading.lines])):
            bold = line >= len(heading.lines)
            style = {"weight": "bold"} if bold else {"color": DIM}
            note(ax, text, (0, 1), (0, 4 + 72 * LINE * line), **style)
        axes.append(ax)
    middle = (left + (width - right - left) / 2) / width, (below + panels / 2) / height
    figure.text(middle[0], (below - 0.4) / height, x, ha="center", va="bottom")
    figure.text(0.03 / width, middle[1], y, rotation=90, va="center", ha="left")
    for k, text in enumerate(reversed(footer)):
        figure.text(0.05 / width, (0.04 + LINE * k) / height, text, color=DIM, va="bottom")
    if legend:
        figure.legend(
            handles=legend,
            loc="upper left",
            bbox_to_anchor=(0.02 / width, 1),
            ncols=key_columns,
            borderaxespad=0.1,
            borderpad=0.1,
            columnspacing=1.6,
            handlelength=1.8,
            labelspacing=0.3,
        )
    return figure, axes


def _key(legend: Sequence[Artist], width: float) -> tuple[int, float]:
    """How many columns a legend takes at that width, and its height in inches."""
    if not legend:
        return 1, 0.0
    widths = [0.52 + LETTER * len(str(handle.get_label())) for handle in legend]
    across = len(legend) if sum(widths) < width else max(1, int(width / max(widths)))
    return across, 0.165 * math.ceil(len(legend) / across) + 0.05


def note(
    ax: Axes,
    text: str,
    place: tuple[int | float, int | float],
    points: tuple[int | float, int | float],
    **style: str,
) -> None:
    """Text at a place in fractions of the axes, moved by so many points; it may lie outside.

    As text of the figure, which is drawn several times as fast as an annotation of the axes.
    """
    figure, box = cast(Figure, ax.figure), ax.get_position()
    width, height = figure.get_size_inches()
    x = box.x0 + place[0] * box.width + points[0] / 72 / width
    y = box.y0 + place[1] * box.height + points[1] / 72 / height
    figure.text(x, y, text, cast(dict[str, Any], style))


def auroc_axis(ax: Axes, axis: Literal["x", "y"], intervals: Sequence[Interval | None]) -> None:
    """From 0.5 to 1, or from as low as the intervals go; the line is chance."""
    lows = [low for found in intervals if found and (low := found["low"]) is not None]
    start = np.floor(10 * min([0.5, *lows])) / 10
    ticks = [tick for tick in (0, 0.25, 0.5, 0.75, 1) if tick >= start]
    ax.set(**{f"{axis}ticks": ticks})
    ax.set(**{f"{axis}ticklabels": [f"{tick:g}" for tick in ticks], f"{axis}lim": (start, 1)})
    ax.grid(axis=axis, color=FAINT, lw=0.5)
    ax.set_axisbelow(True)
    (ax.axvline if axis == "x" else ax.axhline)(0.5, **BASELINE, zorder=0.5)


def parts(items: Sequence, most: int = PANELS) -> Iterator[Sequence]:
    """Items in as few parts as may be of at most so many, all about as long."""
    size = math.ceil(len(items) / max(1, math.ceil(len(items) / most))) or 1
    return (items[start : start + size] for start in range(0, len(items), size))


def count(result: FindingResult) -> str:
    return f"{result['positives']:,} of {result['n']:,} positive"
