"""Whole pixel data are read however they are wrapped; what is cut or damaged is refused."""

import io
import random
import struct

import imagecodecs
import numpy as np
import pytest
import test_dicom
from PIL import Image
from test_dicom import EXPLICIT, LOSSLESS, NATIVE, UID, dicom_file, film_pixels, read, rgb_file

from cxr_embeddings.input_pipeline.films.film import Film

PIXELS, GREY = film_pixels(12), film_pixels(8)
BASELINE = f"{UID}.4.50"


def assert_reads(data: bytes, pixels: np.ndarray = PIXELS, tolerance: int = 0) -> None:
    film = read(data)
    assert isinstance(film, Film), film
    np.testing.assert_allclose(film.pixels.astype(int), pixels, atol=tolerance, rtol=0)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_badly_wrapped_fragments(syntax):
    codestream = LOSSLESS[syntax](PIXELS)
    data = test_dicom.encapsulated(syntax, [codestream])
    table = data.rindex(struct.pack("<HHI", 0xFFFE, 0xE000, 0))
    assert_reads(data[:table] + data[table + 8 :])  # no offset table
    assert_reads(data[: table + 4] + struct.pack("<II", 4, 0) + data[table + 8 :])
    assert_reads(data[: table - 4] + struct.pack("<I", len(data) - table) + data[table:])
    for delimiter in (bytes(8), b"", b"\xfc\xff\xfc\xffOB\0\0" + bytes(4)):
        assert_reads(data[:-8] + delimiter)
    parts = [codestream[i : i + 500] for i in range(0, len(codestream), 500)]
    assert_reads(test_dicom.encapsulated(syntax, parts))
    if syntax != f"{UID}.5":  # without the end marker
        codestream = codestream[: codestream.rindex(b"\xff\xd9")]
        for padding in (b"", b"\0\0\0\0"):
            assert_reads(test_dicom.encapsulated(syntax, [codestream + padding]))


def compressed(syntax: str, pixels: np.ndarray) -> bytes:
    lossy = [imagecodecs.jpeg8_encode(pixels, level=90)] if syntax == BASELINE else None
    return dicom_file(pixels, syntax, lossy)


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS, BASELINE])
def test_a_cut_file_gives_a_rejection_or_all_of_its_pixels(syntax):
    data = compressed(syntax, GREY)
    whole = read(data).pixels
    for stop in (*range(140, len(data), 61), *range(len(data) - 30, len(data))):
        film = read(data[:stop])
        if isinstance(film, Film):
            np.testing.assert_array_equal(film.pixels, whole)
            assert len(data) - stop < 16
        else:
            assert film.reason in ("truncated", "no_pixel_data", "unsupported_syntax"), (stop, film)


@pytest.mark.parametrize("damage", ["removed", "zeroed"])
@pytest.mark.parametrize("syntax", [BASELINE, *list(LOSSLESS)[:-1]])
def test_damage_inside_the_data_is_a_rejection(syntax, damage):
    data, hole = compressed(syntax, film_pixels(8, (300, 280))), bytes(1500 * (damage == "zeroed"))
    choose, accepted = random.Random(0), 0
    for _ in range(50):
        start = choose.randrange(data.index(b"\xfe\xff\x00\xe0") + 700, len(data) - 1600)
        accepted += isinstance(read(data[:start] + hole + data[start + 1500 :]), Film)
    assert accepted <= 1


@pytest.mark.parametrize("tiles", [{}, {"tile_size": (128, 128)}])
def test_jpeg_2000_that_lacks_bytes_or_tiles_or_has_a_hole(tiles):
    pixels, file = film_pixels(8, (300, 280)), io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG2000", no_jp2=True, **tiles)
    whole = file.getvalue()
    assert_reads(dicom_file(pixels, f"{UID}.4.90", [whole]), pixels)
    for case, reason in (
        (whole[:9000] + whole[9500:] + bytes(500), "corrupt_pixels"),
        (whole[:9000] + bytes(500) + whole[9500:], "corrupt_pixels"),
        (whole[: whole.rindex(b"\xff\x90")], "truncated"),
    ):
        assert read(dicom_file(pixels, f"{UID}.4.90", [case])).reason == reason


@pytest.mark.parametrize("shape", [(60, 50), (64, 64), (50, 60)])
def test_padding_behind_the_pixels_is_no_wrong_size(shape):
    pixels = film_pixels(12, shape)
    pixels[-3:] = 0
    for cells in (shape[1], 2 * shape[0], 700):  # a line, as two columns more, a sector
        padded = pixels.tobytes() + bytes(2 * cells)
        assert_reads(dicom_file(pixels, PixelData=padded), pixels)
        garbage = pixels.tobytes() + b"\1" * 2 * cells
        assert read(dicom_file(pixels, PixelData=garbage)).reason == "corrupt_pixels"
    # only zeros are over here too, and yet they are pixels
    assert read(dicom_file(pixels, Columns=shape[1] - 3)).reason == "corrupt_pixels"


