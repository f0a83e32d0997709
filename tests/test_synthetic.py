import functools
import io

import imagecodecs
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom import encaps, pixels, uid
from running import tree

from cxr_embeddings.input_pipeline.synthetic import (
    anatomy,
    dicom_files,
    drawing,
    report_text,
    sites,
)
from cxr_embeddings.input_pipeline.synthetic import mimic_folder as stand_in

MIMIC = {"films": 46, "laterals": 9, "damaged": 2, "size_range": (64, 96)}
LABELS = list(report_text.LABELS)
COLUMNS = {
    "cxr-record-list": ["subject_id", "study_id", "dicom_id", "path"],
    "cxr-study-list": ["subject_id", "study_id", "path"],
    "mimic-cxr-2.0.0-split": ["dicom_id", "study_id", "subject_id", "split"],
    "mimic-cxr-2.0.0-chexpert": ["subject_id", "study_id", *LABELS],
    "mimic-cxr-2.0.0-negbio": ["subject_id", "study_id", *LABELS],
    "mimic-cxr-2.0.0-metadata": [
        "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition",
        "Rows", "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning",
        "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning",
    ],
}  # fmt: skip
DECODERS = {
    uid.JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    uid.JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    uid.JPEG2000Lossless: imagecodecs.jpeg2k_decode,
}


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "mimic"
    counts = stand_in.write_mimic(path, **MIMIC)
    assert counts["films"] == MIMIC["films"] and counts["studies"] == 48
    return path


@pytest.fixture(scope="module")
def tables(mimic):
    return {
        name: pd.read_csv(mimic / f"{name}.csv.gz", dtype=str, keep_default_na=False)
        for name in COLUMNS
    }


def decoded(header):
    """Stored values, by a decoder that shares no code with the project's own."""
    decode = DECODERS.get(header.file_meta.TransferSyntaxUID)
    if decode is None:
        return header.pixel_array
    return decode(next(encaps.generate_frames(header.PixelData, number_of_frames=1)))


def smooth(film):
    return np.asarray(Image.fromarray(film).resize((56, 56), Image.Resampling.BOX))


@functools.cache
def a_film(*findings, side="left", view="PA", seed=0, shape=(224, 224)):
    patient = anatomy.draw_patient(np.random.default_rng(seed))
    strengths = dict.fromkeys(findings, 1.0)
    rng = np.random.default_rng(seed + 1)
    return drawing.draw_film(rng, patient, strengths, side, shape, view)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    few = {"films": 12, "laterals": 1, "size_range": (48, 64)}
    for name in ("one", "two"):
        stand_in.write_mimic(tmp_path / name, seed=5, **few)
    stand_in.write_mimic(tmp_path / "other", seed=6, **few | {"films": 2})
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert not {*tree(tmp_path / "one").values()} & {*tree(tmp_path / "other").values()}
    assert {path.name for path in tmp_path.iterdir()} == {"one", "other", "two"}


def test_tables_and_files_name_each_other(mimic, tables):
    assert {name: list(table) for name, table in tables.items()} == COLUMNS
    records, studies = tables["cxr-record-list"], tables["cxr-study-list"]
    assert len(records) == 46 + 9 + 2 and len(studies) == 48
    files = {path.relative_to(mimic).as_posix() for path in (mimic / "files").rglob("*.*")}
    assert {*records["path"], *studies["path"]} == files
    patient, study, film = records["subject_id"], records["study_id"], records["dicom_id"]
    folder = "files/p" + patient.str[:2] + "/p" + patient + "/s" + study
    assert records["path"].equals(folder + "/" + film + ".dcm")
    assert patient.str.fullmatch(r"1\d{7}").all() and study.str.fullmatch(r"5\d{7}").all()
    assert film.str.fullmatch(r"\w{8}(-\w{8}){4}").all()
    ids = ["subject_id", "study_id"]
    assert records[ids].drop_duplicates(ignore_index=True).equals(studies[ids])
    for name in ("metadata", "split"):
        table = tables[f"mimic-cxr-2.0.0-{name}"]
        assert table[[*ids, "dicom_id"]].equals(records[[*ids, "dicom_id"]])
    for name in ("chexpert", "negbio"):
        assert tables[f"mimic-cxr-2.0.0-{name}"][ids].equals(studies[ids])
    of_patient = tables["mimic-cxr-2.0.0-split"].groupby("subject_id")["split"].agg(set)
    assert set(map(tuple, of_patient)) == {("train",), ("validate",), ("test",)}


