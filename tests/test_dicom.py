"""Reading films: every syntax and depth exactly, every kind of bad file refused and named."""

import csv
import functools
import hashlib
import io
import random
import struct
import subprocess
import sys
import zlib

import fsspec
import imagecodecs
import numpy as np
import pydicom
import pytest
from conftest import REPOSITORY
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from cxr_embeddings.input_pipeline.films import dicom, jpeg2000
from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.films.film import REASONS, Film, Rejected, Skipped
from cxr_embeddings.input_pipeline.synthetic.dicom_files import SYNTAXES

UID = "1.2.840.10008.1.2"
EXPLICIT = f"{UID}.1"
NATIVE = (UID, EXPLICIT, f"{UID}.1.99", f"{UID}.2")


def encode_jpeg(pixels: np.ndarray, predictor: int) -> bytes:
    bits = max(2, int(pixels.max()).bit_length())
    options = {"lossless": True, "predictor": predictor, "bitspersample": bits}
    return imagecodecs.jpeg8_encode(pixels, **options)


def encode_jpeg2000(pixels: np.ndarray) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k")


LOSSLESS = {
    f"{UID}.5": lambda pixels: SYNTAXES["RLE"][1](pixels, 16),
    f"{UID}.4.57": functools.partial(encode_jpeg, predictor=6),
    f"{UID}.4.70": functools.partial(encode_jpeg, predictor=1),
    f"{UID}.4.80": imagecodecs.jpegls_encode,
    f"{UID}.4.90": encode_jpeg2000,
    f"{UID}.4.201": lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True),
}


def dicom_file(
    pixels: np.ndarray, syntax: str = EXPLICIT, fragments: list[bytes] | None = None, **header
) -> bytes:
    """A DICOM file of a film; `header` adds attributes, replaces them, or (None) leaves them out.

    Unless `fragments` are given, compressed syntaxes hold the losslessly encoded bit patterns.
    """
    cells = pixels.view(f"u{pixels.itemsize}")
    attributes = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
        "SOPInstanceUID": "1.2.3",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    } | header
    if attributes["BitsStored"] is not None:
        attributes = {"HighBit": attributes["BitsStored"] - 1} | attributes
    dataset = Dataset()
    for keyword, value in attributes.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if syntax in LOSSLESS or fragments:
        data = encapsulate(fragments or [LOSSLESS[syntax](cells)], has_bot=False)
    else:
        data = cells.astype(cells.dtype.newbyteorder(">" if syntax == f"{UID}.2" else "<"))
        data = data.tobytes() + bytes(data.nbytes % 2)
    if "PixelData" not in header:
        words = pixels.itemsize == 2 and not (syntax in LOSSLESS or fragments)
        dataset.add_new("PixelData", "OW" if words else "OB", data)
        dataset["PixelData"].is_undefined_length = syntax in LOSSLESS or bool(fragments)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def rgb_file(array: np.ndarray, syntax: str = EXPLICIT, **header) -> bytes:
    """A DICOM file of three samples; `array` is what the file holds, rows and columns first."""
    form = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    return dicom_file(array, syntax, **(form | header))


def encapsulated(syntax: str, fragments: list[bytes]) -> bytes:
    """The film of `film_pixels(12)` with its pixel data in just these fragments."""
    whole = dicom_file(film_pixels(12), syntax)
    start = whole.index(struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)) + 12
    items = [b"", *(part + bytes(len(part) % 2) for part in fragments)]
    value = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    return whole[:start] + value + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def read(data: bytes, **options) -> Film | Skipped | Rejected:
    return read_film(io.BufferedReader(io.BytesIO(data)), **options)  # strict, as files are


