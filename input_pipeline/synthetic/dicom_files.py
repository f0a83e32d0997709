"""Drawn films as DICOM files, in every technique and transfer syntax that films come in."""

import io
from collections.abc import Callable, Mapping
from typing import NamedTuple

import imagecodecs
import numpy as np
import pydicom
from jaxtyping import Integer
from pydicom import encaps, uid

from .canvas import Film


def _rle(stored: np.ndarray) -> bytes:
    """One frame in DICOM's run-length coding: byte planes, high byte first (PS3.5, annex G)."""
    planes = stored.astype(stored.dtype.newbyteorder(">")).view(np.uint8)
    planes = planes.reshape(*stored.shape, -1)
    segments = [
        b"".join(imagecodecs.packbits_encode(np.ascontiguousarray(row)) for row in planes[..., k])
        for k in range(planes.shape[-1])
    ]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = np.cumsum([64, *map(len, segments[:-1])])
    header = np.zeros(16, "<u4")
    header[: len(segments) + 1] = [len(segments), *offsets]
    return header.tobytes() + b"".join(segments)


# name -> transfer syntax, and how it compresses a frame of so many bits (None: it does not)
SYNTAXES: dict[str, tuple[uid.UID, Callable[[np.ndarray, int], bytes | bytearray] | None]] = {
    "implicit": (uid.ImplicitVRLittleEndian, None),
    "explicit": (uid.ExplicitVRLittleEndian, None),
    "big endian": (uid.ExplicitVRBigEndian, None),
    "deflated": (uid.DeflatedExplicitVRLittleEndian, None),
    "RLE": (uid.RLELossless, lambda stored, bits: _rle(stored)),
    "JPEG": (uid.JPEGBaseline8Bit, lambda stored, bits: imagecodecs.jpeg8_encode(stored, level=95)),
    "JPEG lossless": (
        uid.JPEGLosslessSV1,
        lambda stored, bits: imagecodecs.jpeg8_encode(
            stored, lossless=True, predictor=1, bitspersample=bits
        ),
    ),
    "JPEG-LS": (uid.JPEGLSLossless, lambda stored, bits: imagecodecs.jpegls_encode(stored)),
    "JPEG 2000": (
        uid.JPEG2000Lossless,
        lambda stored, bits: imagecodecs.jpeg2k_encode(
            stored, level=0, reversible=True, codecformat="j2k", bitspersample=bits, numthreads=1
        ),
    ),
}


class Technique(NamedTuple):
    """How a film is stored."""

    syntax: str  # a name in `SYNTAXES`
    modality: str  # `CR` or `DX`
    bits: int  # stored bits, in one byte if 8, else in two
    signed: bool  # whether stored values are two's complement
    photometric: str  # `MONOCHROME1` (low values are white) or `MONOCHROME2`
    shape: str  # PresentationLUTShape, or empty
    # How the shown range is given: `window`, `windows` (two, the first is the right one), `exact`
    # and `sigmoid` (window functions), `lut`, or empty: the whole range is shown.
    voi: str
    slope: float  # from stored to modality values
    intercept: float
    rescale: str  # RescaleType; if empty there is no rescale
    view: str  # ViewPosition, or empty

    @property
    def lowest(self) -> int:
        """The smallest value that can be stored."""
        return -(2 ** (self.bits - 1)) if self.signed else 0


# Dealt to the frontal films in turn. Combinations as they occur in real chest films
# (openi_header_profiles), spread over all transfer syntaxes and bit depths.
_M1, _M2, _ID, _INV = "MONOCHROME1", "MONOCHROME2", "IDENTITY", "INVERSE"
TECHNIQUES = tuple(
    Technique(*row)
    for row in (
        ("explicit", "DX", 14, False, _M2, _ID, "window", 1, 0, "US", "PA"),
        ("implicit", "CR", 12, False, _M1, "", "lut", 1, 0, "LOG_E REL", "PA"),
        ("explicit", "CR", 15, False, _M1, _INV, "window", 1, 0, "P-VALUES", "AP"),
        ("JPEG lossless", "DX", 14, False, _M2, _ID, "windows", 1, 0, "US", "PA"),
        ("JPEG-LS", "CR", 12, False, _M2, _ID, "window", 1, 0, "", ""),
        ("JPEG 2000", "DX", 16, False, _M2, _ID, "window", 1, 0, "US", "PA"),
        ("RLE", "CR", 10, False, _M1, "", "", 1, 0, "US", "AP"),
        ("deflated", "CR", 12, False, _M2, _ID, "windows", 1, 0, "", "AP"),
        ("big endian", "CR", 12, False, _M1, "", "window", 1, 0, "", "AP"),
        ("JPEG", "CR", 8, False, _M2, _ID, "", 1, 0, "", "PA"),
        ("explicit", "DX", 14, False, _M2, _ID, "lut", 1, 0, "US", "AP"),
        ("implicit", "DX", 16, True, _M2, _ID, "window", 1, 0, "US", "PA"),
        ("JPEG lossless", "CR", 15, False, _M1, _INV, "window", 1, 0, "P-VALUES", "AP"),
        ("JPEG-LS", "DX", 16, False, _M1, _INV, "sigmoid", 1, 0, "P-VALUES", "PA"),
        ("JPEG 2000", "CR", 12, False, _M1, "", "lut", 1, 0, "LOG_E REL", "AP"),
        ("RLE", "DX", 14, False, _M2, _ID, "exact", 1, 0, "US", "PA"),
        ("explicit", "CR", 12, False, _M2, "", "window", 2, -1024, "US", ""),
        ("big endian", "DX", 16, False, _M2, _ID, "windows", 1, 0, "US", "PA"),
        ("JPEG", "CR", 8, False, _M1, _INV, "window", 1, 0, "", "AP"),
        ("deflated", "CR", 15, False, _M2, _ID, "window", 0.5, 100, "US", "PA"),
        ("implicit", "CR", 8, False, _M2, "", "", 1, 0, "", ""),
        ("explicit", "CR", 10, False, _M1, "", "", 1, 0, "US", "AP"),
        ("RLE", "CR", 8, False, _M1, "", "", 1, 0, "", "AP"),
        ("JPEG-LS", "CR", 10, False, _M2, _ID, "exact", 1, 0, "US", "PA"),
    )
)
_SOP_CLASSES = {
    "CR": uid.ComputedRadiographyImageStorage,
    "DX": uid.DigitalXRayImageStorageForPresentation,
}
_SHOWN = (0.04, 0.94)  # the part of a film's range that is shown: darker is black, lighter white