@pytest.mark.parametrize("technique", dicom_files.TECHNIQUES, ids="{0[0]}-{0[2]}-{0[6]}".format)
def test_films_are_stored_and_shown_as_drawn(technique):
    film = a_film(view=technique.view, shape=(141, 123))
    data = dicom_files.dicom_bytes(film, technique, {"SOPInstanceUID": "2.25.1"})
    header = pydicom.dcmread(io.BytesIO(data))
    stored = decoded(header)
    expected = dicom_files.stored_values(film, technique)
    assert stored.shape == film.shape
    if technique.syntax == "JPEG":
        assert np.abs(stored.astype(int) - expected).mean() < 2
    else:
        np.testing.assert_array_equal(stored, expected)
    if header.get("RescaleSlope", 1) != 1:
        stored = pixels.apply_modality_lut(stored, header)
    shown = pixels.apply_voi_lut(stored, header)
    shown = (shown - shown.min()) / np.ptp(shown)
    if header.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    assert np.corrcoef(film.ravel(), shown.ravel())[0, 1] > 0.97  # and not a negative
    assert shown[60:80, 58:66].mean() > 0.7  # the heart is bright


@pytest.mark.parametrize("finding", sorted(set(report_text.LABELS) - {"No Finding"}))
def test_findings_show(finding):
    """Against the same film without it, a finding changes a part of the chest, and only a part."""
    for seed in range(3):
        change = smooth(a_film(finding, seed=seed)) - smooth(a_film(seed=seed))
        changed = np.abs(change) > 0.04
        assert 0.002 < changed.mean() < 0.45
        darker = finding == "Pneumothorax"
        assert finding == "Fracture" or (change[changed].mean() < 0) == darker


def test_hospitals_differ_as_planted(tmp_path):
    def films(site):
        draw = np.random.default_rng(3)
        patient, labels = anatomy.draw_patient(draw), {"Lung Lesion": 1.0}
        about = patient, labels, "right", (300, 300), "PA", None, sites.HOSPITALS[site]
        return drawing.draw_film(np.random.default_rng(4), *about)

    plain, alike, dark, betrayed = (films(site) for site in ("", "a", "b", "c"))
    np.testing.assert_array_equal(plain, alike)
    assert dark.mean() < plain.mean() - 0.05
    corner = (slice(254, 286), slice(17, 49))
    assert betrayed[corner].min() > 0.9 > plain[corner].max()
    a, b = (stand_in.draw_studies(200, 0, site) for site in "ab")
    nodules = [sum(one.labels.get("Lung Lesion") == 1 for one in some) for some in (a, b)]
    assert nodules[1] > 1.5 * nodules[0]
    assert not {one.subject_id for one in a} & {one.subject_id for one in b}
    with pytest.raises(ValueError, match="site is 'd'; expected one of a, b, c"):
        stand_in.write_mimic(tmp_path / "d", site="d")


def test_sides_and_normal_films():
    left, right = (a_film("Pleural Effusion", side=side) - a_film() for side in ("left", "right"))
    assert left[:, 112:].mean() > 10 * abs(left[:, :112].mean())  # left is right on the image
    assert right[:, :112].mean() > 10 * abs(right[:, 112:].mean())
    for view in ("AP", "PA", "LL"):
        film = a_film(view=view, shape=(70, 90))
        assert film.shape == (70, 90) and film.dtype == np.float32
        assert film.min() >= 0 and film.max() <= 1 and film.std() > 0.15


def test_courses_grow_and_resolve_in_the_order_of_time(tmp_path):
    few = {"films": 30, "laterals": 0, "damaged": 0, "size_range": (48, 64), "courses": True}
    stand_in.write_mimic(tmp_path / "courses", **few)
    read = functools.partial(pd.read_csv, dtype=str, keep_default_na=False)
    changes = read(tmp_path / "courses/changes.csv.gz")
    metadata = read(tmp_path / "courses/mimic-cxr-2.0.0-metadata.csv.gz")
    assert {*changes.columns} == {"subject_id", "study_id", "pleural_effusion_change"}
    table = changes.merge(metadata, on=["subject_id", "study_id"])
    assert len(table) == 30
    by_time = table.sort_values(["subject_id", "StudyDate", "StudyTime"])
    assert not by_time["study_id"].is_monotonic_increasing
    first = ~by_time["subject_id"].duplicated()
    assert ((by_time["pleural_effusion_change"] == "") == first).all()
    assert {*by_time["pleural_effusion_change"]} == {"", "-1", "0", "1"}


def test_an_effusion_is_as_high_as_its_course_says():
    patient, shown = anatomy.draw_patient(np.random.default_rng(0)), {"Pleural Effusion": 1.0}
    about = patient, shown, "left", (224, 224), "PA"
    none, low, high = (
        drawing.draw_film(np.random.default_rng(1), *about, height).mean()
        for height in (0.0, 0.2, 0.4)
    )
    assert none < low < high
