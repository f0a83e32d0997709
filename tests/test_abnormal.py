"""Label tables of data sets, judged abnormal or normal."""

import csv
import gzip

import pytest

from cxr_embeddings.common import data_sets
from cxr_embeddings.input_pipeline.reports import abnormal
from cxr_embeddings.input_pipeline.reports.abnormal import judge, read_labels, with_devices
from cxr_embeddings.input_pipeline.reports.label import Verdict

MIMIC = data_sets.load("mimic_cxr")
FINDINGS = [name for name in MIMIC.findings if name not in ("No Finding", "Support Devices")]


def mimic_table(*rows, columns=("subject_id", "study_id", *MIMIC.findings)):
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
    assert judge(codes, FINDINGS, MIMIC.devices) == (label, rule)


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
        f"4 rows in {path}, a table as MIMIC-CXR's",
        ("study_id", "patient_id"),
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
        "00000001_001.png,Effusion|Atelectasis,1,1,58\n"
        "00000002_000.png,No Finding,0,2,80\n"
        "00000004_000.png,Pleural_Thickening | Mass,0,4,82\n"
        "00000005_000.png,,0,5,82\n"
    )
    assert read_labels(str(tmp_path / "t.csv"))[1:] == (
        ("image_id", "patient_id"),
        {
            ("00000001_001.png", "1"): ("abnormal", "atelectasis"),
            ("00000002_000.png", "2"): ("normal", "no_finding"),
            ("00000004_000.png", "4"): ("abnormal", "mass"),
            ("00000005_000.png", "5"): ("unknown", "not_mentioned"),
        },
    )


def test_a_table_of_real_films(shared_data):
    path = shared_data / "nih/labels.csv"
    found = {ids: verdict.label for ids, verdict in read_labels(str(path)).rows.items()}
    with open(path, newline="") as file:
        assert found == {
            (row["file"], row["patient_id"]): "normal" if row["no_finding"] == "1" else "abnormal"
            for row in csv.DictReader(file)
        }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"of no data set .* There are: \(none\)"),
        ("a,b\n1,2\n", r"is the label table of no data set .*: a, b"),
        (mimic_table({"Edema": "2"}), r"found '2' in row 2, column 'Edema', .*; expected 1, 0"),
        (mimic_table({}, {"study_id": ""}), r"row 3 of .* lacks an id \(study_id\)"),
        (mimic_table({}, {"study_id": "1"}), r"row 3 of .* is the second of 1; expected one row"),
        ("Image Index,Finding Labels,Patient ID\na.png,Edema|Effusoin,1\n", "Effusoin"),
        ("Image Index,Finding Labels,Patient ID\na.png,No Finding|Edema,1\n", "beside a finding"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(str(tmp_path / "t.csv"))