def stored_values(film: Film, technique: Technique) -> Integer[np.ndarray, "height width"]:
    """The integers that a film in [0, 1] is stored as, of 8 or 16 bits, signed or not."""
    if not technique.voi:
        film = ((film - _SHOWN[0]) / (_SHOWN[1] - _SHOWN[0])).clip(0, 1)
    if technique.photometric == _M1:
        film = 1 - film
    stored = np.rint(film * (2**technique.bits - 1)) + technique.lowest
    return stored.astype(f"{'i' if technique.signed else 'u'}{1 if technique.bits == 8 else 2}")


def _voi(technique: Technique) -> dict[str, object]:
    """The header fields that select `_SHOWN` out of the modality values."""
    top = 2**technique.bits - 1
    shown = _SHOWN if technique.photometric == _M2 else (1 - _SHOWN[1], 1 - _SHOWN[0])
    low, high = (
        technique.slope * (technique.lowest + part * top) + technique.intercept for part in shown
    )
    center, width = round((low + high) / 2, 1), round(high - low, 1)
    if technique.voi == "lut":
        ramp = ((np.arange(top + 1) - low) / (high - low)).clip(0, 1)
        table = pydicom.Dataset()
        table.LUTDescriptor = [top + 1, 0, 16]
        curve = np.rint(65535 * ramp**2 * (3 - 2 * ramp))
        table.add_new("LUTData", "OW", curve.astype("<u2").tobytes())  # not for big endian
        return {"VOILUTSequence": [table]}
    window = {"WindowCenter": center + 0.5, "WindowWidth": width + 1}  # LINEAR: PS3.3, C.11.2.1.2
    exact = {"WindowCenter": center, "WindowWidth": width}
    return {
        "": {},
        "window": window,
        "windows": {
            "WindowCenter": [center + 0.5, center],
            "WindowWidth": [width + 1, 3 * width],
            "WindowCenterWidthExplanation": ["NORMAL", "SOFTER"],
        },
        "exact": exact | {"VOILUTFunction": "LINEAR_EXACT"},
        "sigmoid": exact | {"VOILUTFunction": "SIGMOID"},
    }[technique.voi]


def dicom_bytes(film: Film, technique: Technique, attributes: Mapping[str, object]) -> bytes:
    """A film in [0, 1] as a DICOM file.

    `attributes` are further header fields by keyword, `SOPInstanceUID` among them.
    """
    stored = stored_values(film, technique)
    syntax, compress = SYNTAXES[technique.syntax]
    if compress:
        pixels = encaps.encapsulate([bytes(compress(stored, technique.bits))])
    else:
        dtype = stored.dtype.newbyteorder(">" if syntax == uid.ExplicitVRBigEndian else "<")
        pixels = stored.astype(dtype).tobytes()
        pixels += b"\0" * (len(pixels) % 2)
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    fields = {
        "SOPClassUID": _SOP_CLASSES[technique.modality],
        "Modality": technique.modality,
        "PresentationIntentType": "FOR PRESENTATION" if technique.modality == "DX" else None,
        "Manufacturer": "cxr-embeddings, drawn film",
        "BodyPartExamined": "CHEST",
        "ViewPosition": technique.view,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": technique.photometric,
        "Rows": film.shape[0],
        "Columns": film.shape[1],
        "BitsAllocated": 8 * stored.itemsize,
        "BitsStored": technique.bits,
        "HighBit": technique.bits - 1,
        "PixelRepresentation": int(technique.signed),
        "PresentationLUTShape": technique.shape or None,
        "RescaleType": technique.rescale or None,
        "RescaleSlope": technique.slope if technique.rescale else None,
        "RescaleIntercept": technique.intercept if technique.rescale else None,
        "LossyImageCompression": "01" if technique.syntax == "JPEG" else "00",
        **_voi(technique),
        **attributes,
    }
    for keyword, value in fields.items():
        if value is not None:
            setattr(header, keyword, value)
    header.add_new("PixelData", "OB" if compress or stored.itemsize == 1 else "OW", pixels)
    header["PixelData"].is_undefined_length = compress is not None
    file = io.BytesIO()
    pydicom.dcmwrite(file, header, enforce_file_format=True)
    return file.getvalue()
