"""What a film is, before and after its file is read, and how a file without one says why."""

import dataclasses
import posixpath
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

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

REASONS = {
    "unreadable": "the file system failed to deliver the file",
    "not_a_file": "a pipe, a socket or a device: not read",
    "name_not_utf8": "its path is not UTF-8 text; tables of embeddings and labels are",
    "name_too_long": "the file of its embedding would have a name too long for the file system",
    "not_an_image": "neither DICOM, PNG, JPEG nor JPEG-LS",
    "corrupt_header": "an attribute is missing, malformed or contradicts another",
    "no_pixel_data": "a DICOM without an image, or cut before it",
    "truncated": "the file ends before its image does",
    "colour": "colours, not only grey values",
    "multi_frame": "more than one frame",
    "zero_size": "no rows or no columns",
    "too_large": f"more than {MAX_PIXELS:,} pixels or {MAX_FILE_BYTES:,} bytes",
    "unsupported_syntax": "a transfer syntax or JPEG process that is not read here",
    "unsupported_depth": "not 8 or 16 bits allocated, or the stored bits are not the lowest ones",
    "constant": "its pixels differ, but the preset makes one single grey of them all",
    "corrupt_pixels": "pixel data that do not decode, or not to the size in the header",
    "turned": "its EXIF orientation says that it is turned, but its preset does not turn films",
}
IMAGE_SUFFIXES = frozenset({".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg"})


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One film to be read."""

    path: str  # absolute path or address; also the `image/id` of the film's embedding
    key: str  # its place below the input's root, with `/` and without suffix; names its output


def film_key(relative: str) -> str:
    """A path below the input's root, without the suffix if that is one of films."""
    stem, suffix = posixpath.splitext(relative)
    return stem if suffix.lower() in IMAGE_SUFFIXES else relative


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A file that gives no film: `reason` is a key of `REASONS`, `detail` is for a human."""

    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A sound film that was not asked for."""

    reason: str  # "view", "modality" or "body part"
    detail: str  # its `known_view`, or what `other_than_chest` says


@dataclasses.dataclass(frozen=True, eq=False)
class Lut:
    """A DICOM lookup table (PS3.3 C.11.1.1): input `first + i` gives `values[i]`, ends extend."""

    values: UInt16[np.ndarray, " entries"]
    first: int  # with the sign that the file gives it by its VR, if it has one
    bits: int  # as declared: values lie in 0 ... 2 ** bits - 1

    @property
    def depth(self) -> int:
        """Bits of the output range: as declared (PS3.3 C.11.2.1.1), unless it uses under a quarter.

        A table of 12-bit values that declares 16 would be shown nearly black. Then the bits count
        that its largest entry needs, 8 at least, as viewers do (Cornerstone, Horos).
        """
        used = max(8, int(self.values.max()).bit_length())
        return used if used <= self.bits - 2 else self.bits


@dataclasses.dataclass(frozen=True, eq=False)
class Film:
    """Stored values and what the header says of their meaning; defaults are those of a PNG."""

    pixels: Integer[np.ndarray, "height width"]  # uint8, uint16, int8 or int16
    bits_stored: int
    photometric: str = "MONOCHROME2"  # or MONOCHROME1: the smallest value is white
    rescale: tuple[float, float] | None = None  # slope, intercept
    modality_lut: Lut | None = None  # takes the place of rescale
    window_centers: tuple[float, ...] = ()  # as in the header; the first counts, others may be nan
    window_widths: tuple[float, ...] = ()
    voi_function: str = "LINEAR"  # what the window means: LINEAR, LINEAR_EXACT or SIGMOID
    voi_lut: Lut | None = None  # an alternative to the window
    presentation_lut_shape: str = ""  # "", IDENTITY or INVERSE
    padding: tuple[int, int] | None = None  # stored values from, to: background, no image
    pixel_aspect: float = 1.0  # height of a pixel by its width
    turned: bool = False  # whether the pixels were turned from how the file stores them
    view_position: str | None = None  # a `known_view`; None: not said
    not_chest: tuple[str, str] | None = None  # see `other_than_chest`
    # field -> why the header's value is unusable: a rule that uses such a field asks by `get`
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def get(self, field: str) -> Any:
        """A field, for a rule that uses it. Raises Rejection where the header's is unusable."""
        if field in self.problems:
            reject("corrupt_header", self.problems[field])
        return getattr(self, field)


def modality_range(
    bits_stored: int, signed: bool, rescale: tuple[float, float] | None, modality_lut: Lut | None
) -> tuple[float, float]:
    """The range of the VOI transform's input, which is signed if it begins below 0 (C.11.2.1.1).

    It is what the modality transform can give (PS3.3 C.11.1), or else the stored bits.
    """
    if modality_lut:
        return 0.0, 2.0**modality_lut.depth - 1
    low = -signed * 2.0 ** (bits_stored - 1)
    ends = low, low + 2.0**bits_stored - 1
    if rescale:
        ends = tuple(rescale[0] * end + rescale[1] for end in ends)
    return min(ends), max(ends)


def kept_views(views: Collection[str] | None) -> tuple[str, ...] | None:
    """The views to keep, in capitals; None, as "all" does, keeps all."""
    names = {name.upper() for name in views or ()}
    return None if not names or "ALL" in names else tuple(sorted(names))


def known_view(text: str, asked: Collection[str] | None = None) -> str:
    """A ViewPosition as it may be repeated: in capitals, or "other"; "" stays "".

    Known are `VIEWS`, and what the user `asked` for.
    """
    view = " ".join(text.upper().split())
    return view if not view or view in VIEWS or view in (asked or ()) else "other"


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
