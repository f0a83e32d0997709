"""The pixel data of one DICOM frame -> stored values, in every transfer syntax of `SYNTAXES`.

Sizes are checked against the header before anything is allocated or decoded; what disagrees raises
`Rejection`. The one damage that cannot be seen is damage that still decodes: changed bits in
uncompressed data, or a hole within a JPEG segment, over which every JPEG decoder patches.
"""

import dataclasses
import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
from jaxtyping import Integer

from input_pipeline.film import Rejection, reject

UNDEFINED = 0xFFFFFFFF
IMPLICIT, EXPLICIT, DEFLATED, BIG = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2"))
RLE = "1.2.840.10008.1.2.5"
_DECODERS = {
    f"1.2.840.10008.1.2.4.{end}": decode
    for decode, ends in {
        # libjpeg-turbo: baseline, extended and lossless. Lossless in 47 ms for 2544x3056, against
        # 80 (ljpeg) and 150 (jpegsof3); all three patch over holes.
        imagecodecs.jpeg8_decode: (50, 51, 57, 70),
        imagecodecs.jpegls_decode: (80, 81),
        # OpenJPEG also for high throughput (107 ms): OpenJPH takes 54 but accepts half a file.
        imagecodecs.jpeg2k_decode: (90, 91, 201, 202, 203),
    }.items()
    for end in ends
}
SYNTAXES = (IMPLICIT, EXPLICIT, DEFLATED, BIG, RLE, *_DECODERS)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How pixels are stored (PS3.3 C.7.6.3): a grid of cells of `allocated` bits, 8 or 16."""

    rows: int
    columns: int
    allocated: int
    stored: int
    signed: bool


@dataclasses.dataclass(frozen=True)
class Element:
    """Where the pixel data lie: the value's first byte and its declared length in bytes."""

    start: int
    length: int
    words: bool  # explicit VR OW


def decode(
    fetch: Callable[[int, int], bytes], size: int, element: Element, syntax: str, layout: Layout
) -> Integer[np.ndarray, "rows columns"]:
    """Stored values: uint8, uint16, int8 or int16 as the layout says.

    Unused high bits (old overlays) are cut off and the sign extended, as in pydicom's pixel_array.

    Args:
        fetch: (start, stop) -> those bytes of the file.
        size: of the file, in bytes.
        element: where the pixel data lie.
        syntax: one of `SYNTAXES`.
        layout: what the header says of them; it bounds what is allocated.

    Raises:
        Rejection: truncated, corrupt_pixels or unsupported_syntax.
    """
    depth = layout.stored
    if syntax in (IMPLICIT, EXPLICIT, DEFLATED, BIG):
        cells = _native(fetch, size, element, layout, big=syntax == BIG)
    else:
        codestream = _codestream(fetch, size, element)
        try:
            if syntax == RLE:
                cells = _decode_rle(codestream, layout)
            else:
                cells, depth = _decode_jpeg(codestream, _DECODERS[syntax], layout)
        except Rejection:
            raise
        except Exception as error:
            reject("corrupt_pixels", type(error).__name__)
    cells = cells.view(f"u{cells.itemsize}").astype(f"u{layout.allocated // 8}", copy=False)
    if layout.signed:
        shift = layout.allocated - depth
        cells = cells.view(f"i{layout.allocated // 8}")
        return cells << shift >> shift if shift else cells
    mask = (1 << depth) - 1
    return cells & mask if cells.max() > mask else cells


def _native(
    fetch: Callable[[int, int], bytes], size: int, element: Element, layout: Layout, big: bool
) -> Integer[np.ndarray, "rows columns"]:
    """Uncompressed cells, as a view on the bytes read."""
    width, shape = layout.allocated // 8, (layout.rows, layout.columns)
    expected = layout.rows * layout.columns * width
    if element.length == UNDEFINED:
        reject("corrupt_pixels", "uncompressed pixel data of undefined length")
    if min(element.length, size - element.start) < expected:
        found = min(element.length, size - element.start)
        reject("truncated", f"{found} of {expected} bytes of pixel data")
    # A wrong Rows or Columns leaves at least a line over; padding is shorter.
    if element.length - expected >= max(2, min(shape)) * width:
        reject("corrupt_pixels", f"{element.length} bytes of pixel data, expected {expected}")
    swapped = big and element.words and width == 1  # two 8-bit cells to a big-endian word
    data = fetch(element.start, element.start + expected + swapped * expected % 2)
    if swapped:
        return np.frombuffer(data, np.uint16).byteswap().view(np.uint8)[:expected].reshape(shape)
    cells = np.frombuffer(data, f"{'>' if big else '<'}u{width}").reshape(shape)
    return cells.astype(cells.dtype.newbyteorder("="), copy=False)


