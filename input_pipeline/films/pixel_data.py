"""The pixel data of one DICOM frame -> stored values, in every transfer syntax of `SYNTAXES`.

Sizes are checked against the header before anything is allocated or decoded. The one damage that
cannot be seen is damage that still decodes: changed bits in uncompressed, RLE or JPEG 2000 data.
"""

import dataclasses
import struct

import imagecodecs
import numpy as np
from jaxtyping import Integer

from . import jpeg, jpeg2000
from .film import Rejection, reject

UNDEFINED = 0xFFFFFFFF
IMPLICIT, EXPLICIT, DEFLATED, BIG = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2"))
RLE = "1.2.840.10008.1.2.5"
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
# baseline, extended and lossless
_JPEG = (*(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70)), *_JPEG_LS)
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (90, 91, 201, 202, 203))  # and HTJ2K
_NATIVE = (IMPLICIT, EXPLICIT, DEFLATED, BIG)
SYNTAXES = (*_NATIVE, RLE, *_JPEG, *_JPEG_2000)
_ITEM = b"\xfe\xff\x00\xe0"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How pixels are stored (PS3.3 C.7.6.3): a grid of cells of 8 or 16 `allocated` bits."""

    rows: int
    columns: int
    allocated: int
    stored: int
    signed: bool
    colour: str = ""  # the Photometric Interpretation of three samples a pixel; "": one sample
    planar: bool = False  # uncompressed samples lie plane by plane

    @property
    def samples(self) -> int:
        return 3 if self.colour else 1


@dataclasses.dataclass(frozen=True)
class Element:
    """The pixel data's place in the file, and their declared length in bytes."""

    start: int
    length: int
    words: bool  # explicit VR OW


def decode(
    value: bytes, element: Element, syntax: str, layout: Layout
) -> Integer[np.ndarray, "rows columns"]:
    """Stored values: uint8, uint16, int8 or int16 as the layout says.

    Unused high bits (old overlays) are cut off and the sign extended, as in pydicom's pixel_array.
    The value is what the file has of the element. Raises Rejection.
    """
    depth = layout.stored
    if syntax in _NATIVE:
        cells = _native(value, element, layout, big=syntax == BIG)
    else:
        codestream, cut = _codestream(value)
        try:
            if syntax == RLE:
                cells = _decode_rle(codestream, layout)
            else:
                cells, depth = _decode_jpeg(codestream, syntax, layout)
        except MemoryError:
            raise
        except Exception as error:
            known = isinstance(error, Rejection)
            reason, detail = error.args if known else ("corrupt_pixels", type(error).__name__)
            reject("truncated" if cut and reason == "corrupt_pixels" else reason, detail)
    cells = _grey(cells, layout) if layout.colour else cells.reshape(layout.rows, layout.columns)
    cells = cells.view(f"u{cells.itemsize}").astype(f"u{layout.allocated // 8}", copy=False)
    if layout.signed:
        shift = layout.allocated - depth
        cells = cells.view(f"i{layout.allocated // 8}")
        return cells << shift >> shift if shift else cells
    mask = (1 << depth) - 1
    return cells & mask if cells.max() > mask else cells


def _grey(
    cells: Integer[np.ndarray, "h w samples"], layout: Layout
) -> Integer[np.ndarray, "rows columns"]:
    """The one channel of pixels that all are grey: red = green = blue, or no chroma.

    Chroma of YBR_FULL_422 comes as (Y, Y, Cb, Cr) of two pixels.
    """
    neutral = cells.dtype.type(1 << layout.stored - 1)
    *luma, first, second = np.moveaxis(cells, -1, 0)
    if layout.colour.startswith("YBR") and (first == neutral).all() and (second == neutral).all():
        return np.stack(luma, -1).reshape(layout.rows, layout.columns)
    if len(luma) > 1 or not ((luma[0] == first).all() and (first == second).all()):
        reject("colour", f"{layout.colour}, channels differ")
    return np.ascontiguousarray(first)


