"""The attributes of a DICOM data set that say how its pixels are stored and what they mean.

Raw bytes are parsed here, so that no patient attribute is ever decoded, kept or quoted.
"""

import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt16
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from .chest import other_than_chest
from .film import Lut, Rejection, check_size, modality_range, reject
from .intensity import VOI_FUNCTIONS
from .pixel_data import Layout

TAGS = {
    keyword: Tag(keyword)
    for keyword in (
        "SamplesPerPixel PlanarConfiguration PhotometricInterpretation NumberOfFrames "
        "Rows Columns BitsAllocated "
        "BitsStored HighBit PixelRepresentation ViewPosition RescaleIntercept RescaleSlope "
        "Modality BodyPartExamined "
        "WindowCenter WindowWidth VOILUTFunction ModalityLUTSequence VOILUTSequence "
        "LUTDescriptor LUTData PresentationLUTShape TransferSyntaxUID PixelPaddingValue "
        "PixelPaddingRangeLimit PixelAspectRatio PixelSpacing ImagerPixelSpacing "
        "NominalScannedPixelSpacing"
    ).split()
}
_THREE_SAMPLES = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_COLOUR = re.compile(r"RGB|PALETTE COLOR|YBR_[A-Z0-9_]{1,12}|HSV|ARGB|CMYK|XYB")
_SPACINGS = ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


def get_meaning(header: Dataset, layout: Layout) -> dict[str, Any]:
    """What the pixels mean: fields of a `Film`.

    Nothing is rejected here: what cannot be used is said in `problems`, for the rules that use it.
    """
    fields: dict[str, Any] = {"bits_stored": layout.stored}
    problems: dict[str, str] = {}

    def read(name: str, reader: Callable[..., Any], *arguments: Any) -> None:
        try:
            fields[name] = reader(header, *arguments)
        except Rejection as rejection:
            problems[name] = rejection.args[1]
        except Exception as error:  # a message might quote the header
            problems[name] = f"{name}: {type(error).__name__}"

    read("pixel_aspect", _pixel_aspect)
    if layout.colour:  # grey all the same; what makes grey values of MONOCHROME is not for these
        return fields | {"problems": problems}
    read("photometric", get_text, "PhotometricInterpretation")
    read("rescale", _rescale)
    read("modality_lut", _lut, "ModalityLUTSequence", layout.signed)
    transform = fields.get("rescale"), fields.get("modality_lut")
    low, _ = modality_range(layout.stored, layout.signed, *transform)
    read("voi_lut", _lut, "VOILUTSequence", low < 0)
    read("window_centers", _windows)
    fields["window_centers"], fields["window_widths"] = fields.get("window_centers", ((), ()))
    read("voi_function", _voi_function)
    read("presentation_lut_shape", _presentation_lut_shape)
    read("padding", _padding, layout.signed)
    return fields | {"problems": problems}


def _rescale(header: Dataset) -> tuple[float, float] | None:
    names = ("RescaleSlope", "RescaleIntercept")
    if not all(get_text(header, name) for name in names):
        return None
    slope, intercept = (get_numbers(header, name) for name in names)
    if len(slope) != 1 or len(intercept) != 1 or slope[0] == 0:
        reject("corrupt_header", "RescaleSlope and RescaleIntercept are not a linear function")
    return slope[0], intercept[0]


