"""How a film becomes network input: an intensity rule and a resize rule, named by `PRESETS`.

An intensity rule is one lookup table over stored values, so its cost is that of indexing and no
image is ever held in float64. Rules and resizes are plain functions; a preset is a row of a table.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer, Real, UInt, UInt8, UInt16
from PIL import Image

from input_pipeline.film import Film, Lut, modality_range, reject

# Intensity: film -> unsigned image


def toolkit_intensity(film: Film) -> UInt[np.ndarray, "height width"]:
    """The CXR Foundation toolkit's DICOM -> PNG rule, bit for bit: uint16, or uint8 kept as it is.

    Modality LUT or rescale; first window to 0 ... 65535, its centre and width cut to integers if
    the header has several; MONOCHROME1 inverted about the largest value; shifted to start at 0;
    stretched to the whole of uint16, unless still 8 bits. VOI LUT and VOILUTFunction are ignored.
    Pixel padding and the shape of pixels are ignored likewise. Every step truncates or not as
    there. Where that program fails (a 12-bit modality LUT) this one does what the header says. A
    constant image becomes all 65535.

    Raises:
        Rejection: an attribute that it uses is unusable, or pixels that differ become one grey.

    Source: Google-Health/imaging-research, cxr-foundation, example_generator_lib.py, January 2023.
    """
    values = _stored_values(film)
    gray = values
    if lut := film.get("modality_lut"):
        gray = _look_up(lut, values).astype(np.uint8 if lut.bits == 8 else np.uint16)
    elif rescale := film.get("rescale"):
        gray = values.astype(np.float64) * rescale[0] + rescale[1]
    if centers := film.get("window_centers"):
        (center, *more_centers), (width, *more_widths) = centers, film.window_widths
        center = int(center) if more_centers else center
        width = int(width) if more_widths else width
        low, high = center - width / 2, center - 1 + width / 2
        gray = np.interp(gray.clip(low, high), (low, high), (0, 65535))
    if film.photometric == "MONOCHROME1":
        gray = gray.max() - gray
    if gray.dtype.kind == "i":  # in the next wider type, as int16 would overflow
        gray = gray.astype(np.int32)
        gray = (gray - gray.min()).astype(f"u{values.itemsize}")
    elif gray.dtype.kind == "f":
        gray = gray - gray.min()
        if gray.max() > 65535:
            gray = np.minimum(gray * (65535 / gray.max()), 65535)
        gray = gray.astype(np.uint16)
    if gray.dtype != np.uint8:
        gray = np.interp(gray, (gray.min(), gray.max()), (0, 65535)).astype(np.uint16)
    return _apply_table(film, values, gray)


def toolkit_intensity_8_bits(film: Film) -> UInt8[np.ndarray, "height width"]:
    """The upper 8 bits of `toolkit_intensity`: what a network sees that reads PNGs as uint8."""
    gray = toolkit_intensity(film)
    return gray if gray.dtype == np.uint8 else (gray >> 8).astype(np.uint8)


def dicom_intensity(film: Film) -> UInt16[np.ndarray, "height width"]:
    """The standard's greyscale pipeline (PS3.4 N.2), 0 = black to 65535 = white.

    Modality LUT or rescale (PS3.3 C.11.1); VOI LUT, else the first window by its function
    (C.11.2.1.2, C.11.2.1.3), else the identity over all values that the stored bits can take
    (C.11.2: no VOI transformation); inverted once if the film is MONOCHROME1 (C.7.6.3.1.2) or its
    Presentation LUT Shape INVERSE (C.11.6.1.2; the two go together by C.8.11.3, and where a file
    says MONOCHROME1 with IDENTITY, the type 1 attribute prevails). Pixel padding takes no part in
    this and becomes black (C.7.5.1.1.2). A VOI LUT and a window are alternatives: where the table
    is unusable, the window counts.

    Raises:
        Rejection: an attribute that it uses is unusable, or pixels that differ become one grey.
    """
    values = _stored_values(film)
    gray, signed = values.astype(np.float64), values.dtype.kind == "i"
    modality_lut, rescale = film.get("modality_lut"), None
    if modality_lut:
        low, _ = modality_range(film.bits_stored, signed, None, None)
        gray = _look_up(_with_sign(modality_lut, low, gray), gray).astype(np.float64)
    elif rescale := film.get("rescale"):
        gray = gray * rescale[0] + rescale[1]
    low, high = modality_range(film.bits_stored, signed, rescale, modality_lut)
    if film.voi_lut:
        gray = _look_up(_with_sign(film.voi_lut, low, gray), gray) / ((1 << film.voi_lut.depth) - 1)
    elif film.window_centers:
        function, width = film.get("voi_function"), film.window_widths[0]
        if width <= 0 or (function == "LINEAR" and width < 1):  # C.11.2.1.2.1, C.11.2.1.3
            reject("corrupt_header", f"WindowWidth is too small for {function}")
        with np.errstate(over="ignore"):  # of a tiny width
            gray = VOI_FUNCTIONS[function](gray, film.window_centers[0], width)
    else:
        film.get("voi_lut"), film.get("window_centers")
        gray = (gray - low) / (high - low or 1)  # 0 where the intercept swallows the slope
    gray = gray.clip(0, 1)
    if film.photometric == "MONOCHROME1" or film.presentation_lut_shape == "INVERSE":
        gray = 1 - gray
    gray = np.rint(gray * 65535).astype(np.uint16)
    if film.padding:
        first, last = film.padding
        padding = (values >= first) & (values <= last)
        gray[padding] = 0
        return _apply_table(film, values, gray, padding)
    return _apply_table(film, values, gray)


def _with_sign(lut: Lut, low: float, x: Float[np.ndarray, "n"]) -> Lut:
    """A table whose first input has the sign of the values that it is applied to.

    The sign is that of the range of its input (PS3.3 C.11.1.1.1, C.11.2.1.1), and the VR must say
    the same. Where it says another, that sign counts by which the table covers more of the values.

    Args:
        lut: the table, its first input by the VR.
        low: the least value that the input can have.
        x: the values that it has.
    """
    if 0 <= lut.first < 1 << 15 or (lut.first < 0) == (low < 0):
        return lut
    other = dataclasses.replace(lut, first=lut.first - (65536 if lut.first > 0 else -65536))

    def covered(table: Lut) -> int:
        return int(((x >= table.first) & (x < table.first + len(table.values))).sum())

    return lut if covered(lut) > covered(other) else other


def _linear(x: Float[np.ndarray, "n"], center: float, width: float) -> Float[np.ndarray, "n"]:
    """PS3.3 C.11.2.1.2.1; width 1 is a threshold. Values beyond 0 ... 1 are the caller's to cut."""
    return (x - (center - 0.5 - (width - 1) / 2)) / max(width - 1, 1e-9)


