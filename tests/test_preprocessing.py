"""Intensity and resize rules against independent implementations: pydicom, TensorFlow, JAX."""

import contextlib
import hashlib
import io
import pathlib
import random

import jax
import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from test_dicom import EXPLICIT, UID, dicom_file, film_pixels, read, rgb_file

from cxr_embeddings.input_pipeline.films.decode import load
from cxr_embeddings.input_pipeline.films.film import Film, Lut, Rejected, Rejection
from cxr_embeddings.input_pipeline.films.intensity import dicom_intensity, toolkit_intensity
from cxr_embeddings.input_pipeline.films.presets import (
    PRESETS,
    antialias_bilinear,
    bicubic,
    legacy_bilinear,
    network_input,
    toolkit_intensity_8_bits,
)  # fmt: skip

# The toolkit's rule


def reference_toolkit(dataset: Dataset, pixels: np.ndarray) -> np.ndarray:
    """The steps of `facts/cxr_toolkit.md` on whole float images, with pydicom's modality LUT."""
    image = apply_modality_lut(pixels, dataset)
    if "WindowCenter" in dataset and "WindowWidth" in dataset:
        center, width = (
            int(value[0]) if isinstance(value, pydicom.multival.MultiValue) else value
            for value in (dataset.WindowCenter, dataset.WindowWidth)
        )
        ends = (center - width / 2, center - 1 + width / 2)
        image = np.interp(np.clip(image, *ends), ends, (0, 65535))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        image = np.max(image) - image
    if image.dtype in (np.int8, np.int16):
        image = (image.astype(int) - int(image.min())).astype(f"u{image.itemsize}")
    if image.dtype == np.float64:
        image = image - image.min()
        if image.max() > 65535:
            image = np.clip(image * (65535 / image.max()), None, 65535)
        image = image.astype(np.uint16)
    if image.dtype == np.uint8:
        return image
    return np.interp(image, (image.min(), image.max()), (0, 65535)).astype(np.uint16)


def becomes_one_grey(film: Film, image: np.ndarray) -> bool:
    return film.pixels.min() < film.pixels.max() and image.min() == image.max()


