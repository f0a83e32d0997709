import csv
import gzip
import hashlib
import io

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import encaps, pixels, uid
from running import call, run

from cxr_embeddings.input_pipeline.synthetic import anatomy, dicom_files, drawing, report_text
from cxr_embeddings.input_pipeline.synthetic import mimic_folder as stand_in

MIMIC = {"films": 56, "laterals": 9, "damaged": 2, "size_range": (72, 104)}
COLUMNS = {
    "cxr-record-list": "subject_id study_id dicom_id path",
    "cxr-study-list": "subject_id study_id path",
    "mimic-cxr-2.0.0-split": "dicom_id study_id subject_id split",
    "mimic-cxr-2.0.0-metadata": (
        "dicom_id subject_id study_id PerformedProcedureStepDescription ViewPosition Rows Columns "
        "StudyDate StudyTime ProcedureCodeSequence_CodeMeaning ViewCodeSequence_CodeMeaning "
        "PatientOrientationCodeSequence_CodeMeaning"
    ),
}
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
    assert counts["films"] == MIMIC["films"] and counts["studies"] == 58
    return path


def table(path, name):
    return list(csv.DictReader(io.StringIO(gzip.decompress((path / name).read_bytes()).decode())))


def digests(path):
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


def readable(path):
    """Headers and paths of the films that are whole."""
    for record in table(path, "cxr-record-list.csv.gz"):
        file = path / record["path"]
        if file.read_bytes()[128:132] == b"DICM":
            yield file, pydicom.dcmread(file)


def decoded(header):
    """Stored values, by a decoder that shares no code with the project's own."""
    decode = DECODERS.get(header.file_meta.TransferSyntaxUID)
    if decode is None:
        return header.pixel_array
    return decode(next(encaps.generate_frames(header.PixelData, number_of_frames=1)))


def smooth(film):
    return np.asarray(Image.fromarray(film).resize((56, 56), Image.Resampling.BOX))


def a_film(findings=(), side="left", view="PA", seed=0, shape=(224, 224)):
    patient = anatomy.draw_patient(np.random.default_rng(seed))
    strengths = dict.fromkeys(findings, 1.0)
    rng = np.random.default_rng(seed + 1)
    return drawing.draw_film(rng, patient, strengths, side, shape, view)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    few = {"films": 26, "laterals": 3, "size_range": (64, 80)}
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        stand_in.write_mimic(tmp_path / name, seed=seed, **few)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert not set(digests(tmp_path / "one").values()) & set(digests(tmp_path / "other").values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "other", "two"]


def test_tables_have_the_columns_of_mimic(mimic):
    for name, columns in COLUMNS.items():
        assert list(table(mimic, f"{name}.csv.gz")[0]) == columns.split()
    for name in ("chexpert", "negbio"):
        first = table(mimic, f"mimic-cxr-2.0.0-{name}.csv.gz")[0]
        assert tuple(first) == ("subject_id", "study_id", *report_text.LABELS)


def test_tables_and_files_name_each_other(mimic):
    records = table(mimic, "cxr-record-list.csv.gz")
    studies = table(mimic, "cxr-study-list.csv.gz")
    assert len(records) == 56 + 9 + 2 and len(studies) == 58
    paths = {record["path"] for record in records} | {study["path"] for study in studies}
    assert paths == {p.relative_to(mimic).as_posix() for p in (mimic / "files").rglob("*.*")}
    for record in records:
        subject, study = record["subject_id"], record["study_id"]
        assert record["path"] == (
            f"files/p{subject[:2]}/p{subject}/s{study}/{record['dicom_id']}.dcm"
        )
        assert len(subject) == len(study) == 8 and (subject[0], study[0]) == ("1", "5")
        assert [len(group) for group in record["dicom_id"].split("-")] == [8] * 5
    ids = {(r["subject_id"], r["study_id"], r["dicom_id"]) for r in records}
    for name in ("metadata", "split"):
        rows = table(mimic, f"mimic-cxr-2.0.0-{name}.csv.gz")
        assert {(r["subject_id"], r["study_id"], r["dicom_id"]) for r in rows} == ids
    of_study = {(s["subject_id"], s["study_id"]) for s in studies}
    assert of_study == {(subject, study) for subject, study, _ in ids}
    for name in ("chexpert", "negbio"):
        rows = table(mimic, f"mimic-cxr-2.0.0-{name}.csv.gz")
        assert {(r["subject_id"], r["study_id"]) for r in rows} == of_study


def test_headers_agree_with_the_tables(mimic):
    rows = {r["dicom_id"]: r for r in table(mimic, "mimic-cxr-2.0.0-metadata.csv.gz")}
    for file, header in readable(mimic):
        row = rows[file.stem]
        assert str(header.Rows) == row["Rows"] and str(header.Columns) == row["Columns"]
        assert header.ViewPosition == row["ViewPosition"]
        assert header.PatientID == row["subject_id"] and header.StudyID == row["study_id"]
        assert header.StudyDate == row["StudyDate"] and header.StudyDate > "2109"


def test_a_patient_is_in_one_split(mimic):
    splits = {}
    for row in table(mimic, "mimic-cxr-2.0.0-split.csv.gz"):
        splits.setdefault(row["subject_id"], set()).add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    assert set.union(*splits.values()) == {"train", "validate", "test"}


def test_labels_follow_the_conventions(mimic):
    rows = table(mimic, "mimic-cxr-2.0.0-chexpert.csv.gz")
    for label in report_text.LABELS:
        values = {row[label] for row in rows}
        assert "1.0" in values and values <= {"1.0", "0.0", "-1.0", ""}
    assert {row["No Finding"] for row in rows} == {"1.0", ""}
    for row in rows:
        findings = set(report_text.LABELS) - {"No Finding", "Support Devices"}
        assert not row["No Finding"] or {row[label] for label in findings} <= {"0.0", ""}
    assert 0.3 < np.mean([row["No Finding"] == "1.0" for row in rows]) < 0.5


