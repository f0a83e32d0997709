"""Whole pixel data are read however they are wrapped; what is cut or damaged is refused."""

import io
import random
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from test_dicom import (
    EXPLICIT,
    LOSSLESS,
    NATIVE,
    UID,
    dicom_file,
    encapsulated,
    film_pixels,
    read,
    rgb_file,
)

from input_pipeline.dicom import read_film
from input_pipeline.film import Film, Rejected

PIXELS = film_pixels(12)
JPEGS = [syntax for syntax in LOSSLESS if syntax != f"{UID}.5"]
BASELINE = f"{UID}.4.50"


def assert_reads(data: bytes, pixels: np.ndarray = PIXELS) -> None:
    film = read(data)
    assert isinstance(film, Film), film
    np.testing.assert_array_equal(film.pixels, pixels)


def wrapped(syntax: str, *, end: int | None = None, padding: bytes = b"") -> tuple[bytes, int]:
    """A film of one fragment, and where its first item, the empty offset table, begins."""
    codestream = LOSSLESS[syntax](PIXELS)[:end] + padding
    data = encapsulated(syntax, [codestream])
    return data, data.rindex(struct.pack("<HHI", 0xFFFE, 0xE000, 0))


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_badly_wrapped_fragments(syntax):
    data, table = wrapped(syntax)
    codestream = LOSSLESS[syntax](PIXELS)
    defined = bytearray(data)
    defined[table - 4 : table] = struct.pack("<I", len(data) - table)
    for case in (
        data[:table] + data[table + 8 :],  # no offset table
        data[: table + 4] + struct.pack("<II", 4, 0) + data[table + 8 :],
        data[:-8] + bytes(8),  # zeros for the delimiter
        data[:-8],
        data[:-8] + b"\xfc\xff\xfc\xffOB\0\0" + bytes(4),
        bytes(defined),
        encapsulated(syntax, [codestream[i : i + 500] for i in range(0, len(codestream), 500)]),
    ):
        assert_reads(case)


@pytest.mark.parametrize("syntax", JPEGS)
def test_a_codestream_without_its_end_marker(syntax):
    end = LOSSLESS[syntax](PIXELS).rindex(b"\xff\xd9")
    for padding in (b"", b"\0\0\0\0"):
        assert_reads(wrapped(syntax, end=end, padding=padding)[0])


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS, BASELINE])
def test_a_cut_file_gives_a_rejection_or_all_of_its_pixels(syntax):
    data = dicom_file(film_pixels(8), syntax, *jpeg(film_pixels(8), syntax))
    whole = read(data).pixels
    for stop in (*range(140, len(data), 61), *range(len(data) - 30, len(data))):
        film = read(data[:stop])
        if isinstance(film, Film):
            np.testing.assert_array_equal(film.pixels, whole)
            assert len(data) - stop < 16
        else:
            assert film.reason in ("truncated", "no_pixel_data", "unsupported_syntax"), (stop, film)


def jpeg(pixels: np.ndarray, syntax: str) -> tuple[list[bytes], ...]:
    """Fragments of a syntax that is lossy; none for the others."""
    return ([imagecodecs.jpeg8_encode(pixels, level=90)],) if syntax == BASELINE else ()


@pytest.mark.parametrize("damage", ["removed", "zeroed"])
@pytest.mark.parametrize("syntax", [BASELINE, *list(LOSSLESS)[:-1]])
def test_damage_inside_the_data_is_a_rejection(syntax, damage):
    pixels = film_pixels(8, (300, 280))
    data = dicom_file(pixels, syntax, *jpeg(pixels, syntax))
    choose, accepted = random.Random(0), 0
    for _ in range(100):
        start = choose.randrange(data.index(b"\xfe\xff\x00\xe0") + 700, len(data) - 1600)
        hole = bytes(1500) if damage == "zeroed" else b""
        accepted += isinstance(read(data[:start] + hole + data[start + 1500 :]), Film)
    assert accepted <= 2


@pytest.mark.parametrize("tiles", [{}, {"tile_size": (128, 128)}])
def test_jpeg_2000_that_lacks_bytes_or_tiles_or_has_a_hole(tiles):
    pixels = film_pixels(8, (300, 280))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG2000", no_jp2=True, **tiles)
    codestream = file.getvalue()
    removed = codestream[:9000] + codestream[9500:] + bytes(500)
    for case, reason in (
        (removed, "corrupt_pixels"),
        (codestream[:9000] + bytes(500) + codestream[9500:], "corrupt_pixels"),
        (codestream[: codestream.rindex(b"\xff\x90")], "truncated"),
    ):
        assert_reads(dicom_file(pixels, f"{UID}.4.90", [codestream]), pixels)
        assert read(dicom_file(pixels, f"{UID}.4.90", [case])).reason == reason


# Uncompressed


@pytest.mark.parametrize("shape", [(60, 50), (64, 64), (50, 60)])
@pytest.mark.parametrize("excess", ["line", "two columns", "sector"])
def test_padding_behind_the_pixels_is_no_wrong_size(shape, excess):
    pixels = film_pixels(12, shape)
    pixels[-3:] = 0
    cells = {"line": shape[1], "two columns": 2 * shape[0], "sector": 700}[excess]
    padded = pixels.tobytes() + bytes(2 * cells)
    assert_reads(dicom_file(pixels, PixelData=padded), pixels)
    garbage = pixels.tobytes() + b"\1" * 2 * cells
    assert read(dicom_file(pixels, PixelData=garbage)).reason == "corrupt_pixels"
    # the same bytes of a film with other Columns: only zeros are over, and yet they are pixels
    wrong = dicom_file(pixels, Columns=shape[1] - 3)
    assert read(wrong).reason == "corrupt_pixels"