def _native(
    value: bytes, element: Element, layout: Layout, big: bool
) -> Integer[np.ndarray, "rows columns ..."]:
    """Uncompressed cells, as a view on the bytes read."""
    width, shape = layout.allocated // 8, (layout.rows, layout.columns)
    if layout.colour == "YBR_FULL_422":
        if layout.columns % 2:
            reject("corrupt_header", f"YBR_FULL_422 of {layout.columns} columns, an odd number")
        shape = (layout.rows, layout.columns // 2, 4)
    elif layout.colour:
        shape = (3, *shape) if layout.planar else (*shape, 3)
    expected = int(np.prod(shape)) * width
    if element.length == UNDEFINED:
        reject("corrupt_pixels", "uncompressed pixel data of undefined length")
    swapped = big and element.words and width == 1  # two 8-bit cells to a big-endian word
    if len(value) < expected + swapped * expected % 2:
        reject("truncated", f"{len(value)} of {expected} bytes of pixel data")
    if swapped:
        words = np.frombuffer(value, np.uint16, (expected + 1) // 2)
        cells = words.byteswap().view(np.uint8)[:expected].reshape(shape)
    else:
        order = ">" if big else "<"
        cells = np.frombuffer(value, f"{order}u{width}", expected // width).reshape(shape)
    cells = cells.astype(cells.dtype.newbyteorder("="), copy=False)
    cells = np.moveaxis(cells, 0, -1) if layout.colour and layout.planar else cells
    # A wrong Rows or Columns leaves at least a line over; other padding is shorter, or zeros.
    excess = element.length - expected
    if excess >= max(2, min(layout.rows, layout.columns)) * layout.samples * width:
        whole = len(value) == element.length
        padding = excess < expected and whole and not value[expected:].strip(b"\0")
        if not padding or _sheared(cells, excess // width / layout.samples / layout.rows):
            reject("corrupt_pixels", f"{element.length} bytes of pixel data, expected {expected}")
    return cells


def _sheared(cells: Integer[np.ndarray, "rows columns ..."], extra: float) -> bool:
    """Whether lines of so many more columns fit the image better: neighbours differ less then."""
    if not extra.is_integer():
        return False
    grey = cells.reshape(*cells.shape[:2], -1)[..., 0]
    columns, grey = grey.shape[1], grey.ravel().astype(np.int32)
    declared, longer = (
        np.abs(grey[stride:] - grey[:-stride]).mean() for stride in (columns, columns + int(extra))
    )
    return bool(longer < declared)


def _codestream(value: bytes) -> tuple[bytes, bool]:
    """The fragments of the one frame, joined (PS3.5 A.4), and whether the file cuts the last.

    The first item is an offset table, which some writers leave out. Whatever is no item ends the
    fragments: a delimiter, the zeros that some writers put in its place, the end of the file.
    Whether all pixels are there is the decoder's to say.
    """
    data = memoryview(value)
    fragments, position = [], 0
    while data[position : position + 4] == _ITEM and position + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, position + 4)
        fragments.append(data[position + 8 : position + 8 + length])
        position += 8 + length
    if not fragments:
        reject("corrupt_pixels", "compressed pixel data do not begin with an item")
    if bytes(fragments[0][:2]) not in (b"\xff\xd8", b"\xff\x4f") and not _is_rle(fragments[0]):
        del fragments[0]
    if not fragments:
        reject("truncated", "no fragment of pixel data")
    return b"".join(fragments), position > len(data)


def _is_rle(data: bytes | memoryview) -> bool:
    """Whether a fragment begins with the header of PS3.5 G.5; an offset table begins with 0."""
    if len(data) < 64:
        return False
    count, first = struct.unpack_from("<2I", data)
    return 1 <= count <= 15 and first == 64


def _decode_rle(data: bytes, layout: Layout) -> Integer[np.ndarray, "rows columns samples"]:
    """Each sample's segments, one a byte, highest first (PS3.5 annex G)."""
    width = layout.allocated // 8
    if len(data) < 64:
        reject("truncated", f"{len(data)} bytes end within the header of the RLE segments")
    count, *starts = struct.unpack_from("<16I", data)
    if not _is_rle(data) or count != layout.samples * width:
        reject("corrupt_pixels", f"{count} RLE segments, expected {layout.samples * width}")
    starts = [*starts[:count], len(data)]
    planes = np.empty((layout.samples, layout.rows, layout.columns), f"<u{width}")
    for sample, plane in enumerate(planes):
        first, *others, stop = starts[sample * width : (sample + 1) * width + 1]
        header = struct.pack(
            f"<{width + 1}I", width, *(64 + start - first for start in (first, *others))
        )
        decoded = imagecodecs.dicomrle_decode(
            header.ljust(64, b"\0") + data[first:stop], plane.dtype, out=plane.data.cast("B")
        )
        if len(decoded) != plane.nbytes:
            reject("truncated", f"{len(decoded)} of {plane.nbytes} bytes of pixel data")
    return np.moveaxis(planes, 0, -1)


def _decode_jpeg(
    data: bytes, syntax: str, layout: Layout
) -> tuple[Integer[np.ndarray, "rows columns ..."], int]:
    """Cells, and how many of their bits count, of any of the JPEG family.

    The codestream's own header is checked beforehand: OpenJPEG would decode the 60,000 x 60,000
    pixels that one claims (43 s, 14 GB) and then find that they do not fit.
    """
    if syntax in _JPEG:
        try:
            head = jpeg.parse(data)
        except ValueError as error:
            reject("corrupt_pixels", str(error))
        shape, bits = head.shape, head.bits
    else:
        shape, bits = jpeg2000.parse(data)
    if shape != (layout.rows, layout.columns, layout.samples) or bits > layout.allocated:
        rows, columns, components = shape
        found = f"a codestream of {rows} x {columns}, {components} components, {bits} bits"
        reject("corrupt_pixels", f"{found}; header: {layout.rows} x {layout.columns}")
    if syntax in _JPEG_2000:  # lossy data may exceed BitsStored; pydicom takes the sign bit there
        return jpeg2000.decode(data), bits
    depth = min(bits, layout.stored) if syntax in _JPEG_LS else layout.stored
    return jpeg.decode(data, head, rgb=layout.colour == "RGB"), depth