def test_reports_say_what_the_labels_say():
    rng = np.random.default_rng(0)
    labels = {"Edema": 0, "Pleural Effusion": 1, "Pneumonia": -1}
    text = report_text.report_text(rng, labels, "left", "CHEST (PORTABLE AP)", earlier=False)
    findings, impression = " ".join(text.split()).split("FINDINGS:")[1].split("IMPRESSION:")
    assert impression.strip() == "Left pleural effusion. Possible left pneumonia."
    assert "no pulmonary edema" in findings.lower() or "no evidence of pulm" in findings.lower()
    normal = report_text.report_text(rng, {"No Finding": 1}, "left", "CHEST", earlier=True)
    assert "No acute cardiopulmonary process." in normal
    assert text.splitlines()[0].strip() == "FINAL REPORT"


def test_every_kind_of_header_occurs(mimic):
    frontal = [h for _, h in readable(mimic) if h.ViewPosition in ("AP", "PA", "")]
    assert {h.file_meta.TransferSyntaxUID for h in frontal} == {
        syntax for syntax, _ in dicom_files.SYNTAXES.values()
    }
    assert {(h.BitsAllocated, h.BitsStored) for h in frontal} == {
        (8, 8), *((16, bits) for bits in (10, 12, 14, 15, 16))
    }  # fmt: skip
    assert {h.PhotometricInterpretation for h in frontal} == {"MONOCHROME1", "MONOCHROME2"}
    assert {h.get("PresentationLUTShape") for h in frontal} == {None, "IDENTITY", "INVERSE"}
    assert {h.PixelRepresentation for h in frontal} == {0, 1}
    assert {h.ViewPosition for h in frontal} == {"AP", "PA", ""}
    assert {h.get("VOILUTFunction") for h in frontal} == {None, "LINEAR_EXACT", "SIGMOID"}
    assert any("VOILUTSequence" in h for h in frontal)
    assert any("WindowCenter" in h and h["WindowCenter"].VM == 2 for h in frontal)
    assert len({h.get("RescaleSlope") for h in frontal}) == 4
    assert {h.ViewPosition for _, h in readable(mimic)} >= {"LATERAL", "LL"}


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


def test_damaged_files_are_damaged(mimic):
    files = [mimic / r["path"] for r in table(mimic, "cxr-record-list.csv.gz")]
    garbage = [f for f in files if f.read_bytes()[128:132] != b"DICM"]
    cut = []
    for file, header in readable(mimic):
        native = not header.file_meta.TransferSyntaxUID.is_compressed
        if (
            native
            and len(header.PixelData) < header.Rows * header.Columns * header.BitsAllocated / 8
        ):
            cut.append(file)
    assert len(garbage) == len(cut) == 1


@pytest.mark.parametrize("finding", sorted(set(report_text.LABELS) - {"No Finding"}))
def test_findings_show(finding):
    """Against the same film without it, a finding changes a part of the chest, and only a part."""
    for seed in range(3):
        change = smooth(a_film([finding], seed=seed)) - smooth(a_film(seed=seed))
        changed = np.abs(change) > 0.04
        assert 0.002 < changed.mean() < 0.45
        darker = finding == "Pneumothorax"
        assert finding == "Fracture" or (change[changed].mean() < 0) == darker


def test_sides_and_normal_films():
    left, right = (a_film(["Pleural Effusion"], side) - a_film() for side in ("left", "right"))
    assert left[:, 112:].mean() > 10 * abs(left[:, :112].mean())  # left is right on the image
    assert right[:, :112].mean() > 10 * abs(right[:, 112:].mean())
    for view in ("AP", "PA", "LL"):
        film = a_film(view=view, shape=(70, 90))
        assert film.shape == (70, 90) and film.dtype == np.float32
        assert film.min() >= 0 and film.max() <= 1 and film.std() > 0.15


def test_bad_arguments_are_named(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"expected an empty or a new folder"):
        stand_in.write_mimic(tmp_path)
    with pytest.raises(ValueError, match=r"found .'films': 3, 'laterals': 9"):
        stand_in.write_mimic(tmp_path / "new", films=3, laterals=9)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_the_command_can_be_repeated_but_never_mixes(tmp_path):
    few = ("--films=2", "--laterals=1", "--damaged=0", "--size_range=64,64")
    first = run("synthetic_mimic", f"--output={tmp_path}/mimic", *few)
    assert first.returncode == 0 and "2 films, 1 laterals" in first.stdout
    before = digests(tmp_path)
    again = call("synthetic_mimic", f"--output={tmp_path}/mimic", *few)
    assert again.returncode == 0 and "already there" in again.stdout
    other = call("synthetic_mimic", f"--output={tmp_path}/mimic", *few, "--seed=1")
    assert other.returncode == 1 and "Choose another folder" in other.stderr
    assert digests(tmp_path) == before


def test_the_contact_sheet_shows_every_film(mimic, tmp_path):
    table = mimic / "mimic-cxr-2.0.0-chexpert.csv.gz"
    sheet = tmp_path / "sheet.png"
    done = call("contact_sheet", f"--input={mimic}", f"--labels={table}", f"--output={sheet}")
    assert done.returncode == 0, done.stderr
    assert "65 films, 2 not readable" in done.stdout
    image = np.asarray(Image.open(sheet).convert("L"))
    assert image.shape[1] == 2172 and image.std() > 40
