"""Reads the test files that come with pydicom and compares with pydicom, file by file.

Nothing is downloaded: of the files that pydicom keeps elsewhere none is read. pydicom decodes with
the plug-ins that are installed; where it cannot, there is nothing to compare with.
"""

import collections
import logging
import pathlib
import warnings

import numpy as np
import pydicom
from pydicom.data.data_manager import DATA_ROOT

from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.films.film import Film


def compare(path: pathlib.Path) -> tuple[str, str]:
    """What this project says of a file, and how that agrees with pydicom."""
    with path.open("rb") as stream:
        film = read_film(stream)
    ours = "read" if isinstance(film, Film) else film.reason
    try:
        pixels = pydicom.dcmread(path, force=True).pixel_array
    except Exception:  # whatever it is, it is pydicom's answer
        return ours, "pydicom does not read it"
    if not isinstance(film, Film):
        kind = "one grey frame" if pixels.ndim == 2 else "colour or frames"
        return ours, f"pydicom reads {kind} of {8 * pixels.itemsize} bits"
    grey = pixels[..., 0] if pixels.ndim == 3 else pixels
    return ours, "equal to pydicom" if np.array_equal(film.pixels, grey) else "DIFFERS"


def run() -> None:
    """Prints a table of the outcomes, with the first files of each."""
    logging.disable()
    warnings.simplefilter("ignore")
    counts, names = collections.Counter(), collections.defaultdict(list)
    for path in sorted((pathlib.Path(DATA_ROOT) / "test_files").rglob("*")):
        if path.is_file() and path.suffix not in (".json", ".dump", ".txt", ".gz", ".icc"):
            outcome = compare(path)
            counts[outcome] += 1
            names[outcome].append(path.name)
    print(f"| outcome | pydicom {pydicom.__version__} | files | the first |\n|---|---|---|---|")
    for (ours, theirs), count in sorted(counts.items()):
        print(f"| {ours} | {theirs} | {count} | {', '.join(names[ours, theirs][:4])} |")
    print(f"{counts.total()} files")
