"""The attributes of a DICOM data set that say how its pixels are stored and what they mean.

Raw bytes are parsed here, so that no patient attribute is ever decoded, kept or quoted.
"""

import re
from typing import Any

import numpy as np
from jaxtyping import UInt16
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from input_pipeline.film import Lut, check_size, reject
from input_pipeline.pixel_data import Layout

TAGS = {
    keyword: Tag(keyword)
    for keyword in (
        "SamplesPerPixel PlanarConfiguration PhotometricInterpretation NumberOfFrames "
        "Rows Columns BitsAllocated "
        "BitsStored HighBit PixelRepresentation ViewPosition RescaleIntercept RescaleSlope "
        "WindowCenter WindowWidth VOILUTFunction ModalityLUTSequence VOILUTSequence "
        "LUTDescriptor LUTData PresentationLUTShape TransferSyntaxUID"
    ).split()
}
_THREE_SAMPLES = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_COLOUR = re.compile(r"RGB|PALETTE COLOR|YBR_[A-Z0-9_]{1,12}|HSV|ARGB|CMYK|XYB")
_VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def get_meaning(header: Dataset, layout: Layout) -> dict[str, Any]:
    """What the pixels mean: fields of a `Film`."""
    slope, intercept = get_numbers(header, "RescaleSlope"), get_numbers(header, "RescaleIntercept")
    rescale = (*slope, *intercept) if slope and intercept else None
    if rescale and (len(rescale) != 2 or rescale[0] == 0):
        reject("corrupt_header", "RescaleSlope and RescaleIntercept are no linear function")
    centers, widths = get_numbers(header, "WindowCenter"), get_numbers(header, "WindowWidth")
    voi_function = get_text(header, "VOILUTFunction").upper() or "LINEAR"
    if centers and widths:
        if voi_function not in _VOI_FUNCTIONS:
            reject("corrupt_header", f"VOILUTFunction is none of {', '.join(_VOI_FUNCTIONS)}")
        if widths[0] <= 0 or (voi_function == "LINEAR" and widths[0] < 1):  # PS3.3 C.11.2.1.2
            reject("corrupt_header", f"WindowWidth is too small for {voi_function}")
    else:
        centers = widths = ()
    shape = get_text(header, "PresentationLUTShape")
    modality_lut = get_lut(header, "ModalityLUTSequence", signed=layout.signed)
    negative = layout.signed or (rescale is not None and min(rescale) < 0)
    return dict(
        bits_stored=layout.stored,
        photometric=get_text(header, "PhotometricInterpretation"),
        rescale=rescale,
        modality_lut=modality_lut,
        window_centers=centers,
        window_widths=widths,
        voi_function=voi_function,
        voi_lut=get_lut(header, "VOILUTSequence", signed=negative and modality_lut is None),
        presentation_lut_shape=shape if shape in ("IDENTITY", "INVERSE") else "",
    )


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


def get_words(header: Dataset, keyword: str) -> UInt16[np.ndarray, "n"]:
    """A binary attribute as 16-bit words; an odd last byte is padding."""
    raw = get_bytes(header, keyword)
    little = header.original_encoding[1]
    return np.frombuffer(raw, "<u2" if little else ">u2", len(raw) // 2).astype(np.uint16)


def get_integer(header: Dataset, keyword: str) -> int:
    """A count: US by the standard; some write UL or IS, implicit VR shows it by the length."""
    raw = get_bytes(header, keyword)
    vr = header.get_item(TAGS[keyword]).VR if raw else None
    if vr in ("IS", "DS"):
        numbers = get_numbers(header, keyword)
    else:
        width = 4 if vr in ("UL", "SL") or (vr in (None, "UN") and len(raw) == 4) else 2
        order = "little" if header.original_encoding[1] else "big"
        values = [raw[i : i + width] for i in range(0, len(raw) // width * width, width)]
        numbers = [int.from_bytes(x, order, signed=vr in ("SS", "SL")) for x in values]
    if len(numbers) != 1 or numbers[0] < 0 or numbers[0] % 1:
        found = "no count" if len(numbers) == 1 else f"{len(numbers)} values"
        reject("corrupt_header", f"{keyword} has {found}, expected 1")
    return int(numbers[0])


def get_numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """Decimal strings. Beyond 1e9 nothing is meant as a grey value, and arithmetic degrades."""
    text = get_text(header, keyword)
    try:
        values = tuple(float(part) for part in text.split("\\")) if text else ()
    except ValueError:
        values = (np.inf,)
    if "_" in text or not all(abs(value) <= 1e9 for value in values):
        reject("corrupt_header", f"{keyword} is not a usable number")
    return values


def get_lut(header: Dataset, keyword: str, signed: bool) -> Lut | None:
    """The first table of a LUT sequence (PS3.3 C.11.1.1, C.11.2.1.1).

    Args:
        header: the data set.
        keyword: of the sequence.
        signed: whether `first` is signed where the file (implicit VR) does not say so itself.
    """
    items = header[TAGS[keyword]].value if TAGS[keyword] in header else None
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
    if bits == 8 and len(values) == (entries + 1) // 2 and entries > 1:  # packed in bytes
        values = np.frombuffer(get_bytes(items[0], "LUTData"), np.uint8).astype(np.uint16)
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
    frames = get_numbers(header, "NumberOfFrames") or (1,)
    if frames[0] > 1:
        reject("multi_frame", f"{frames[0]:.0f} frames")
    if frames not in ((0,), (1,)):  # 0 is written by some for "no multi-frame image"
        reject("corrupt_header", "NumberOfFrames is not a count")
    rows, columns = get_integer(header, "Rows"), get_integer(header, "Columns")
    check_size(rows, columns)
    allocated, stored = get_integer(header, "BitsAllocated"), get_integer(header, "BitsStored")
    high = get_integer(header, "HighBit") if get_bytes(header, "HighBit") else stored - 1
    if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
        reject("unsupported_depth", f"{stored} bits up to bit {high} in {allocated}")
    if (representation := get_integer(header, "PixelRepresentation")) > 1:
        reject("corrupt_header", f"PixelRepresentation is {representation}, expected 0 or 1")
    return Layout(rows, columns, allocated, stored, representation == 1, colour, planar)