def grey_in_colours() -> dict[str, bytes]:
    grey = film_pixels(8)
    rgb, ybr = np.dstack([grey] * 3), np.dstack([grey, *[np.full_like(grey, 128)] * 2])
    ybr_422 = np.full((60, 25, 4), 128, np.uint8)
    ybr_422[..., :2] = grey.reshape(60, 25, 2)
    packed = b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in grey)
    packed += bytes(len(packed) % 2)
    starts = [64 + i * len(packed) for i in range(3)]
    rle = struct.pack("<16I", 3, *starts, *[0] * 12) + packed * 3
    unmarked = {"colorspace": "RGB", "outcolorspace": "RGB"}  # and no marker will say so
    jpeg_rgb = imagecodecs.jpeg8_encode(rgb, level=100, **unmarked).replace(b"Adobe", b"other")
    jpeg_ybr, jpeg2000 = imagecodecs.jpeg8_encode(rgb, level=100), LOSSLESS[f"{UID}.4.90"](rgb)
    table = {
        "RGB": (rgb, EXPLICIT, None),
        "RGB planar": (np.moveaxis(rgb, -1, 0), EXPLICIT, None),
        "RGB big": (rgb, f"{UID}.2", None),
        "RGB RLE": (rgb, f"{UID}.5", [rle]),
        "RGB JPEG": (rgb, BASELINE, [jpeg_rgb]),
        "YBR_FULL_422 JPEG": (rgb, BASELINE, [jpeg_ybr]),
        "YBR_RCT JPEG 2000": (rgb, f"{UID}.4.90", [jpeg2000]),
        "YBR_FULL": (ybr, EXPLICIT, None),
        "YBR_FULL_422": (ybr_422, EXPLICIT, None),
    }
    return {
        name: rgb_file(
            rgb,
            syntax,
            fragments=fragments,
            PhotometricInterpretation=name.split()[0],
            PlanarConfiguration=int("planar" in name),
            **({} if fragments else {"PixelData": array.tobytes()}),
        )
        for name, (array, syntax, fragments) in table.items()
    }


@pytest.mark.parametrize("name", grey_in_colours())
def test_colours_that_are_grey(name):
    film = read(grey_in_colours()[name])
    assert isinstance(film, Film), film
    assert (film.bits_stored, film.photometric) == (8, "MONOCHROME2")
    assert np.abs(film.pixels.astype(int) - film_pixels(8)).max() <= (2 if "JPEG" in name else 0)


# Headers


@pytest.mark.parametrize(
    "syntax, us, other",
    [
        (EXPLICIT, b"US\2\0\x3c\0", b"UL\4\0\x3c\0\0\0"),
        (EXPLICIT, b"US\2\0\x3c\0", b"IS\2\x0060"),
        (EXPLICIT, b"US\2\0\x3c\0", b"DS\4\x0060.0"),
        (f"{UID}.2", b"US\0\2\0\x3c", b"UL\0\4\0\0\0\x3c"),
        (UID, b"\2\0\0\0\x3c\0", b"\4\0\0\0\x3c\0\0\0"),
    ],
)
def test_rows_in_another_representation(syntax, us, other):
    tag = b"\0\x28\0\x10" if syntax == f"{UID}.2" else b"\x28\0\x10\0"
    assert_reads(dicom_file(PIXELS, syntax).replace(tag + us, tag + other))


def test_counts_in_another_representation():
    rows = b"\x28\0\x10\0"
    data = dicom_file(PIXELS)
    negative = data.replace(rows + b"US\2\0\x3c\0", rows + b"SS\2\0\xc4\xff")
    assert read(negative).reason == "corrupt_header"
    for frames, film in ((b"US\2\0\1\0", None), (b"UL\4\0\2\0\0\0", "multi_frame")):
        case = data.replace(rows, b"\x28\0\x08\0" + frames + rows)
        assert getattr(read(case), "reason", None) == film


@pytest.mark.parametrize("syntax", [UID, EXPLICIT, f"{UID}.2"])
def test_files_without_preamble_or_meta_header(syntax):
    data = dicom_file(PIXELS, syntax)
    first = b"\0\x08\0\x16" if syntax == f"{UID}.2" else b"\x08\0\x16\0"
    data_set = data[data.index(first) :]
    for start in (bytes(128) + b"DICM", b"DICM", b""):
        assert_reads(start + data_set)
        assert_reads(start + data[132:])


# What the bytes say is a rejection, what the file system says is a failure


def test_places_outside_the_file_are_no_failure_of_the_file_system():
    data = dicom_file(PIXELS, f"{UID}.1.99")
    for element in (b"\2\0\x02\0UI", b"\2\0\x12\0UI"):
        place = data.index(element) + 6
        film = read(data[:place] + b"\xff\xff" + data[place + 2 :])
        assert film.reason not in ("unreadable", None), film


def test_memory_that_is_missing_is_no_failure_of_the_file_system():
    class Full(io.BytesIO):
        def read(self, size=-1):
            raise MemoryError

    assert read_film(Full(dicom_file(PIXELS))) == Rejected(
        "too_large", "needs more memory than there is"
    )
