"""The tables against invented sentences, public phrase lists and reports that people have coded.

Set aside before any rule was written, by ids alone: the coded reports whose `_bucket` is below 3.
Nobody read them for the tables; they only give the scores.
"""

import collections
import csv
import hashlib
import re
import tarfile
import xml.etree.ElementTree as ElementTree

import pytest

from cxr_embeddings.input_pipeline.reports import label, sections, vocabulary


def _label(findings):
    return label.label_sections({"findings": findings})


def test_rules_are_told_apart_by_name():
    names = [*vocabulary.FINDINGS]
    devices = [name for name in names if name.startswith("device_")]
    assert names[-len(devices) :] == devices
    assert not set(names) & set(vocabulary.DIVIDED)


# rule -> findings that stand beside what is denied, gone or removed and are not denied with it.
STAYS = {
    "atelectasis": (
        "Tracheostomy tube has been removed and bibasilar atelectasis persists.",
        "The endotracheal tube was removed, left lower lobe collapse is worse.",
        "Right base atelectasis, pneumonia unlikely.",
    ),
    "cardiomegaly": (
        "Cardiomegaly persists while the effusion has resolved.",
        "No pneumothorax or effusion, cardiomegaly.",
    ),
    "device_line": (
        "No pneumothorax status post PICC placement.",
        "The chest tube has been removed, the PICC remains.",
    ),
    "device_tube": (
        "No pneumothorax after placement of a right chest tube.",
        "ET tube in place and the left chest tube has been removed.",
    ),
    "edema": (
        "Interval removal of the Swan-Ganz catheter and worsening pulmonary edema.",
        "Pulmonary edema, the ET tube has been removed.",
        "There is edema and the left effusion has resolved.",
    ),
    "effusion": (
        "Large left pleural effusion and pneumothorax, which has resolved.",
        "Since removal of the pigtail drain, pleural effusion has increased.",
        "The edema has resolved, moderate effusions remain.",
        "The left effusion has nearly resolved.",
        "Stable large effusion, pneumothorax is not identified.",
        "No pneumothorax (small effusion is unchanged).",
        "Negative for pneumothorax, positive for left effusion.",
        "Unchanged effusion and the pneumothorax is gone.",
    ),
    "emphysema": ("Clear of consolidation, severe emphysema.",),
    "free_air": ("Subcutaneous emphysema persists although all drains were removed.",),
    "hypoinflation": ("There has been removal of the ETT, and lung volumes are lower.",),
    "mediastinum": ("The heart is enlarged and effusions are not seen.",),
    "opacity": (
        "Bibasilar opacities and low lung volumes after the endotracheal tube was removed.",
        "Resolved right effusion, new left basilar opacity.",
        "Partial clearing of the left base opacity.",
    ),
    "pneumonia": (
        "Left lower lobe pneumonia and previously seen edema has resolved.",
        "The pneumonia has not resolved.",
        "Pneumonia is favored and edema is unlikely.",
    ),
    "pneumothorax": (
        "Small right apical pneumothorax is unchanged after the chest tube was removed.",
        "Moderate right pneumothorax has developed since the pigtail catheter was removed.",
        "Removal of the right chest tube with new right pneumothorax.",
        "Small left pneumothorax, catheter was removed.",
        "Pneumothorax, which was seen after the drain was removed, persists.",
        "Following removal of chest tube, pneumothorax is seen.",
    ),
}
# Here a denial reaches all that it names.
GONE = (
    "The small right pneumothorax seen after the biopsy has resolved.",
    "The right effusion, seen on the prior film, has resolved.",
    "Previously seen effusion and edema have resolved.",
    "Edema, effusions and atelectasis have resolved since the prior film.",
    "Previous nodule in the left lung, which has resolved.",
    "Left lower lobe opacity with interval resolution.",
    "Effusion, consolidation, or pneumothorax is not seen.",
    "Focal consolidation, large effusion, or pneumothorax is not seen.",
    "The lungs are clear without focal consolidation, new nodule, or pneumothorax.",
    "No pneumothorax after removal of the left chest tube.",
    "The chest tubes, mediastinal drains and Swan-Ganz catheter have been removed.",
    "No right, left or bilateral effusion.",
    "No effusion on the left and right.",
    "No small, moderate or large effusion.",
    "The PICC is no longer in place.",
    "No pneumothorax or edema is seen, heart and mediastinum are normal.",
    "No pleural effusion, focal consolidation, pneumothorax.",
    "There is no new focal consolidation, new effusion, or pneumothorax.",
    "Interval resolution of right lower lobe pneumonia and left effusion.",
    "Pleural effusion and pneumothorax is not identified.",
    "No mass, adenopathy or effusion, bones are normal.",
    "No acute fracture, dislocation or bony abnormality, unchanged from prior.",
    "No new infiltrate since the pneumonia of last year.",
    "The effusion, which was seen on the prior film, has resolved.",
    "The mass was removed.",
)


@pytest.mark.parametrize(
    ("sentence", "rule"), [(one, rule) for rule, some in STAYS.items() for one in some]
)
def test_a_denial_leaves_the_next_finding(sentence, rule):
    assert _label(f"{sentence} Normal heart.") == ("abnormal", rule)


@pytest.mark.parametrize("sentence", GONE)
def test_a_denial_reaches_all_that_it_names(sentence):
    assert _label(f"{sentence} Lungs are clear.") == ("normal", "normal_statement")


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
    folder = shared_data / "report_tools" / "chexpert-labeler"
    with open(folder / "labeled_reports.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        expected = "normal" if row["No Finding"] == "1.0" else "abnormal"
        assert label.label_report(row["Reports"]).label == expected
    assert [label.label_report(row["Reports"]).rule for row in rows] == [
        "normal_statement",
        "effusion",
        "consolidation",
        "cardiomegaly",
    ]


def test_negbio_samples(shared_data):
    folder = shared_data / "report_tools" / "NegBio" / "examples"
    texts = [sections.decode(path.read_bytes()) for path in sorted(folder.glob("0*.txt"))]
    assert [label.label_report(text) for text in texts] == [
        ("abnormal", "nodule"),
        ("abnormal", "cardiomegaly"),
    ]
    assert sections.sections(texts[0])["impression"].startswith("stable chest.")


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