def assert_toolkit(data: bytes) -> None:
    film = read(data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    expected = reference_toolkit(dataset, film.pixels)
    if becomes_one_grey(film, expected):
        with pytest.raises(Rejection, match="constant"):
            toolkit_intensity(film)
        return
    found = toolkit_intensity(film)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_toolkit_rule_on_real_films(shared_data):
    for path in sorted((shared_data / "dicom").rglob("*.dcm")):
        assert_toolkit(path.read_bytes())


def random_header(choose: random.Random, bits: int, signed: bool) -> dict:
    """Any mixture of what the greyscale pipeline depends on."""
    header = {"PhotometricInterpretation": f"MONOCHROME{choose.choice((1, 2))}"}
    if choose.random() < 0.5:
        header["RescaleSlope"] = choose.choice(("1", "-1", "0.5", "2.4420024", "0.1", "1e-3", "99"))
        header["RescaleIntercept"] = choose.choice(("0", "-1024", "0.25", "100"))
    if choose.random() < 0.2:
        header["ModalityLUTSequence"] = [random_lut(choose, bits, signed)]
    if choose.random() < 0.6:
        for keyword, low, high in (("WindowCenter", -500, 5000), ("WindowWidth", 1, 8000)):
            count, digits = choose.choice((1, 1, 2)), choose.randint(0, 3)
            header[keyword] = [f"{choose.uniform(low, high):.{digits}f}" for _ in range(count)]
    return header


def random_lut(choose: random.Random, bits: int, signed: bool) -> Dataset:
    """A lookup table that is not monotone and narrower than the values it meets."""
    item = Dataset()
    entries = 1 << min(bits, 10)
    first = choose.randint(0, 100)  # below 0, differences wrap around in pydicom
    item.add_new("LUTDescriptor", "SS" if signed else "US", [entries, first, 16])
    data = np.random.default_rng(choose.randrange(99)).integers(0, 65536, entries)
    item.add_new("LUTData", "OW", data.astype("<u2").tobytes())
    item.ModalityLUTType = "US"
    return item


def test_toolkit_rule_on_random_headers():
    choose = random.Random(0)
    for trial in range(100):
        bits, signed = choose.randint(8, 16), choose.random() < 0.3
        pixels = film_pixels(bits, (choose.randint(1, 30), choose.randint(1, 30)), signed)
        if trial % 4 == 0:  # not the full range
            pixels = pixels // 3
        assert_toolkit(dicom_file(pixels, BitsStored=bits, **random_header(choose, bits, signed)))


@pytest.mark.parametrize("bits, white", [(8, 7), (12, 65535)])
def test_toolkit_rule_on_a_constant_film(bits, white):
    pixels = np.full((4, 5), 7, np.uint8 if bits == 8 else np.uint16)
    assert (toolkit_intensity(Film(pixels, bits)) == white).all()
    assert (network_input(Film(pixels, bits), PRESETS["cxr_foundation"], 8) == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_upper_8_bits_are_those_that_tensorflow_decodes(bits):
    import tensorflow as tf

    film = Film(film_pixels(bits), bits)
    Image.fromarray(toolkit_intensity(film)).save(stream := io.BytesIO(), "PNG")
    expected = tf.io.decode_png(stream.getvalue(), channels=1, dtype=tf.uint8)[..., 0]
    np.testing.assert_array_equal(toolkit_intensity_8_bits(film), expected.numpy())


# The standard's rule


def assert_dicom(data: bytes) -> None:
    """Compares with pydicom's modality and VOI transformations, whose output range is unscaled."""
    film = read(data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    gray = apply_modality_lut(film.pixels, dataset)
    bits, signed = dataset.BitsStored, dataset.PixelRepresentation
    low, high = -signed * 2.0 ** (bits - 1), 2.0 ** (bits - signed) - 1
    if "ModalityLUTSequence" in dataset:
        low, high = 0, 2.0 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    elif "RescaleSlope" in dataset:
        slope, intercept = dataset.RescaleSlope, dataset.RescaleIntercept
        low, high = sorted((low * slope + intercept, high * slope + intercept))
    if "VOILUTSequence" in dataset:
        low, high = 0, 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    with np.errstate(over="ignore"):  # in pydicom's sigmoid
        gray = (apply_voi_lut(gray, dataset, prefer_lut=True) - low) / (high - low)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        gray = 1 - gray
    if becomes_one_grey(film, np.rint(65535 * gray.clip(0, 1))):
        with pytest.raises(Rejection, match="constant"):
            dicom_intensity(film)
        return
    found = dicom_intensity(film)
    assert found.dtype == np.uint16
    assert np.abs(found - 65535 * gray).max() <= 0.51


WINDOWS = ("0", "1"), ("1000.5", "2000"), ("100", "33.3"), ("2048", "4096")


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_dicom_rule_on_windows_and_lookup_tables(function):
    choose = random.Random(function)
    for trial in range(40):
        bits, signed = choose.choice((8, 10, 12, 16)), choose.random() < 0.5
        header = dict(zip(("WindowCenter", "WindowWidth"), choose.choice(WINDOWS), strict=True))
        header["VOILUTFunction"] = function
        if trial % 4 == 0:
            header |= {"RescaleSlope": "0.5", "RescaleIntercept": "-100"}
        if trial % 4 == 1:  # it prevails over the window
            header["VOILUTSequence"] = [random_lut(choose, bits, signed)]
        if trial % 4 == 2:
            header = {"ModalityLUTSequence": [random_lut(choose, bits, signed)]}
        header |= {"PhotometricInterpretation": f"MONOCHROME{choose.choice((1, 2))}"}
        assert_dicom(dicom_file(film_pixels(bits, signed=signed), BitsStored=bits, **header))


def lut_item(entries: int, first: int, bits: int, values: np.ndarray, vr: str = "US") -> Dataset:
    """A LUT item with a descriptor as it stands in a file, whatever its VR."""
    item = Dataset()
    words = np.array([entries, first, bits]).astype("<i2" if vr == "SS" else "<u2")
    item.add_new("LUTDescriptor", vr, words.tolist())
    item.add_new("LUTData", "OW", np.asarray(values).astype("<u2").tobytes())
    return item


FALLING = {"RescaleSlope": "-1", "RescaleIntercept": "65535"}  # of 16 bits: 0 ... 65535 again
LIFTED = {"RescaleSlope": "1", "RescaleIntercept": "32768"}  # of signed 16 bits: the same
LOWERED = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}


@pytest.mark.parametrize("vr", ["US", "SS", None])
@pytest.mark.parametrize(
    ("bits", "signed", "rescale", "first"),
    [(12, True, {}, -2048), (16, False, {}, 40000), (12, False, LOWERED, -1024),
     (16, False, LOWERED, -1024), (16, False, FALLING, 40000), (16, True, LIFTED, 40000)],
)  # fmt: skip
def test_the_first_input_of_a_voi_lut_has_the_sign_of_its_input(bits, signed, rescale, first, vr):
    """PS3.3 C.11.2.1.1; whatever its VR says, or no VR (None: implicit)."""
    values = np.random.default_rng(1).integers(0, 65536, 25000)
    item = lut_item(len(values), first, 16, values, vr or "US")
    header = {"BitsStored": bits, "VOILUTSequence": [item], **rescale}
    pixels = film_pixels(bits, signed=signed)
    film = read(dicom_file(pixels, EXPLICIT if vr else UID, **header))
    slope, intercept = film.rescale or (1, 0)
    index = film.pixels.astype(int) * slope + intercept - first
    expected = values[index.clip(0, len(values) - 1).astype(int)]
    np.testing.assert_array_equal(dicom_intensity(film), expected)


def test_a_voi_lut_whose_vr_contradicts_covers_what_occurs():
    """Not the range up to one stray value, in which both signs cover as much."""
    pixels = np.array([[*range(0, 2048), 65535]], np.uint16)
    lut = Lut(np.arange(4096, dtype=np.uint16) << 4, first=-2048, bits=16)
    shown = dicom_intensity(Film(pixels, 16, voi_lut=lut))
    np.testing.assert_array_equal(shown[0, :2048], (np.arange(2048) + 2048) << 4)


def test_a_modality_lut_has_the_sign_of_the_pixels_and_a_voi_lut_behind_it_none():
    ramp = np.arange(4096)
    for vr in ("US", "SS", None):
        modality = lut_item(4096, -2048, 16, 16 * ramp, vr or "US")
        voi = lut_item(20000, 40000, 16, np.minimum(3 * np.arange(20000), 65535), vr or "US")
        header = {"ModalityLUTSequence": [modality], "VOILUTSequence": [voi], "BitsStored": 12}
        syntax = EXPLICIT if vr else UID
        film = read(dicom_file(film_pixels(12, signed=True), syntax, **header))
        expected = (3 * (16 * (film.pixels.astype(int) + 2048) - 40000)).clip(0, 3 * 19999)
        np.testing.assert_array_equal(dicom_intensity(film), expected)
        if vr != "US":
            toolkit_intensity(film)
        else:  # the toolkit takes the VR at its word
            with pytest.raises(Rejection, match="constant"):
                toolkit_intensity(film)


@pytest.mark.parametrize(
    ("bits", "largest", "depth"),
    [(16, 65535, 16), (16, 20000, 16), (16, 16383, 14), (16, 4095, 12), (14, 1000, 10), (16, 9, 8),
     (12, 2000, 12), (8, 30, 8)],
)  # fmt: skip
def test_a_table_of_fewer_bits_than_declared_is_shown_by_those_it_uses(bits, largest, depth):
    values = np.linspace(0, largest, 4096).astype(np.uint16)
    lut, pixels = Lut(values, 0, bits), np.arange(4096, dtype=np.uint16)[None]
    expected = np.rint(values / (2**depth - 1) * 65535)
    for film in (Film(pixels, 12, voi_lut=lut), Film(pixels, 12, modality_lut=lut)):
        np.testing.assert_allclose(dicom_intensity(film)[0], expected, atol=1)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("value", "limit"), [(0, None), (900, 3), (3, 900), (4000, 4095)])
def test_pixel_padding_is_background(photometric, signed, value, limit):
    """PS3.3 C.7.5.1.1.2; the toolkit knew nothing of it."""
    pixels = film_pixels(12, signed=signed)
    shift = signed << 11
    header = {"PhotometricInterpretation": photometric, "BitsStored": 12}
    header |= {"WindowCenter": str(2000 - shift), "WindowWidth": "3000"}
    padding = {"PixelPaddingValue": value - shift}
    padding |= {} if limit is None else {"PixelPaddingRangeLimit": limit - shift}
    plain, padded = (read(dicom_file(pixels, **header, **more)) for more in ({}, padding))
    low, high = sorted((value, value if limit is None else limit))
    background = (pixels + shift >= low) & (pixels + shift <= high)
    assert 0 < background.sum() < pixels.size
    expected = np.where(background, 0, dicom_intensity(plain))
    np.testing.assert_array_equal(dicom_intensity(padded), expected)
    np.testing.assert_array_equal(toolkit_intensity(padded), toolkit_intensity(plain))


SHORT, ZEROS = lut_item(4096, 0, 12, np.arange(9)), lut_item(4096, 0, 12, np.zeros(4096))
SOUND, EMPTY = lut_item(4096, 0, 12, np.arange(4096)), Dataset()
DEEP = lut_item(4096, 0, 20, np.arange(4096))
EMPTY.add_new("LUTExplanation", "LO", "x")
WINDOW = {"WindowCenter": "1234", "WindowWidth": "4321"}
HEADER, ONE_GREY = "corrupt_header", "constant"


@pytest.mark.parametrize(
    ("native", "toolkit", "header", "mend"),
    [
        (HEADER, HEADER, {"RescaleSlope": "0", "RescaleIntercept": "1"}, ()),
        (None, None, {"RescaleSlope": "0", "RescaleIntercept": "1",
                      "ModalityLUTSequence": [SOUND]}, ()),
        (HEADER, HEADER, {"ModalityLUTSequence": [SHORT]}, ()),
        (HEADER, HEADER, {"ModalityLUTSequence": [DEEP]}, ()),
        (None, None, {"ModalityLUTSequence": [EMPTY], "VOILUTSequence": [EMPTY]}, ()),
        (HEADER, None, {"VOILUTSequence": [SHORT]}, ()),
        (None, None, {"VOILUTSequence": [SHORT], **WINDOW}, ()),
        (None, None, {"VOILUTSequence": [EMPTY, SOUND]}, ()),
        (ONE_GREY, None, {"VOILUTSequence": [ZEROS]}, ()),
        (HEADER, HEADER, WINDOW, (b"4321", b"n/a ")),
        (HEADER, HEADER, WINDOW, (b"4321", b"1e99")),
        (HEADER, HEADER, WINDOW, (b"4321", b"43,1")),
        (None, HEADER, {"VOILUTSequence": [SOUND], **WINDOW}, (b"4321", b"43,1")),
        (HEADER, ONE_GREY, WINDOW, (b"4321", b"0   ")),
        (HEADER, ONE_GREY, WINDOW, (b"4321", b"0.9 ")),  # LINEAR asks for 1 at least
        (None, ONE_GREY, {"VOILUTFunction": "LINEAR_EXACT", "RescaleSlope": "0.0002",
                          "RescaleIntercept": "1233.6", **WINDOW}, (b"4321", b"0.9 ")),
        (None, ONE_GREY, {"VOILUTSequence": [SOUND], **WINDOW}, (b"4321", b"0   ")),
        (HEADER, None, {"VOILUTFunction": "CUBIC", **WINDOW}, ()),
        (None, None, {"VOILUTFunction": "CUBIC", "VOILUTSequence": [SOUND], **WINDOW}, ()),
        (None, None, WINDOW, (b"1234", rb"99\ ")),
        (None, None, {"WindowCenter": "1234", "WindowWidth": "43219"}, (b"43219 ", rb"432\n/")),
        (None, None, {"WindowCenter": "99", "WindowWidth": ""}, ()),
        (None, None, {"RescaleSlope": "4321"}, (b"4321", b"n/a ")),
        (ONE_GREY, ONE_GREY, {"WindowCenter": "9999", "WindowWidth": "5"}, ()),
        (ONE_GREY, None, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, ()),
        (None, None, {"PixelPaddingValue": [1, 2], "PixelAspectRatio": "1"}, ()),
        (None, None, {"PixelPaddingRangeLimit": 4095, "PresentationLUTShape": "ROUND"}, ()),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning", "ignore:A value:UserWarning")
def test_only_what_a_rule_uses_rejects_a_film(tmp_path, native, toolkit, header, mend):
    data = dicom_file(film_pixels(12), BitsStored=12, **header)
    (tmp_path / "film.dcm").write_bytes(data.replace(*mend) if mend else data)
    for preset, reason in {"native": native, "cxr_foundation": toolkit}.items():
        outcome = load(str(tmp_path / "film.dcm"), preset, 8, None)
        assert (outcome.reason if isinstance(outcome, Rejected) else None) == reason, outcome


def test_pydicoms_own_films_are_rendered_as_by_pydicom():
    paths = sorted(pathlib.Path(pydicom.data.__file__).with_name("test_files").glob("*.dcm"))
    films = [data for data in (path.read_bytes() for path in paths) if isinstance(read(data), Film)]
    for data in films:
        assert_dicom(data)
        assert_toolkit(data)
    assert len(films) >= 17


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_of_pydicoms_own_files_have_its_pixels():
    """Those that both read: pydicom decodes by the plug-ins that are here."""
    equal = 0
    for path in pathlib.Path(pydicom.data.__file__).with_name("test_files").rglob("*"):
        film = read(path.read_bytes()) if path.is_file() else None
        if isinstance(film, Film):
            with contextlib.suppress(RuntimeError, NotImplementedError):
                pixels = pydicom.dcmread(path, force=True).pixel_array
                grey = pixels[..., 0] if pixels.ndim == 3 else pixels
                np.testing.assert_array_equal(film.pixels, grey, path.name)
                equal += 1
    assert equal >= 44


@pytest.mark.parametrize("shape", ["", "IDENTITY", "INVERSE"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_inversion_happens_once(photometric, shape):
    """The standard asks for the pairs of 1 with INVERSE and of 2 with IDENTITY."""
    pixels = np.arange(256, dtype=np.uint8)[None]
    film = Film(pixels, 8, photometric=photometric, presentation_lut_shape=shape)
    plain, inverted = np.arange(256) * 257, photometric == "MONOCHROME1" or shape == "INVERSE"
    assert dicom_intensity(film)[0].tolist() == (plain[::-1] if inverted else plain).tolist()


def test_a_falling_rescale_turns_the_identity_around():
    film = Film(np.array([[0, 4095]], np.uint16), 12, rescale=(-1.0, 4095.0))
    assert dicom_intensity(film).tolist() == [[65535, 0]]


# Resizing

SIZES = [
    ((97, 31), (64, 64)), ((31, 97), (200, 333)), ((1, 1), (5, 4)), ((6, 5), (1, 1)),
    ((64, 64), (64, 64)), ((3, 7), (100, 99)), ((512, 512), (475, 475)), ((763, 611), (320, 321)),
]  # fmt: skip


def legacy_images():
    for dtype in (np.uint8, np.uint16, np.float32):
        for shape, new_shape in SIZES:
            pattern = np.arange(shape[0] * shape[1]).reshape(shape) * 40503 % 65521
            yield pattern.astype(dtype), new_shape


def test_legacy_bilinear_has_the_digest_of_tensorflows():
    """Of tf.raw_ops.ResizeBilinear(align_corners=False, half_pixel_centers=False)."""
    resized = (legacy_bilinear(image, *size) for image, size in legacy_images())
    digest = hashlib.sha256(b"".join(one.tobytes() for one in resized))
    assert digest.hexdigest() == "55912e7cd91210301f36e50980b8f2c1b3037a17fcc63938b85b5dc5d577e765"


@pytest.mark.parametrize("shape, new_shape", SIZES[:4])
@pytest.mark.parametrize("ours, method", [(antialias_bilinear, "linear"), (bicubic, "cubic")])
def test_antialiased_resizes_are_those_of_jax(ours, method, shape, new_shape):
    image = np.random.default_rng(0).random(shape, np.float32)
    expected = jax.image.resize(image, new_shape, method, antialias=True)
    np.testing.assert_allclose(ours(image, *new_shape), expected, atol=5e-5)


# Presets


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (64, 64), (1, 300)])
def test_network_input(name, shape):
    film = Film(film_pixels(12, shape), 12, window_centers=(2048.0,), window_widths=(3000.0,))
    image = network_input(film, PRESETS[name], 64)
    assert (image.shape, image.dtype) == ((64, 64, 1), np.float32)
    assert image.min() >= 0 and image.max() <= 1
    if PRESETS[name].min_max:
        assert (image.min(), image.max()) == (0, 1)
    np.testing.assert_array_equal(image, network_input(film, PRESETS[name], 64))


@pytest.mark.parametrize("name", ["imagenet", "native"])
def test_letterbox_centres_on_black(name):
    film = Film(np.full((100, 51), 255, np.uint8), 8)
    image = network_input(film, PRESETS[name], 40)[..., 0]
    assert (image[:, 10:30] == 1).all()
    assert image[:, :10].max() == image[:, 30:].max() == 0


@pytest.mark.parametrize(
    ("header", "sides"),
    [
        ({"PixelAspectRatio": ["2", "1"]}, (40, 20)),
        ({"PixelAspectRatio": ["1", "2"]}, (20, 40)),
        ({"PixelSpacing": ["0.2", "0.1"]}, (40, 20)),
        ({"ImagerPixelSpacing": ["0.1", "0.3"]}, (13, 40)),
        ({"NominalScannedPixelSpacing": ["0.1", "0.1"]}, (40, 40)),
        ({"PixelAspectRatio": ["0", "1"], "PixelSpacing": ["0.2", "0.1"]}, (40, 20)),
        ({"PixelSpacing": ["0.1"]}, (40, 40)),
        ({"PixelAspectRatio": ["1", "20"]}, (40, 40)),
    ],
)
def test_pixels_that_are_not_square_are_made_so(header, sides):
    pixels = np.where(np.eye(50), 254, 255).astype(np.uint8)
    film = read(dicom_file(pixels, **header))
    for seen in (film, read(rgb_file(np.dstack([pixels] * 3), **header))):
        for name in ("native", "imagenet"):
            shown = network_input(seen, PRESETS[name], 40)[..., 0] > 0.5
            assert (shown.any(1).sum(), shown.any(0).sum()) == sides
    square = Film(film.pixels, 8)
    found, plain = (network_input(f, PRESETS["cxr_foundation"], 40) for f in (film, square))
    np.testing.assert_array_equal(found, plain)


def test_a_film_whose_differences_are_lost_in_the_resize_is_constant():
    pixels = np.full((90, 90), 5, np.uint8)
    pixels[1, 1] = 6
    with pytest.raises(Rejection, match="lost at 40 pixels"):
        network_input(Film(pixels, 8), PRESETS["cxr_foundation"], 40)


def test_stretching_fills_the_square():
    film = Film(np.tile(np.arange(50, dtype=np.uint8), (100, 1)), 8)
    image = network_input(film, PRESETS["cxr_foundation"], 40)[..., 0]
    np.testing.assert_allclose(image[7], np.arange(40) * 1.25 / (39 * 1.25), rtol=1e-6)