def _linear_exact(x: Float[np.ndarray, "n"], center: float, width: float) -> Float[np.ndarray, "n"]:
    """PS3.3 C.11.2.1.3.2."""
    return (x - center) / width + 0.5


def _sigmoid(x: Float[np.ndarray, "n"], center: float, width: float) -> Float[np.ndarray, "n"]:
    """PS3.3 C.11.2.1.3.1: 1 / (1 + exp(-4 (x - center) / width)), in a form without overflow."""
    return 0.5 + 0.5 * np.tanh(2 * (x - center) / width)


VOI_FUNCTIONS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def _stored_values(film: Film) -> Integer[np.ndarray, "n"]:
    """The stored values a table must cover, in order, in the image's own type.

    The toolkit's rule depends on the extremes of what occurs. Rescale, window and inversion are
    monotone, so the extremes stand at the ends of a plain range; a modality LUT need not be, and
    the inversion of signed values wraps around: there only values that occur are taken.
    """
    pixels = film.pixels
    if film.modality_lut or pixels.dtype.kind == "i":
        return np.unique(pixels)
    return np.arange(int(pixels.min()), int(pixels.max()) + 1, dtype=pixels.dtype)


def _look_up(lut: Lut, x: Real[np.ndarray, "n"]) -> UInt16[np.ndarray, "n"]:
    index = np.floor(x).astype(np.int64) - lut.first
    return lut.values[index.clip(0, len(lut.values) - 1)]


def _apply_table(
    film: Film,
    values: Integer[np.ndarray, "n"],
    gray: UInt[np.ndarray, "n"],
    padding: Bool[np.ndarray, "n"] | None = None,
) -> UInt[np.ndarray, "height width"]:
    """Replaces each stored value by its grey value. Signed values index by their bit pattern.

    Raises:
        Rejection: nothing but padding is there, or values that differ become one grey.
    """
    pattern = f"u{values.itemsize}"
    table = np.zeros(1 << 8 * values.itemsize, gray.dtype)
    table[values.view(pattern)] = gray
    pixels = film.pixels.view(pattern)
    if padding is not None or gray[0] == gray[-1]:  # the ends occur: mostly that is enough to know
        seen = np.zeros(len(table), bool)
        seen[pixels] = True
        if padding is not None:
            seen[values[padding].view(pattern)] = False
        shown = table[seen]
        if not len(shown):
            reject("constant", "every pixel is padding")
        if len(shown) > 1 and shown.min() == shown.max():
            reject("constant", f"{len(shown)} different values become the grey {shown[0]}")
    return table[pixels]


# Resize: (image, height, width) -> new float32 image, in the image's own units