def _windows(header: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centres and widths from the first window on that is given; only that one must be usable."""
    names = ("WindowCenter", "WindowWidth")
    centers, widths = (
        [part.strip(" \0") for part in get_text(header, name).split("\\")] for name in names
    )
    while centers and widths and not (centers[0] and widths[0]):
        del centers[0], widths[0]
    if not centers or not widths:
        return (), ()
    numbers = tuple(tuple(map(_number, parts)) for parts in (centers, widths))
    for name, values in zip(names, numbers, strict=True):
        if np.isnan(values[0]):
            reject("corrupt_header", f"{name} is not a usable number")
    return numbers[0], numbers[1]


def _voi_function(header: Dataset) -> str:
    function = get_text(header, "VOILUTFunction").upper() or "LINEAR"
    if function not in VOI_FUNCTIONS:
        reject("corrupt_header", f"VOILUTFunction is none of {', '.join(VOI_FUNCTIONS)}")
    return function


def _presentation_lut_shape(header: Dataset) -> str:
    shape = get_text(header, "PresentationLUTShape")
    return shape if shape in ("IDENTITY", "INVERSE") else ""


def _padding(header: Dataset, signed: bool) -> tuple[int, int] | None:
    """Pixel Padding Value and Range Limit, in order (PS3.3 C.7.5.1.1.2).

    Both are of the sign of Pixel Representation, whatever their VR. A value that is not one 16-bit
    number says nothing, and nor does a limit without a value.
    """
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        words = get_words(header, keyword).view(np.int16 if signed else np.uint16)
        is_binary = len(words) == 1 and header.get_item(TAGS[keyword]).VR not in ("IS", "DS")
        ends.append(words.item() if is_binary else None)
    value, limit = ends
    if value is None:
        return None
    return (value, value) if limit is None else (min(value, limit), max(value, limit))


def _pixel_aspect(header: Dataset) -> float:
    """Height of a pixel by its width (PS3.3 C.7.6.3.1.7, 10.7.1.3); 1 where nothing usable says it.

    Both the ratio and the spacings give the vertical first. Beyond 1 to 10 it is a mistake.
    """
    for keyword in _SPACINGS:
        pair = [_number(part) for part in get_text(header, keyword).split("\\")]
        if len(pair) == 2 and min(pair) > 0 and 0.1 <= pair[0] / pair[1] <= 10:
            return pair[0] / pair[1]
    return 1.0


def get_bytes(header: Dataset, keyword: str) -> bytes:
    """An attribute's value as it stands in the file; empty where it is absent."""
    if TAGS[keyword] not in header:
        return b""
    value = header.get_item(TAGS[keyword]).value or b""
    if not isinstance(value, bytes):
        reject("corrupt_header", f"{keyword} is a sequence")
    return value


def get_text(header: Dataset, keyword: str) -> str:
    return get_bytes(header, keyword).decode("ascii", "replace").strip(" \0")


def get_other_than_chest(header: Dataset) -> tuple[str, str] | None:
    """As `other_than_chest`; a malformed attribute says nothing, and rejects no film."""
    try:
        return other_than_chest(get_text(header, "Modality"), get_text(header, "BodyPartExamined"))
    except Rejection:
        return None


def get_words(header: Dataset, keyword: str) -> UInt16[np.ndarray, " n"]:
    """A binary attribute as 16-bit words; an odd last byte is padding."""
    raw = get_bytes(header, keyword)
    little = header.original_encoding[1]
    return np.frombuffer(raw, "<u2" if little else ">u2", len(raw) // 2).astype(np.uint16)


def get_integer(header: Dataset, keyword: str) -> int:
    """A count, in whichever VR it is written; without a VR the length shows UL."""
    raw = get_bytes(header, keyword)
    vr = header.get_item(TAGS[keyword]).VR if raw else None
    if vr in ("IS", "DS") or (keyword == "NumberOfFrames" and vr in (None, "UN")):
        numbers = get_numbers(header, keyword)
    else:
        width = 4 if vr in ("UL", "SL") or (vr in (None, "UN") and len(raw) == 4) else 2
        order: Literal["little", "big"] = "little" if header.original_encoding[1] else "big"
        values = [raw[i : i + width] for i in range(0, len(raw) // width * width, width)]
        numbers = [int.from_bytes(x, order, signed=vr in ("SS", "SL")) for x in values]
    if len(numbers) != 1 or numbers[0] < 0 or numbers[0] % 1:
        found = "no count" if len(numbers) == 1 else f"{len(numbers)} values"
        reject("corrupt_header", f"{keyword} has {found}, expected 1")
    return int(numbers[0])


def _number(text: str) -> float:
    """A decimal string; nan where it is none. Beyond 1e9 nothing is meant as a grey value."""
    try:
        value = np.nan if "_" in text else float(text)
    except ValueError:
        return np.nan
    return value if abs(value) <= 1e9 else np.nan


def get_numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """Decimal strings, all of them usable."""
    text = get_text(header, keyword)
    values = tuple(map(_number, text.split("\\"))) if text else ()
    if np.isnan(values).any():
        reject("corrupt_header", f"{keyword} is not a usable number")
    return values


def _lut(header: Dataset, keyword: str, signed: bool) -> Lut | None:
    """The first table of a LUT sequence that is not empty (PS3.3 C.11.1.1, C.11.2.1.1).

    `signed` says whether `first` is so where the file (implicit VR) does not say it itself.
    """
    items = header[TAGS[keyword]].value if TAGS[keyword] in header else ()
    items = [i for i in items if get_bytes(i, "LUTDescriptor") or get_bytes(i, "LUTData")]
    if not items:
        return None
    descriptor = get_words(items[0], "LUTDescriptor")
    if len(descriptor) != 3 or not 8 <= descriptor[2] <= 16:
        reject("corrupt_header", f"LUTDescriptor of {keyword} is malformed")
    entries, first, bits = (int(word) for word in descriptor)
    entries = entries or 1 << 16
    vr = items[0].get_item(TAGS["LUTDescriptor"]).VR
    if first >= 1 << 15 and (vr == "SS" or (signed and vr != "US")):
        first -= 1 << 16
    values = get_words(items[0], "LUTData")
    if bits == 8 and len(values) == (entries + 1) // 2 and entries > 1:  # two entries to a word
        values = values.astype("<u2").view(np.uint8).astype(np.uint16)
    if len(values) < entries or values[:entries].max() >> bits:
        reject("corrupt_header", f"LUTData of {keyword} contradicts its LUTDescriptor")
    return Lut(values[:entries], first, bits)


def get_layout(header: Dataset) -> Layout:
    """Checks that the header describes one frame that we can hold; colours may turn out grey."""
    photometric = get_text(header, "PhotometricInterpretation")
    colour = photometric if photometric in _THREE_SAMPLES else ""
    if _COLOUR.fullmatch(photometric) and not colour:
        reject("colour", photometric)
    if not colour and photometric not in ("MONOCHROME1", "MONOCHROME2"):
        reject("corrupt_header", "PhotometricInterpretation is missing or unknown")
    if (samples := get_integer(header, "SamplesPerPixel")) != (3 if colour else 1):
        reject("corrupt_header" if colour else "colour", f"{samples} samples of {photometric}")
    planar = bool(colour and get_bytes(header, "PlanarConfiguration")[:2].strip(b"\0"))
    # 0 is written by some for "no multi-frame image"
    if get_bytes(header, "NumberOfFrames") and (n := get_integer(header, "NumberOfFrames")) > 1:
        reject("multi_frame", f"{n} frames")
    rows, columns = get_integer(header, "Rows"), get_integer(header, "Columns")
    check_size(rows, columns)
    allocated, stored = get_integer(header, "BitsAllocated"), get_integer(header, "BitsStored")
    high = get_integer(header, "HighBit") if get_bytes(header, "HighBit") else stored - 1
    if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
        reject("unsupported_depth", f"{stored} bits up to bit {high} in {allocated}")
    if (representation := get_integer(header, "PixelRepresentation")) > 1:
        reject("corrupt_header", f"PixelRepresentation is {representation}, expected 0 or 1")
    return Layout(rows, columns, allocated, stored, representation == 1, colour, planar)
