"""The tables against public phrase lists, and reports that people have coded.

Set aside before any rule was written, by ids alone: the coded reports whose `_bucket` is below 3.
Nobody read them for the tables; they only give the scores.
"""

import collections
import csv
import hashlib
import re
import tarfile
import xml.etree.ElementTree as ElementTree

from cxr_embeddings.input_pipeline.reports import label, sections, vocabulary


def _label(findings):
    return label.label_sections({"findings": findings})


def test_rules_are_told_apart_by_name():
    names = [*vocabulary.FINDINGS]
    devices = [name for name in names if name.startswith("device_")]
    assert names[-len(devices) :] == devices
    assert not set(names) & set(vocabulary.DIVIDED)


# Stems among the phrases, completed.
STEMS = {"atelecta": "atelectasis", "consolidat": "consolidation", "opaci": "opacity"}
NO_FINDING_ALONE = {"the heart", "heart size", "cardiac size", "cardiac shadow", "cardiac contour"}
NO_FINDING_ALONE |= {"cardiac silhouette"}


def _phrases(folder, kind):
    for path in sorted((folder / "chexpert-labeler" / "phrases" / kind).iterdir()):
        for phrase in path.read_text().split("\n"):
            if phrase.strip("_ "):
                yield path.stem, phrase.strip("_ ")


def test_mention_phrases(shared_data):
    count = 0
    for finding, phrase in _phrases(shared_data / "report_tools", "mention"):
        if finding == "enlarged_cardiomediastinum" or phrase in NO_FINDING_ALONE:
            assert _label(f"There is the {phrase}.").label == "unknown", phrase
            continue
        count += 1
        phrase = STEMS.get(phrase, phrase)
        assert _label(f"There is {phrase} on the left.").label == "abnormal", phrase
        assert _label(f"There is no {phrase} on the left.").label != "abnormal", phrase
        assert _label(f"The lungs are clear without {phrase}.").label == "normal", phrase
    assert count > 100


def test_unmention_phrases(shared_data):
    """What another labeler must not take for a finding of a class; here, only words that differ."""
    phrases = {phrase for _, phrase in _phrases(shared_data / "report_tools", "unmention")}
    for phrase in ("massive", "massengale"):
        assert phrase in phrases
        assert _label(f"The {phrase} patient has clear lungs.").label == "normal"
    for phrase, rule in (("pleural scar", "scar"), ("pericardial effusion", "effusion")):
        assert phrase in phrases
        assert _label(f"There is {phrase}.") == ("abnormal", rule)


def _examples(shared_data, name, finding):
    """The sentences that a file of patterns gives as examples in its comments."""
    path = shared_data / "report_tools" / "chexpert-labeler" / "patterns" / name
    for line in path.read_text().splitlines():
        if line.startswith("#") and "XXX" in line:
            line = re.sub(r"\([^)]*\)", "", line.removeprefix("#"))
            for sentence in line.split(" | "):
                words = [re.split(r"[|/]", word)[0] for word in sentence.split()]
                text = " ".join(words).replace("XXX", finding).replace("NN", "sign")
                yield text.replace("YYY", "edema")


def test_negation_examples(shared_data):
    seen = 0
    for text in _examples(shared_data, "negation.txt", "pneumothorax"):
        if "previously demonstrated" in text:
            continue  # may still be there
        if re.search(r"limits|normal|enlarged", text):
            text = text.replace("pneumothorax", "pulmonary vascularity")
        assert _label(f"The lungs. {text}.").label != "abnormal", text
        seen += 1
    assert seen > 25


def test_uncertainty_examples(shared_data):
    seen = 0
    for name in ("pre_negation_uncertainty.txt", "post_negation_uncertainty.txt"):
        for text in _examples(shared_data, name, "pneumothorax"):
            if re.search(r"\bno new\b|evidence to rule|was not appreciated|correlat", text, re.I):
                continue  # denied, or asked for
            assert _label(f"The lungs. {text}.").label == "abnormal", text
            seen += 1
    assert seen > 20


def test_sample_reports(shared_data):
    folder = shared_data / "report_tools"
    with open(folder / "chexpert-labeler/labeled_reports.csv", newline="") as file:
        texts = [row["Reports"] for row in csv.DictReader(file)]
    for path in sorted((folder / "NegBio/examples").glob("0*.txt")):
        texts.append(sections.decode(path.read_bytes()))
    assert [label.label_report(text) for text in texts] == [
        ("normal", "normal_statement"), ("abnormal", "effusion"), ("abnormal", "consolidation"),
        ("abnormal", "cardiomegaly"), ("abnormal", "nodule"), ("abnormal", "cardiomegaly"),
    ]  # fmt: skip
    assert sections.sections(texts[4])["impression"].startswith("stable chest.")


def _bucket(report_id):
    return int(hashlib.sha256(report_id.encode()).hexdigest(), 16) % 10


def test_human_coded_reports(shared_data):
    """Sensitivity, specificity and share decided on the set-aside part."""
    with open(shared_data / "openi" / "index.csv", newline="") as file:
        rows = {row["xml"]: row for row in csv.DictReader(file) if _bucket(row["report_id"]) < 3}
    counts = collections.Counter()
    with tarfile.open(shared_data / "openi" / "ecgen-radiology.tgz") as archive:
        for member in archive:
            if member.name not in rows:
                continue
            report = ElementTree.fromstring(archive.extractfile(member).read())
            if "No Indexing" in [coded.text for coded in report.iter("major")]:
                continue
            found = {
                part.get("Label").lower(): part.text or "" for part in report.iter("AbstractText")
            }
            coded = "normal" if rows[member.name]["mesh_normal"] == "1" else "abnormal"
            counts[coded, label.label_sections(found).label] += 1
    hit, missed = counts["abnormal", "abnormal"], counts["abnormal", "normal"]
    false, right = counts["normal", "abnormal"], counts["normal", "normal"]
    assert counts.total() > 900
    assert hit / (hit + missed) >= 0.985, counts
    assert right / (right + false) >= 0.95, counts
    assert (hit + missed + false + right) / counts.total() >= 0.97, counts