def grey_in_colours() -> dict[str, bytes]:
    rgb, ybr = np.dstack([GREY] * 3), np.dstack([GREY, *[np.full_like(GREY, 128)] * 2])
    ybr_422 = np.full((60, 25, 4), 128, np.uint8)
    ybr_422[..., :2] = GREY.reshape(60, 25, 2)
    plane = b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in GREY)
    plane += bytes(len(plane) % 2)
    rle = struct.pack("<4I48x", 3, *(64 + i * len(plane) for i in range(3))) + plane * 3
    unmarked = {"colorspace": "RGB", "outcolorspace": "RGB"}  # and no marker will say so
    jpeg_rgb = imagecodecs.jpeg8_encode(rgb, level=100, **unmarked).replace(b"Adobe", b"other")
    table = {
        "RGB": (EXPLICIT, rgb),
        "RGB planar": (EXPLICIT, np.moveaxis(rgb, -1, 0)),
        "RGB big": (f"{UID}.2", rgb),
        "RGB RLE": (f"{UID}.5", rle),
        "RGB JPEG": (BASELINE, jpeg_rgb),
        "YBR_FULL_422 JPEG": (BASELINE, imagecodecs.jpeg8_encode(rgb, level=100)),
        "YBR_RCT JPEG 2000": (f"{UID}.4.90", LOSSLESS[f"{UID}.4.90"](rgb)),
        "YBR_FULL": (EXPLICIT, ybr),
        "YBR_FULL_422": (EXPLICIT, ybr_422),
    }
    films = {}
    for name, (syntax, data) in table.items():
        header = {"PhotometricInterpretation": name.split()[0]}
        header["PlanarConfiguration"] = int("planar" in name)
        pixels = {"fragments": [data]} if isinstance(data, bytes) else {"PixelData": data.tobytes()}
        films[name] = rgb_file(rgb, syntax, **header, **pixels)
    return films


@pytest.mark.parametrize("name", grey_in_colours())
def test_colours_that_are_grey(name):
    data = grey_in_colours()[name]
    assert_reads(data, GREY, tolerance=2 if "JPEG" in name else 0)
    assert (read(data).bits_stored, read(data).photometric) == (8, "MONOCHROME2")


@pytest.mark.parametrize(
    "syntax, us, other",
    [
        (EXPLICIT, b"US\2\0\x3c\0", b"UL\4\0\x3c\0\0\0"),
        (EXPLICIT, b"US\2\0\x3c\0", b"IS\2\x0060"),
        (f"{UID}.2", b"US\0\2\0\x3c", b"UL\0\4\0\0\0\x3c"),
        (UID, b"\2\0\0\0\x3c\0", b"\4\0\0\0\x3c\0\0\0"),
    ],
)
def test_counts_in_another_representation(syntax, us, other):
    rows = b"\0\x28\0\x10" if syntax == f"{UID}.2" else b"\x28\0\x10\0"
    assert_reads(dicom_file(PIXELS, syntax).replace(rows + us, rows + other))
    data, rows = dicom_file(PIXELS), b"\x28\0\x10\0"
    negative = data.replace(rows + b"US\2\0\x3c\0", rows + b"SS\2\0\xc4\xff")
    assert read(negative).reason == "corrupt_header"
    assert_reads(data.replace(rows, b"\x28\0\x08\0US\2\0\1\0" + rows))
    frames = data.replace(rows, b"\x28\0\x08\0UL\4\0\2\0\0\0" + rows)
    assert read(frames).reason == "multi_frame"


@pytest.mark.parametrize("syntax", [UID, EXPLICIT, f"{UID}.2"])
def test_files_without_preamble_or_meta_header(syntax):
    data = dicom_file(PIXELS, syntax)
    data_set = data[data.index(b"\0\x08\0\x16" if syntax == f"{UID}.2" else b"\x08\0\x16\0") :]
    for start in (bytes(128) + b"DICM", b"\xff\xd8\xff" + bytes(125) + b"DICM", b"DICM", b""):
        assert_reads(start + data_set)
        assert_reads(start + data[132:])


def test_what_the_bytes_say_is_no_failure_of_the_file_system():
    data = dicom_file(PIXELS, f"{UID}.1.99")
    for element in (b"\2\0\x02\0UI", b"\2\0\x12\0UI"):  # longer than the file
        place = data.index(element) + 6
        assert read(data[:place] + b"\xff\xff" + data[place + 2 :]).reason != "unreadable"
