"""PNG and JPEG files: grey values exactly, as displayed, whatever else the file holds."""

import contextlib
import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps
from test_dicom import dicom_file, exif, film_pixels, picture_file, read

from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.films.film import Film, Rejection
from cxr_embeddings.input_pipeline.films.intensity import dicom_intensity, toolkit_intensity

GREY = film_pixels(8)
LONG = b"x\0\0" + zlib.compress(bytes(3 << 20))


def add_chunk(png: bytes, name: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + data))
    return png[:33] + struct.pack(">I", len(data)) + name + data + check + png[33:]


def test_grey_pictures():
    grey16 = film_pixels(16)
    opaque = np.full_like(GREY, 255)
    rgb, rgb16 = np.stack([GREY] * 3, -1), np.stack([grey16] * 3, -1)
    opaque16 = np.dstack((rgb16, np.full_like(grey16, 65535)))
    png = picture_file(GREY)
    for pixels, data in (
        (GREY, png),
        (grey16, picture_file(grey16)),
        (GREY, picture_file(rgb)),
        (GREY, picture_file(np.dstack((rgb, opaque)))),
        (GREY, picture_file(np.dstack((GREY, opaque)))),
        (grey16, imagecodecs.png_encode(rgb16)),
        (grey16, imagecodecs.png_encode(opaque16)),
        (GREY, add_chunk(png, b"zTXt", LONG)),
        (GREY, add_chunk(png, b"iTXt", b"XML:com.adobe.xmp\0\1\0" + LONG[1:])),
        (GREY, add_chunk(png, b"iCCP", LONG)),
        (GREY, add_chunk(png, b"tEXt", b"x\0" + bytes(9 << 20))),
        (GREY, add_chunk(png, b"tRNS", b"\0\0")),
        (GREY, png[:-12]),  # without its end marker
        (GREY, png[:-16] + b"damage"),  # nor the checksum before it
    ):
        film = read(data, views=("AP", "PA"))
        assert (film.bits_stored, film.photometric) == (8 * pixels.itemsize, "MONOCHROME2"), film
        assert (film.pixels.dtype, film.view_position) == (pixels.dtype, None)
        np.testing.assert_array_equal(film.pixels, pixels)
    lossy = read(picture_file(rgb, "JPEG", quality=98))
    assert np.abs(lossy.pixels.astype(int) - GREY).mean() < 2


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_of_other_processes(bits):
    pixels, options = film_pixels(bits), {"bitspersample": bits}
    lossless = read(imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, **options))
    jpeg_ls = read(imagecodecs.jpegls_encode(pixels))
    assert (lossless.bits_stored, jpeg_ls.bits_stored) == (bits, 8 * pixels.itemsize)
    np.testing.assert_array_equal(lossless.pixels, pixels)
    np.testing.assert_array_equal(jpeg_ls.pixels, pixels)
    if bits < 16:
        data = imagecodecs.jpeg8_encode(pixels, level=98, **options)
        lossy = read(data)
        film = read(dicom_file(pixels, f"1.2.840.10008.1.2.4.{50 + bits // 12}", [data]))
        np.testing.assert_array_equal(film.pixels, lossy.pixels)
        assert lossy.bits_stored == bits
        assert np.abs(lossy.pixels.astype(int) - pixels).mean() < (1 << bits) / 100


@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_as_displayed_unless_the_preset_does_not(orientation):
    for kind in ("JPEG", "PNG"):
        data = picture_file(GREY, kind, exif=exif(orientation))
        displayed = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        film = read(data)
        np.testing.assert_array_equal(film.pixels, np.asarray(displayed))
        assert dicom_intensity(film).shape == film.pixels.shape
        expected = pytest.raises(Rejection) if 2 <= orientation <= 8 else contextlib.nullcontext()
        with expected:
            toolkit_intensity(film)


def test_what_libjpeg_warns_of_without_need():
    data = picture_file(GREY, "JPEG")
    scan = data.index(b"\xff\xda")
    for case in (
        data.replace(b"JFIF\0\1", b"JFIF\0\7"),
        data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\7" + data[2:],
        data[: scan + 7] + b"\0\0\0" + data[scan + 10 :],  # the spectral selection
        data[:2] + b"\xff\xff\xff" + data[2:],
        data + b"behind the end" * 9,
    ):
        np.testing.assert_array_equal(read(case).pixels, read(data).pixels)


def files() -> dict[str, bytes]:
    thumbnail, png = exif(1), picture_file(GREY)
    thumbnail[0x010E] = "\xff\xd9" * 8  # an end marker within the header
    options = {"format": "JPEG", "quality": 95}
    return {
        "PNG": png,
        "PNG profile": add_chunk(png, b"iCCP", LONG),
        "PNG 16": picture_file(film_pixels(16)),
        "PNG colour": picture_file(np.dstack([GREY] * 3)),
        "JPEG": picture_file(GREY, exif=thumbnail, **options),
        "JPEG colour": picture_file(np.dstack([GREY] * 3), **options),
        "progressive": picture_file(GREY, progressive=True, **options),
        "12 bits": imagecodecs.jpeg8_encode(film_pixels(12), bitspersample=12),
        "lossless": imagecodecs.jpeg8_encode(film_pixels(12), lossless=True, bitspersample=12),
        "JPEG-LS": imagecodecs.jpegls_encode(GREY),
    }


@pytest.mark.parametrize("name", files())
def test_a_file_that_ends_early_is_truncated_or_whole(name):
    data = files()[name]
    whole = read(data).pixels
    scans = [i for i in range(len(data)) if data[i : i + 2] in (b"\xff\xda", b"\xff\xc4")]
    for stop in (*range(8, len(data), 29), *scans, *range(len(data) - 40, len(data))):
        film = read(data[:stop])
        if isinstance(film, Film):
            np.testing.assert_array_equal(film.pixels, whole)
            assert len(data) - stop <= (24 if data.startswith(b"\x89PNG") else 4)
        else:
            assert film.reason == "truncated", (stop, film)


def test_sound_jpegs_are_read_as_before_and_damaged_ones_are_not(shared_data):
    random = np.random.default_rng(0)
    for folder in ("nih", "kermany"):
        paths = sorted((shared_data / folder / "images").rglob("*.jp*g"))
        accepted = {"removed": 0, "zeroed": 0}
        for path in random.choice(paths, 50, replace=False):
            data = path.read_bytes()
            film = read_film(io.BytesIO(data))
            grey = np.asarray(Image.open(path).convert("RGB"))[..., 0]
            np.testing.assert_array_equal(film.pixels, grey)
            start = random.integers(data.index(b"\xff\xda") + 16, len(data) - 1502)
            for damage, hole in (("removed", b""), ("zeroed", bytes(1500))):
                damaged = data[:start] + hole + data[start + 1500 :]
                accepted[damage] += isinstance(read_film(io.BytesIO(damaged)), Film)
        assert max(accepted.values()) <= 1, accepted
