"""A film's file -> stored pixel values and the few header fields we need; here from DICOM.

Bad content never raises and is never guessed at: it becomes a `Rejected` with one of `REASONS`.
Only the attributes of `TAGS` are read, and their raw bytes are parsed here, so that no patient
attribute is ever decoded, kept or quoted. Details name tags, sizes, bit depths and standard UIDs.
"""

import functools
import io
import logging
import re
import warnings
import zlib

import numpy as np
from jaxtyping import UInt16
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag

from input_pipeline import pixel_data
from input_pipeline.film import (
    MAX_FILE_BYTES,
    Film,
    Lut,
    Rejected,
    Rejection,
    Skipped,
    check_size,
    reject,
)
from input_pipeline.picture import read_picture
from input_pipeline.pixel_data import Element, Layout

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its messages quote header values

_HEADER_BYTES = 1 << 16  # read first; MIMIC-CXR headers take some 10 kB, pixels of laterals 15 MB

TAGS = {
    keyword: Tag(keyword)
    for keyword in (
        "SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns BitsAllocated "
        "BitsStored HighBit PixelRepresentation ViewPosition RescaleIntercept RescaleSlope "
        "WindowCenter WindowWidth VOILUTFunction ModalityLUTSequence VOILUTSequence "
        "LUTDescriptor LUTData PresentationLUTShape TransferSyntaxUID"
    ).split()
}
_WANTED = list(TAGS.values())
_PIXEL_DATA = {Tag("PixelData"), Tag("FloatPixelData"), Tag("DoubleFloatPixelData")}
_COLOUR = re.compile(r"RGB|PALETTE COLOR|YBR_[A-Z0-9_]{1,12}|HSV|ARGB|CMYK|XYB")
_VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def read_film(
    stream: io.IOBase, *, views: tuple[str, ...] | None = None
) -> Film | Skipped | Rejected:
    """Reads one film, whatever the file's name says: its first bytes tell its type.

    Args:
        stream: an open, seekable file, local or remote. Of a film that is dropped by its view only
            the header is read.
        views: keep a DICOM whose ViewPosition is one of these, absent or empty; None: keep all.

    Returns:
        The film, or why there is none. Content never raises. Not for several threads at once: it
        silences warnings (which quote header values) for the time of the call.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            size = _io(stream.seek, 0, io.SEEK_END)
            if size > MAX_FILE_BYTES:
                reject("too_large", f"{size} bytes")
            head = _fetch(stream, 0, min(size, _HEADER_BYTES))
            if head[128:132] == b"DICM":
                return _read_dicom(stream, size, head, views)
            if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
                return read_picture(head + _fetch(stream, len(head), size))
            return Rejected("not_an_image", f"{size} bytes, no signature of DICOM, PNG or JPEG")
        except Rejection as rejection:
            return Rejected(*rejection.args)
        except Exception as error:  # a message might quote the header: only its class is told
            return Rejected("corrupt_header", type(error).__name__)


def _io(operation, *args):
    """Calls a method of the stream: what it raises is the file system's failure, not the film's."""
    try:
        return operation(*args)
    except Exception as error:
        reject("unreadable", type(error).__name__)


def _fetch(stream: io.IOBase, start: int, stop: int) -> bytes:
    _io(stream.seek, start)
    data = _io(stream.read, stop - start)
    if len(data) < stop - start:
        reject("unreadable", f"{len(data)} bytes where {stop - start} should be")
    return data


def _read_dicom(
    stream: io.IOBase, size: int, head: bytes, views: tuple[str, ...] | None
) -> Film | Skipped:
    buffer = io.BytesIO(head)
    buffer.seek(132)
    meta = read_dataset(
        buffer, False, True, stop_when=lambda tag, *_: tag.group != 2, specific_tags=_WANTED
    )
    syntax = _text(meta, "TransferSyntaxUID")
    if syntax not in pixel_data.SYNTAXES:
        standard = re.fullmatch(r"1\.2\.840\.10008\.[0-9.]{1,40}", syntax)
        reject("unsupported_syntax", syntax if standard else "none, private or malformed")
    start = buffer.tell()
    if syntax == pixel_data.DEFLATED:
        head = _inflate(_fetch(stream, start, size))
        stream, size, start = io.BytesIO(head), len(head), 0
    try:
        header, element = _parse(head, start, syntax)
    except Rejection:
        if len(head) == size:
            raise
        header, element = _parse(_fetch(stream, 0, size), start, syntax)

    view = _text(header, "ViewPosition").upper()
    if not re.fullmatch(r"[A-Z0-9 _/-]{0,16}", view):  # no code string: not to be repeated
        view = "MALFORMED"
    if views is not None and view and view not in views:
        return Skipped("view", view)

    layout = _layout(header)
    slope, intercept = _numbers(header, "RescaleSlope"), _numbers(header, "RescaleIntercept")
    rescale = (*slope, *intercept) if slope and intercept else None
    if rescale and (len(rescale) != 2 or rescale[0] == 0):
        reject("corrupt_header", "RescaleSlope and RescaleIntercept are no linear function")
    centers, widths = _numbers(header, "WindowCenter"), _numbers(header, "WindowWidth")
    voi_function = _text(header, "VOILUTFunction").upper() or "LINEAR"
    if centers and widths:
        if voi_function not in _VOI_FUNCTIONS:
            reject("corrupt_header", f"VOILUTFunction is none of {', '.join(_VOI_FUNCTIONS)}")
        if widths[0] <= 0 or (voi_function == "LINEAR" and widths[0] < 1):  # PS3.3 C.11.2.1.2
            reject("corrupt_header", f"WindowWidth is too small for {voi_function}")
    else:
        centers = widths = ()
    shape = _text(header, "PresentationLUTShape")
    modality_lut = _lut(header, "ModalityLUTSequence", signed=layout.signed)
    negative = layout.signed or (rescale is not None and min(rescale) < 0)
    return Film(
        pixels=pixel_data.decode(functools.partial(_fetch, stream), size, element, syntax, layout),
        bits_stored=layout.stored,
        photometric=_text(header, "PhotometricInterpretation"),
        rescale=rescale,
        modality_lut=modality_lut,
        window_centers=centers,
        window_widths=widths,
        voi_function=voi_function,
        voi_lut=_lut(header, "VOILUTSequence", signed=negative and modality_lut is None),
        presentation_lut_shape=shape if shape in ("IDENTITY", "INVERSE") else "",
        view_position=view or None,
    )


def _inflate(data: bytes) -> bytes:
    """Undoes the deflated transfer syntax, with a bound."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, MAX_FILE_BYTES)
    except zlib.error as error:
        reject("corrupt_header", f"deflated data set: {type(error).__name__}")
    if not inflater.eof:
        bomb = len(plain) == MAX_FILE_BYTES
        reject("too_large" if bomb else "truncated", f"deflated data set of {len(data)} bytes")
    return plain


