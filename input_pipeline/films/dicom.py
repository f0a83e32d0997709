"""A film's file -> stored pixel values and the few header fields we need; here from DICOM.

Bad content never raises and is never guessed at: it becomes a `Rejected` with one of `REASONS`.
Only the attributes of `dicom_header.TAGS` are read, from their raw bytes, so that no patient
attribute is ever decoded, kept or quoted. Details name tags, sizes, bit depths and standard UIDs.
"""

import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import TypeVar

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import STANDARD_VR

from . import dicom_header, pixel_data
from .film import MAX_FILE_BYTES, Film, Rejected, Rejection, Skipped, known_view, reject
from .pixel_data import Element
from .png_jpeg import JPEG, PNG, read_picture

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its messages quote header values

HEADER_BYTES = 1 << 16  # read first; MIMIC-CXR headers take some 10 kB, pixels of laterals 15 MB

Result = TypeVar("Result")
_WANTED: list[BaseTag | int] = list(dicom_header.TAGS.values())
_PIXEL_DATA = {Tag("PixelData"), Tag("FloatPixelData"), Tag("DoubleFloatPixelData")}


def read_film(
    stream: io.IOBase, *, views: tuple[str, ...] | None = None, chest_only: bool = False
) -> Film | Skipped | Rejected:
    """Reads one film, or says why there is none; its first bytes tell its type, not its name.

    Content never raises. Not for several threads at once: it silences warnings, which quote header
    values, for the time of the call.

    Args:
        stream: an open, seekable file, local or remote. Only the header is read of a film that is
            skipped.
        views: keep a DICOM whose ViewPosition is one of these, absent or empty; None: keep all.
        chest_only: skip a DICOM of which `other_than_chest` says something.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            size = _io(stream.seek, 0, io.SEEK_END)
            if size > MAX_FILE_BYTES:
                reject("too_large", f"{size} bytes")
            head = _fetch(stream, size, 0, min(size, HEADER_BYTES))
            if (start := _find_data_set(head)) is not None:
                return _read_dicom(stream, size, head, start, views, chest_only)
            if head.startswith((PNG, JPEG)):
                return read_picture(head + _fetch(stream, size, len(head), size))
            return Rejected("not_an_image", f"{size} bytes, no signature of DICOM, PNG or JPEG")
        except Rejection as rejection:
            return Rejected(*rejection.args)
        except MemoryError:
            return Rejected("too_large", "needs more memory than there is")
        except Exception as error:  # a message might quote the header: only its class is told
            return Rejected("corrupt_header", type(error).__name__)


def _io(operation: Callable[..., Result], *args: int) -> Result:
    """Calls a method of the stream: what it raises is the file system's failure, not the film's."""
    try:
        return operation(*args)
    except MemoryError:
        raise
    except Exception as error:
        reject("unreadable", type(error).__name__)


def _fetch(stream: io.IOBase, size: int, start: int, stop: int) -> bytes:
    """Bytes of a file of `size` bytes.

    A place outside it was computed from what the file says: the film is rejected. Bytes within it
    that do not come are the file system's failure: the film is tried again.
    """
    if not 0 <= start <= stop <= size:
        reject("truncated", f"bytes {start} to {stop} of a file of {size}")
    _io(stream.seek, start)
    data = _io(stream.read, stop - start)
    if len(data) < stop - start:
        reject("unreadable", f"{len(data)} bytes where {stop - start} should be")
    return data


def _find_data_set(head: bytes) -> int | None:
    """Where the first element of a DICOM file stands: behind the preamble, which some leave out."""
    for start in (132, 4):
        if head[start - 4 : start] == b"DICM":
            return start
    return 0 if _guess_syntax(head, 0, groups=(0x02, 0x08)) else None


def _guess_syntax(head: bytes, start: int, groups: tuple[int, ...]) -> str:
    """The transfer syntax of a data set's first element, at `start`, as pydicom guesses it.

    It is "" where no element of these groups stands there.
    """
    if len(head) < start + 16:
        return ""
    tag, vr = head[start : start + 4], head[start + 4 : start + 6].decode("latin-1")
    if vr in STANDARD_VR:
        little, big = (struct.unpack(f"{order}H", tag[:2])[0] in groups for order in "<>")
        return pixel_data.EXPLICIT if little else pixel_data.BIG if big else ""
    group, _, length = struct.unpack_from("<HHI", head, start)
    following = head[start + 8 + length : start + 12 + length]
    ordered = len(following) == 4 and struct.unpack("<HH", following) > struct.unpack("<HH", tag)
    return pixel_data.IMPLICIT if group in groups and length <= 1024 and ordered else ""


def _read_dicom(
    stream: io.IOBase,
    size: int,
    head: bytes,
    start: int,
    views: tuple[str, ...] | None,
    chest_only: bool,
) -> Film | Skipped:
    buffer = io.BytesIO(head)
    buffer.seek(start)
    meta = read_dataset(
        buffer, False, True, stop_when=lambda tag, *_: tag.group != 2, specific_tags=_WANTED
    )
    start = buffer.tell()
    syntax = dicom_header.get_text(meta, "TransferSyntaxUID")
    syntax = syntax or _guess_syntax(head, start, groups=(0x08,))
    if syntax not in pixel_data.SYNTAXES:
        standard = re.fullmatch(r"1\.2\.840\.10008\.[0-9.]{1,40}", syntax)
        reject("unsupported_syntax", syntax if standard else "none, private or malformed")
    if syntax == pixel_data.DEFLATED:
        head = _inflate(_fetch(stream, size, start, size))
        stream, size, start = io.BytesIO(head), len(head), 0
    try:
        header, element = _parse(head, start, syntax)
    except Rejection:
        if len(head) == size:
            raise
        header, element = _parse(_fetch(stream, size, 0, size), start, syntax)

    view = known_view(dicom_header.get_text(header, "ViewPosition"), views)
    if views is not None and view and view not in views:
        return Skipped("view", view)
    not_chest = dicom_header.get_other_than_chest(header)
    if chest_only and not_chest:
        return Skipped(*not_chest)

    layout = dicom_header.get_layout(header)
    stop = size if element.length == pixel_data.UNDEFINED else element.start + element.length
    value = _fetch(stream, size, element.start, min(size, stop))
    pixels = pixel_data.decode(value, element, syntax, layout)
    meaning = dicom_header.get_meaning(header, layout)
    return Film(pixels=pixels, view_position=view or None, not_chest=not_chest, **meaning)


def _inflate(data: bytes) -> bytes:
    """Undoes the deflated transfer syntax, with a bound; as far as it goes where the end is cut."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, MAX_FILE_BYTES)
    except zlib.error as error:
        reject("corrupt_header", f"deflated data set: {type(error).__name__}")
    if len(plain) == MAX_FILE_BYTES and not inflater.eof:
        reject("too_large", f"deflated data set of {len(data)} bytes")
    return plain


def _parse(data: bytes, start: int, syntax: str) -> tuple[Dataset, Element]:
    """Reads the wanted attributes of a data set up to its pixel data."""
    buffer = io.BytesIO(data)
    buffer.seek(start)
    found: dict[str, tuple] = {}

    def at_pixel_data(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in _PIXEL_DATA:
            found["pixels"] = tag, Element(buffer.tell(), length, vr == "OW")
        return tag in _PIXEL_DATA

    try:
        header = read_dataset(
            buffer,
            is_implicit_VR=syntax == pixel_data.IMPLICIT,
            is_little_endian=syntax != pixel_data.BIG,
            stop_when=at_pixel_data,
            specific_tags=_WANTED,
        )
    except (EOFError, struct.error):  # the data end within an element
        found.clear()
    except Exception as error:
        reject("corrupt_header", type(error).__name__)
    if not found:
        reject("no_pixel_data", f"no pixel data in {len(data)} bytes")
    tag, element = found["pixels"]
    if tag != Tag("PixelData"):
        reject("unsupported_depth", "floating point pixel data")
    return header, element
