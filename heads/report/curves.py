"""Small multiples, one panel a finding: ROC, precision-recall, calibration, scores, labels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from scipy import special
from sklearn import metrics

from ..statistics import proportion
from ..statistics.results import DataEfficiency, Interval, Part, SizePoint
from . import panels
from .panels import AMBER, BASELINE, BLACK, BLUE, FAINT, GREY, Heading, Tested

BEYOND = 3.0  # limits of distance that are drawn: what is farther lies there
FARTHEST = 16.0  # of the log-odds that are drawn, 1 in ten million: what is beyond lies there
DOT: dict[str, Any] = {"ls": "", "marker": "o", "ms": 4.5, "mfc": AMBER, "mec": BLACK, "mew": 0.7}


def _range(ax: Axes, axis: str, top: int | float) -> None:
    """Zero, half way and the top of an axis."""
    ticks = (0, top / 2, top)
    ax.set(**{f"{axis}ticks": ticks})
    ax.set(**{f"{axis}lim": (0, top), f"{axis}ticklabels": [f"{tick:g}" for tick in ticks]})


def _top(largest: float) -> int | float:
    """The shortest scale that holds a probability; those of rare findings are small."""
    return next(top for top in (0.02, 0.1, 0.2, 0.5, 1) if largest <= top or top == 1)


def _chosen(tested: Sequence[Tested]) -> str:
    """The rule of the first operating point, which is one for all findings."""
    return tested[0].result["operating_points"][0]["rule"]


def _headed(one: Tested, line: str) -> Heading:
    return Heading(one.name, [line, panels.count(one.result)])


def roc(tested: Sequence[Tested], foot: str) -> Figure:
    headings = [_headed(one, f"AUROC {panels.interval(one.result['auroc'])}") for one in tested]
    legend = [
        Line2D([], [], label=f"threshold: {_chosen(tested)}", **DOT),
        Line2D([], [], label="chance", **BASELINE),
    ]
    labels = "1 − specificity", "Sensitivity"  # noqa: RUF001
    figure, axes = panels.grid(headings, *labels, legend=legend, foot=foot)
    for ax, one in zip(axes, tested, strict=True):
        false_alarms, sensitivity, _ = metrics.roc_curve(one.label, one.logit)
        ax.plot((0, 1), (0, 1), **BASELINE)
        ax.plot(false_alarms, sensitivity, color=BLUE, clip_on=False)
        point = one.result["operating_points"][0]["test"]
        if point and point["sensitivity"] and point["specificity"]:
            place = 1 - point["specificity"]["value"], point["sensitivity"]["value"]
            ax.plot(*place, **DOT, clip_on=False)
        _range(ax, "x", 1)
        _range(ax, "y", 1)
    return figure


def precision_recall(tested: Sequence[Tested], foot: str) -> Figure:
    headings = [_headed(one, f"AUPRC {panels.interval(one.result['auprc'])}") for one in tested]
    legend = [Line2D([], [], label="chance (the prevalence)", **BASELINE)]
    labels = "Recall (sensitivity)", "Precision (positive predictive value)"
    figure, axes = panels.grid(headings, *labels, legend=legend, foot=foot)
    for ax, one in zip(axes, tested, strict=True):
        precision, recall, _ = metrics.precision_recall_curve(
            one.label, one.logit, drop_intermediate=True
        )
        precision[-1] = precision[-2]  # not the 1 of convention, which no threshold reaches
        ax.axhline(one.label.mean(), **BASELINE)
        ax.plot(recall, precision, color=BLUE, drawstyle="steps-post", clip_on=False)
        _range(ax, "x", 1)
        _range(ax, "y", 1)
    return figure


def calibration(tested: Sequence[Tested], foot: str) -> Figure:
    """Groups of equally many films by probability, which scaling moves but does not reorder."""
    groups, headings = [], []
    for one in tested:
        order = np.argsort(one.logit, kind="stable")
        rarer = min(one.label.sum(), (~one.label).sum())  # about four in a group
        groups.append(np.array_split(order, min(rarer // 4, 10)))
        before, after = (one.result["calibration"][when]["ece"] for when in ("before", "after"))
        before, after = (panels.number(ece and ece["value"]) for ece in (before, after))
        least, most = len(groups[-1][-1]), len(groups[-1][0])
        size = f"{least:,}" if least == most else f"{least:,}–{most:,}"  # noqa: RUF001
        count = f"{len(groups[-1])} groups of {size}"
        headings.append(Heading(one.name, [f"ECE {before} → {after}", count]))
    legend = [
        Line2D([], [], ls="", marker="o", mfc="white", mec=GREY, ms=4, label="before scaling"),
        Line2D([], [], color=BLUE, marker="o", ms=4, label="after, with 95 % interval (Wilson)"),
        Line2D([], [], label="perfect", **BASELINE),
    ]
    labels = "Predicted probability, mean of a group of films", "Positive films, share of a group"
    figure, axes = panels.grid(
        headings, *labels, legend=legend, foot=foot, gap=0.46, own_ticks=True
    )
    for ax, one, members in zip(axes, tested, groups, strict=True):
        before, after, share = (
            np.array([values[group].mean() for group in members])
            for values in (special.expit(one.logit), special.expit(one.scaled), one.label)
        )
        sure = [proportion.interval(one.label[group], one.patient[group]) for group in members]
        ax.plot((0, 1), (0, 1), **BASELINE)
        ax.hlines(share, before, after, color=GREY, lw=0.6)
        ax.vlines(after, *zip(*sure, strict=True), color=BLUE, lw=0.8)
        ax.plot(before, share, "o", mfc="white", mec=GREY, ms=4, clip_on=False)
        ax.plot(after, share, "o", color=BLUE, ms=4, clip_on=False)
        top = _top(max(before.max(), after.max(), share.max()))
        _range(ax, "x", top)
        _range(ax, "y", top)
    return figure


def scores(tested: Sequence[Tested], foot: str) -> Figure:
    """Positives upwards, negatives downwards, so that neither hides the other."""
    headings = []
    for one in tested:
        threshold = panels.number(one.result["operating_points"][0]["threshold"], 3)
        headings.append(_headed(one, f"threshold {threshold}"))
    legend = [
        Patch(color=BLUE, label="positive films, upwards"),
        Patch(color=AMBER, label="negative films, downwards"),
        Line2D([], [], color=BLACK, lw=1, ls="--", label=f"threshold: {_chosen(tested)}"),
    ]
    labels = "Probability after scaling, log-odds scale", "Films, % of their class"
    figure, axes = panels.grid(headings, *labels, legend=legend, foot=foot)
    logits = [np.clip(one.scaled, -FARTHEST, FARTHEST) for one in tested]
    edges = np.linspace(min(map(np.min, logits)) - 0.1, max(map(np.max, logits)) + 0.1, 31)
    shares = []
    for one, logit in zip(tested, logits, strict=True):
        films = [np.histogram(logit[here], edges)[0] for here in (one.label, ~one.label)]
        shares.append([100 * count / count.sum() for count in films])
    largest = np.max(shares)
    tick = max(tick for tick in (1, 2, 5, 10, 20, 50) if tick <= largest)
    close = edges[-1] - edges[0] < 8  # then labels of neighbours leave each other room
    ticks = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999) if close else (0.01, 0.5, 0.99)
    ticks = [p for p in ticks if edges[0] < special.logit(p) < edges[-1]]
    for ax, one, (positive, negative) in zip(axes, tested, shares, strict=True):
        ax.stairs(positive, edges, fill=True, color=BLUE, lw=0)
        ax.stairs(-negative, edges, fill=True, color=AMBER, lw=0)
        ax.axhline(0, color=BLACK, lw=0.6)
        if (threshold := one.result["operating_points"][0]["threshold"]) is not None:
            place = np.clip(special.logit(threshold), -FARTHEST, FARTHEST)
            ax.axvline(place, color=BLACK, lw=1, ls="--")
        ax.set_xlim(edges[0], edges[-1])
        ax.set_xticks([special.logit(p) for p in ticks], [f"{p:g}" for p in ticks])
        ax.set_ylim(-1.05 * largest, 1.05 * largest)
        ax.set_yticks((-tick, 0, tick), [str(tick), "0", str(tick)])
    return figure


def distances(distances: Mapping[str, Float32[np.ndarray, " film"]]) -> Figure:
    """Distances to the training films, a line a split."""
    colours = dict(zip(distances, (FAINT, AMBER, BLUE), strict=False))
    legend = [Line2D([], [], color=colour, lw=2, label=name) for name, colour in colours.items()]
    legend.append(Line2D([], [], color=BLACK, lw=1, ls="--", label="limit"))
    shares = [f"{split} {100 * np.mean(far > 1):.1f} %" for split, far in distances.items()]
    heading = Heading("Beyond the limit", [", ".join(shares)])
    labels = "Distance to the training films", "Films, % of their split"
    figure, (ax,) = panels.grid([heading], *labels, legend=legend)
    edges = np.linspace(0, BEYOND, 61)
    for split, far in distances.items():
        count = np.histogram(np.minimum(far, BEYOND), edges)[0]
        fill = colours[split] == FAINT
        ax.stairs(100 * count / len(far), edges, fill=fill, color=colours[split], lw=1.2)
    ax.axvline(1, color=BLACK, lw=1, ls="--")
    ax.set_xlim(0, BEYOND)
    ax.set_xticks((0, 1, 2, BEYOND), ["0", "1", "2", f"≥ {BEYOND:g}"])
    ax.set_ylim(bottom=0)
    return figure


def data_efficiency(data_efficiency: DataEfficiency, parts: Mapping[str, Part]) -> Iterator[Figure]:
    """One panel for the mean and one a finding, with the mean again for comparison.

    Heads on parts of the input are lines beside it.
    """
    draws = data_efficiency["draws"]
    curve: dict[str | None, list[SizePoint]] = {}
    if len(data_efficiency["findings"]) > 1:
        curve[None] = data_efficiency["mean"]
    curve.update({name: points for name, points in data_efficiency["findings"].items()})
    all_known = {
        name: [(point["size"], auroc) for point in points if (auroc := point["auroc"])]
        for name, points in curve.items()
    }
    known = {name: points for name, points in all_known.items() if points}
    shown = [auroc for points in known.values() for _, auroc in points]
    sizes = sorted({size for points in known.values() for size, _ in points})
    legend = [
        Line2D([], [], color=BLUE, marker="o", ms=3, label=f"mean of {draws} draws"),
        Patch(color=BLUE, alpha=0.22, lw=0, label="95 % of the draws"),
    ]
    if None in known:
        legend.append(Line2D([], [], color=GREY, lw=1, ls="--", label="mean of findings"))
    styles = dict(zip(parts, ("-.", ":", (0, (5, 1, 1, 1, 1, 1))), strict=False))
    legend += [
        Line2D([], [], color=AMBER, lw=1.4, ls=style, label=name) for name, style in styles.items()
    ]
    shown += [auroc for one in parts.values() for _, auroc in _points(one, None)]
    for some in panels.parts([*known]):
        headings = []
        for name in some:
            first, last = known[name][0], known[name][-1]
            ends = [f"{panels.number(one['value'])} at {size:,}" for size, one in (first, last)]
            headings.append(
                Heading("Mean of findings" if name is None else name, [", ".join(ends)])
            )
        figure, axes = panels.grid(
            headings,
            "Labelled films to train on, log scale",
            "AUROC",
            legend=legend,
        )
        for ax, name in zip(axes, some, strict=True):
            if None in known and name is not None:
                x, value, *_ = band(known[None])
                ax.plot(x, value, color=GREY, lw=1, ls="--")
            for part, style in styles.items():
                if points := _points(parts[part], name):
                    x, value, *_ = band(points)
                    ax.plot(x, value, color=AMBER, lw=1.4, ls=style)
            x, value, low, high = band(known[name])
            ax.fill_between(x, low, high, color=BLUE, alpha=0.22, lw=0)
            ax.plot(x, value, color=BLUE, marker="o", ms=3)
            panels.auroc_axis(ax, "y", shown)
            ax.set(xscale="log", xlim=(sizes[0] / 1.2, sizes[-1] * 1.2))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticks(apart(sizes), [str(size) for size in apart(sizes)])
        yield figure


def _points(part: Part, name: str | None) -> list[tuple[int, Interval]]:
    """The curve of a part; of no finding, that of the mean."""
    found = part.get("data_efficiency")
    curve = [] if found is None else found["mean"] if name is None else found["findings"][name]
    return [(point["size"], auroc) for point in curve if (auroc := point["auroc"])]


def band(points: Sequence[tuple[int, Interval]]) -> np.ndarray:
    """Sizes, means, lows and highs of a curve."""
    return np.array(
        [(size, one["value"], one["low"], one["high"]) for size, one in points], float
    ).T


def apart(sizes: Sequence[int]) -> list[int]:
    """Those sizes, from the largest down, whose labels leave each other room on a log axis."""
    room = max(np.log(sizes[-1] / sizes[0]) / 3.2, 1e-9)
    kept = [sizes[-1]]
    for size in reversed(sizes):
        if np.log(kept[-1] / size) >= room:
            kept.append(size)
    return kept[::-1]
