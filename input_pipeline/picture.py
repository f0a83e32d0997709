"""The bytes of a grey PNG or JPEG file -> a film."""

import io

import numpy as np
from PIL import Image

from input_pipeline.film import Film, check_size, reject


def read_picture(data: bytes) -> Film:
    """A grey picture; colour channels that are equal, under full opacity, count as grey."""
    end = b"IEND" if data.startswith(b"\x89PNG") else b"\xff\xd9"
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        reject("too_large", "more pixels than Pillow opens")
    except Exception as error:
        reject("corrupt_header", type(error).__name__)
    check_size(picture.height, picture.width)
    if getattr(picture, "n_frames", 1) > 1:
        reject("multi_frame", f"{picture.n_frames} frames")
    if end not in data:
        reject("truncated", f"no end marker in {len(data)} bytes")
    # Pillow would quietly cut 16-bit colour or alpha to 8 bits; byte 24 of a PNG is its depth.
    deep = end == b"IEND" and data[24] == 16 and picture.mode != "I;16"
    if deep or picture.mode in ("1", "I", "F"):
        reject("unsupported_depth", f"mode {picture.mode}{', 16 bits' if deep else ''}")
    if picture.mode not in ("L", "I;16", "LA", "P", "RGB", "RGBA"):
        reject("colour", f"mode {picture.mode}")
    try:
        if picture.mode in ("L", "I;16"):
            pixels = np.asarray(picture)
            return Film(pixels, bits_stored=8 * pixels.itemsize)
        red, green, blue, alpha = np.moveaxis(np.asarray(picture.convert("RGBA")), -1, 0)
    except Exception as error:
        reject("corrupt_pixels", type(error).__name__)
    if (red != green).any() or (green != blue).any() or (alpha != 255).any():
        reject("colour", f"mode {picture.mode}, channels differ or are transparent")
    return Film(np.ascontiguousarray(red), bits_stored=8)
