"""How often films that lie near each other in embedding space share their findings; and a picture.

python scripts/neighbours.py --embeddings demo/embeddings \\
    --labels demo/mimic/mimic-cxr-2.0.0-chexpert.csv.gz \\
    --input demo/mimic/files --output demo/neighbours.png

The neighbours of a film are the five films of other patients whose embeddings have the largest
cosine with its own. Of each finding this prints what share of the neighbours of the films that have
it have it, too; and what share films drawn at random would give (chance), with the range in which
95 % of the shares lie when patients with as many films exchange their labels (nan: too few have).
What the table of CheXpert or NegBio leaves empty counts as absent; what another table does, and an
uncertain finding (-1), as unknown: such films are passed over for that finding. The pooled line is
of all findings but No Finding.

--input and --output draw some of the films with their neighbours, at random, a row for each of the
findings that most films have.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cxr_embeddings import cli
from cxr_embeddings.common import paths

if TYPE_CHECKING:
    import numpy as np

    from cxr_embeddings.heads.neighbours import Sharing

FLAGS = {
    "embeddings": "folder of embeddings, from embed.py; of several: once for each, or a .txt list",
    "labels": "CSV of labels, as train_head.py reads it",
    "input": "folder, glob or list of the films that were embedded; for the picture",
    "output": "PNG to be written",
}
NEIGHBOURS, ROWS, SIDE = 5, 6, 168
PERMUTATIONS, SEED = 1000, 0
MANY = 20_000  # films that take so long that their progress is shown


def neighbours(
    embeddings: str | Sequence[str],
    labels: str,
    input: str | None = None,
    output: str | None = None,
) -> None:
    """Prints the table and draws the picture; the arguments are `FLAGS`."""
    if bool(input) != bool(output):
        raise ValueError("a picture needs both --input and --output; only one of them is given")
    output = check_output(output) if output else None
    from cxr_embeddings.heads import neighbours as near
    from cxr_embeddings.heads.labels.columns import plain
    from cxr_embeddings.heads.labels.findings import NO_FINDING
    from cxr_embeddings.heads.statistics import bootstrap
    from cxr_embeddings.input_pipeline.embeddings.table import read_table

    table = read_table(embeddings)
    rows, patient_id, label, mask, findings = labelled(table.image_id, labels)
    if not len(rows):
        raise ValueError(
            f"{labels} says of none of the films whether it has a finding; expected 0 or 1"
        )
    patient = bootstrap.patients(patient_id)
    known = len({*patient_id} - {""})
    print(
        f"{len(rows)} films of {known or 'unknown'} patients with labels, of {len(table.image_id)} "
        f"embeddings of {table.embedding.shape[1]:,} numbers"
    )
    if not (table.encoder or {}).get("trained"):
        print("warning: nothing says that these are the embeddings of a trained network")
    if unknown := (patient_id == "").sum():
        print(
            f"warning: {unknown} films of unknown patients: neighbours may be of the same patient, "
            "and chance is of films, as if each were another patient's"
        )
    few = len(rows) < MANY
    with cli.progress(len(rows), hidden=few) as bar:
        neighbour, cosine = near.nearest(table.embedding[rows], patient, NEIGHBOURS, bar.update)
    alone = [name for name in findings if plain(name) == plain(NO_FINDING)]
    with cli.progress(PERMUTATIONS, hidden=few, what="permutations") as bar:
        found, whole = near.sharing(
            neighbour, patient, findings, label, mask, PERMUTATIONS, SEED, alone, bar.update
        )
    if not found:
        raise ValueError(f"{labels} gives no film a finding; expected some")
    report(found, whole, [name for name in found if name not in alone] or [*found])
    if input and output:
        names = table.image_id[rows]
        has, lacks = (label > 0) & mask, (label == 0) & mask
        chosen = choose(has, [findings.index(name) for name in found])
        shown = [(j, i, *neighbour[i]) for j, i in chosen.items()]
        draw(shown, find_films(names, input), cosine, has, lacks, findings, output)
        print(f"{output}: {len(shown)} films, drawn at random, and their neighbours")


def check_output(path: str) -> str:
    """The path in full. Raises ValueError where no picture can be written there."""
    path = str(paths.typed_local(path, "--output"))
    if not path.lower().endswith(".png") or not os.path.isdir(os.path.dirname(path)):
        raise ValueError(f"--output is {path}; expected a file *.png in a folder that exists")
    return path


def labelled(
    image_id: np.ndarray, path: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """The films with labels: rows, patients, labels of 0 and 1, which are known; and findings."""
    import numpy as np

    from cxr_embeddings.heads.labels import findings, label_table, matching
    from cxr_embeddings.heads.labels.columns import alike

    table = label_table.read_labels(path)
    if all(alike(name, table.columns) for name in findings.CHEXPERT):  # whose labellers write no 0
        table = label_table.read_labels(path, not_mentioned="negative")
    facts, films = table.facts, matching.film_ids(image_id)
    position, _ = matching.place(films, facts)
    patient_id = matching.with_ids(films, facts, position).patient
    label, mask = table.label[position], table.mask[position]
    rows = np.flatnonzero((position >= 0) & mask.any(axis=1))
    return rows, patient_id[rows], label[rows], mask[rows], table.findings


def report(found: dict[str, Sharing], whole: Sharing, pooled: list[str]) -> None:
    """A line for each finding, and what those that are pooled say together."""
    lines = found | {f"{len(pooled)} pooled": whole}
    width = max(map(len, lines))
    heading = f"of the {NEIGHBOURS} nearest, share it"
    print(f"{heading:{width + 6}}   share  chance  95 % of chance       p")
    for name, one in lines.items():
        print(
            f"{name:{width}} {one.films:5}   {one.share:5.3f}   {one.chance:5.3f}  "
            f"{one.low:5.3f} to {one.high:5.3f}  {one.p:6.3f}"
        )
    print(f"pooled: {', '.join(pooled)}")
    if not whole.chance > 0:
        print("no film of another patient shares one of these")
        return
    more = "more often than chance explains"
    if whole.p != whole.p:
        more = "no test is possible, as too few patients have as many films as another"
    elif whole.p > 0.05:
        more = f"no {more}"
    print(
        f"neighbours share a film's finding {whole.share / whole.chance:.2f} times as often as "
        f"films at random: {more}"
    )


def choose(has: np.ndarray, findings: list[int]) -> dict[int, int]:
    """For each of the findings that most films have, one of these at random, each film once."""
    import numpy as np

    random, chosen = np.random.default_rng(SEED), {}
    for j in sorted(findings, key=lambda j: -has[:, j].sum())[:ROWS]:
        free = np.setdiff1d(np.flatnonzero(has[:, j]), [*chosen.values()])
        if len(free):
            chosen[j] = int(random.choice(free))
    return chosen


def find_films(image_id: np.ndarray, path: str) -> list[str]:
    """Where each film lies; "" where it is not in the input."""
    import numpy as np

    from cxr_embeddings.heads.labels import matching
    from cxr_embeddings.input_pipeline.films.listing import list_inputs

    listed = list_inputs(path).files
    below = np.array([file.key for file in listed], object)  # the folder itself may have moved
    position, _ = matching.place(
        matching.film_ids(image_id), matching.Facts(path, {"image": below}, {}, {})
    )
    return [listed[at].path if at >= 0 else "" for at in position]


def draw(
    shown: Sequence[tuple[int, ...]],
    paths: list[str],
    cosine: np.ndarray,
    has: np.ndarray,
    lacks: np.ndarray,
    findings: tuple[str, ...],
    output: str,
) -> None:
    """A row for each film shown: itself and its neighbours, framed where they share the finding."""
    from cxr_embeddings import film_sheet
    from cxr_embeddings.common import files
    from cxr_embeddings.input_pipeline.films import dicom
    from cxr_embeddings.input_pipeline.films.film import Rejected

    def tile(
        i: int, section: str, technique: list[str], frame: film_sheet.Colour
    ) -> film_sheet.Tile:
        picture = None
        if paths[i]:
            with files.open_input(paths[i]) as stream:
                drawn = film_sheet.draw_film(dicom.read_film(stream), SIDE)
            picture = None if isinstance(drawn, Rejected) else drawn
        names = ", ".join(name for name, there in zip(findings, has[i], strict=True) if there)
        colour = film_sheet.GREEN if frame == film_sheet.GREEN else film_sheet.AMBER
        return film_sheet.Tile(section, names, technique, colour, picture, frame)

    tiles = []
    for j, i, *near in shown:
        known = int((has | lacks)[near, j].sum())
        section = f"{findings[j]}: shared by {has[near, j].sum()} of {known} neighbours"
        tiles.append(tile(i, section, ["the film"], film_sheet.TEXT))
        for n, other in enumerate(near):
            frame = film_sheet.GREEN if has[other, j] else film_sheet.FRAME
            tiles.append(tile(other, section, [f"cosine {cosine[i, n]:.3f}"], frame))
    sheet = film_sheet.draw_sheet(
        tiles, "Films and their nearest", "green: shares the row's finding", NEIGHBOURS + 1, SIDE
    )
    sheet.save(output)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_flags(neighbours, __doc__ or "", "nothing was written", FLAGS, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
