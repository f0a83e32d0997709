"""From file to network input: ours against the steps of the CXR Foundation toolkit, one core."""

import functools
import io
import pathlib
import tempfile

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_modality_lut

from benchmarks.timing import interleave, report
from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.films.film import Film
from cxr_embeddings.input_pipeline.films.presets import (
    PRESETS,
    legacy_bilinear,
    network_input,
)
from cxr_embeddings.input_pipeline.synthetic.dicom_files import Technique, dicom_bytes

SIZE = 1280
PRESET = PRESETS["cxr_foundation"]


SYNTAXES = ("explicit", "RLE", "JPEG lossless", "JPEG-LS", "JPEG 2000")
TECHNIQUE = Technique("", "CR", 12, False, "MONOCHROME1", "", "window", 1, 0, "", "PA")


def write_films(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """A film as in MIMIC-CXR (2544x3056, 12 bits in 16, MONOCHROME1, a window): syntax -> file."""
    y, x = np.mgrid[:3056, :2544]
    film = 0.5 + 0.3 * np.sin(x / 300) * np.cos(y / 400)
    film += np.random.default_rng(0).normal(0, 0.003, film.shape)
    paths = {}
    for syntax in SYNTAXES:
        technique = TECHNIQUE._replace(syntax=syntax)
        paths[syntax] = folder / f"{syntax}.dcm"
        header = {"SOPInstanceUID": "1.2.3"}
        paths[syntax].write_bytes(dicom_bytes(np.float32(film.clip(0, 1)), technique, header))
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


def run(repeats: int = 10) -> None:
    """Prints the comparison, and ours by transfer syntax."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_films(pathlib.Path(folder))
        plain = paths["explicit"]
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
        print(report(interleave(by_syntax, repeats), "explicit"), "\n")
