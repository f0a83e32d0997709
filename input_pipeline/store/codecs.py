"""How a prepared film becomes the bytes of a picture file in a record store.

TensorFlow reads it with `tf.image.decode_image(data, channels=1, dtype=storage.dtype)`. Divided by
the largest value of the dtype, that is the film again, to half a step (JPEG: nearly). JPEG is best
read with `tf.io.decode_jpeg(data, channels=1, dct_method="INTEGER_ACCURATE")`: TensorFlow's default
is no faster and makes films half a step darker.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import imagecodecs
import numpy as np
from jaxtyping import Float32, UInt


class Codec(NamedTuple):
    """A way to store films."""

    # A film in [0, 1] to bytes, the same for the same film (with the same imagecodecs). Raises
    # ValueError on other values.
    encode: Callable[[Float32[np.ndarray, "h w 1"]], bytes]
    dtype: str  # uint16 or uint8, what the bytes are decoded to
    format: str  # png or jpeg


def quantise(image: Float32[np.ndarray, "h w 1"], dtype: str) -> UInt[np.ndarray, "h w"]:
    """The nearest of the 65536 (uint16) or 256 (uint8) even steps from 0 to 1.

    Raises ValueError if a value lies outside [0, 1] or is no number; it would wrap around.
    """
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"a film's values run from {low} to {high}; expected 0 to 1: "
            "store what `network_input` gives"
        )
    return np.rint(image[..., 0] * np.iinfo(dtype).max).astype(dtype, order="C")


def _png(image: Float32[np.ndarray, "h w 1"], dtype: str) -> bytes:
    # Runs of equal bytes in the differences to the row above (the level then changes nothing): as
    # small as libpng's own choices at level 1, in 0.3 to 0.5 of the time to encode, and 0.5 to 0.7
    # to decode. Uncompressed files pay only above 80 MB/s for each core that reads.
    return bytes(
        imagecodecs.png_encode(
            quantise(image, dtype),
            level=imagecodecs.PNG.COMPRESSION.SPEED,
            strategy=imagecodecs.PNG.STRATEGY.RLE,
            filter=imagecodecs.PNG.FILTER.UP,
        )
    )


STORAGES = {
    "png16": Codec(functools.partial(_png, dtype="uint16"), "uint16", "png"),
    "png8": Codec(functools.partial(_png, dtype="uint8"), "uint8", "png"),
    "jpeg95": Codec(
        lambda image: bytes(imagecodecs.jpeg8_encode(quantise(image, "uint8"), level=95)),
        "uint8",
        "jpeg",
    ),
}