def _codestream(fetch: Callable[[int, int], bytes], size: int, element: Element) -> bytes:
    """The fragments of the one frame, joined (PS3.5 A.4); the first item is an offset table."""
    if element.length != UNDEFINED:
        reject("corrupt_pixels", "compressed pixel data of defined length")
    data = memoryview(fetch(element.start, size))
    fragments, position = [], 0
    while position + 8 <= len(data):
        tag, length = struct.unpack_from("<II", data, position)
        if tag == 0xE0DDFFFE:
            break
        position += 8 + length
        if tag != 0xE000FFFE:
            reject("corrupt_pixels", "a fragment does not begin with an item tag")
        if position > len(data):
            reject("truncated", f"a fragment of {length} bytes ends outside the file")
        fragments.append(data[position - length : position])
    if len(fragments) < 2:
        reject("truncated", "no fragment of pixel data")
    return b"".join(fragments[1:])


def _decode_rle(codestream: bytes, layout: Layout) -> Integer[np.ndarray, "rows columns"]:
    cells = np.empty((layout.rows, layout.columns), f"<u{layout.allocated // 8}")
    view = memoryview(cells).cast("B")
    decoded = imagecodecs.dicomrle_decode(codestream, cells.dtype, out=view)
    if len(decoded) != cells.nbytes:
        reject("truncated", f"{len(decoded)} of {cells.nbytes} bytes of pixel data")
    return cells


def _decode_jpeg(
    codestream: bytes, decoder: Callable, layout: Layout
) -> tuple[Integer[np.ndarray, "rows columns"], int]:
    """Cells, and how many of their bits count, of any of the JPEG family.

    The codestream's own header is checked beforehand: OpenJPEG would decode the 60,000 x 60,000
    pixels that one claims (43 s, 14 GB) and then find that they do not fit.
    """
    read = _read_siz if decoder is imagecodecs.jpeg2k_decode else _read_sof
    rows, columns, components, bits, signed = read(codestream)
    if (rows, columns, components) != (layout.rows, layout.columns, 1) or bits > layout.allocated:
        found = f"a codestream of {rows} x {columns}, {components} components, {bits} bits"
        reject("corrupt_pixels", f"{found}; header: {layout.rows} x {layout.columns}")
    if codestream.rfind(b"\xff\xd9") < 0:  # libjpeg would fill the rest with grey
        reject("truncated", f"no end marker in {len(codestream)} bytes")
    cells = np.empty((rows, columns), f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")
    # pydicom takes the sign bit from there too; lossy JPEG 2000 may exceed BitsStored.
    depth = {
        imagecodecs.jpeg2k_decode: bits,
        imagecodecs.jpegls_decode: min(bits, layout.stored),
    }.get(decoder, layout.stored)
    return decoder(codestream, out=cells), depth


def _read_sof(codestream: bytes) -> tuple[int, int, int, int, bool]:
    """Rows, columns, components, bits and sign from the frame header of JPEG or JPEG-LS.

    Baseline (C0), extended (C1), lossless (C3), JPEG-LS (F7); ITU-T T.81 B.2.2, T.87 C.2.2.
    """
    position = 2
    while position + 10 <= len(codestream):
        fill, marker, length = struct.unpack_from(">BBH", codestream, position)
        if fill != 0xFF or marker == 0xDA:
            break
        if marker in (0xC0, 0xC1, 0xC3, 0xF7):
            bits, rows, columns, components = struct.unpack_from(">BHHB", codestream, position + 4)
            return rows, columns, components, bits, False
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            reject("unsupported_syntax", f"JPEG process SOF{marker - 0xC0}")
        position += 1 if marker == 0xFF else 2 + length
    reject("corrupt_pixels", "no frame header in the JPEG codestream")


def _read_siz(codestream: bytes) -> tuple[int, int, int, int, bool]:
    """Rows, columns, components, bits and sign from JPEG 2000's SIZ (ITU-T T.800 A.5.1)."""
    position = codestream.find(b"\xff\x4f\xff\x51")  # 0, unless wrongly within a JP2 box
    if position < 0 or len(codestream) < position + 43:
        reject("corrupt_pixels", "no SIZ in the JPEG 2000 codestream")
    right, bottom, left, top, *_, components, bits = struct.unpack_from(
        ">8IHB", codestream, position + 8
    )
    return bottom - top, right - left, components, (bits & 0x7F) + 1, bits >= 0x80
