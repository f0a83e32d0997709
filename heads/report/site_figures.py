"""The pictures of heads across hospitals: the matrix of AUROCs, and the curves of local labels."""

from collections.abc import Iterator

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..statistics.results import Interval
from ..statistics.site_results import SitesMeasured
from . import figures, panels
from .curves import apart, band
from .panels import AMBER, BLACK, BLUE, GREY, Heading

STYLES = ("--", ":", "-.")


def draw(measured: SitesMeasured) -> dict[str, Figure]:
    """Name -> figure: "auroc", and "local" where there are curves; more pages are "_2" ..."""
    with matplotlib.style.context(["default", panels.STYLE]):
        drawn = figures.numbered("auroc", _matrices(measured))
        return drawn | figures.numbered("local", _curves(measured))


def _matrices(measured: SitesMeasured) -> Iterator[Figure]:
    heads, sites = [*measured["heads"]], [*measured["sites"]]
    names = [panels.plain(name, 24)[0] for name in heads]
    left = 0.35 + panels.LETTER * max(map(len, names))
    for some in panels.parts(measured["findings"], 4):
        figure, axes = panels.grid(
            [Heading(name, []) for name in some], "Tested on", "Trained on",
            tall=0.3 * len(heads), left=left,
        )  # fmt: skip
        for ax, finding in zip(axes, some, strict=True):
            found = [[_value(measured, h, s, finding) for s in sites] for h in heads]
            ax.imshow(np.array(found, float), cmap="Blues", vmin=0.4, vmax=1.1, aspect="auto")
            for i, head in enumerate(heads):
                for j, site in enumerate(sites):
                    ink = "white" if (found[i][j] or 0) > 0.85 else BLACK
                    ax.text(j, i, panels.number(found[i][j]), ha="center", va="center", color=ink)
                    if head == site:
                        frame = Rectangle(
                            (j - 0.47, i - 0.45), 0.94, 0.9, fill=False, ec=AMBER, lw=2
                        )
                        ax.add_patch(frame)
            letters = max(
                4, int(ax.get_position().width * figure.get_figwidth() / len(sites) / 0.07)
            )
            ax.set(xticks=range(len(sites)), yticks=range(len(heads)), yticklabels=names)
            ax.set_xticklabels([panels.plain(site, letters)[0] for site in sites])
            ax.tick_params(length=0)
        yield figure


def _value(measured: SitesMeasured, head: str, site: str, finding: str) -> float | None:
    result = measured["heads"][head][site]["results"]["findings"].get(finding)
    return result["auroc"]["value"] if result and "auroc" in result else None


def _curves(measured: SitesMeasured) -> Iterator[Figure]:
    wanted = [
        (finding, site, points)
        for finding in measured["findings"]
        for site, facts in measured["sites"].items()
        if (curve := facts["local_labels"])
        and (points := [(p["size"], p["auroc"]) for p in curve["findings"][finding] if p["auroc"]])
    ]
    alone = [name for name, sources in measured["trained_on"].items() if len(sources) == 1]
    styles = dict(zip(alone, STYLES * len(alone), strict=False))
    legend = [Line2D([], [], color=BLUE, marker="o", ms=3, label="local heads")]
    legend += [Line2D([], [], color=GREY, ls=ls, label=f"of {name}") for name, ls in styles.items()]
    for some in panels.parts(wanted, 12):
        headings = [Heading(f"{finding} at {site}", []) for finding, site, _ in some]
        figure, axes = panels.grid(
            headings, "Local labelled films, log scale", "AUROC", legend=legend, own_ticks=True,
            gap=0.45,
        )  # fmt: skip
        for ax, (finding, site, points) in zip(axes, some, strict=True):
            x, value, low, high = band(points)
            ax.fill_between(x, low, high, color=BLUE, alpha=0.22, lw=0)
            ax.plot(x, value, color=BLUE, marker="o", ms=3)
            shown: list[Interval] = [one for _, one in points]
            for name, ls in styles.items():
                there = _value(measured, name, site, finding)
                if name != site and there is not None:
                    ax.axhline(there, color=GREY, ls=ls, lw=1.2)
                    shown.append({"value": there, "low": there, "high": there})
            panels.auroc_axis(ax, "y", shown)
            sizes = [size for size, _ in points]
            ax.set(xscale="log", xlim=(sizes[0] / 1.2, sizes[-1] * 1.2))
            ax.set_xticks(apart(sizes), [str(size) for size in apart(sizes)])
            ax.minorticks_off()
        yield figure
