"""One patient's scores over time, a panel a finding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..statistics.results import Results
from . import panels
from .panels import BLACK, BLUE, FAINT, GREY, Heading

FEWEST = 3  # moments of a course
DOT: dict[str, Any] = {"ls": "", "marker": "o", "ms": 4.5, "clip_on": False, "zorder": 3}
MARKS: dict[str, dict[str, Any]] = {
    "the finding is there": {**DOT, "mfc": BLUE, "mec": BLUE},
    "it is not": {**DOT, "mfc": "white", "mec": BLUE},
    "not known": {**DOT, "mfc": FAINT, "mec": GREY},
}


def longest(predicted: pd.DataFrame, taken: Shaped[np.ndarray, " film"]) -> pd.DataFrame | None:
    """The predictions of the patient with the most films in time, in order, with their `days`.

    `taken` is datetime64[s], NaT where it is unknown. None where no patient has three moments.
    """
    dated = predicted.assign(taken=taken)[~np.isnat(taken) & (predicted["patient_id"] != "")]
    count = dated.groupby("patient_id")["taken"].nunique()
    if not len(count) or count.max() < FEWEST:
        return None
    one = dated[dated["patient_id"] == count.idxmax()].sort_values(["taken", "image_id"])
    days = (one["taken"] - one["taken"].iloc[0]).dt.total_seconds() / 86_400
    return one.assign(days=days)


def draw(findings: Sequence[str], course: pd.DataFrame, results: Results) -> Figure:
    """Probabilities after scaling, over days since the first film; the line is the threshold."""
    patient, shown = course["patient_id"].iloc[0], list(findings)[: panels.PANELS]
    legend = [Line2D([], [], label=kind, **style) for kind, style in MARKS.items()]
    legend.append(Line2D([], [], color=BLACK, lw=1, ls="--", label="threshold"))
    headings = [Heading(name, [f"patient {patient}, {len(course)} films"]) for name in shown]
    figure, axes = panels.grid(
        headings, "Days since the first film", "Probability", legend=legend, right=0.25
    )
    last = course["days"].iloc[-1]
    for ax, name in zip(axes, shown, strict=True):
        probability, label = course[f"{name}_probability"], course[f"{name}_label"]
        ax.plot(course["days"], probability, color=BLUE, lw=1)
        for style, inside in zip(
            MARKS.values(), (label == 1, label == 0, label.isna()), strict=True
        ):
            at = inside.fillna(False).to_numpy(bool)
            ax.plot(course["days"][at], probability[at], **style)
        points = results["findings"][name].get("operating_points")
        if points and points[0]["threshold"] is not None:
            ax.axhline(points[0]["threshold"], color=BLACK, lw=1, ls="--")
        ax.set(xlim=(-0.03 * last, 1.03 * last), ylim=(0, 1), yticks=(0, 0.5, 1))
        ax.set_yticklabels(["0", "0.5", "1"])
        ax.set_xticks((0, round(last / 2), round(last)))
    return figure
