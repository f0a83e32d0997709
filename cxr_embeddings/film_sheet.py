"""Films as tiles of one picture, with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

    from cxr_embeddings.input_pipeline.films.film import Film, Rejected, Skipped

BACKGROUND, FRAME, TEXT, DIM = (14, 16, 21), (38, 43, 54), (230, 233, 240), (139, 147, 163)
GREEN, AMBER, RED = (129, 212, 163), (255, 199, 112), (240, 104, 104)
GAP, HEADING, TITLE = 12, 34, 76

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