def _parse(data: bytes, start: int, syntax: str) -> tuple[Dataset, Element]:
    """Reads the wanted attributes of a data set up to its pixel data."""
    buffer = io.BytesIO(data)
    buffer.seek(start)
    found: dict[str, tuple] = {}

    def at_pixel_data(tag, vr, length) -> bool:
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
    except Exception as error:
        reject("corrupt_header", type(error).__name__)
    if not found:
        reject("no_pixel_data", f"no pixel data in {len(data)} bytes")
    tag, element = found["pixels"]
    if tag != Tag("PixelData"):
        reject("unsupported_depth", "floating point pixel data")
    return header, element


def _raw(header: Dataset, keyword: str) -> bytes:
    """An attribute's value as it stands in the file; empty where it is absent."""
    if TAGS[keyword] not in header:
        return b""
    value = header.get_item(TAGS[keyword]).value or b""
    if not isinstance(value, bytes):
        reject("corrupt_header", f"{keyword} is a sequence")
    return value


def _text(header: Dataset, keyword: str) -> str:
    return _raw(header, keyword).decode("ascii", "replace").strip(" \0")


def _words(header: Dataset, keyword: str) -> UInt16[np.ndarray, "n"]:
    """A binary attribute as 16-bit words; an odd last byte is padding."""
    raw = _raw(header, keyword)
    little = header.original_encoding[1]
    return np.frombuffer(raw, "<u2" if little else ">u2", len(raw) // 2).astype(np.uint16)


def _integer(header: Dataset, keyword: str) -> int:
    words = _words(header, keyword)
    if len(words) != 1:
        reject("corrupt_header", f"{keyword} has {len(words)} values, expected 1")
    return int(words[0])


def _numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """Decimal strings. Beyond 1e9 nothing is meant as a grey value, and arithmetic degrades."""
    text = _text(header, keyword)
    try:
        values = tuple(float(part) for part in text.split("\\")) if text else ()
    except ValueError:
        values = (np.inf,)
    if "_" in text or not all(abs(value) <= 1e9 for value in values):
        reject("corrupt_header", f"{keyword} is not a usable number")
    return values


def _lut(header: Dataset, keyword: str, signed: bool) -> Lut | None:
    """The first table of a LUT sequence (PS3.3 C.11.1.1, C.11.2.1.1).

    Args:
        header: the data set.
        keyword: of the sequence.
        signed: whether `first` is signed where the file (implicit VR) does not say so itself.
    """
    items = header[TAGS[keyword]].value if TAGS[keyword] in header else None
    if not items:
        return None
    descriptor = _words(items[0], "LUTDescriptor")
    if len(descriptor) != 3 or not 8 <= descriptor[2] <= 16:
        reject("corrupt_header", f"LUTDescriptor of {keyword} is malformed")
    entries, first, bits = (int(word) for word in descriptor)
    entries = entries or 1 << 16
    vr = items[0].get_item(TAGS["LUTDescriptor"]).VR
    if first >= 1 << 15 and (vr == "SS" or (signed and vr != "US")):
        first -= 1 << 16
    values = _words(items[0], "LUTData")
    if bits == 8 and len(values) == (entries + 1) // 2 and entries > 1:  # packed in bytes
        values = np.frombuffer(_raw(items[0], "LUTData"), np.uint8).astype(np.uint16)
    if len(values) < entries or values[:entries].max() >> bits:
        reject("corrupt_header", f"LUTData of {keyword} contradicts its LUTDescriptor")
    return Lut(values[:entries], first, bits)


def _layout(header: Dataset) -> Layout:
    """Checks that the header describes one grey frame that we can hold."""
    photometric = _text(header, "PhotometricInterpretation")
    if _COLOUR.fullmatch(photometric):
        reject("colour", photometric)
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        reject("corrupt_header", "PhotometricInterpretation is missing or unknown")
    if (samples := _integer(header, "SamplesPerPixel")) != 1:
        reject("colour" if samples else "corrupt_header", f"{samples} samples per pixel")
    frames = _numbers(header, "NumberOfFrames") or (1,)
    if frames[0] > 1:
        reject("multi_frame", f"{frames[0]:.0f} frames")
    if frames not in ((0,), (1,)):  # 0 is written by some for "no multi-frame image"
        reject("corrupt_header", "NumberOfFrames is not a count")
    rows, columns = _integer(header, "Rows"), _integer(header, "Columns")
    check_size(rows, columns)
    allocated, stored = _integer(header, "BitsAllocated"), _integer(header, "BitsStored")
    high = _integer(header, "HighBit") if _raw(header, "HighBit") else stored - 1
    if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
        reject("unsupported_depth", f"{stored} bits up to bit {high} in {allocated}")
    if (representation := _integer(header, "PixelRepresentation")) > 1:
        reject("corrupt_header", f"PixelRepresentation is {representation}, expected 0 or 1")
    return Layout(rows, columns, allocated, stored, signed=representation == 1)
