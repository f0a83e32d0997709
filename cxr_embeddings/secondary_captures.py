"""Heat maps as DICOM secondary captures, beside the Structured Reports that refer to them."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from cxr_embeddings import __version__, heat_map_files

if TYPE_CHECKING:
    from PIL import Image
    from pydicom.dataset import Dataset

WARNING = "Not for clinical use"
SCHEME = "99CXREMB"  # our own coding scheme
SERIES = 9201  # number of the series
STRIP, LETTERS = 64, 20  # pixels below the film for two lines of text, and the size of these
NARROWEST = 640  # pixels, so that they fit


def of_film(header: Dataset, folder: pathlib.Path, number: int, digest: str) -> dict[str, Dataset]:
    """A secondary capture of each finding's heat map, by a name for its file.

    The same input gives the same UIDs.

    Args:
        header: of the film, with the attributes of patient and study.
        folder: of the film, from `heat_map_files.mapping_encoder`.
        number: of the film in its study, from 1.
        digest: of the weights.
    """
    import highdicom
    from PIL import Image
    from pydicom.dataset import Dataset
    from pydicom.uid import JPEGBaseline8Bit, generate_uid

    facts = json.loads((folder / heat_map_files.FACTS).read_text())
    source = Dataset()
    source.ReferencedSOPClassUID = header.SOPClassUID
    source.ReferencedSOPInstanceUID = header.SOPInstanceUID

    captures: dict[str, Dataset] = {}
    for i, (finding, one) in enumerate(facts["findings"].items()):
        said = f"Heat map of {finding}, probability {one['probability']:.3f}"
        uid_of = [digest, str(header.SOPInstanceUID), finding, json.dumps(one)]
        picture = np.asarray(_signed(Image.open(folder / f"{one['file']}.png"), said))
        capture = highdicom.sc.SCImage.from_ref_dataset(
            header,
            picture,
            photometric_interpretation="YBR_FULL_422",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=generate_uid(
                entropy_srcs=["heat maps", digest, header.StudyInstanceUID]
            ),
            series_number=SERIES,
            sop_instance_uid=generate_uid(entropy_srcs=uid_of),
            instance_number=len(facts["findings"]) * (number - 1) + i + 1,
            manufacturer="cxr-embeddings",
            patient_orientation=("L", "F"),
            transfer_syntax_uid=JPEGBaseline8Bit,
            series_description=f"Heat maps: {WARNING.lower()}",
            software_versions=__version__,
        )
        for name in ("PatientOrientation", "Laterality", "BurnedInAnnotation"):  # or unknown
            setattr(capture, name, header.get(name))
        capture.ImageComments = said
        capture.DerivationDescription = f"{WARNING}. {said}. Weights: SHA-256 {digest}"
        capture.SourceImageSequence = [source]
        capture.LossyImageCompression = "01"
        capture.LossyImageCompressionMethod = "ISO_10918_1"
        capture.LossyImageCompressionRatio = f"{picture.size / len(capture.PixelData):.2f}"
        captures[one["file"]] = capture
    return captures


def _signed(picture: Image.Image, said: str) -> Image.Image:
    """The picture with what it is written below it."""
    from PIL import Image, ImageDraw, ImageFont

    larger = max(1.0, NARROWEST / picture.width)
    size = round(picture.width * larger), round(picture.height * larger)
    signed = Image.new("RGB", (size[0], size[1] + STRIP))
    signed.paste(picture.resize(size))
    text, font = f"{WARNING.upper()}\n{said}", ImageFont.load_default(LETTERS)
    ImageDraw.Draw(signed).text((8, size[1] + 6), text, "white", font)
    return signed
