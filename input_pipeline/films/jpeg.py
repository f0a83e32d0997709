"""JPEG and JPEG-LS codestreams, of DICOM and of picture files: all of their pixels, or none.

libjpeg patches over damage: it fills what is missing with grey, goes on after a code that does not
exist, and only warns. So every Huffman stream is decoded by a libjpeg that stops at its first
warning. It gives none where a run of empty blocks goes beyond the image: some damage to the last
scan of a progressive JPEG, which holds the last bit of the coefficients, stays unseen.
"""

import dataclasses
import re
import struct

import imagecodecs
import numpy as np
import simplejpeg
from jaxtyping import UInt

from .film import reject

PROCESSES = {0: "baseline", 1: "extended", 2: "progressive", 3: "lossless", 55: "JPEG-LS"}
_FRAMES = {0xC0 + i: i for i in range(16) if i not in (4, 8, 12)} | {0xF7: 55}
_SOI, _EOI, _JFIF = b"\xff\xd8", b"\xff\xd9", b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_RGB = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"  # Adobe's marker: no transform
_SCAN = 0xDA
# Within a scan FF is followed by 00 (JPEG) or a zero bit (JPEG-LS); D0 to D7 are restarts.
_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_MAX_SEGMENTS = 5000  # of sound files a few dozen


@dataclasses.dataclass(frozen=True)
class Codestream:
    """What the header of a codestream says (ITU-T T.81 B.2, T.87 C.2)."""

    process: int  # the number of its SOF marker; `PROCESSES` are read
    bits: int  # of a sample
    shape: tuple[int, int, int]  # rows, columns, components
    segments: list[tuple[int, int, int]]  # marker, start, stop of what stands before the first scan
    scans: list[int]  # where each scan header begins
    end: int | None  # where the end marker stands, if there is one


def parse(data: bytes) -> Codestream:
    """Reads the header and looks for the end; no pixel is decoded. Raises ValueError, Rejection."""
    position, frame = 2, None
    segments: list[tuple[int, int, int]] = []
    while True:
        while data[position : position + 2] == b"\xff\xff":  # fill
            position += 1
        if position + 4 > len(data):
            reject("truncated", f"{len(data)} bytes end within the header of a JPEG")
        fill, marker, length = struct.unpack_from(">BBH", data, position)
        if fill != 0xFF or marker < 0xC0 or length < 2 or len(segments) == _MAX_SEGMENTS:
            raise ValueError(f"no JPEG segment at byte {position}")
        if marker == _SCAN:
            break
        if marker in _FRAMES and not frame and len(data) >= position + 10:
            bits, rows, columns, components = struct.unpack_from(">BHHB", data, position + 4)
            if rows == 0:
                reject("unsupported_syntax", "a JPEG that says its rows behind its scan (DNL)")
            frame = _FRAMES[marker], bits, (rows, columns, components)
        segments.append((marker, position, position + 2 + length))
        position += 2 + length
    if frame is None:
        raise ValueError("no frame header in the JPEG codestream")
    return Codestream(*frame, segments, *_find_scans(data, position))


def _find_scans(data: bytes, position: int) -> tuple[list[int], int | None]:
    """The scans from the first on, and the end marker; thumbnails hold markers of their own."""
    scans: list[int] = []
    for _ in range(_MAX_SEGMENTS):
        if data[position + 1 : position + 2] == _EOI[1:]:
            return scans, position
        if position + 4 > len(data):
            return scans, None
        if data[position + 1] == _SCAN:
            scans.append(position)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        found = _MARKER.search(data, position)
        if not found:
            return scans, None
        position = found.start()
    raise ValueError(f"more than {_MAX_SEGMENTS} segments in the JPEG codestream")


def _has_all_scans(data: bytes, head: Codestream) -> bool:
    """Whether the scans tell every component; if progressive, each coefficient to its last bit.

    libjpeg shows a coarser picture, without a warning, where the last scans are missing.
    """
    told = set()
    for start in head.scans:
        stop = start + 5 + 2 * data[start + 4]  # behind the names of the components
        first, last, bits = data[stop : stop + 3] if head.process == 2 else (0, 63, 0)
        if bits & 0x0F == 0:  # nothing is left for a later scan
            names = data[start + 5 : stop : 2]
            told |= {(name, k) for name in names for k in range(first, last + 1)}
    return len(told) >= 64 * head.shape[2]


def decode(
    data: bytes, head: Codestream, *, rgb: bool = False
) -> UInt[np.ndarray, "rows columns components"]:
    """All samples; three components as RGB. A stream without end marker may still be whole.

    The caller has checked the size of the head, from `parse`. With `rgb`, three components that no
    marker explains are red, green and blue, and not YCbCr. Raises Rejection.
    """
    if head.process not in PROCESSES:
        reject("unsupported_syntax", f"JPEG process SOF{head.process}")
    whole = data
    if not head.end:  # zeros at the end are padding: no scan ends with them
        whole = data.rstrip(b"\0")
        whole += (b"\0" if whole.endswith(b"\xff") else b"") + _EOI
    try:
        if not _has_all_scans(data, head):
            raise ValueError("scans are missing")
        if head.process == 55:
            pixels = imagecodecs.jpegls_decode(whole)
        else:
            space = "GRAY" if head.shape[2] == 1 else "RGB"
            pixels = simplejpeg.decode_jpeg(_plain(whole, head, rgb, bits=8), space, strict=True)
            if head.bits != 8:  # the check was of the codes, which know nothing of the depth
                pixels = imagecodecs.jpeg8_decode(_plain(whole, head, rgb, head.bits))
        return pixels.reshape(head.shape)
    except MemoryError:
        raise
    except Exception as error:
        known = isinstance(error, ValueError | imagecodecs.JpeglsError)
        message = re.sub(r"[^\w .,:()-]", "", str(error))[:80] if known else type(error).__name__
        reject("corrupt_pixels" if head.end else "truncated", message)


def _plain(data: bytes, head: Codestream, rgb: bool, bits: int) -> bytes:
    """The codestream, said to be of so many bits, without what libjpeg warns of in vain.

    Those are versions of JFIF and Adobe's unknown transforms, and the parameters of a sequential
    scan, which have one meaning only (some writers of DICOM leave them 0).
    """
    parts = [_SOI]
    for marker, start, stop in head.segments:
        segment = data[start:stop]
        if marker == 0xE0 and segment[4:9] == b"JFIF\0":
            segment = _JFIF
        elif marker == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16:
            segment = segment if segment[15] <= 2 else b""
        elif 0xE0 <= marker <= 0xEF or marker == 0xFE:
            segment = b""
        elif marker in _FRAMES:
            segment = segment[:4] + bytes([bits]) + segment[5:]
        parts.append(segment)
    if rgb and not any(part == _JFIF or part[1:2] == b"\xee" for part in parts):
        parts.insert(1, _RGB)
    scan = bytearray(data[head.scans[0] : head.scans[0] + 64])
    if head.process in (0, 1) and len(scan) > 4 and (end := 5 + 2 * scan[4]) + 3 < len(scan):
        scan[end : end + 3] = bytes((0, 63, 0))
    return b"".join((*parts, scan, data[head.scans[0] + 64 :]))
