"""How a film becomes network input: an intensity rule and a resize rule, named by `PRESETS`.

Rules and resizes are plain functions; a preset is a row of a table.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Integer, Real, UInt
from PIL import Image

from .film import Film, reject
from .intensity import dicom_intensity, toolkit_intensity, toolkit_intensity_8_bits

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
) -> tuple[Integer[np.ndarray, " n"], Integer[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
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


def _antialiased(
    image: Real[np.ndarray, "h w"], height: int, width: int, *, filter: Image.Resampling
) -> Float32[np.ndarray, "{height} {width}"]:
    """The filter is widened when shrinking, as by jax.image.resize(..., antialias=True)."""
    return np.array(Image.fromarray(image.astype(np.float32)).resize((width, height), filter))


antialias_bilinear = functools.partial(_antialiased, filter=Image.Resampling.BILINEAR)
# Keys' cubic (a = -0.5), which may overshoot the image's range
bicubic = functools.partial(_antialiased, filter=Image.Resampling.BICUBIC)


# Presets


@dataclasses.dataclass(frozen=True)
class Preset:
    """How films are prepared for one family of weights."""

    version: int  # raised by each change of any film's pixels; runs, stores and cards keep it
    intensity: Callable[[Film], UInt[np.ndarray, "height width"]]
    resize: Callable[[Real[np.ndarray, "h w"], int, int], Float32[np.ndarray, "height width"]]
    letterbox: bool  # keep the aspect ratio, centred on black; else stretch to the square
    min_max: bool  # stretch each resized image to exactly 0 ... 1; else 1 is the type's largest
    mean: tuple[float, float, float]  # subtracted by the encoder, on the device,
    std: tuple[float, float, float]  # and divided by, after the grey channel is repeated


_PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # of its training set

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
    # For weights trained on photographs.
    "imagenet": Preset(2, dicom_intensity, bicubic, letterbox=True, min_max=False, **_IMAGENET),
    # For weights of this project: the display values a radiologist sees, nothing stretched.
    "native": Preset(
        2, dicom_intensity, antialias_bilinear, letterbox=True, min_max=False, **_PLAIN
    ),
}


def network_input(film: Film, preset: Preset, size: int) -> Float32[np.ndarray, "{size} {size} 1"]:
    """Grey values of one film in [0, 1], resized to `size` pixels a side; black padding is 0.

    Pixels that are not square (C.7.6.3.1.7) are made so where the preset keeps the aspect ratio.
    Repeating to three channels and normalising by `preset.mean` and `preset.std` is left to the
    encoder. A constant film gives zeros under `min_max`.

    Raises:
        Rejection: what the preset uses of the header is unusable, or makes one grey of all pixels.
    """
    image = preset.intensity(film)
    place = place_in_input(image.shape, film.pixel_aspect, preset, size)
    resized = preset.resize(image, place.height, place.width)
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
        below, right = size - place.height - place.top, size - place.width - place.left
        resized = np.pad(resized, ((place.top, below), (place.left, right)))
    return resized[..., None]


# The way back


class Place(NamedTuple):
    """Where a film lies in its network input, in pixels."""

    film_height: int
    film_width: int
    top: int
    left: int
    height: int
    width: int
    middle: float  # of a pixel of either, where its corner is 0; legacy_bilinear lays corners


def place_in_input(shape: tuple[int, int], pixel_aspect: float, preset: Preset, size: int) -> Place:
    """Where `network_input` puts a film of that height and width."""
    height = width = size
    if preset.letterbox:
        sides = shape[0] * pixel_aspect, shape[1]
        height, width = (max(1, round(side * (size / max(sides)))) for side in sides)
    middle = 0.0 if preset.resize is legacy_bilinear else 0.5
    return Place(*shape, (size - height) // 2, (size - width) // 2, height, width, middle)


def input_positions(
    place: Place,
) -> tuple[Float[np.ndarray, " film_height"], Float[np.ndarray, " film_width"]]:
    """The row of the network input on which each row of the film lies, and so for the columns.

    Row 0.5 lies between the first two rows of pixels.
    """
    sides = (
        (place.film_height, place.top, place.height),
        (place.film_width, place.left, place.width),
    )
    rows, columns = (
        (np.arange(film) + place.middle) * (length / film) - place.middle + start
        for film, start, length in sides
    )
    return rows, columns
