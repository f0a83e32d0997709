"""`scripts/label_abnormal.py`: what it writes is read by `train_head.py`, and says no more."""

import collections
import csv
import gzip

import numpy as np
import pytest
import running
from label_tables import join, read_labels

import cxr_embeddings as cxr
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import draw_studies
from cxr_embeddings.input_pipeline.synthetic.report_text import LABELS, report_text

COUNT = 90


def label(output, **options):
    """Runs the command; what it says."""
    given = [f"--{name}={value}" for name, value in options.items()]
    result = running.call("label_abnormal", f"--output={output}", *given)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """Reports and the CheXpert table of a stand-in of MIMIC-CXR; three reports are harmed."""
    root = tmp_path_factory.mktemp("mimic")
    studies, rng = draw_studies(COUNT, 3), np.random.default_rng(0)
    for study in studies:
        file = root / f"{study.folder}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(report_text(rng, study.labels, study.side, "CHEST (PA AND LAT)", True))
    with gzip.open(root / "mimic-cxr-2.0.0-chexpert.csv.gz", "wt", newline="") as file:
        writer = csv.DictWriter(file, ("subject_id", "study_id", *LABELS))
        writer.writeheader()
        for study in studies:
            ids = {"subject_id": study.subject_id, "study_id": study.study_id}
            writer.writerow(ids | {label: f"{value:.1f}" for label, value in study.labels.items()})
    return root, studies


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def kind(labels):
    """What a study of the stand-in is, as it was drawn."""
    shown = {value for name, value in labels.items() if name not in ("No Finding", LABELS[-1])}
    if 1 in shown:
        return "abnormal"
    return "uncertain" if -1 in shown else "devices" if LABELS[-1] in labels else "normal"


def test_a_table_of_findings(mimic, tmp_path):
    root, studies = mimic
    table, output = root / "mimic-cxr-2.0.0-chexpert.csv.gz", tmp_path / "abnormal.csv"
    said = label(output, findings=table, devices="normal").splitlines()
    expected = {"abnormal": "1", "normal": "0", "uncertain": "", "devices": "0"}
    found = rows(output)
    kinds = {str(study.study_id): kind(study.labels) for study in studies}
    assert len(set(kinds.values())) == 4
    assert [(row["study_id"], row["abnormal"]) for row in found] == [
        (study, expected[kinds[study]]) for study in sorted(kinds)
    ]
    assert said[0] == f"{COUNT} rows in {table}, a table as MIMIC-CXR's"
    abnormal = sum(row["abnormal"] == "1" for row in found)
    assert f"abnormal {abnormal:9}" in said
    rules = collections.Counter(row["rule"] for row in found)
    for rule, count in rules.items():
        assert [line.split() for line in said].count([rule, str(count)]) == 1


def test_reports(mimic, tmp_path):
    root, studies = mimic
    (tmp_path / "in").symlink_to(root)
    said = label(tmp_path / "abnormal.csv", reports=tmp_path / "in")
    assert f"{COUNT} reports in {tmp_path}/in; ignored 1 other files" in said
    found = {row["study_id"]: row for row in rows(tmp_path / "abnormal.csv")}
    for study in studies:
        row, expected = found.pop(str(study.study_id)), kind(study.labels)
        assert row["subject_id"] == str(study.subject_id)
        assert row["abnormal"] == {"normal": "0", "devices": ""}.get(expected, "1")
        assert row["rule"].startswith("device_") == (expected == "devices")
    assert not found


def test_reports_that_cannot_be_read_are_named_and_nothing_of_them_is_written(tmp_path):
    folder, output = tmp_path / "in/p10/p10000032", tmp_path / "abnormal.csv"
    folder.mkdir(parents=True)
    texts = {50000001: b"\x00\x07remarkable" * 9, 50000002: b" \n", 50000003: b"remarkable. " * 9}
    for study, text in texts.items():
        (folder / f"s{study}.txt").write_bytes(text)
    (folder / "s50000004.txt").symlink_to(tmp_path / "nowhere")
    result = running.call("label_abnormal", f"--reports={tmp_path}/in", f"--output={output}")
    assert result.returncode == 1
    assert "error: 1 of 4 reports could not be read or labelled, and count as" in result.stderr
    for rule, study in (("binary", 50000001), ("empty", 50000002), ("unreadable", 50000004)):
        assert f"{rule} (study_id, subject_id): {study} 10000032\n" in result.stdout
    assert "remarkable" not in result.stdout + result.stderr + output.read_text()
    assert [row["abnormal"] for row in rows(output)] == [""] * 4


def test_contradictions_are_counted_and_named(tmp_path):
    lines = [f"{i},1," + ",".join("1" * len(LABELS)) for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join([",".join(("study_id,subject_id", *LABELS)), *lines]))
    said = label(tmp_path / "abnormal.csv", findings=tmp_path / "t.csv")
    assert ["contradiction", "12"] in [line.split() for line in said.splitlines()]
    assert "contradiction (study_id, patient_id): 0 1, 1 1, 10 1, 11 1, 2 1" in said
    assert "8 1" not in said and said.count(", ...") == 1


def test_heads_read_the_labels_and_take_no_rule_for_a_finding(mimic, tmp_path):
    root, studies = mimic
    output = tmp_path / "abnormal.csv"
    label(output, findings=root / "mimic-cxr-2.0.0-chexpert.csv.gz", devices="normal")
    for findings in (("all",), ("abnormal",)):
        labels = read_labels(output, findings)
        assert labels.findings == ("abnormal",)
    known = {"abnormal": 1, "normal": 0, "devices": 0}
    for study in studies:
        i = labels.facts.ids["study"].tolist().index(str(study.study_id))
        assert labels.facts.ids["patient"][i] == str(study.subject_id)
        assert labels.mask[i, 0] == (kind(study.labels) in known)
        assert labels.label[i, 0] == known.get(kind(study.labels), 0)
    image_id = np.array([f"{study.folder}/a-{i}.dcm" for i, study in enumerate(studies)], object)
    examples = join(image_id, labels, fractions=(0.6, 0.2, 0.2))
    assert len(examples.row) == sum(kind(study.labels) in known for study in studies)


def test_from_python_there_is_a_table(mimic, tmp_path):
    root, studies = mimic
    table = cxr.label_reports(root, tmp_path / "a.csv", devices="normal", workers=2)
    assert [*table] == ["study_id", "subject_id", "abnormal", "rule"] and len(table) == COUNT
    assert table["abnormal"].notna().all()
    found = {row["study_id"]: row["abnormal"] for row in rows(tmp_path / "a.csv")}
    expected = {"abnormal": "1", "normal": "0", "uncertain": "1", "devices": "0"}
    assert found == {str(study.study_id): expected[kind(study.labels)] for study in studies}
    with pytest.raises(cxr.FileError):
        cxr.label_reports(tmp_path / "none")
