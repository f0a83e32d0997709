"""One picture of the films of a folder, as the preset `native` sees them, sorted by finding.

python scripts/contact_sheet.py --input demo/mimic --output demo/films.png \\
    --labels demo/mimic/mimic-cxr-2.0.0-chexpert.csv.gz
"""

import csv
import dataclasses
import gzip
import io
import pathlib
import re
import sys
import textwrap

from absl import app, flags

INPUT = flags.DEFINE_string("input", None, "folder, glob or list of films", required=True)
OUTPUT = flags.DEFINE_string("output", None, "PNG to write", required=True)
LABELS = flags.DEFINE_string("labels", None, "MIMIC-CXR's table of labels, gz or not")
LIMIT = flags.DEFINE_integer("limit", None, "show only the first so many films")
COLUMNS = flags.DEFINE_integer("columns", 12, "films in a row", lower_bound=1)
SIDE = flags.DEFINE_integer("side", 168, "height and width of a film on the sheet", lower_bound=64)

BACKGROUND, FRAME, TEXT, DIM = (14, 16, 21), (38, 43, 54), (230, 233, 240), (139, 147, 163)
GREEN, AMBER, RED = (129, 212, 163), (255, 199, 112), (240, 104, 104)
GAP, HEADING, TITLE = 12, 34, 76
_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI..([\d.]+)", re.DOTALL)  # Transfer Syntax UID
_STUDY = re.compile(r"/s(\d{8})/")


@dataclasses.dataclass(frozen=True)
class Tile:
    """One film of the sheet: its section, its caption, and its picture (None: a cross)."""

    section: str
    findings: str
    technique: list[str]
    colour: tuple[int, int, int]
    picture: object


def read_labels(path: str) -> dict[str, dict[str, float]]:
    """study_id -> the labels that are present (1) or uncertain (-1)."""
    data = pathlib.Path(path).read_bytes()
    text = (gzip.decompress(data) if path.endswith(".gz") else data).decode()
    table = {}
    for row in csv.DictReader(io.StringIO(text)):
        names = [name for name in row if name not in ("subject_id", "study_id")]
        values = {name: float(row[name]) for name in names if row[name]}
        table[row["study_id"]] = {name: value for name, value in values.items() if value}
    return table


def make_tile(path: str, labels: dict[str, dict[str, float]], side: int) -> Tile:
    """Reads one film."""
    from PIL import Image

    from input_pipeline import dicom, files, preprocessing
    from input_pipeline.film import Rejected
    from input_pipeline.synthetic import dicom_files

    name = pathlib.PurePosixPath(path).stem[:8]
    with files.open_input(path) as stream:
        syntax = _SYNTAX.search(stream.read(1024))
        film = dicom.read_film(stream)
    if isinstance(film, Rejected):
        return Tile("Not readable", film.reason.replace("_", " "), [name], RED, None)

    pixels = preprocessing.network_input(film, preprocessing.PRESETS["native"], side)
    picture = Image.fromarray((255 * pixels[..., 0] + 0.5).astype("uint8"))
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


def draw_sheet(tiles: list[Tile], title: str, columns: int, side: int):
    """Lays out the tiles by section; a small section goes beside the one before it."""
    from PIL import Image, ImageDraw, ImageFont

    size = side / 13.5
    line, step = round(1.3 * size), side + GAP
    places, headings = [], []
    column, top, bottom = 0, TITLE, TITLE
    for section in dict.fromkeys(tile.section for tile in tiles):
        members = [tile for tile in tiles if tile.section == section]
        if column + len(members) > columns:
            column, top = 0, bottom
        headings.append((GAP + column * step, top, f"{section} ({len(members)})"))
        for k, tile in enumerate(members):
            row, place = divmod(column + k, columns)
            y = top + HEADING + row * (side + 4 * line + GAP)
            places.append((GAP + place * step, y, tile))
        bottom = max(bottom, y + side + 4 * line + GAP)
        column += len(members) + 1

    sheet = Image.new("RGB", (GAP + columns * step, bottom + GAP), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    small, middle, large = (ImageFont.load_default(points) for points in (size, 20, 34))
    pen.text((GAP, 22), title, TEXT, large)
    legend = "view · photometric · bits · syntax · id; findings from the label table, ? = uncertain"
    pen.text((sheet.width - GAP, 36), legend, DIM, middle, anchor="ra")
    for x, y, text in headings:
        pen.text((x, y + 2), text, DIM, middle)
    for x, y, tile in places:
        pen.rectangle((x - 1, y - 1, x + side, y + side), fill=(0, 0, 0), outline=FRAME)
        if tile.picture:
            sheet.paste(tile.picture, (x, y))
        else:
            for start, end in (((x, y), (x + side, y + side)), ((x, y + side), (x + side, y))):
                pen.line((start, end), RED, 3)
        wrapped = textwrap.wrap(tile.findings, round(1.9 * side / size), max_lines=2)
        lines = [(text, tile.colour) for text in wrapped]
        lines += [(text, DIM) for text in tile.technique]
        for k, (text, colour) in enumerate(lines):
            pen.text((x, y + side + 4 + k * line), text, colour, small)
    return sheet


def write(_: list[str]) -> None:
    """Reads the films and writes the sheet."""
    from input_pipeline import files

    try:
        listing = files.list_inputs(files.absolute(INPUT.value), LIMIT.value)
        labels = read_labels(LABELS.value) if LABELS.value else {}
        tiles = [make_tile(file.path, labels, SIDE.value) for file in listing.files]
        order = ("Frontal, no finding", "Frontal, findings", "Frontal", "Lateral", "Not readable")
        tiles.sort(key=lambda tile: (order.index(tile.section), tile.findings, tile.technique[-1]))
        unread = sum(tile.picture is None for tile in tiles)
        title = f"{len(tiles) - unread} films, {unread} not readable"
        draw_sheet(tiles, title, COLUMNS.value, SIDE.value).save(OUTPUT.value)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{OUTPUT.value}: {title}")


def main() -> None:
    app.run(write)


if __name__ == "__main__":
    main()
