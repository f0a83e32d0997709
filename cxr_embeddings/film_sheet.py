"""Films as tiles of one picture, with captions; and the sheet of all films of a folder."""

from __future__ import annotations

import collections
import pathlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from PIL import Image

    from cxr_embeddings.input_pipeline.films.film import Film, Rejected, Skipped

BACKGROUND, FRAME, TEXT, DIM = (14, 16, 21), (38, 43, 54), (230, 233, 240), (139, 147, 163)
GREEN, AMBER, RED = (129, 212, 163), (255, 199, 112), (240, 104, 104)
GAP, HEADING, TITLE = 12, 34, 76
LEGEND = "view · photometric · bits · syntax · id; findings from the label table, ? = uncertain"
SECTIONS = ("Frontal, no finding", "Frontal, findings", "Frontal", "Lateral", "Not readable")
_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI..([\d.]+)", re.DOTALL)  # Transfer Syntax UID
_STUDY = re.compile(r"/s(\d{8})/")

Colour = tuple[int, int, int]


class Tile(NamedTuple):
    """One film of a sheet."""

    section: str  # the heading that it stands under
    findings: str  # first of its caption, in `colour`
    technique: Sequence[str]  # lines below
    colour: Colour
    picture: Image.Image | None  # from `draw_film`; None: a cross
    frame: Colour = FRAME  # around the picture


def draw_film(film: Film | Skipped | Rejected, side: int) -> Image.Image | Rejected:
    """What `dicom.read_film` gave as the preset `native` sees it, a Pillow picture; or Rejected."""
    from PIL import Image

    from cxr_embeddings.input_pipeline.films import presets
    from cxr_embeddings.input_pipeline.films.film import Film, Rejected, Rejection

    if not isinstance(film, Film):
        return Rejected(film.reason, film.detail)
    try:
        pixels = presets.network_input(film, presets.PRESETS["native"], side)
    except Rejection as rejection:
        return Rejected(*rejection.args)
    return Image.fromarray((255 * pixels[..., 0] + 0.5).astype("uint8"))


def draw_sheet(
    tiles: Sequence[Tile], title: str, legend: str, columns: int, side: int
) -> Image.Image:
    """Lays out the tiles by section; a small section goes beside the one before it.

    Sections come in the order of their first tiles; `columns` films of `side` x `side` pixels are
    in a row.
    """
    from PIL import Image, ImageDraw, ImageFont

    size = side / 13.5
    line, step = round(1.3 * size), side + GAP
    places, headings = [], []
    column, top, bottom = 0, TITLE, TITLE
    for section in dict.fromkeys(tile.section for tile in tiles):
        members = [tile for tile in tiles if tile.section == section]
        if column + len(members) > columns:
            column, top = 0, bottom
        headings.append((GAP + column * step, top, section))
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
    pen.text((sheet.width - GAP, 36), legend, DIM, middle, anchor="ra")
    for x, y, text in headings:
        pen.text((x, y + 2), text, DIM, middle)
    for x, y, tile in places:
        width = 1 if tile.frame == FRAME else 4
        box = (x - width, y - width, x + side + width - 1, y + side + width - 1)
        pen.rectangle(box, fill=(0, 0, 0), outline=tile.frame, width=width)
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


def write_contact_sheet(
    input: str, output: str, labels: str, limit: int | None, columns: int, side: int
) -> str:
    """Writes one picture of all films of a folder, sorted by finding; returns its title.

    The arguments are the options of `scripts/contact_sheet.py`.

    Raises:
        ValueError: an argument is out of range, or the films or the table are not what they should
            be.
        OSError: a file cannot be read or written.
    """
    from cxr_embeddings.input_pipeline.films.listing import list_inputs

    if columns < 1 or side < 64:
        raise ValueError(f"columns are {columns} and side {side}; expected at least 1 and 64")
    listing = list_inputs(input, limit)
    table = _read_labels(labels) if labels else {}
    tiles = [_make_tile(file.path, table, side) for file in listing.files]
    tiles.sort(key=lambda one: (SECTIONS.index(one.section), one.findings, one.technique[-1]))
    unread = sum(tile.picture is None for tile in tiles)
    title = f"{len(tiles) - unread} films, {unread} not readable"
    counts = collections.Counter(tile.section for tile in tiles)
    tiles = [tile._replace(section=f"{tile.section} ({counts[tile.section]})") for tile in tiles]
    draw_sheet(tiles, title, LEGEND, columns, side).save(output)
    return title


def _read_labels(path: str) -> dict[str, dict[str, float]]:
    """study_id -> the labels that are present (1) or uncertain (-1)."""
    from cxr_embeddings.common import csv_tables

    table = {}
    for row in csv_tables.read_records(path):
        if "study_id" not in row:
            raise ValueError(
                f"{path} has no column study_id, but {', '.join(row)}; expected MIMIC-CXR's table "
                "of labels, with a row for each study"
            )
        names = [name for name in row if name not in ("subject_id", "study_id")]
        values = {name: float(row[name]) for name in names if row[name]}
        table[row["study_id"]] = {name: value for name, value in values.items() if value}
    return table


def _make_tile(path: str, labels: Mapping[str, Mapping[str, float]], side: int) -> Tile:
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
    film = cast("Film", film)  # for there is a picture

    syntaxes: dict[str, str] = {uid: name for name, (uid, _) in dicom_files.SYNTAXES.items()}
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
