"""What a change of a report does to its label, on invented reports and on those of the corpus.

A denied statement of normality or an added finding never leaves "normal"; spelling changes nothing.
"""

import csv
import hashlib
import itertools
import re
import textwrap

import pytest

from cxr_embeddings.input_pipeline.reports import label
from cxr_embeddings.input_pipeline.reports.collections import open_reports

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
FINDINGS = (
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
            bucket = int(hashlib.sha256(report_id.encode()).hexdigest(), 16) % 10
            if report_id in coded and bucket >= 3:
                text = "\n\n".join(
                    f"{name.upper()}: {said}" for name, said in parts.items() if said
                )
                texts += [text] * (label.label_report(text).label == "normal")
            if len(texts) == 200:
                return texts


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
            denied = denied[count % 3 :: 3] if len(normal) > 10 else denied
            for one in denied:
                changed = text[:start] + one + text[end:]
                assert label.label_report(changed).label != "normal", one
            count += 1
    assert count >= 3 * len(normal) - 1


def test_an_added_finding_is_never_normal(normal):
    choices = itertools.cycle(itertools.product(PHRASES, FINDINGS, PLACES))
    for text in normal * (1 if len(normal) > 10 else 100):
        places = list(_sentences(text))
        for start, end in places[:1] + places[-1:]:
            phrase, finding, place = [next(choices) for _ in range(11)][-1]
            added = phrase.format(finding)
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
    abnormal = [text.replace(" normal", " enlarged") for text in normal[:60]]
    for text in normal[:100] + abnormal:
        expected = label.label_report(text).label
        assert label.label_report(change(text)).label == expected, change(text)
