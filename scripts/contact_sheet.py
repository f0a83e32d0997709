"""One picture of the films of a folder, as the preset `native` sees them, sorted by finding.

python scripts/contact_sheet.py --input demo/mimic --output demo/films.png \\
    --labels demo/mimic/mimic-cxr-2.0.0-chexpert.csv.gz
"""

import collections
import csv
import dataclasses
import io
import pathlib
import re
import sys

from absl import app, flags

from cxr_embeddings.film_sheet import AMBER, GREEN, RED, Tile, draw_film, draw_sheet

INPUT = flags.DEFINE_string("input", None, "folder, glob or list of films", required=True)
OUTPUT = flags.DEFINE_string("output", None, "PNG to write", required=True)
LABELS = flags.DEFINE_string("labels", None, "MIMIC-CXR's table of labels, gz or not")
LIMIT = flags.DEFINE_integer("limit", None, "show only the first so many films")
COLUMNS = flags.DEFINE_integer("columns", 12, "films in a row", lower_bound=1)
SIDE = flags.DEFINE_integer("side", 168, "height and width of a film on the sheet", lower_bound=64)

_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI..([\d.]+)", re.DOTALL)  # Transfer Syntax UID
_STUDY = re.compile(r"/s(\d{8})/")
LEGEND = "view · photometric · bits · syntax · id; findings from the label table, ? = uncertain"


def read_labels(path: str) -> dict[str, dict[str, float]]:
    """study_id -> the labels that are present (1) or uncertain (-1)."""
    from cxr_embeddings.common import files

    text = files.read_table(path).decode()
    table = {}
    for row in csv.DictReader(io.StringIO(text)):
        names = [name for name in row if name not in ("subject_id", "study_id")]
        values = {name: float(row[name]) for name in names if row[name]}
        table[row["study_id"]] = {name: value for name, value in values.items() if value}
    return table


def make_tile(path: str, labels: dict[str, dict[str, float]], side: int) -> Tile:
    """Reads one film."""
    from cxr_embeddings.common import files
    from cxr_embeddings.input_pipeline.films import dicom
    from cxr_embeddings.input_pipeline.films.film import Rejected
    from cxr_embeddings.input_pipeline.synthetic import dicom_files

    name = pathlib.PurePosixPath(path).stem[:8]
    with files.open_input(path) as stream:
        syntax = _SYNTAX.search(stream.read(1024))
        film = dicom.read_film(stream)
    picture = draw_film(film, side)
    if isinstance(picture, Rejected):
        return Tile("Not readable", picture.reason.replace("_", " "), [name], RED, None)

    syntaxes = {uid: name for name, (uid, _) in dicom_files.SYNTAXES.items()}
    uid = syntax[1].decode() if syntax else ""
    photometric = film.photometric.replace("MONOCHROME", "MONO")
    view = film.view_position or "no view"
    technique = [f"{view} · {photometric} · {film.bits_stored} bit"]
    technique.append(f"{syntaxes.get(uid, uid.removeprefix('1.2.840.10008.1.2.'))} · {name}")

    study = _STUDY.search(path)
    present = labels.get(study[1] if study else "", {})
    findings = ", ".join(name + "?" * (value < 0) for name, value in present.items())
    normal = "No Finding" in present
    if film.view_position not in ("AP", "PA", "", None):
        section = "Lateral"
    else:
        section = "Frontal, no finding" if normal else "Frontal" + ", findings" * bool(present)
    return Tile(section, findings, technique, GREEN if normal else AMBER, picture)


def write(_: list[str]) -> None:
    """Reads the films and writes the sheet."""
    from cxr_embeddings.input_pipeline.films.listing import list_inputs

    try:
        listing = list_inputs(INPUT.value, LIMIT.value)
        labels = read_labels(LABELS.value) if LABELS.value else {}
        tiles = [make_tile(file.path, labels, SIDE.value) for file in listing.files]
        order = ("Frontal, no finding", "Frontal, findings", "Frontal", "Lateral", "Not readable")
        tiles.sort(key=lambda tile: (order.index(tile.section), tile.findings, tile.technique[-1]))
        unread = sum(tile.picture is None for tile in tiles)
        title = f"{len(tiles) - unread} films, {unread} not readable"
        counts = collections.Counter(tile.section for tile in tiles)
        tiles = [
            dataclasses.replace(tile, section=f"{tile.section} ({counts[tile.section]})")
            for tile in tiles
        ]
        draw_sheet(tiles, title, LEGEND, COLUMNS.value, SIDE.value).save(OUTPUT.value)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{OUTPUT.value}: {title}")


def main() -> None:
    app.run(write)


if __name__ == "__main__":
    main()
