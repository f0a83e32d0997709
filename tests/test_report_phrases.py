"""The tables against public phrase lists, coded reports, and reports that are changed.

Set aside before any rule was written, by ids alone: the coded reports of `_is_set_aside`. Nobody
read them for the tables; they only give the scores. A denied statement of normality or an added
finding never leaves "normal"; spelling changes nothing.
"""

import collections
import csv
import hashlib
import itertools
import re
import tarfile
import textwrap
import xml.etree.ElementTree as ElementTree

import pytest

from cxr_embeddings.input_pipeline.reports import label, sections, vocabulary
from cxr_embeddings.input_pipeline.reports.collections import open_reports


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


def _is_set_aside(report_id):
    return int(hashlib.sha256(report_id.encode()).hexdigest(), 16) % 10 < 3


def test_human_coded_reports(shared_data):
    """Sensitivity, specificity and share decided on the set-aside part."""
    with open(shared_data / "openi" / "index.csv", newline="") as file:
        rows = {row["xml"]: row for row in csv.DictReader(file) if _is_set_aside(row["report_id"])}
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


INVENTED = (
    "FINDINGS: The heart is normal in size. The lungs are clear. No effusion or pneumothorax.\n\n"
    "IMPRESSION: No acute disease.",
    "FINDINGS: Lungs are clear without focal consolidation, large effusion, or edema. The trachea"
    " is midline. Bones are intact.",
    "FINDINGS: Cardiac and mediastinal contours are within normal limits. No mass, nodule or"
    " fracture is seen.\n\nIMPRESSION: Negative chest.",
)
NORMAL = r"(?:normal|unremarkable|clear|intact|preserved|within normal limits|midline|negative)"
NEGATIONS = ("not", "never", "no longer", "hardly", "not entirely", "far from", "anything but")
DISBELIEF = ("It is not true that", "It cannot be said that", "It is false that")
ADDED = (
    "cardiomegaly", "small left pleural effusion", "rib fractures", "bibasilar opacities",
    "nodule in the right apex measuring 8 mm", "pulmonary edema", "hiatal hernia", "scoliosis",
    "mediastinal widening", "ground-glass opacity", "lung abscess", "emphysema", "osteomyelitis",
)  # fmt: skip
PHRASES = (
    "{} is present", "there is {}", "{} noted", "{} again seen", "findings consistent with {}",
    "probable {}", "{} seen on the left", "stable {}", "{} cannot be excluded",
)  # fmt: skip
PLACES = (  # of a sentence, and of a finding in lower case and with a capital
    "{0}. {2}.", "{2}. {0}.", "{0}, {1}.", "{0}; {1}.", "{0}.{2}.", "{0} but {1}.", "{0} and {1}.",
    "{0} - {1}.", "{0} ({1}).", "1. {0}. 2. {2}.", "1) {0} 2) {2}.", "{0}\n* {2}", "{0}\n{2}.",
    "{0}. However, {1}.", "{0}\u2014{1}.",
)  # fmt: skip


@pytest.fixture(scope="module", params=["invented", "corpus"])
def normal(request):
    """Reports that are called normal; of the corpus some of the part that is not set aside."""
    if request.param == "invented":
        return list(INVENTED)
    folder = request.getfixturevalue("shared_data") / "openi"
    with open(folder / "index.csv", newline="") as file:
        coded = {row["report_id"] for row in csv.DictReader(file) if row["mesh_normal"] == "1"}
    texts = []
    with open_reports(str(folder / "ecgen-radiology.tgz")) as found:
        for ids, parts in found.reports:
            report_id = f"CXR{ids[0][1]}"
            if report_id in coded and not _is_set_aside(report_id):
                said = [f"{name.upper()}: {text}" for name, text in parts.items() if text]
                texts.append("\n\n".join(said))
            if len(texts) == 60:
                return [text for text in texts if label.label_report(text).label == "normal"]


def _sentences(text):
    """Where each sentence of the findings and the impression begins and ends, without full stop."""
    for section in re.finditer(r"^(?:FINDINGS|IMPRESSION): (.*)", text, re.M):
        for found in re.finditer(r"[^\s.][^.]*(?=\.)", section[1]):
            yield section.start(1) + found.start(), section.start(1) + found.end()


def test_denied_normality_is_never_normal(normal):
    count = 0
    for text in normal:
        for start, end in _sentences(text):
            said = text[start:end]
            denied = [f"{one} {said[0].lower()}{said[1:]}" for one in DISBELIEF]
            if re.search(rf"\b{NORMAL}\b", said, re.I):
                denied += [
                    re.sub(rf"\b({NORMAL})\b", rf"{no} \1", said, flags=re.I) for no in NEGATIONS
                ]
            elif not re.match(r"no\b|there (?:is|are) no\b", said, re.I):
                continue
            if re.search(rf"\b(?:is|are) {NORMAL}\b", said):
                denied.append(re.sub(rf"\b(is|are) (?={NORMAL}\b)", "\\1n\u2019t ", said))
            for one in denied:
                changed = text[:start] + one + text[end:]
                assert label.label_report(changed).label != "normal", one
            count += 1
    assert count >= 3 * len(normal) - 1


def test_an_added_finding_is_never_normal(normal):
    choices = [*itertools.product(PHRASES, ADDED, PLACES)][::7]
    for (phrase, finding, place), text in zip(choices, itertools.cycle(normal), strict=False):
        added = phrase.format(finding)
        for start, end in [*_sentences(text)][:1] + [*_sentences(text)][-1:]:
            new = place.format(text[start:end], added, added[0].upper() + added[1:])
            changed = text[:start] + new + text[end:].removeprefix(".")
            assert label.label_report(changed).label != "normal", new
        last = f"{text}\n\nADDENDUM: {added}."
        assert label.label_report(last).label != "normal", last


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        str.lower,
        lambda text: text.replace(" ", "  "),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: text.replace("\n", " \r\n"),
        lambda text: text.replace("'", "\u2019").replace("-", "\u2010"),
        lambda text: re.sub(r"(?<=[a-z])\. (?=[A-Z])", ".", text),
        lambda text: re.sub(r"(?<=[a-z])\. (?=[A-Z])", "; ", text),
        lambda text: re.sub(r" ?, ?", " ,", text),
        lambda text: re.sub(r"(?<=[a-z])\. (?=[A-Z])", ".\n 1. ", text),
        lambda text: "\n\n".join(textwrap.fill(part, 30) for part in text.split("\n\n")),
    ],
)
def test_spelling_changes_no_label(normal, change):
    abnormal = [text.replace(" normal", " enlarged") for text in normal[:20]]
    for text in normal + abnormal:
        expected = label.label_report(text).label
        assert label.label_report(change(text)).label == expected, change(text)
