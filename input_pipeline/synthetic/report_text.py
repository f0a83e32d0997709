"""What drawn films show: the 14 labels of MIMIC-CXR, and reports that say just what they say."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from cxr_embeddings.common import data_sets

LABELS = data_sets.load("mimic_cxr").findings

# Dealt to the studies from a shuffled deck, so that every case comes up: two in five are normal.
CASES = (
    *[("No Finding",)] * 8,
    *[("No Finding", "Support Devices")] * 2,
    ("Atelectasis",),
    ("Atelectasis", "Pleural Effusion"),
    ("Cardiomegaly",),
    ("Cardiomegaly", "Edema", "Pleural Effusion"),
    ("Cardiomegaly", "Support Devices"),
    ("Consolidation", "Lung Opacity", "Pneumonia"),
    ("Edema", "Lung Opacity"),
    ("Enlarged Cardiomediastinum",),
    ("Fracture", "Pleural Other"),
    ("Lung Lesion",),
    ("Lung Opacity",),
    ("Lung Opacity", "Pneumonia"),
    ("Pleural Effusion",),
    ("Pneumothorax",),
    ("Pneumothorax", "Support Devices"),
)

# label -> what a report calls it
_NAMES = {
    "Atelectasis": "{side} basal atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "{side} lung consolidation",
    "Edema": "pulmonary edema",
    "Enlarged Cardiomediastinum": "mediastinal widening",
    "Fracture": "{side} rib fracture",
    "Lung Lesion": "{side} lung nodule",
    "Lung Opacity": "{side} lung opacity",
    "Pleural Effusion": "{side} pleural effusion",
    "Pleural Other": "{side} pleural thickening",
    "Pneumonia": "{side} pneumonia",
    "Pneumothorax": "{side} pneumothorax",
    "Support Devices": "support hardware in standard position",
}
# value of a label -> the ways to say it
_PHRASES = {
    1: ("there is {}", "{} is present", "the appearances are those of {}"),
    0: ("there is no {}", "no {} is seen", "there is no evidence of {}"),
    -1: ("there may be {}", "{} cannot be excluded", "possible {}"),
}
_OFTEN_DENIED = ("Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion", "Pneumothorax")
_INDICATIONS = ("cough", "fever", "shortness of breath", "chest pain", "hypoxia", "a fall")


def draw_labels(rng: np.random.Generator, case: Sequence[str]) -> dict[str, int]:
    """What the report of a case mentions: label -> 1 present, 0 absent, -1 uncertain.

    One finding in eight is uncertain. What is not there is denied or not mentioned. `No Finding`
    and devices are never uncertain and never denied; an opacity of the lungs is denied in normal
    cases only.
    """
    labels = {}
    for label in LABELS:
        chance = rng.random()
        plain = label in ("No Finding", "Support Devices")
        if label in case:
            labels[label] = -1 if chance < 1 / 8 and not plain else 1
        elif plain or (label == "Lung Opacity" and "No Finding" not in case):
            continue
        elif chance < (0.7 if label in _OFTEN_DENIED else 0.2):
            labels[label] = 0
    return labels


def drawn_findings(labels: Mapping[str, int]) -> dict[str, float]:
    """What a film with these labels shows, and how plainly: uncertain findings are faint."""
    shown = {label: 1.0 if value == 1 else 0.45 for label, value in labels.items() if value}
    shown.pop("No Finding", None)
    if shown.keys() & {"Consolidation", "Edema", "Pneumonia"}:  # they are the opacity
        shown.pop("Lung Opacity", None)
    return shown


def report_text(
    rng: np.random.Generator, labels: Mapping[str, int], side: str, procedure: str, earlier: bool
) -> str:
    """A report in the form of MIMIC-CXR's that says exactly what the labels say.

    Args:
        rng: source of chance for the wording.
        labels: label -> 1, 0 or -1; what is missing is not mentioned.
        side: `right` or `left`.
        procedure: the examination, such as `CHEST (PA AND LAT)`.
        earlier: whether the patient had an earlier study to compare with.
    """
    findings, impression = [], []
    if "No Finding" in labels:
        findings.append("the lungs are clear")
        impression.append("no acute cardiopulmonary process")
    for label, value in labels.items():
        if label in _NAMES:
            name = _NAMES[label].format(side=side if value else "").strip()
            findings.append(rng.choice(_PHRASES[value]).format(name))
            if value:
                impression.append(name if value > 0 else f"possible {name}")
    sections = {
        "EXAMINATION": procedure,
        "INDICATION": f"___ year old patient with {rng.choice(_INDICATIONS)}.",
        "COMPARISON": "Chest radiograph of ___." if earlier else "None.",
        "FINDINGS": " ".join(f"{text[0].upper()}{text[1:]}." for text in findings),
        "IMPRESSION": " ".join(f"{text[0].upper()}{text[1:]}." for text in impression),
    }
    text = "FINAL REPORT".center(80).rstrip() + "\n"
    for name, content in sections.items():
        text += textwrap.fill(f"{name}:  {content}", 78, initial_indent=" ", subsequent_indent=" ")
        text += "\n \n"
    return text
