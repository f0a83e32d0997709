"""Damages films in nine ways and counts what is made of them.

A damaged film is a film, a skipped one or a rejection with a reason, by every preset: never an
exception, and never `unreadable`, which is kept for file systems: where these fail it is that.
With a folder of JPEGs, 100 of them lose 1,500 bytes (removed, or overwritten by zeros) at a random
place of their scan: how many still give a film? All of the folder that are sound must.
"""

import collections
import contextlib
import io
import pathlib
import random
import struct
import sys
import time

import imagecodecs
import numpy as np
from PIL import Image

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


def wound(data: bytes, choose: random.Random, removed: bool) -> bytes:
    """1,500 bytes of the scan less, or zero."""
    first = max(data.find(b"\xff\xda"), data.find(b"\xff\x93"), 64) + 16
    start = choose.randrange(first, max(first + 1, len(data) - 1502))
    stop = min(start + 1500, len(data) - 2)
    return data[:start] + (b"" if removed else bytes(stop - start)) + data[stop:]


def damage_rates(folder: pathlib.Path, seeds: int = 3) -> None:
    paths = sorted(path for path in folder.rglob("*.jp*g"))
    lost = different = 0
    for path in paths:
        film = read_film(io.BytesIO(path.read_bytes()))
        lost += not isinstance(film, Film)
        grey = np.asarray(Image.open(path).convert("RGB"))[..., 0]
        different += isinstance(film, Film) and not np.array_equal(film.pixels, grey)
    print(f"{len(paths)} sound JPEGs: {lost} lost, {different} differ from Pillow's pixels")
    codecs = {
        "JPEG of 8 bits": ("", imagecodecs.jpeg8_encode),
        "DICOM, JPEG baseline": (f"{UID}.4.50", imagecodecs.jpeg8_encode),
        "12-bit JPEG": (
            "",
            lambda grey: imagecodecs.jpeg8_encode(grey * np.uint16(16), bitspersample=12),
        ),
    }
    lossless = {"JPEG lossless": "4.70", "JPEG-LS": "4.80", "RLE": "5", "JPEG 2000": "4.90"}
    for name, end in (lossless | {"HTJ2K": "4.201"}).items():
        codecs[f"DICOM, {name}"] = f"{UID}.{end}", LOSSLESS[f"{UID}.{end}"]
    print("| of 100 with 1,500 bytes damaged, a film came of | removed | zeroed |\n|---|---|---|")
    for name, (syntax, encode) in {"the JPEG files themselves": ("", None), **codecs}.items():
        accepted = {True: [], False: []}
        for seed in range(seeds):
            choose = random.Random(seed)
            for removed in accepted:
                count = 0
                for path in choose.sample(paths, min(100, len(paths))):
                    grey = np.asarray(Image.open(path).convert("L"))
                    data = wound(encode(grey) if encode else path.read_bytes(), choose, removed)
                    data = dicom_file(grey, syntax, [data]) if syntax else data
                    count += isinstance(read_film(io.BytesIO(data)), Film)
                accepted[removed].append(count)
        print(f"| {name} | {accepted[True]} | {accepted[False]} |", flush=True)


def run(films: int = 10_000, dicoms: str = "", jpegs: str = "") -> None:
    """Prints the counts; ends with exit code 1 if a film was not told from a failing file system.

    films: how many damaged films to read.
    dicoms: a folder of films to damage too.
    jpegs: a folder of JPEGs to measure with.
    """
    told_apart = not films or mutated(films, pathlib.Path(dicoms) if dicoms else None)
    if jpegs:
        damage_rates(pathlib.Path(jpegs))
    sys.exit(not told_apart)
