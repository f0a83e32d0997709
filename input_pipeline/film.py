"""What a film is once its file has been read, and how a file that gives no film says why."""

import dataclasses
from collections.abc import Collection
from typing import NoReturn

import numpy as np
from jaxtyping import Integer, UInt16

MAX_PIXELS = 1 << 26  # four times the largest X-ray detector; stitched whole-leg films still fit
MAX_FILE_BYTES = 1 << 30

# Values of ViewPosition that are printed and written: the Defined Terms of PS3.3 C.8.1.1 (CR), and
# those of MIMIC-CXR. Anything else may be free text about a patient.
VIEWS = frozenset(
    "AP,PA,LL,RL,LLD,RLD,LLO,RLO,LATERAL,AP AXIAL,AP LLD,AP RLD,PA LLD,PA RLD,SWIMMERS,"
    "XTABLE LATERAL,LPO,RPO,LAO,RAO".split(",")
)
OTHER_VIEW = "other"

REASONS = {
    "unreadable": "the file system failed to deliver the file",
    "not_a_file": "a pipe, a socket or a device, from which nothing is read",
    "not_an_image": "neither DICOM (part 10), PNG nor JPEG",
    "corrupt_header": "an attribute is missing, malformed or contradicts another",
    "no_pixel_data": "a DICOM without an image, or cut before it",
    "truncated": "the file ends before its image does",
    "colour": "more than grey values",
    "multi_frame": "more than one frame",
    "zero_size": "no rows or no columns",
    "too_large": f"more than {MAX_PIXELS:,} pixels or {MAX_FILE_BYTES:,} bytes",
    "unsupported_syntax": "a transfer syntax or JPEG process that is not read here",
    "unsupported_depth": "not 8 or 16 bits allocated, or bits stored elsewhere than at the bottom",
    "corrupt_pixels": "pixel data that do not decode, or not to the size in the header",
    "turned": "a PNG whose EXIF orientation says that it lies on its side or mirrored",
}


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A file that gives no film: `reason` is a key of `REASONS`, `detail` is for a human."""

    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A sound film that was not asked for: reason "view", and its `known_view` as detail."""

    reason: str
    detail: str


@dataclasses.dataclass(frozen=True, eq=False)
class Lut:
    """A DICOM lookup table (PS3.3 C.11.1.1): input `first + i` gives `values[i]`, ends extend."""

    values: UInt16[np.ndarray, "entries"]
    first: int
    bits: int  # values lie in 0 ... 2 ** bits - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Film:
    """Stored values and what the header says of their meaning; defaults are those of a PNG."""

    pixels: Integer[np.ndarray, "height width"]  # uint8, uint16, int8 or int16
    bits_stored: int
    photometric: str = "MONOCHROME2"  # or MONOCHROME1: the smallest value is white
    rescale: tuple[float, float] | None = None  # slope, intercept
    modality_lut: Lut | None = None  # takes the place of rescale
    window_centers: tuple[float, ...] = ()  # as many as the header has; the first counts
    window_widths: tuple[float, ...] = ()
    voi_function: str = "LINEAR"  # what the window means: LINEAR, LINEAR_EXACT or SIGMOID
    voi_lut: Lut | None = None  # an alternative to the window
    presentation_lut_shape: str = ""  # "", IDENTITY or INVERSE
    view_position: str | None = None  # a `known_view`; None: not said


def known_view(text: str, asked: Collection[str] | None = None) -> str:
    """A ViewPosition as it may be repeated: in capitals if it is of `VIEWS`, else `OTHER_VIEW`.

    Args:
        text: of a header or a table; "" stays "".
        asked: further codes that the user named.
    """
    view = " ".join(text.upper().split())
    return view if not view or view in VIEWS or view in (asked or ()) else OTHER_VIEW


class Rejection(Exception):
    """Carries (reason, detail) of a `Rejected` up to `read_film`."""


def reject(reason: str, detail: str) -> NoReturn:
    """Gives a file up: raises `Rejection`."""
    raise Rejection(reason, detail)


def check_size(rows: int, columns: int) -> None:
    """Refuses an image of a size that we cannot hold; to be asked before anything is allocated."""
    if rows * columns == 0:
        reject("zero_size", f"{rows} x {columns}")
    if rows * columns > MAX_PIXELS:
        reject("too_large", f"{rows} x {columns} pixels")
