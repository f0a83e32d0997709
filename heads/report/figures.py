"""The pictures of a trained head: small multiples, one panel a finding, as wide as an A4 page.

Every panel says on how many films and positives it stands.
"""

import io
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import matplotlib.style
import numpy as np
import pandas as pd
from jaxtyping import Float32
from matplotlib.figure import Figure

from ..statistics import bootstrap
from ..statistics.metrics import Scored
from ..statistics.results import DataEfficiency, Part, Results
from . import course as one_course
from . import curves, forests, panels
from .panels import Tested

DPI = 200
ROWS = 36  # of one forest at most
FEWEST = 20  # films of a class, for groups to show calibration by: five of four


def draw(
    findings: Sequence[str],
    films: Scored,
    results: Results,
    data_efficiency: DataEfficiency | None,
    distances: Mapping[str, Float32[np.ndarray, " film"]],
    parts: Mapping[str, Part] = MappingProxyType({}),
) -> dict[str, Figure]:
    """Draws what there is to draw; findings with one class only are left out.

    Returns:
        name -> figure: "distances", of the films of each split; "roc", "precision_recall",
        "calibration", "scores"; "forest" for two findings or more; "subgroups" and
        "data_efficiency" where there are any. What does not fit one page goes on in "roc_2" and
        so on.
    """
    tested, patient = [], bootstrap.patients(films.patient_id)
    for j, name in enumerate(findings):
        result, known = results["findings"][name], films.mask[:, j]
        if result["undefined"] is None:
            logit, label = films.logit[known, j].astype(np.float64), films.label[known, j] > 0
            tested.append(Tested(name, logit, label, patient[known], result))

    reasons = [(name, found["undefined"]) for name, found in results["findings"].items()]
    left_out = "; ".join(f"{name} ({reason})" for name, reason in reasons if reason)
    foot = left_out and f"Left out: {left_out}."

    figures: dict[str, Figure] = {}
    with matplotlib.style.context(["default", panels.STYLE]):  # whatever a matplotlibrc says
        for paint in (curves.roc, curves.precision_recall, curves.scores):
            drawn = (paint(some, foot) for some in panels.parts(tested))
            figures |= numbered(paint.__name__, drawn)
        enough = [one for one in tested if min(one.label.sum(), (~one.label).sum()) >= FEWEST]
        names = {one.name for one in enough}
        if few := [one.name for one in tested if one.name not in names]:
            said = f"Left out, with fewer than {FEWEST} films of a class: {', '.join(few)}."
            foot = f"{foot} {said}".strip()
        drawn = (curves.calibration(some, foot) for some in panels.parts(enough))
        figures |= numbered("calibration", drawn)
        if len(tested) > 1:
            ranked = sorted(tested, key=lambda one: -one.result["auroc"]["value"])
            drawn = (forests.forest(some, results["mean"]) for some in panels.parts(ranked, ROWS))
            figures |= numbered("forest", drawn)
        if tested and results["subgroups"]:
            figures |= numbered("subgroups", forests.subgroups(tested, results))
        if data_efficiency:
            figures |= numbered("data_efficiency", curves.data_efficiency(data_efficiency, parts))
        figures["distances"] = curves.distances(distances)
    return figures


def course(findings: Sequence[str], found: pd.DataFrame, results: Results) -> Figure:
    """One patient over time; `found` is of `course.longest`."""
    with matplotlib.style.context(["default", panels.STYLE]):
        return one_course.draw(findings, found, results)


def svg(figure: Figure) -> bytes:
    """A figure as SVG, its text as outlines; the same bytes every time."""
    return _render(figure, "svg", dict.fromkeys(("Date", "Creator", "Format", "Type")))


def save(figures: Mapping[str, Figure], folder: pathlib.Path) -> dict[str, bytes]:
    """Writes NAME.png (200 dpi) and NAME.svg of every figure into a new folder; gives the SVGs."""
    folder.mkdir()
    svgs = {name: svg(figure) for name, figure in figures.items()}
    for name, figure in figures.items():
        (folder / f"{name}.svg").write_bytes(svgs[name])
        (folder / f"{name}.png").write_bytes(_render(figure, "png", {"Software": None}))
    return svgs


def _render(figure: Figure, kind: str, metadata: Mapping[str, None]) -> bytes:
    stream = io.BytesIO()
    with matplotlib.style.context(["default", panels.STYLE]), warnings.catch_warnings():
        # Names in a script that the font lacks become boxes; the tables of the report have them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(stream, format=kind, dpi=DPI, metadata=metadata)
    return stream.getvalue()


def numbered(name: str, figures: Iterator[Figure]) -> dict[str, Figure]:
    """Figures of several pages: NAME, NAME_2 and so on."""
    return {f"{name}_{k}" if k > 1 else name: figure for k, figure in enumerate(figures, 1)}
