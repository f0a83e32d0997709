"""The curves of a training as a picture."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cxr_embeddings.heads.report import panels
from cxr_embeddings.heads.report.panels import AMBER, BLACK, BLUE, Heading

PICTURE = "curves.png"
Look = dict[str, Any]  # of a curve, as Matplotlib takes it
BATCH: Look = {"color": BLACK, "lw": 0.8}
TUNE: Look = {"color": BLUE, "marker": "o", "ms": 3}
NEAREST: Look = {"color": AMBER, "marker": "s", "ms": 3}
# column of metrics.csv -> its look, panel by panel
PANELS: tuple[tuple[Heading, dict[str, Look]], ...] = (
    (Heading("Loss", [""]), {"loss": BATCH}),
    (Heading("AUROC on tune", [""]), {"probe_auroc": TUNE, "knn_auroc": NEAREST}),
    (Heading("Alignment", ["of two views"]), {"alignment": BATCH}),
    (Heading("Uniformity", ["of films"]), {"uniformity": BATCH, "tune_uniformity": TUNE}),
)
LEGEND = {"batch": BATCH, "tune; by linear probe": TUNE, "by nearest neighbours": NEAREST}
DPI = 150


def draw(path: pathlib.Path, rows: Sequence[Mapping[str, str]]) -> Figure:
    """Draws rows of metrics.csv to a PNG; a curve without numbers stays empty."""
    with matplotlib.style.context(["default", panels.STYLE]):
        figure, axes = panels.grid(
            [heading for heading, _ in PANELS],
            "Films trained on, thousands",
            "",
            legend=[Line2D([], [], label=label, **look) for label, look in LEGEND.items()],
            left=0.42,
            gap=0.5,
            own_ticks=True,
        )
        for ax, (_, curves) in zip(axes, PANELS, strict=True):
            for name, look in curves.items():
                known = [row for row in rows if row[name]]
                films = [float(row["films"]) / 1000 for row in known]
                ax.plot(films, [float(row[name]) for row in known], **look)
            ax.grid(axis="y", color=panels.FAINT, lw=0.5)
            ax.set_xlim(left=0)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.yaxis.set_major_locator(MaxNLocator(5))
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return figure