def film_pixels(bits: int = 12, shape: tuple[int, int] = (60, 50), signed: bool = False):
    """A smooth image with noise that touches both ends of its range."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    values = 0.5 + 0.4 * np.sin(5 * x) * np.cos(4 * y)
    values += 0.02 * np.random.default_rng(bits).standard_normal(shape)
    values = ((1 << bits) - 1) * values.clip(0, 1)
    values[0, 0], values[-1, -1] = 0, (1 << bits) - 1
    width = 8 if bits <= 8 else 16
    return (np.rint(values).astype(int) - (signed << bits - 1)).astype(
        f"{'i' if signed else 'u'}{width // 8}"
    )


# Sound files


def test_lossless_real_films_have_the_published_digests(shared_data):
    checked = 0
    manifest = (shared_data / "dicom" / "manifest.csv").read_text().splitlines()
    for row in csv.DictReader(manifest):
        with (shared_data / "dicom" / row["file"]).open("rb") as stream:
            film = read_film(stream)
        assert isinstance(film, Film), (row["file"], film)
        assert film.pixels.shape == (int(row["rows"]), int(row["cols"]))
        assert film.photometric == row["photometric"]
        assert film.view_position == (row["view"] or None)
        if row["expected_pixel_sha256"]:
            little = film.pixels.astype(film.pixels.dtype.newbyteorder("<")).tobytes()
            assert hashlib.sha256(little).hexdigest() == row["expected_pixel_sha256"], row["file"]
            checked += 1
    assert checked >= 13


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS])
def test_every_syntax_and_depth_is_exact(syntax, signed):
    for bits in (8, 10, 12, 15, 16):
        pixels = film_pixels(bits, signed=signed)
        film = read(dicom_file(pixels, syntax, BitsStored=bits))
        assert isinstance(film, Film), film
        assert film.pixels.dtype == pixels.dtype
        np.testing.assert_array_equal(film.pixels, pixels)


def test_jpeg2000_counts_the_sign_from_its_own_precision():
    """As pydicom does, whether or not the codestream itself says that it is signed."""
    pixels = film_pixels(13, signed=True)
    for values in (pixels, pixels.view(np.uint16) & 0x1FFF):
        options = {"level": 0, "reversible": True, "codecformat": "j2k", "bitspersample": 13}
        codestream = imagecodecs.jpeg2k_encode(values, **options)
        film = read(dicom_file(pixels, f"{UID}.4.90", [codestream], BitsStored=13))
        np.testing.assert_array_equal(film.pixels, pixels)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_are_cut_off(signed):
    pixels = film_pixels(12, signed=signed)
    with_overlay = (pixels.view(np.uint16) & 0x0FFF) | 0x5000
    data = dicom_file(with_overlay, BitsStored=12, PixelRepresentation=int(signed))
    np.testing.assert_array_equal(read(data).pixels, pixels)
    np.testing.assert_array_equal(pydicom.dcmread(io.BytesIO(data)).pixel_array, pixels)


def test_big_endian_bytes_in_words_are_swapped():
    pixels = film_pixels(8, (5, 7))
    words = np.frombuffer(pixels.tobytes() + b"\0", np.uint16).byteswap().tobytes()
    dataset = pydicom.dcmread(io.BytesIO(dicom_file(pixels, f"{UID}.2")))
    dataset.add_new("PixelData", "OW", words)
    file = io.BytesIO()
    dataset.save_as(file)
    np.testing.assert_array_equal(read(file.getvalue()).pixels, pixels)


def test_header_fields():
    lut, signed = Dataset(), Dataset()
    lut.LUTDescriptor = [4, 10, 8]
    lut.add_new("LUTData", "OW", bytes([0, 50, 100, 255]))  # 8 bits, two to a word
    signed.add_new("LUTDescriptor", "SS", [0, -32768, 16])
    signed.add_new("LUTData", "OW", np.arange(65536, dtype="<u2").tobytes())
    luts = {"ModalityLUTSequence": [lut], "VOILUTSequence": [signed, lut]}
    film = read(dicom_file(film_pixels(12), PresentationLUTShape="INVERSE", **luts))
    assert film.presentation_lut_shape == "INVERSE"
    assert (film.modality_lut.first, film.modality_lut.bits) == (10, 8)
    assert film.modality_lut.values.tolist() == [0, 50, 100, 255]
    assert (film.voi_lut.first, film.voi_lut.bits, len(film.voi_lut.values)) == (-32768, 16, 65536)


def test_remote_streams_and_a_header_longer_than_the_first_read():
    data = dicom_file(film_pixels(12), EncapsulatedDocument=bytes(200_000))
    with fsspec.open("memory://test_dicom/film.dcm", "wb") as stream:
        stream.write(data)
    with fsspec.open("memory://test_dicom/film.dcm", "rb") as stream:
        assert isinstance(read_film(stream), Film)


# Views


@pytest.mark.parametrize(
    "view, expected",
    [(None, Film), ("", Film), ("PA", Film), ("ap ", Film), ("LATERAL", "LATERAL"),
     ("xtable  lateral", "XTABLE LATERAL"), ("MRS DOE", "other"), ("DOE^JANE", "other")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_views(view, expected):
    data = dicom_file(film_pixels(8), ViewPosition=view)
    outcome = read(data, views=("AP", "PA"))
    assert isinstance(outcome, Film) if expected is Film else outcome == Skipped("view", expected)
    whole = read(data, views=None)
    assert isinstance(whole, Film)
    assert whole.view_position in (None, "PA", "AP", expected)
    if view:
        assert isinstance(read(data, views=(view.strip().upper(),)), Film) == ("  " not in view)


def test_pixels_of_a_skipped_view_are_not_read():
    stream = io.BytesIO(dicom_file(np.zeros((1000, 1000), np.uint16), ViewPosition="LATERAL"))
    assert isinstance(read_film(stream, views=("AP", "PA")), Skipped)
    assert stream.tell() < 100_000, "the end of the only read"


# PNG and JPEG


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def picture_file(array: np.ndarray, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, format, **options)
    return file.getvalue()


# Bad files


def bad_files() -> dict[str, tuple[str, bytes]]:
    """name -> (expected reason, file)."""
    pixels = film_pixels(12)
    rgb = np.dstack((film_pixels(8), film_pixels(8), film_pixels(8).T.copy().reshape(60, 50)))
    rgba = np.dstack((*[film_pixels(8)] * 3, film_pixels(8)))
    png, jpeg = (picture_file(film_pixels(8), kind) for kind in ("PNG", "JPEG"))
    good = dicom_file(pixels)
    larger = {s: encode(film_pixels(12, (61, 50))) for s, encode in LOSSLESS.items()}
    siz = bytearray(encode_jpeg2000(pixels))
    struct.pack_into(">II", siz, 8, 60_000, 60_000)
    png_header = struct.pack(">4sIIBBBBB", b"IHDR", 60_000, 60_000, 8, 0, 0, 0, 0)
    huge_png = b"".join(
        (png[:8], b"\0\0\0\r", png_header, struct.pack(">I", zlib.crc32(png_header)), png[33:])
    )
    moving = io.BytesIO()
    frames = [Image.fromarray(film_pixels(bits)) for bits in (7, 8)]
    frames[0].save(moving, "PNG", save_all=True, append_images=frames[1:])
    arithmetic = imagecodecs.jpeg8_encode(film_pixels(8)).replace(b"\xff\xc0", b"\xff\xc9", 1)
    deflated = dicom_file(pixels, f"{UID}.1.99")
    nest = struct.pack("<HH2sHIHHI", 8, 0x1140, b"SQ", 0, 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1)
    table = {
        "empty": ("not_an_image", b""),
        "text": ("not_an_image", b"not a film\n" * 100),
        "a data set of another group": ("not_an_image", good[good.index(b"\x28\0\x02\0US"):]),
        "only the signature": ("unsupported_syntax", good[:132]),
        "no syntax": ("unsupported_syntax", good[:132] + good[-5000:]),
        "MPEG": ("unsupported_syntax", good.replace(b"\x14\0" + EXPLICIT.encode() + b"\0",
            b"\x18\0" + f"{UID}.4.100".encode() + b"\0")),
        "no VR in meta": ("corrupt_header", good.replace(
            b"\2\0\x10\0UI\x14", b"\2\0\x10\0U\2\0")),
        "garbage after meta": ("no_pixel_data", good[:300] + b"\xff" * 999),
        "nested 5,000 deep": ("corrupt_header", good[:good.index(b"\x28\0\x02\0US")] + nest * 5000),
        "header cut": ("no_pixel_data", good[: good.index(b"\x28\0\x10\0US") + 3]),
        "no pixel data": ("no_pixel_data", dicom_file(pixels, PixelData=None)),
        "float pixels": ("unsupported_depth", dicom_file(
            pixels, PixelData=None, FloatPixelData=bytes(12_000))),
        "pixels cut": ("truncated", good[:-1000]),
        "declared too short": ("truncated", dicom_file(pixels, Rows=61)),
        "declared too long": ("corrupt_pixels", dicom_file(pixels, Rows=59)),
        "a column less": ("corrupt_pixels", dicom_file(pixels, Columns=49)),
        "colour": ("colour", rgb_file(rgb)),
        "one sample of RGB": ("corrupt_header", dicom_file(
            pixels, PhotometricInterpretation="RGB")),
        "palette": ("colour", dicom_file(pixels, PhotometricInterpretation="PALETTE COLOR")),
        "three samples": ("colour", dicom_file(pixels, SamplesPerPixel=3)),
        "photometric missing": ("corrupt_header", dicom_file(
            pixels, PhotometricInterpretation=None)),
        "rows missing": ("corrupt_header", dicom_file(pixels, Rows=None)),
        "bits missing": ("corrupt_header", dicom_file(pixels, BitsStored=None)),
        "multi-frame": ("multi_frame", dicom_file(pixels, NumberOfFrames=2)),
        "negative frames": ("corrupt_header", dicom_file(pixels, NumberOfFrames=-1)),
        "no rows": ("zero_size", dicom_file(pixels, Rows=0)),
        "60,000 rows": ("too_large", dicom_file(pixels, Rows=60_000, Columns=60_000)),
        "1 bit": ("unsupported_depth", dicom_file(pixels, BitsAllocated=1, BitsStored=1)),
        "32 bits": ("unsupported_depth", dicom_file(pixels, BitsAllocated=32)),
        "high bit": ("unsupported_depth", dicom_file(pixels, BitsStored=12, HighBit=15)),
        "representation 2": ("corrupt_header", dicom_file(pixels, PixelRepresentation=2)),
        "defined length": ("corrupt_pixels", good.replace(EXPLICIT.encode(), f"{UID}.5".encode())),
        "undefined length": ("corrupt_pixels", encapsulated(f"{UID}.5", [b""]).replace(
            f"{UID}.5".encode(), EXPLICIT.encode())),
        "no fragment": ("truncated", encapsulated(f"{UID}.5", [])),
        "60,000 in JPEG 2000": ("corrupt_pixels", dicom_file(
            pixels, f"{UID}.4.90", [bytes(siz)])),
        "arithmetic coding": ("unsupported_syntax", dicom_file(
            film_pixels(8), f"{UID}.4.50", [arithmetic])),
        "three components": ("corrupt_pixels", dicom_file(
            film_pixels(8), f"{UID}.4.50", [imagecodecs.jpeg8_encode(rgb)])),
        "deeper than allocated": ("corrupt_pixels", dicom_file(
            film_pixels(8), f"{UID}.4.80", [imagecodecs.jpegls_encode(pixels)])),
        "garbage codestream": ("corrupt_pixels", dicom_file(
            pixels, f"{UID}.4.70", [b"\xff\xd8" + bytes(3000)])),
        "JPEG 2000 without size": ("corrupt_pixels", dicom_file(
            pixels, f"{UID}.4.90", [b"\xff\x4f" + bytes(3000)])),
        "JPEG 2000 cut behind its size": ("corrupt_pixels", dicom_file(
            pixels, f"{UID}.4.90", [encode_jpeg2000(pixels)[:45] + bytes(3000)])),
        "deflated, garbage": ("corrupt_header", deflated[: 144 + deflated[140]] + b"\xff" * 100),
        "PNG damaged": ("corrupt_pixels", png[:200] + bytes(300) + png[500:]),
        "PNG header": ("truncated", png[:20]),
        "PNG without header": ("corrupt_header", png[:8] + png[33:]),
        "PNG of 60,000": ("too_large", huge_png),
        "PNG moving": ("multi_frame", moving.getvalue()),
        "PNG colour": ("colour", picture_file(rgb)),
        "PNG transparent": ("colour", picture_file(rgba)),
        "PNG 1 bit": ("unsupported_depth", picture_file(pixels > 2048)),
        "JPEG header": ("corrupt_header", jpeg[:3] + bytes(100)),
        "JPEG without frame": ("corrupt_header", b"\xff\xd8" + jpeg[jpeg.index(b"\xff\xda"):]),
        "JPEG without rows": ("unsupported_syntax", jpeg.replace(
            b"\x08\0\x3c\0\x32", b"\x08\0\0\0\x32")),
    }  # fmt: skip
    return table | {
        f"other size in {syntax}": ("corrupt_pixels", dicom_file(pixels, syntax, [codestream]))
        for syntax, codestream in larger.items()
    }


BAD_FILES = bad_files()


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_with_their_reason(name):
    reason, data = BAD_FILES[name]
    outcome = read(data)
    assert isinstance(outcome, Rejected) and outcome.reason == reason, outcome


def test_a_codestream_of_another_size_is_not_decoded(monkeypatch):
    """OpenJPEG takes 43 s and 14 GB for those that do not fit."""
    monkeypatch.setattr(jpeg2000, "decode", lambda _: pytest.fail("it was decoded"))
    assert read(BAD_FILES["60,000 in JPEG 2000"][1]).reason == "corrupt_pixels"


def test_every_reason_is_tested():
    reasons = {reason for reason, _ in BAD_FILES.values()}
    elsewhere = {"unreadable", "not_a_file", "constant", "turned", "name_not_utf8", "name_too_long"}
    assert reasons | elsewhere == set(REASONS)


def test_a_bomb_is_not_inflated(monkeypatch):
    data = dicom_file(np.zeros((1000, 1000), np.uint16), f"{UID}.1.99")
    assert isinstance(read(data), Film)
    monkeypatch.setattr(dicom, "MAX_FILE_BYTES", 1_000_000)
    assert read(data).reason == "too_large"
    assert read(bytes(1_000_001)).reason == "too_large"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("connection lost at DOE^JANE.dcm"), Rejected("unreadable", "OSError")),
        (MemoryError(), Rejected("too_large", "needs more memory than there is")),
    ],
)
def test_a_failing_file_system_is_told_apart_from_a_bad_film(error, expected):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 0:  # beyond the header
                raise error
            return super().read(size)

    assert read_film(Broken(dicom_file(film_pixels(12)))) == expected


SECRETS = ("SENTINEL^NAME", "SENTINELID", "19011231", "SENTINEL HOSPITAL", "077Y", "SENTINEL.1.2")


def test_no_patient_attribute_leaks(capfd, caplog, recwarn):
    names = ("PatientName", "PatientID", "PatientBirthDate", "InstitutionName", "PatientAge")
    patient = dict(zip((*names, "StudyID"), SECRETS, strict=True))
    header = {"WindowCenter": "2048", "WindowWidth": "4096", "ViewPosition": "LATERAL"}
    data = dicom_file(film_pixels(12), SpecificCharacterSet="ISO_IR 100", **patient, **header)
    end = data.index(b"\xe0\x7f\x10\0")
    tags = b"\x08\0\x05\0CS", b"\x18\0\x01\x51CS", b"\x28\0\x04\0CS"
    caplog.set_level(0)
    choose, said = random.Random(0), []
    for trial in range(400):
        damaged = bytearray(data)
        for _ in range(choose.randint(1, 3)):
            byte = choose.choice((0, 1, 2, 8, 16, 28, 32, 65, 83, 127, 255, choose.randrange(256)))
            damaged[choose.randrange(132, end + 12)] = byte
        if trial % 3 == 0:  # another attribute's value slides over the patient's
            length = data.index(choose.choice(tags)) + 6
            damaged[length : length + 2] = struct.pack("<H", choose.randrange(400))
        if trial % 5 == 0:
            name = data.index(SECRETS[0].encode())
            damaged[name - 8 : name - 2] = choose.choice((*tags, b"\x28\0\x50\x10DS"))
        outcome = read(bytes(damaged), views=choose.choice((None, ("AP", "PA"))))
        said.append(getattr(outcome, "detail", "") or str(outcome.view_position))
    captured = capfd.readouterr()
    said += [captured.out, captured.err, caplog.text, *(str(w.message) for w in recwarn)]
    for secret in SECRETS:
        parts = {secret, secret.split("^")[0], secret.split("^")[-1]}
        assert not any(part in line for part in parts for line in said), secret


@pytest.mark.slow
def test_mutated_films_are_films_or_rejections(shared_data):
    program = [sys.executable, "benchmarks/run.py", "mutated_films", "--films=1200"]
    program += [f"--dicoms={shared_data / 'dicom'}"]
    done = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'Film'" in done.stdout and "'view'" in done.stdout and "'truncated'" in done.stdout
