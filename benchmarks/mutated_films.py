"""Damages films in every way the tests know and counts what is made of them.

    python benchmarks/mutated_films.py [--films 10000] [--jpegs FOLDER]

A damaged film is a film, a skipped one or a rejection with a reason: never an exception, and never
`unreadable`, which is kept for file systems. A file system that fails is always `unreadable`.
With a folder of JPEGs, 100 of them lose 1,500 bytes (removed, or overwritten by zeros) at a random
place of their scan: how many still give a film? All of the folder that are sound must.
"""

import argparse
import collections
import io
import pathlib
import random
import sys
import time

import imagecodecs
import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

from test_dicom import LOSSLESS, NATIVE, UID, dicom_file, film_pixels, mutate

from input_pipeline.dicom import read_film
from input_pipeline.film import REASONS, Film, Rejected


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


def mutated(count: int) -> None:
    pixels = film_pixels(12, (120, 100))
    files = [dicom_file(pixels, syntax, BitsStored=12) for syntax in (*NATIVE, *LOSSLESS)]
    # deflated files whose meta header claims more bytes than there are
    deflated = bytearray(dicom_file(pixels, f"{UID}.1.99"))
    place = deflated.index(b"\x02\0\x12\0UI") + 6
    deflated[place : place + 2] = b"\xff\xff"
    files.append(bytes(deflated))
    choose, outcomes, mixed, slowest = random.Random(20261128), collections.Counter(), 0, 0.0
    for _ in range(count):
        data = mutate(choose.choice(files), choose)
        start = time.perf_counter()
        outcome = read_film(io.BytesIO(data))
        slowest = max(slowest, time.perf_counter() - start)
        outcomes[getattr(outcome, "reason", type(outcome).__name__)] += 1
        assert not isinstance(outcome, Rejected) or outcome.reason in REASONS
        broken = Broken(data, choose.randint(1, 3))
        outcome = read_film(broken)
        mixed += broken.left <= 0 and getattr(outcome, "reason", "") != "unreadable"
    print(f"{count} mutated films, the slowest {slowest:.1f} s:", dict(outcomes.most_common()))
    print(f"the films' own faults taken for the file system's: {outcomes['unreadable']}")
    print(f"failures of the file system taken for the films': {mixed}")


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
        "DICOM, JPEG lossless": (f"{UID}.4.70", LOSSLESS[f"{UID}.4.70"]),
        "DICOM, JPEG-LS": (f"{UID}.4.80", LOSSLESS[f"{UID}.4.80"]),
        "DICOM, RLE": (f"{UID}.5", LOSSLESS[f"{UID}.5"]),
        "DICOM, JPEG 2000": (f"{UID}.4.90", LOSSLESS[f"{UID}.4.90"]),
        "DICOM, HTJ2K": (f"{UID}.4.201", LOSSLESS[f"{UID}.4.201"]),
    }
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--films", type=int, default=10_000)
    parser.add_argument("--jpegs", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.films:
        mutated(arguments.films)
    if arguments.jpegs:
        damage_rates(arguments.jpegs)
