"""How a film's stored values become grey values: the rules of intensity that presets name.

Each is one lookup table over stored values, so its cost is that of indexing, and no image is ever
held in float64. `docs/films.md` says what was decided where the standard leaves a choice.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Integer, Real, UInt, UInt8, UInt16

from .film import Film, Lut, modality_range, reject


def toolkit_intensity(film: Film) -> UInt[np.ndarray, "height width"]:
    """The CXR Foundation toolkit's DICOM -> PNG rule, bit for bit: uint16, or uint8 kept as it is.

    Modality LUT or rescale; first window to 0 ... 65535, its centre and width cut to integers if
    the header has several; MONOCHROME1 inverted about the largest value; shifted to start at 0;
    stretched to the whole of uint16, unless still 8 bits. VOI LUT, VOILUTFunction, pixel padding
    and the shape of pixels are ignored. Every step truncates or not as there. Where that program
    fails (a 12-bit modality LUT) this does what the header says. A constant image becomes 65535.

    Raises:
        Rejection: an attribute that it uses is unusable, pixels that differ become one grey, or the
            film was turned, which that program does not do.

    Source: Google-Health/imaging-research, cxr-foundation, example_generator_lib.py, January 2023.
    """
    if film.turned:
        reject("turned", "an EXIF orientation; turn the pixels and save the film without it")
    values = _stored_values(film)
    gray: np.ndarray = values
    if lut := film.get("modality_lut"):
        gray = _look_up(lut, values).astype(np.uint8 if lut.bits == 8 else np.uint16)
    elif rescale := film.get("rescale"):
        gray = values.astype(np.float64) * rescale[0] + rescale[1]
    if centers := film.get("window_centers"):
        (center, *more_centers), (width, *more_widths) = centers, film.window_widths
        center = int(center) if more_centers else center
        width = int(width) if more_widths else width
        low, high = center - width / 2, center - 1 + width / 2
        gray = np.interp(gray.clip(low, high), (low, high), (0, 65535))
    if film.photometric == "MONOCHROME1":
        gray = gray.max() - gray
    if gray.dtype.kind == "i":  # in the next wider type, as int16 would overflow
        gray = gray.astype(np.int32)
        gray = (gray - gray.min()).astype(f"u{values.itemsize}")
    elif gray.dtype.kind == "f":
        gray = gray - gray.min()
        if gray.max() > 65535:
            gray = np.minimum(gray * (65535 / gray.max()), 65535)
        gray = gray.astype(np.uint16)
    if gray.dtype != np.uint8:
        gray = np.interp(gray, (gray.min(), gray.max()), (0, 65535)).astype(np.uint16)
    return _apply_table(film, values, gray)


def toolkit_intensity_8_bits(film: Film) -> UInt8[np.ndarray, "height width"]:
    """The upper 8 bits of `toolkit_intensity`: what a network sees that reads PNGs as uint8."""
    gray = toolkit_intensity(film)
    return gray if gray.dtype == np.uint8 else (gray >> 8).astype(np.uint8)


def dicom_intensity(film: Film) -> UInt16[np.ndarray, "height width"]:
    """The standard's greyscale pipeline (PS3.4 N.2), 0 = black to 65535 = white.

    Modality LUT or rescale (PS3.3 C.11.1); VOI LUT, else the first window by its function
    (C.11.2.1.2, C.11.2.1.3), else the identity over all values that the stored bits can take
    (C.11.2: no VOI transformation); inverted once if the film is MONOCHROME1 (C.7.6.3.1.2) or its
    Presentation LUT Shape INVERSE (C.11.6.1.2; the two go together by C.8.11.3, and where a file
    says MONOCHROME1 with IDENTITY, the type 1 attribute prevails). Pixel padding takes no part in
    this and becomes black (C.7.5.1.1.2). A VOI LUT and a window are alternatives: where the table
    is unusable, the window counts.

    Raises:
        Rejection: an attribute that it uses is unusable, or pixels that differ become one grey.
    """
    values = _stored_values(film)
    gray, signed = values.astype(np.float64), values.dtype.kind == "i"
    modality_lut, rescale = film.get("modality_lut"), None
    if modality_lut:
        low, _ = modality_range(film.bits_stored, signed, None, None)
        gray = _look_up(_with_sign(modality_lut, low, gray), gray).astype(np.float64)
    elif rescale := film.get("rescale"):
        gray = gray * rescale[0] + rescale[1]
    low, high = modality_range(film.bits_stored, signed, rescale, modality_lut)
    if film.voi_lut:
        gray = _look_up(_with_sign(film.voi_lut, low, gray), gray) / ((1 << film.voi_lut.depth) - 1)
    elif film.window_centers:
        function, width = film.get("voi_function"), film.window_widths[0]
        if width <= 0 or (function == "LINEAR" and width < 1):  # C.11.2.1.2.1, C.11.2.1.3
            reject("corrupt_header", f"WindowWidth is too small for {function}")
        with np.errstate(over="ignore"):  # of a tiny width
            gray = VOI_FUNCTIONS[function](gray, film.window_centers[0], width)
    else:
        for field in ("voi_lut", "window_centers"):  # there was one, and it is unusable
            film.get(field)
        gray = (gray - low) / (high - low or 1)  # 0 where the intercept swallows the slope
    gray = gray.clip(0, 1)
    if film.photometric == "MONOCHROME1" or film.presentation_lut_shape == "INVERSE":
        gray = 1 - gray
    gray = np.rint(gray * 65535).astype(np.uint16)
    if not film.padding:
        return _apply_table(film, values, gray)
    first, last = film.padding
    padding = (values >= first) & (values <= last)
    gray[padding] = 0
    return _apply_table(film, values, gray, padding)


def _with_sign(lut: Lut, low: float, x: Float[np.ndarray, " n"]) -> Lut:
    """A table whose first input has the sign of the values `x` that it is applied to.

    The sign is that of the range of its input (PS3.3 C.11.1.1.1, C.11.2.1.1), which begins at
    `low`, and the VR must say the same. Where it says another, that sign counts by which the table
    covers more of the values.
    """
    if 0 <= lut.first < 1 << 15 or (lut.first < 0) == (low < 0):
        return lut
    other = dataclasses.replace(lut, first=lut.first - (65536 if lut.first > 0 else -65536))

    def covered(table: Lut) -> int:
        return int(((x >= table.first) & (x < table.first + len(table.values))).sum())

    return lut if covered(lut) > covered(other) else other


# (values, center c, width w) -> grey values; those beyond 0 ... 1 are the caller's to cut
VOI_FUNCTIONS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    # PS3.3 C.11.2.1.2.1; width 1 is a threshold
    "LINEAR": lambda x, c, w: (x - (c - 0.5 - (w - 1) / 2)) / max(w - 1, 1e-9),
    "LINEAR_EXACT": lambda x, c, w: (x - c) / w + 0.5,  # C.11.2.1.3.2
    # C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w)), in a form without overflow
    "SIGMOID": lambda x, c, w: 0.5 + 0.5 * np.tanh(2 * (x - c) / w),
}


def _stored_values(film: Film) -> Integer[np.ndarray, " n"]:
    """The stored values a table must cover, in order, in the image's own type.

    The toolkit's rule depends on the extremes of what occurs. Rescale, window and inversion are
    monotone, so a plain range has them at its ends. A modality LUT need not be monotone, and the
    inversion of signed values wraps around: there only values that occur are taken. So they are
    where it is asked how many a VOI LUT covers.
    """
    pixels = film.pixels
    if film.modality_lut or film.voi_lut or pixels.dtype.kind == "i":
        patterns = np.flatnonzero(_seen(pixels)).astype(f"u{pixels.itemsize}")
        return np.sort(patterns.view(pixels.dtype))
    return np.arange(int(pixels.min()), int(pixels.max()) + 1, dtype=pixels.dtype)


def _seen(pixels: Integer[np.ndarray, "height width"]) -> Bool[np.ndarray, " patterns"]:
    """Which bit patterns occur."""
    seen = np.zeros(1 << 8 * pixels.itemsize, bool)
    seen[pixels.view(f"u{pixels.itemsize}")] = True
    return seen


def _look_up(lut: Lut, x: Real[np.ndarray, " n"]) -> UInt16[np.ndarray, " n"]:
    index = np.floor(x).astype(np.int64) - lut.first
    return lut.values[index.clip(0, len(lut.values) - 1)]


def _apply_table(
    film: Film,
    values: Integer[np.ndarray, " n"],
    gray: UInt[np.ndarray, " n"],
    padding: Bool[np.ndarray, " n"] | None = None,
) -> UInt[np.ndarray, "height width"]:
    """Replaces each stored value by its grey value. Signed values index by their bit pattern.

    Raises:
        Rejection: nothing but padding is there, or values that differ become one grey.
    """
    pattern = f"u{values.itemsize}"
    table = np.zeros(1 << 8 * values.itemsize, gray.dtype)
    table[values.view(pattern)] = gray
    if padding is not None or gray[0] == gray[-1]:  # the ends occur: mostly that is enough to know
        seen = _seen(film.pixels)
        if padding is not None:
            seen[values[padding].view(pattern)] = False
        shown = table[seen]
        if not len(shown):
            reject("constant", "every pixel is padding")
        if len(shown) > 1 and shown.min() == shown.max():
            reject("constant", f"{len(shown)} different values become the grey {shown[0]}")
    return table[film.pixels.view(pattern)]
