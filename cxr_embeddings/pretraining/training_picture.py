"""The curves of a training as a picture."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cxr_embeddings.heads.report import panels
from cxr_embeddings.heads.report.panels import BLACK, BLUE, Heading

PICTURE = "curves.png"
Look = dict[str, Any]  # of a curve, as Matplotlib takes it
BATCH: Look = {"color": BLACK, "lw": 0.8}
TUNE: Look = {"color": BLUE, "marker": "o", "ms": 3, "zorder": 3}
# column of metrics.csv -> its look, panel by panel; the probes are added to the score's
PANELS: tuple[tuple[Heading, dict[str, Look]], ...] = (
    (Heading("Loss", [""]), {"loss": BATCH}),
    (Heading("AUROC on tune", ["score: mean of the probes"]), {"score": TUNE}),
    (Heading("Effective rank", ["on tune"]), {"effective_rank": TUNE}),
    (Heading("Alignment", ["of two views"]), {"alignment": BATCH, "tune_alignment": TUNE}),
    (Heading("Uniformity", ["of films"]), {"uniformity": BATCH, "tune_uniformity": TUNE}),
)
# Okabe and Ito's other colours, as a solid line, dashed, ...
COLOURS = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#707070")
STYLES = ("-", "--", ":", "-.")
PROBES = [{"color": c, "ls": s, "lw": 0.9} for s, c in itertools.product(STYLES, COLOURS)]
DPI = 150


def draw(path: pathlib.Path, rows: Sequence[Mapping[str, str]], probe: str) -> Figure:
    """Draws rows of metrics.csv to a PNG; a curve without numbers stays empty.

    Args:
        probe: how the columns of the probes begin.
    """
    names = [name for name in rows[0] if name.startswith(probe) and any(r[name] for r in rows)]
    probes = dict(zip(names, itertools.cycle(PROBES), strict=False))
    legend = {"batch": BATCH, "tune; score": TUNE}
    legend |= {panels.printable(name.removeprefix(probe)): look for name, look in probes.items()}
    with matplotlib.style.context(["default", panels.STYLE]):
        figure, axes = panels.grid(
            [heading for heading, _ in PANELS],
            "Films trained on, thousands",
            "",
            legend=[Line2D([], [], label=label, **look) for label, look in legend.items()],
            left=0.42,
            gap=0.5,
            own_ticks=True,
        )
        for ax, (_, curves) in zip(axes, PANELS, strict=True):
            for name, look in (curves | (probes if "score" in curves else {})).items():
                known = [row for row in rows if row[name]]
                films = [float(row["films"]) / 1000 for row in known]
                ax.plot(films, [float(row[name]) for row in known], **look)
            ax.grid(axis="y", color=panels.FAINT, lw=0.5)
            ax.set_xlim(left=0)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.yaxis.set_major_locator(MaxNLocator(5))
            if "effective_rank" in curves:
                ax.set_ylim(0, 1.08 * ax.get_ylim()[1])
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return figure
