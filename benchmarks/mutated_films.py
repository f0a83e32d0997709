"""Damages films in nine ways and counts what is made of them.

A damaged film is a film, a skipped one or a rejection with a reason, by every preset: never an
exception, and never `unreadable`, which is kept for file systems: where these fail it is that.
"""

import collections
import contextlib
import io
import pathlib
import random
import struct
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

from test_dicom import LOSSLESS, NATIVE, UID, dicom_file, film_pixels, picture_file

from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.films.film import REASONS, Film, Rejected, Rejection, Skipped
from cxr_embeddings.input_pipeline.films.presets import PRESETS, network_input


class Broken(io.BytesIO):
    """A file whose n-th read fails."""

    def __init__(self, data: bytes, fails: int) -> None:
        super().__init__(data)
        self.left = fails

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        if not self.left:
            raise OSError("connection lost")
        return super().read(size)


def mutate(data: bytes, choose: random.Random) -> bytes:
    """One random damage of a file: in its bytes, its length or a field of its header."""
    damaged = bytearray(data)
    place = choose.randrange(len(data))
    head = min(len(data), 1200)
    start = max(data.find(b"\xff\x4f\xff\x51"), data.find(b"\xff\xd8\xff"), 132)
    match choose.randrange(9):
        case 0:
            for _ in range(choose.randint(1, 9)):
                damaged[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
        case 1:
            for _ in range(100):
                damaged[choose.randrange(len(data))] = choose.randrange(256)
        case 2:
            del damaged[place:]
        case 3:
            damaged[place:place] = choose.randbytes(choose.randint(1, 64))
        case 4:
            del damaged[place : place + choose.randint(1, 4000)]
        case 5:
            damaged[place : place + 2000] = bytes(len(damaged[place : place + 2000]))
        case 6:  # header bytes: tags, lengths, values
            for _ in range(choose.randint(1, 4)):
                damaged[choose.randrange(min(128, head - 1), head)] = choose.randrange(256)
        case 7:  # the head of the codestream
            for _ in range(choose.randint(1, 3)):
                value = choose.randrange(256)
                damaged[min(start + choose.randrange(2, 120), len(data) - 1)] = value
        case 8:  # a chosen field: sizes, depths, the transfer syntax
            field = choose.choice((0x02, 0x08, 0x10, 0x11, 0x0100, 0x0101, 0x0102, 0x0103))
            where = data.find(struct.pack("<HH", 0x28, field))
            syntax = data.find(UID.encode())
            if choose.random() < 0.5 and where > 0:
                value = choose.choice((0, 1, 2, 3, 8, 12, 16, 255, 60_000, 65_535))
                damaged[where + 8 : where + 10] = struct.pack("<H", value)
            elif syntax > 0:
                other = choose.choice((*NATIVE, *LOSSLESS)).encode()
                damaged[syntax : syntax + 22] = other.ljust(22, b"\0")[:22]
    return bytes(damaged)


def mutated(count: int, dicoms: pathlib.Path | None) -> bool:
    """Whether every mutated film was told apart from a failing file system, within 5 s."""
    pixels = film_pixels(12, (120, 100))
    header = {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 900, "RescaleSlope": 1}
    header |= {"RescaleIntercept": 0, "PixelPaddingValue": 0, "PixelAspectRatio": ["2", "1"]}
    files = [
        dicom_file(pixels, syntax, ViewPosition=view, **header)
        for syntax in (*NATIVE, *LOSSLESS)
        for view in ("PA", "LATERAL")
    ]
    files += [picture_file(film_pixels(8)), picture_file(film_pixels(8), "JPEG")]
    files += [path.read_bytes() for path in sorted(dicoms.rglob("*.dcm"))] if dicoms else []
    # deflated, and its meta header claims more bytes than there are
    deflated = bytearray(dicom_file(pixels, f"{UID}.1.99"))
    place = deflated.index(b"\x02\0\x12\0UI") + 6
    deflated[place : place + 2] = b"\xff\xff"
    files.append(bytes(deflated))
    choose, outcomes, mixed, slowest = random.Random(20261128), collections.Counter(), 0, 0.0
    for _ in range(count):
        data = mutate(choose.choice(files), choose)
        views = choose.choice((None, ("AP", "PA")))
        start = time.perf_counter()
        outcome = read_film(io.BufferedReader(io.BytesIO(data)), views=views)
        slowest = max(slowest, time.perf_counter() - start)
        assert isinstance(outcome, Film | Skipped | Rejected)
        assert not isinstance(outcome, Rejected) or outcome.reason in REASONS
        if isinstance(outcome, Film) and outcome.pixels.size <= 2 * pixels.size:
            for preset in PRESETS.values():
                with contextlib.suppress(Rejection):
                    assert np.isfinite(network_input(outcome, preset, 16)).all()
        outcomes[getattr(outcome, "reason", type(outcome).__name__)] += 1
        broken = Broken(data, choose.randint(1, 3))
        outcome = read_film(broken, views=views)
        mixed += broken.left <= 0 and getattr(outcome, "reason", "") != "unreadable"
    print(f"{count} mutated films, the slowest {slowest:.1f} s:", dict(outcomes.most_common()))
    print(f"the films' own faults taken for the file system's: {outcomes['unreadable']}")
    print(f"failures of the file system taken for the films': {mixed}")
    return not mixed and not outcomes["unreadable"] and slowest < 5


def run(films: int = 10_000, dicoms: str = "") -> None:
    """Prints the counts; ends with exit code 1 if a film was not told from a failing file system.

    films: how many damaged films to read.
    dicoms: a folder of films to damage too.
    """
    sys.exit(not mutated(films, pathlib.Path(dicoms) if dicoms else None))
