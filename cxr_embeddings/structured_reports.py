"""Predictions as DICOM Structured Reports, one for each study: `predict.py --dicom_sr`.

A report is a measurement report (TID 1500) by highdicom. It carries the patient and study that the
films' headers name, as DICOM demands, and goes nowhere but into the file that is asked for.
"""

from __future__ import annotations

import itertools
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from cxr_embeddings import __version__, secondary_captures
from cxr_embeddings.common import dicomweb, files, writing
from cxr_embeddings.secondary_captures import SCHEME, WARNING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from cxr_embeddings.heads.saved import HeadCard

SERIES = 9200  # number of the series
MAY_BE_EMPTY = (  # attributes of type 2
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
PROCEDURE = "399208008", "SCT", "Plain chest X-ray"
PRESENT, ABSENT = ("52101004", "SCT", "Present"), ("2667000", "SCT", "Absent")


def write_reports(
    folder: pathlib.Path,
    predicted: pd.DataFrame,
    card: HeadCard,
    digest: str,
    heat_maps: Mapping[str, pathlib.Path],
) -> list[pathlib.Path]:
    """Writes STUDY_UID.dcm for each study whose films are predicted, and gives the files.

    A film's heat maps are secondary captures, STUDY_UID/FILM-FINDING.dcm, before the report that
    refers to them.

    Args:
        folder: is made if it is not there.
        predicted: of `Head.predict`; image_id is the path or address of a DICOM file.
        card: of the head.
        digest: of the weights.
        heat_maps: folders of `heat_map_files`, by image_id; none without heat maps.

    Raises:
        ValueError: a film is no DICOM file with the UIDs of a study.
        OSError: a film cannot be read, or the folder cannot be written.
    """
    films: dict[str, list[tuple[Dataset, pd.Series]]] = {}
    written = []

    def write(file: pathlib.Path, content: Dataset) -> None:
        with writing.whole_file(file) as stream:
            content.save_as(stream)
        written.append(file)

    # Warnings of pydicom and highdicom quote headers, such as the patient's name
    with warnings.catch_warnings(action="ignore"):
        for _, row in predicted[predicted["reason"] == ""].iterrows():
            header = _header(row["image_id"])
            films.setdefault(str(header.StudyInstanceUID), []).append((header, row))
        for study, some in sorted(films.items()):
            captured: list[list[Dataset]] = []
            for i, (header, row) in enumerate(some, 1):
                place = heat_maps.get(row["image_id"])
                captures = secondary_captures.of_film(header, place, i, digest) if place else {}
                for name, capture in captures.items():
                    write(folder / study / f"{i}-{name}.dcm", capture)
                    del capture.PixelData
                captured.append([*captures.values()])
            write(folder / f"{study}.dcm", _report(some, captured, card, digest))
    return written


def _header(path: str) -> Dataset:
    """A film's header without its pixels. What is no date, time or sex there is left empty."""
    import pydicom
    from highdicom.enum import PatientSexValues
    from pydicom.valuerep import DA, TM

    try:
        header = files.read_with(
            path, lambda stream: pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        )
        uids = (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)
    except (AttributeError, pydicom.errors.InvalidDicomError):
        uids = ("",)
    if not all(dicomweb.UID.fullmatch(str(uid)) for uid in uids):
        raise ValueError(
            f"{path} is no DICOM file with the UIDs of study, series and instance, so that no "
            "Structured Report can refer to it: leave out --dicom_sr, or give DICOM films"
        )
    sound: dict[str, Callable[[str], object]] = {
        **{"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM},
        "PatientSex": PatientSexValues,
    }
    for name in MAY_BE_EMPTY:
        try:
            sound.get(name, str)(header[name].value)
        except (KeyError, ValueError):
            setattr(header, name, "")
    return header


def _report(
    films: Sequence[tuple[Dataset, pd.Series]],
    captured: Sequence[Sequence[Dataset]],
    card: HeadCard,
    digest: str,
) -> Dataset:
    """A study's report; the same input gives the same UIDs. `captured` are of each film."""
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    headers = [header for header, _ in films]
    model = sr.AlgorithmIdentification(
        name="cxr-embeddings", version=__version__, parameters=_parameters(card, digest)
    )
    said = [WARNING, digest, *(str(row.to_dict()) for _, row in films)]

    def uid(what: str) -> str:
        return str(generate_uid(entropy_srcs=[what, str(headers[0].StudyInstanceUID), *said]))

    def concept(finding: str) -> sr.CodedConcept:
        code = re.sub(r"[^A-Za-z0-9]", "", finding)[:16] or "FINDING"
        return sr.CodedConcept(code, SCHEME, finding[:64])

    def group(i: int, header: Dataset, row: pd.Series) -> sr.MeasurementsAndQualitativeEvaluations:
        image = sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)
        said = sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=uid(f"film {i}"), identifier=f"film {i}"),
            algorithm_id=model,
            source_images=[image],
            measurements=[
                sr.Measurement(
                    name=sr.CodedConcept("PROBABILITY", SCHEME, f"Probability of {name}"[:64]),
                    value=round(float(row[f"{name}_probability"]), 6),
                    unit=codes.UCUM.NoUnits,
                )
                for name in card["findings"]
            ],
            qualitative_evaluations=[
                sr.QualitativeEvaluation(
                    name=concept(name),
                    value=sr.CodedConcept(*(PRESENT if row[f"{name}_positive"] == 1 else ABSENT)),
                )
                for name in card["findings"]
                if pd.notna(row[f"{name}_positive"])  # NA: the head has no threshold for it
            ],
        )
        said[0].ContentSequence += [
            sr.ImageContentItem(
                sr.CodedConcept("HEATMAP", SCHEME, one.ImageComments[:64]),
                one.SOPClassUID,
                one.SOPInstanceUID,
                relationship_type=sr.RelationshipTypeValues.CONTAINS,
            )
            for one in captured[i - 1]
        ]
        return said

    device = sr.DeviceObserverIdentifyingAttributes(uid=uid("device"), name="cxr-embeddings")
    observer = sr.ObserverContext(codes.DCM.Device, device)
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=sr.CodedConcept(*PROCEDURE),
        imaging_measurements=[group(i, *one) for i, one in enumerate(films, 1)],
    )
    return sr.Comprehensive3DSR(
        evidence=[*headers, *itertools.chain(*captured)],
        content=content[0],
        series_instance_uid=uid("series"),
        series_number=SERIES,
        sop_instance_uid=uid("instance"),
        instance_number=1,
        is_complete=True,
        manufacturer="cxr-embeddings",
        series_description=f"cxr-embeddings: {WARNING.lower()}",
        software_versions=__version__,
        device_serial_number=digest[:16],
        manufacturer_model_name=str((card["encoder"] or {}).get("variant", "head")),
    )


def _parameters(card: HeadCard, digest: str) -> list[str]:
    """What the report says of the model, as texts."""
    thresholds = {name: next(iter(one.values())) for name, one in card["thresholds"].items()}
    known = {name: at for name, at in thresholds.items() if at is not None}
    return [
        WARNING,
        f"weights: SHA-256 {digest}",
        *(f"threshold of {name}: {at:.6f}" for name, at in known.items()),
    ]
