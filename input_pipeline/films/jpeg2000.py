"""JPEG 2000 codestreams (HTJ2K too): what their header says, and whether they are whole.

OpenJPEG decodes a stream that lacks a part and fills the part in. So the lengths that a codestream
states of its tile-parts are followed beforehand: bytes that are cut off or lost show there. Bytes
that were changed do not: the arithmetic decoder makes pixels of any bytes.
"""

import collections
import struct

import imagecodecs
import numpy as np
from jaxtyping import Integer

from .film import reject

_START, _EOC = b"\xff\x4f\xff\x51", b"\xff\xd9"
_SOT, _SOD, _COD = 0xFF90, b"\xff\x93", 0xFF52  # tile-part, its data, coding style
_MAX_PARTS = 1 << 17


def parse(data: bytes) -> tuple[tuple[int, int, int], int]:
    """(Rows, columns, components), and bits of a sample, by the SIZ segment (ITU-T T.800 A.5.1)."""
    position = data.find(_START)  # 0, unless wrongly within a JP2 box
    if len(data) < max(position, 0) + 43:
        reject("truncated", f"{len(data)} bytes end within the header of a JPEG 2000")
    if position < 0:
        reject("corrupt_pixels", "no SIZ in the JPEG 2000 codestream")
    right, bottom, left, top, *_, components, bits = struct.unpack_from(">8IHB", data, position + 8)
    return (bottom - top, right - left, components), (bits & 0x7F) + 1


def decode(data: bytes) -> Integer[np.ndarray, "rows columns ..."]:
    """All samples; three components as RGB where the codestream has transformed them."""
    data = data[data.find(_START) :]
    right, bottom, _, _, width, height, x, y, components = struct.unpack_from(">8IH", data, 8)
    tiles = -(-(right - x) // max(width, 1)) * -(-(bottom - y) // max(height, 1))
    position, zeros = 2, 0
    while (marker := int.from_bytes(data[position : position + 2], "big")) != _SOT:
        if position + 4 > len(data):
            reject("truncated", f"{len(data)} bytes end within the header of a JPEG 2000")
        if marker < 0xFF00:
            reject("corrupt_pixels", "no segment in the header of a JPEG 2000")
        if marker == _COD:
            zeros = _most_zeros(data[position : position + 14], components)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")

    found: collections.Counter[int] = collections.Counter()  # parts of each tile
    expected: dict[int, int] = {}
    while len(data) >= position + 12 and data[position : position + 2] == b"\xff\x90":
        tile, length, _, parts = struct.unpack_from(">HIBB", data, position + 4)
        if length == 0:  # up to the end marker
            length = data.rfind(_EOC) - position
            if length < 0:
                reject("truncated", f"no end marker in {len(data)} bytes of JPEG 2000")
        if length < 12 or found.total() == _MAX_PARTS:
            reject("corrupt_pixels", "tile-parts without length in the JPEG 2000")
        if data.find(_EOC, position, position + length) >= 0:  # no code holds these bytes
            reject("corrupt_pixels", "a tile-part of JPEG 2000 goes beyond the end marker")
        start = data.find(_SOD, position, position + length)
        if zeros and data.find(bytes(zeros + 1), start, position + length) >= 0:
            reject("corrupt_pixels", f"more than {zeros} bytes of JPEG 2000 in a row are zero")
        position += length
        found[tile] += 1
        expected[tile] = parts or expected.get(tile, 0)
    rest = data[position:].rstrip(b"\0")
    if position > len(data):
        reject("truncated", f"a tile-part of JPEG 2000 ends {position - len(data)} bytes outside")
    if not _EOC.startswith(rest[:2]):
        reject("corrupt_pixels", f"no tile-part of JPEG 2000 at byte {position}")
    if len(found) != tiles or any(found[tile] < parts for tile, parts in expected.items()):
        reject("corrupt_pixels" if rest else "truncated", f"{len(found)} of {tiles} tiles")
    return imagecodecs.jpeg2k_decode(data[:position] + _EOC)


def _most_zeros(style: bytes, components: int) -> int:
    """How many zero bytes a sound tile-part holds in a row (T.800 A.6.1, B.9); 0: any number.

    An empty packet is one such byte, and a tile has so many packets. Code-blocks are coded
    arithmetically, which makes noise of them. Precincts of their own size, and code-blocks with
    raw bits or of high throughput, are not counted.
    """
    if len(style) < 14 or style[4] & 1 or style[12] & 0x41:
        return 0
    layers, levels = int.from_bytes(style[6:8], "big"), style[9]
    return layers * (levels + 1) * components + 64
