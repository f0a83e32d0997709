"""Label tables of the known data sets, judged abnormal or normal."""

import collections
import csv
import gzip

import pytest

from cxr_embeddings.input_pipeline.reports import abnormal
from cxr_embeddings.input_pipeline.reports.abnormal import (
    DATASETS,
    judge,
    read_labels,
    with_devices,
)
from cxr_embeddings.input_pipeline.reports.label import Verdict

MIMIC = DATASETS["mimic_cxr"]
NAMES = (*MIMIC.findings, *MIMIC.devices, MIMIC.normal)


def mimic_table(*rows, columns=("subject_id", "study_id", *NAMES)):
    """A table of studies 1, 2, ... of patients 101, 102, ... as text; a row is finding -> text."""
    lines = [",".join(columns)]
    for i, row in enumerate(rows, 1):
        values = {"subject_id": str(100 + i), "study_id": str(i), **row}
        lines.append(",".join(values.get(column, "") for column in columns))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("codes", "label", "rule"),
    [
        ({"Edema": 1}, "abnormal", "edema"),
        ({"Pleural Other": 1, "Edema": 0, "Lung Lesion": -1}, "abnormal", "pleural_other"),
        ({"Pneumothorax": 1, "Edema": 1}, "abnormal", "edema"),
        ({"Fracture": 1, "Support Devices": 1}, "abnormal", "fracture"),
        ({"No Finding": 1}, "normal", "no_finding"),
        ({"No Finding": 1, "Edema": 0, "Fracture": None}, "normal", "no_finding"),
        ({"No Finding": 1, "Support Devices": 0}, "normal", "no_finding"),
        ({"No Finding": 1, "Support Devices": 1}, "abnormal", "device_only"),
        ({"Support Devices": 1, "Edema": 0}, "abnormal", "device_only"),
        ({"Support Devices": -1}, "abnormal", "device_only"),
        ({"Edema": -1}, "unknown", "uncertain"),
        ({"Edema": -1, "Support Devices": 1}, "unknown", "uncertain"),
        ({"No Finding": 1, "Edema": 1}, "unknown", "contradiction"),
        ({"No Finding": 1, "Edema": -1}, "unknown", "contradiction"),
        ({"Edema": 0, "Support Devices": 0}, "unknown", "not_mentioned"),
        ({"No Finding": 0}, "unknown", "not_mentioned"),
        ({}, "unknown", "not_mentioned"),
    ],
)
def test_findings_of_a_row(codes, label, rule):
    assert judge(codes, MIMIC) == (label, rule)


@pytest.mark.parametrize("devices", abnormal.DEVICES)
def test_devices_alone_are_what_is_asked_for(devices):
    for rule in ("device_only", "device_tube"):
        assert with_devices(Verdict("abnormal", rule), devices) == (devices, rule)
    for verdict in (Verdict("abnormal", "edema"), Verdict("normal", "no_finding")):
        assert with_devices(verdict, devices) == verdict


def test_a_table_of_mimic_cxr(tmp_path):
    text = mimic_table(
        {"Edema": "1.0", "Fracture": "0"}, {"No Finding": "1.0"}, {"Edema": "-1.0"}, {}
    )
    path = tmp_path / "chexpert.csv.gz"
    path.write_bytes(gzip.compress(("\ufeff" + text.replace("\n", "\r\n") + "\r\n").encode()))
    assert read_labels(str(path)) == (
        f"4 rows in {path}, a table as mimic_cxr has it",
        ("study_id", "subject_id"),
        {
            ("1", "101"): ("abnormal", "edema"),
            ("2", "102"): ("normal", "no_finding"),
            ("3", "103"): ("unknown", "uncertain"),
            ("4", "104"): ("unknown", "not_mentioned"),
        },
    )


def test_a_table_of_chestxray14_as_it_is_published(tmp_path):
    (tmp_path / "t.csv").write_text(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age\n"
        "00000001_000.png,Cardiomegaly,0,1,57\n"
        "00000001_001.png,Effusion|Atelectasis,1,1,58\n"
        "00000002_000.png,No Finding,0,2,80\n"
        "00000003_000.png,No Finding|Hernia,0,3,81\n"
        "00000004_000.png,Pleural_Thickening | Mass,0,4,82\n"
        "00000005_000.png,,0,5,82\n"
    )
    read = read_labels(str(tmp_path / "t.csv"))
    assert read.about.endswith("as chestxray14 has it")
    assert read.columns == ("image_id", "patient_id")
    assert read.rows == {
        ("00000001_000.png", "1"): ("abnormal", "cardiomegaly"),
        ("00000001_001.png", "1"): ("abnormal", "atelectasis"),
        ("00000002_000.png", "2"): ("normal", "no_finding"),
        ("00000003_000.png", "3"): ("unknown", "contradiction"),
        ("00000004_000.png", "4"): ("abnormal", "mass"),
        ("00000005_000.png", "5"): ("unknown", "not_mentioned"),
    }


@pytest.mark.parametrize(
    ("name", "dataset", "column", "normal"),
    [("nih", "chestxray14", "no_finding", "1"), ("kermany", "kermany", "pneumonia", "0")],
)
def test_tables_of_real_films(shared_data, name, dataset, column, normal):
    path = shared_data / name / "labels.csv"
    read = read_labels(str(path))
    assert read.about.endswith(f"as {dataset} has it")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    found = {ids[0]: verdict.label for ids, verdict in read.rows.items()}
    expected = {row["file"]: "normal" if row[column] == normal else "abnormal" for row in rows}
    assert found == expected
    assert len(collections.Counter(found.values())) == 2
    patient = "patient_id" if name == "nih" else "patient_key"
    assert {ids[1] for ids in read.rows} == {row[patient] for row in rows}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"none of mimic_cxr, .* There are: \(none\)"),
        ("a,b\n1,2\n", r"is the label table of none of mimic_cxr, chestxray14, kermany; .* a, b"),
        (
            mimic_table({}, columns=("subject_id", "study_id", *NAMES[1:])),
            r"nearest to mimic_cxr's, but has no column Atelectasis\. There are: subject_id, ",
        ),
        ("Image Index,Finding Labels\na.png,Edema\n", "but has no column Patient ID"),
        (mimic_table({"Edema": "2"}), r"found '2' in row 2 of .*, column 'Edema'; expected 1, 0"),
        (mimic_table({}, {"Edema": "yes"}), r"found 'yes' in row 3 of"),
        (mimic_table({}, {"study_id": ""}), r"row 3 of .* lacks an id \(study_id, subject_id\)"),
        (
            mimic_table({}, {"study_id": "1", "subject_id": "101", "Edema": "1"}),
            r"row 3 of .* is the second of 1 and 101; expected one row for each study_id and subj",
        ),
        (
            "Image Index,Finding Labels,Patient ID\na.png,Edema|Effusoin,1\n",
            r"found 'Effusoin' in row 2 of .*, column 'Finding Labels'; expected Atelectasis, Card",
        ),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(str(tmp_path / "t.csv"))
