"""How often near films share their findings, and a picture: the job of `scripts/neighbours.py`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from cxr_embeddings.common import paths
from cxr_embeddings.labelled_films import LabelledFilms, read_labelled_films

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxr_embeddings.heads.similarity import Sharing

NEIGHBOURS, ROWS, SIDE = 5, 6, 168
BACKGROUND, LIGHT, DIM = "#0e1015", "#e6e9f0", "#8b93a3"
SHARED, OTHER, MISSING = "#81d4a3", "#ffc770", "#f06868"
SEED = 0


def compare_neighbours(
    embeddings: str | Sequence[str], labels: str, input: str = "", output: str = ""
) -> None:
    """Prints how often neighbours share a finding, and draws some films with their neighbours.

    Args:
        embeddings: folder of embeddings, or several.
        labels: CSV of labels.
        input: folder, glob or list of the films, for the picture; "" for none.
        output: the PNG file of the picture; "" for none.

    Raises:
        ValueError: the table says nothing of these films, or an argument is wrong.
        OSError: a file cannot be read or written.
    """
    if bool(input) != bool(output):
        raise ValueError("a picture needs both --input and --output; only one of them is given")
    if output and (picture := paths.typed_file(output, "--output")).suffix.lower() != ".png":
        raise ValueError(f"--output is {picture}; expected a file *.png")
    from cxr_embeddings.common.csv_tables import plain
    from cxr_embeddings.heads import similarity as near
    from cxr_embeddings.heads.labels.findings import NO_FINDING
    from cxr_embeddings.heads.statistics import bootstrap
    from cxr_embeddings.input_pipeline.embeddings.table import read_table

    table = read_table(embeddings)
    every = read_labelled_films(table.image_id, labels)
    rows = np.flatnonzero(every.mask.any(axis=1))
    patient_id, label, mask = (part[rows] for part in every[:3])
    findings = every.findings
    films = LabelledFilms(patient_id, label, mask, findings)
    if not len(rows):
        raise ValueError(
            f"{labels} says for none of the films whether it has a finding; expected 0 or 1"
        )
    patient = bootstrap.patients(patient_id)
    known = len({*patient_id} - {""})
    print(
        f"{len(rows)} films of {known or 'unknown'} patients with labels, of {len(table.image_id)} "
        f"embeddings of {table.embedding.shape[1]:,} numbers"
    )
    if not (table.encoder or {}).get("trained"):
        print("warning: it is not known whether the network of these embeddings was trained")
    if unknown := (patient_id == "").sum():
        print(
            f"warning: {unknown} films of unknown patients: neighbours may be of the same patient, "
            "and chance is of films, as if each were another patient's"
        )
    neighbour, cosine = near.nearest(table.embedding[rows], patient, NEIGHBOURS)
    alone = [name for name in findings if plain(name) == plain(NO_FINDING)]
    found, whole = near.sharing(neighbour, patient, findings, label, mask, alone)
    if not found:
        raise ValueError(f"{labels} gives no film a finding; expected at least one")
    _report(found, whole, [name for name in found if name not in alone] or [*found])
    if output:
        chosen = _choose(label > 0, [findings.index(name) for name in found])
        shown = [(j, i, *neighbour[i]) for j, i in chosen.items()]
        _draw(shown, find_films(table.image_id[rows], input), cosine, films).savefig(picture)
        print(f"{picture}: {len(shown)} films, drawn at random, and their neighbours")


def _report(found: dict[str, Sharing], whole: Sharing, pooled: list[str]) -> None:
    """A line for each finding, and what those that are pooled say together."""
    lines = found | {f"{len(pooled)} pooled": whole}
    width = max(map(len, lines))
    heading = f"of the {NEIGHBOURS} nearest, share it"
    print(f"{heading:{width + 6}}   share  chance")
    for name, one in lines.items():
        print(f"{name:{width}} {one.films:5}   {one.share:5.3f}   {one.chance:5.3f}")
    print(f"pooled: {', '.join(pooled)}")
    if not whole.chance > 0:
        print("no film of another patient shares one of these")
        return
    times = whole.share / whole.chance
    print(f"neighbours share a film's finding {times:.2f} times as often as films at random")


def _choose(has: Bool[np.ndarray, "n finding"], findings: list[int]) -> dict[int, int]:
    """For each of the findings that most films have, one of these at random, each film once."""
    random = np.random.default_rng(SEED)
    chosen: dict[int, int] = {}
    for j in sorted(findings, key=lambda j: -has[:, j].sum())[:ROWS]:
        free = np.setdiff1d(np.flatnonzero(has[:, j]), [*chosen.values()])
        if len(free):
            chosen[j] = int(random.choice(free))
    return chosen


def find_films(image_id: Shaped[np.ndarray, " n"], path: str) -> list[str]:
    """Where each film lies; "" where it is not in the input."""
    from cxr_embeddings.heads.labels import matching
    from cxr_embeddings.input_pipeline.films.listing import list_inputs

    listed = list_inputs(path).files
    below = np.array([file.key for file in listed], object)  # the folder itself may have moved
    position, _ = matching.place(
        matching.film_ids(image_id), matching.Facts(path, {"image": below}, {}, {})
    )
    return [listed[at].path if at >= 0 else "" for at in position]


def _draw(
    shown: Sequence[tuple[int, ...]],
    paths: Sequence[str],
    cosine: Float32[np.ndarray, "n neighbour"],
    films: LabelledFilms,
) -> Figure:
    """A row for each film shown: itself and its neighbours, framed where they share the finding.

    Args:
        shown: finding, film and its neighbours of each row; indices.
        paths: where each film lies; "" where it is not known.
        cosine: of each film with its neighbours.
        films: their labels.
    """
    from matplotlib.figure import Figure

    from cxr_embeddings.input_pipeline.films import decode

    has, known, findings = films.label > 0, films.mask, films.findings
    size = 2 * NEIGHBOURS + 2, 2.9 * len(shown) + 0.6
    figure = Figure(size, 84, facecolor=BACKGROUND, layout="constrained")
    figure.suptitle("Films, each with its nearest; green: shares the row's finding", color=LIGHT)
    rows = figure.subplots(len(shown), NEIGHBOURS + 1, squeeze=False)
    for axes, (j, *row) in zip(rows, shown, strict=True):
        count = f"{has[row[1:], j].sum()} of {known[row[1:], j].sum()} neighbours"
        axes[0].set_title(f"{findings[j]}: shared by {count}", color=DIM, loc="left", size=10)
        for n, (ax, i) in enumerate(zip(axes, row, strict=True)):
            film = decode.load(paths[i], "native", SIDE, None) if paths[i] else None
            if isinstance(film, decode.Prepared):
                ax.imshow(film.image[..., 0], "gray", vmin=0, vmax=1)
            else:
                ax.plot([0, 1, np.nan, 0, 1], [0, 1, np.nan, 1, 0], color=MISSING)
                ax.set(facecolor="black", aspect="equal")
            names = ", ".join(name for name, there in zip(findings, has[i], strict=True) if there)
            below = f"cosine {cosine[row[0], n - 1]:.3f}" if n else "the film"
            shares = n and has[i, j]
            text = textwrap.fill(names, 26, max_lines=2)
            ax.set_xlabel(f"{text}\n{below}", color=SHARED if shares else OTHER, size=8)
            ax.set(xticks=[], yticks=[])
            frame = SHARED if shares else DIM if n else LIGHT
            ax.spines[:].set(color=frame, linewidth=1 if frame == DIM else 4)
    return figure
