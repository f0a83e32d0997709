"""The bytes of a grey PNG or JPEG file -> a film, turned as it is displayed."""

import io
import struct
import zlib
from collections.abc import Callable

import imagecodecs
import numpy as np
from jaxtyping import UInt
from PIL import Image

from . import jpeg
from .film import Film, check_size, reject

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}


def read_picture(data: bytes) -> Film:
    """A grey picture; colour channels that are equal, under full opacity, count as grey."""
    return _read_png(data) if data.startswith(PNG) else _read_jpeg(data)


def _read_jpeg(data: bytes) -> Film:
    """JPEG of 8 to 16 bits, lossless too, and JPEG-LS."""
    try:
        head = jpeg.parse(data)
    except ValueError as error:
        reject("corrupt_header", str(error))
    rows, columns, components = head.shape
    check_size(rows, columns)
    if components not in (1, 3):
        reject("colour", f"{components} components")
    exif = [data[a + 4 : b] for marker, a, b in head.segments if marker == 0xE1]
    exif = [segment for segment in exif if segment.startswith(b"Exif\0\0")]
    pixels = _grey(jpeg.decode(data, head))
    return _as_displayed(pixels, head.bits, _orientation(exif[0]) if exif else 1)


def _as_displayed(pixels: UInt[np.ndarray, "h w"], bits: int, orientation: int) -> Film:
    turned = np.ascontiguousarray(_TURNS[orientation](pixels))
    return Film(turned, bits_stored=bits, turned=orientation != 1)


def _orientation(exif: bytes) -> int:
    """1 ... 8; what cannot be read says nothing, as in viewers."""
    tags = Image.Exif()
    try:
        tags.load(exif)
        value = tags.get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if value in _TURNS else 1


def _grey(
    channels: UInt[np.ndarray, "h w n"], opaque: int | None = None
) -> UInt[np.ndarray, "h w"]:
    """The one value of each pixel; the last channel is opacity if `opaque` says its largest."""
    if opaque is not None:
        if (channels[..., -1] != opaque).any():
            reject("colour", "transparent pixels")
        channels = channels[..., :-1]
    if any((channels[..., 0] != channels[..., i]).any() for i in range(1, channels.shape[-1])):
        reject("colour", "channels differ")
    return np.ascontiguousarray(channels[..., 0])


def _read_png(data: bytes) -> Film:
    """PNG of 2 to 16 bits.

    Pillow sees no chunk but those of the image: it refuses long texts and colour profiles.
    """
    if len(data) < 33:
        reject("truncated", f"{len(data)} bytes of PNG")
    length, name, columns, rows, depth, colour, _, _, interlaced = struct.unpack_from(
        ">I4sIIBBBBB", data, 8
    )
    if (length, name) != (13, b"IHDR"):
        reject("corrupt_header", "the PNG does not begin with IHDR")
    check_size(rows, columns)
    if (depth == 1 and colour == 0) or (depth == 16 and colour and interlaced):
        reject("unsupported_depth", f"{depth} bits{' of interlaced colour' if colour else ''}")
    plain, orientation, ended = _plain_png(data, grey=colour == 0)
    try:
        picture = Image.open(io.BytesIO(plain), formats=("PNG",))
    except Exception as error:
        reject("corrupt_header", type(error).__name__)
    try:
        picture.load()  # raises where pixels are missing
        if colour == 0:
            pixels = np.asarray(picture)
            return _as_displayed(pixels, 8 * pixels.itemsize, orientation)
        if depth == 16:  # Pillow would cut it to 8 bits
            channels = imagecodecs.png_decode(plain)
        else:
            channels = np.asarray(picture.convert("RGBA"))
    except MemoryError:
        raise
    except Exception as error:
        reject("corrupt_pixels" if ended else "truncated", type(error).__name__)
    alpha = np.iinfo(channels.dtype).max if channels.shape[-1] in (2, 4) else None
    return _as_displayed(_grey(channels, alpha), 8 * channels.itemsize, orientation)


def _plain_png(data: bytes, grey: bool) -> tuple[bytes, int, bool]:
    """The chunks that make the image, its orientation, and whether its end marker is reached.

    Opacity of a grey value is left out: the film below it is as good. Without the end marker, or
    with a last chunk that is cut, the image may still be whole: its decoder knows.
    """
    parts, pixels, position, name, orientation = [PNG], [], len(PNG), b"", 1
    while position + 8 <= len(data) and name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, position)
        if not name.isalpha():  # damage
            break
        body = data[position + 8 : position + 8 + length]
        if name == b"acTL" and (frames := int.from_bytes(body[:4], "big")) > 1:
            reject("multi_frame", f"{frames} frames")
        if name == b"eXIf":
            orientation = _orientation(b"Exif\0\0" + body)
        if name == b"IDAT":
            pixels.append(body)
        elif name in (b"IHDR", b"PLTE") or (name == b"tRNS" and not grey):
            parts.append(data[position : position + 12 + length])
        position += 12 + length
    stream = b"IDAT" + b"".join(pixels)
    stream = struct.pack(">I", len(stream) - 4) + stream + struct.pack(">I", zlib.crc32(stream))
    end = b"\0\0\0\0IEND\xae\x42\x60\x82"
    return b"".join((*parts, stream, end)), orientation, name == b"IEND" or not name.isalpha()