def legacy_bilinear(
    image: Real[np.ndarray, "h w"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width}"]:
    """TensorFlow 1's resize_bilinear(align_corners=False), bit for bit: no antialiasing.

    Output i lies at input i s, s = in / out in float32, without half a pixel's offset; between
    columns first, then between rows (tensorflow/core/kernels/image/resize_bilinear_op.cc).
    """
    top, bottom, row_weight = _legacy_taps(image.shape[0], height)
    left, right, column_weight = _legacy_taps(image.shape[1], width)
    resized = np.empty((height, width), np.float32)
    for start in range(0, height, 32):  # so many rows stay in cache: twice as fast as all at once
        block = slice(start, start + 32)
        upper, lower = (
            _lerp(lines.take(left, axis=1), lines.take(right, axis=1), column_weight)
            for lines in (image[top[block]], image[bottom[block]])
        )
        resized[block] = _lerp(upper, lower, row_weight[block, None])
    return resized


def _legacy_taps(
    size: int, new_size: int
) -> tuple[Integer[np.ndarray, "n"], Integer[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """For each output: the two inputs it lies between, and the weight of the second."""
    place = np.arange(new_size, dtype=np.float32) * (np.float32(size) / np.float32(new_size))
    first = np.floor(place)
    lower = first.astype(np.int64)
    return lower, np.minimum(lower + 1, size - 1), place - first


def _lerp(
    a: Real[np.ndarray, "h w"], b: Real[np.ndarray, "h w"], weight: Float32[np.ndarray, "..."]
) -> Float32[np.ndarray, "h w"]:
    a, out = a.astype(np.float32, copy=False), b.astype(np.float32)
    out -= a
    out *= weight
    out += a
    return out


def antialias_bilinear(
    image: Real[np.ndarray, "h w"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width}"]:
    """Triangle filter, widened when shrinking: jax.image.resize(..., "linear", antialias=True)."""
    return _pillow(image, height, width, Image.Resampling.BILINEAR)


def bicubic(
    image: Real[np.ndarray, "h w"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width}"]:
    """Keys' cubic (a = -0.5), widened when shrinking; may overshoot the image's range."""
    return _pillow(image, height, width, Image.Resampling.BICUBIC)


def _pillow(
    image: Real[np.ndarray, "h w"], height: int, width: int, filter: Image.Resampling
) -> Float32[np.ndarray, "{height} {width}"]:
    return np.array(Image.fromarray(image.astype(np.float32)).resize((width, height), filter))


# Presets


@dataclasses.dataclass(frozen=True)
class Preset:
    """How films are prepared for one family of weights.

    Whoever changes the pixels of any film that is accepted raises `version`: runs, stores and cards
    keep it, so that pixels of two rules are never mixed. Before there were versions, it was 1.
    """

    version: int
    intensity: Callable[[Film], UInt[np.ndarray, "height width"]]
    resize: Callable[[Real[np.ndarray, "h w"], int, int], Float32[np.ndarray, "height width"]]
    letterbox: bool  # keep the aspect ratio, centred on black; else stretch to the square
    min_max: bool  # stretch each resized image to exactly 0 ... 1; else 1 is the type's largest
    mean: tuple[float, float, float]  # subtracted by the encoder, on the device,
    std: tuple[float, float, float]  # and divided by, after the grey channel is repeated


_PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

PRESETS = {
    # What the published CXR embeddings were made from (facts: toolkit PNG, then in the network's
    # own graph TensorFlow 1's resize and per-image min-max).
    "cxr_foundation": Preset(
        1, toolkit_intensity, legacy_bilinear, letterbox=False, min_max=True, **_PLAIN
    ),
    # The same, for weights whose graph decodes the PNG to 8 bits.
    "cxr_foundation_8bit": Preset(
        1, toolkit_intensity_8_bits, legacy_bilinear, letterbox=False, min_max=True, **_PLAIN
    ),
    # For weights trained on photographs; mean and std of ImageNet's training set.
    "imagenet": Preset(
        2,
        dicom_intensity,
        bicubic,
        letterbox=True,
        min_max=False,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    # For weights of this project: the display values a radiologist sees, nothing stretched.
    "native": Preset(
        2, dicom_intensity, antialias_bilinear, letterbox=True, min_max=False, **_PLAIN
    ),
}


def network_input(film: Film, preset: Preset, size: int) -> Float32[np.ndarray, "{size} {size} 1"]:
    """Prepares one film.

    Args:
        film: from `read_film`.
        preset: one of `PRESETS`.
        size: side of the square result, in pixels; the weights' card says which.

    Returns:
        Grey values in [0, 1], black padding 0. Pixels that are not square (C.7.6.3.1.7) are made so
        where the preset keeps the aspect ratio. Repeating to three channels and normalising by
        `preset.mean` and `preset.std` is left to the encoder. A constant film gives zeros under
        `min_max`.

    Raises:
        Rejection: what the preset uses of the header is unusable, or makes one grey of all pixels.
    """
    image = preset.intensity(film)
    height = width = size
    if preset.letterbox:
        sides = image.shape[0] * film.pixel_aspect, image.shape[1]
        height, width = (max(1, round(side * (size / max(sides)))) for side in sides)
    resized = preset.resize(image, height, width)
    if resized.min() == resized.max() and image.min() < image.max():
        reject("constant", f"what differs in it is lost at {size} pixels")
    if preset.min_max:
        low, high = resized.min(), resized.max()
        resized -= low
        resized /= high - low if high > low else 1
    else:
        resized /= np.iinfo(image.dtype).max
        resized.clip(0, 1, out=resized)
    if resized.shape != (size, size):
        top, left = (size - height) // 2, (size - width) // 2
        resized = np.pad(resized, ((top, size - height - top), (left, size - width - left)))
    return resized[..., None]
