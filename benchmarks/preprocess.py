"""From file to network input: ours against the steps of the CXR Foundation toolkit, one core."""

import concurrent.futures
import functools
import io
import multiprocessing
import pathlib
import struct
import tempfile
from collections.abc import Callable

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut

from benchmarks.timing import interleave, report
from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.films.film import Film
from cxr_embeddings.input_pipeline.films.presets import (
    PRESETS,
    legacy_bilinear,
    network_input,
    toolkit_intensity,
)

SIZE = 1280
PRESET = PRESETS["cxr_foundation"]


def _encode_rle(pixels: np.ndarray) -> bytes:
    planes = [(pixels >> 8).astype(np.uint8), pixels.astype(np.uint8)]
    high, low = (b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in p) for p in planes)
    high += bytes(len(high) % 2)
    return struct.pack("<16I", 2, 64, 64 + len(high), *[0] * 13) + high + low


ENCODERS = {  # transfer syntax -> name, encoder of 12-bit pixels
    "1.2.840.10008.1.2.1": ("uncompressed", None),
    "1.2.840.10008.1.2.5": ("RLE", _encode_rle),
    "1.2.840.10008.1.2.4.70": (
        "JPEG lossless",
        functools.partial(imagecodecs.jpeg8_encode, lossless=True, predictor=1, bitspersample=12),
    ),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS", imagecodecs.jpegls_encode),
    "1.2.840.10008.1.2.4.90": (
        "JPEG 2000",
        functools.partial(
            imagecodecs.jpeg2k_encode,
            level=0,
            reversible=True,
            bitspersample=12,
            codecformat="j2k",
        ),
    ),
}


def write_films(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """A film as in MIMIC-CXR (2544x3056, 12 bits in 16, MONOCHROME1, a window): name -> file."""
    y, x = np.mgrid[:3056, :2544]
    pixels = 2048 + 1200 * np.sin(x / 300) * np.cos(y / 400)
    pixels += np.random.default_rng(0).normal(0, 12, pixels.shape)
    pixels = pixels.clip(0, 4095).astype(np.uint16)
    paths = {}
    for syntax, (name, encode) in ENCODERS.items():
        film = Dataset()
        film.SOPClassUID, film.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
        film.Rows, film.Columns = pixels.shape
        film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME1"
        film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
        film.PixelRepresentation = 0
        film.WindowCenter, film.WindowWidth = "2047", "3800"
        film.add_new("PixelData", "OW", pixels.astype("<u2").tobytes())
        if encode:
            film.add_new("PixelData", "OB", encapsulate([encode(pixels)]))
            film["PixelData"].is_undefined_length = True
        film.file_meta = FileMetaDataset()
        film.file_meta.TransferSyntaxUID = syntax
        paths[name] = folder / f"{syntax}.dcm"
        film.save_as(paths[name], enforce_file_format=True)
    return paths


def read(path: pathlib.Path) -> Film:
    with path.open("rb") as stream:
        return read_film(stream)


def ours(path: pathlib.Path) -> np.ndarray:
    """File -> [SIZE SIZE 1] float32 in [0, 1]."""
    return network_input(read(path), PRESET, SIZE)


def toolkit_png(path: pathlib.Path) -> bytes:
    """The toolkit's work for one film, as far as it goes: file -> 16-bit PNG.

    Its steps in its order (example_generator_lib.py), with the libraries it uses.
    """
    import png  # pypng; in the extra `dev`

    film = pydicom.dcmread(path)
    image = apply_modality_lut(film.pixel_array, film)
    center, width = film.WindowCenter, film.WindowWidth
    low, high = center - width / 2, center - 1 + width / 2
    image = np.interp(image.clip(low, high), (low, high), (0, 65535))
    image = np.max(image) - image
    image = (image - np.min(image)).astype(np.uint16)
    image = np.interp(image, (image.min(), image.max()), (0, 65535)).astype(np.uint16)
    file = io.BytesIO()
    png.Writer(image.shape[1], image.shape[0], greyscale=True, bitdepth=16).write(
        file, image.tolist()
    )
    return file.getvalue()


def toolkit_to_input(path: pathlib.Path) -> np.ndarray:
    """The toolkit's PNG, and what its model's graph does with it, done with our own fast resize."""
    image = np.asarray(Image.open(io.BytesIO(toolkit_png(path))))
    resized = legacy_bilinear(image, SIZE, SIZE)
    resized -= resized.min()
    return (resized / resized.max())[..., None]


def _peak_megabytes(function: Callable, path: pathlib.Path) -> float:
    function(path)
    # Not getrusage: its maximum is inherited from the process that spawned this one.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak_megabytes(function: Callable, path: pathlib.Path) -> float:
    """Peak memory of a fresh process that imports this module and does the work once (Linux)."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_peak_megabytes, function, path).result()


def run(repeats: int = 10) -> None:
    """Prints the comparison, ours by transfer syntax, ours by stage, and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_films(pathlib.Path(folder))
        plain = paths["uncompressed"]
        expected = toolkit_to_input(plain)
        for path in paths.values():
            if not np.array_equal(ours(path), expected):
                raise AssertionError(f"ours differs from the toolkit's steps on {path.name}")
        print(f"2544x3056, 12 bits in 16 -> {SIZE}x{SIZE} float32; all results equal bit for bit\n")

        candidates = {
            "toolkit, to PNG only": functools.partial(toolkit_png, plain),
            "toolkit, decoded and resized": functools.partial(toolkit_to_input, plain),
            "ours, to network input": functools.partial(ours, plain),
        }
        print(report(interleave(candidates, repeats), "toolkit, to PNG only"), "\n")

        by_syntax = {name: functools.partial(ours, path) for name, path in paths.items()}
        print(report(interleave(by_syntax, repeats), "uncompressed"), "\n")

        film = read(plain)
        image = toolkit_intensity(film)
        stages = {f"read {name}": functools.partial(read, path) for name, path in paths.items()}
        stages |= {
            "table": lambda: toolkit_intensity(film),
            "resize": lambda: legacy_bilinear(image, SIZE, SIZE),
            "table, resize and min-max": lambda: network_input(film, PRESET, SIZE),
        }
        print(report(interleave(stages, repeats), "table, resize and min-max"), "\n")

        for name, function in (("nothing", pathlib.Path), ("toolkit", toolkit_png), ("ours", ours)):
            print(f"peak memory, {name:8} {peak_megabytes(function, plain):6.0f} MB")
