"""Reports to sections and verdicts, on invented ones; `test_report_phrases` has the public ones."""

import pytest

from cxr_embeddings.input_pipeline.reports import label as reports
from cxr_embeddings.input_pipeline.reports import sections
from cxr_embeddings.input_pipeline.reports.vocabulary import FINDINGS

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old man with pneumonia and a pacemaker  // effusion?
 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___, which showed a large effusion.

 FINDINGS:

 The lungs are well expanded and clear.  No pleural effusion or
 pneumothorax is seen.  The heart size is normal.

 IMPRESSION:

 No acute cardiopulmonary process.
"""


# rule -> sentences of findings that it decides on. Invented; public ones follow further down.
SENTENCES = {
    "effusion": (
        "A small effusion persists on the left.",
        "Large left pleural effusion and pneumothorax, which has resolved.",
        "Since removal of the pigtail drain, pleural effusion has increased.",
        "The edema has resolved, moderate effusions remain.",
        "The left effusion has nearly resolved.",
        "Stable large effusion, pneumothorax is not identified.",
        "No pneumothorax (small effusion is unchanged).",
        "Negative for pneumothorax, positive for left effusion.",
        "Unchanged effusion and the pneumothorax is gone.",
    ),
    "granuloma": ("No pneumothorax, but a granuloma in the right apex.",),
    "curvature": ("No focal consolidation and there is mild scoliosis.",),
    "aorta": ("The lungs are clear; the aorta is tortuous.",),
    "hypoinflation": (
        "The heart is not enlarged. Low lung volumes.",
        "There has been removal of the ETT, and lung volumes are lower.",
    ),
    "hernia": ("No change in the hiatal hernia.",),
    "emphysema": ("Emphysema without pneumothorax.", "Clear of consolidation, severe emphysema."),
    "scar": ("The left lung shows scarring, an effusion is not seen.",),
    "cardiomegaly": (
        "No acute process with stable cardiomegaly.",
        "Cardiomegaly persists while the effusion has resolved.",
        "No pneumothorax or effusion, cardiomegaly.",
    ),
    "mediastinum": (
        "No pneumothorax, right hilum is enlarged.",
        "The heart is enlarged and effusions are not seen.",
    ),
    "fracture": ("Lungs clear. Wedging of two vertebral bodies.",),
    "surgery": ("Clips in the right upper abdomen.",),
    "calcified": ("Aortic arch with a faint rim of calcification.",),
    "free_air": ("Subcutaneous emphysema persists although all drains were removed.",),
    "edema": (
        "Interval removal of the Swan-Ganz catheter and worsening pulmonary edema.",
        "Pulmonary edema, the ET tube has been removed.",
        "There is edema and the left effusion has resolved.",
    ),
    # What may be there counts as there.
    "pneumonia": (
        "Pneumonia cannot be excluded.",
        "Early pneumonia is not entirely excluded.",
        "Left lower lobe pneumonia and previously seen edema has resolved.",
        "The pneumonia has not resolved.",
        "Pneumonia is favored and edema is unlikely.",
    ),
    "nodule": (
        "There is a nodule, not seen on the prior film.",
        "Question of a nodule at the apex.",
    ),
    "atelectasis": (
        "The base may hold some atelectasis.",
        "Tracheostomy tube has been removed and bibasilar atelectasis persists.",
        "The endotracheal tube was removed, left lower lobe collapse is worse.",
        "Right base atelectasis, pneumonia unlikely.",
    ),
    "pneumothorax": (
        "Small right apical pneumothorax is unchanged after the chest tube was removed.",
        "Moderate right pneumothorax has developed since the pigtail catheter was removed.",
        "Removal of the right chest tube with new right pneumothorax.",
        "Small left pneumothorax, catheter was removed.",
        "Pneumothorax, which was seen after the drain was removed, persists.",
        "Following removal of chest tube, pneumothorax is seen.",
    ),
    # Devices, and that other findings go first.
    "device_tube": (
        "Endotracheal tube in place. The lungs are clear.",
        "No pneumothorax after placement of a right chest tube.",
        "ET tube in place and the left chest tube has been removed.",
    ),
    "device_line": (
        "A PICC ends in the upper SVC.",
        "No pneumothorax status post PICC placement.",
        "The chest tube has been removed, the PICC remains.",
    ),
    "device_pacemaker": ("Dual-chamber pacemaker, and the lungs are clear.",),
    "opacity": (
        "Feeding tube in the stomach. Streaky right base.",
        "Bibasilar opacities and low lung volumes after the endotracheal tube was removed.",
        "Resolved right effusion, new left basilar opacity.",
        "Partial clearing of the left base opacity.",
    ),
    "degenerative_spine": ("Thoracic spine: osteophytes.",),  # a heading, no other film
    "normal_statement": (
        "No pleural effusion, pneumothorax or consolidation.",
        "The lungs are clear of infiltrate and free from edema.",
        "Negative for fracture.",
        "The earlier effusion has resolved. No new one: the lungs are clear.",
        "Infiltrates and effusions are no longer seen. Normal heart.",
        "The right chest tube has been removed. Lungs are clear.",
        "Interval removal of the catheter. The chest is normal.",
        "Normal pulmonary vascularity, normal lung volumes.",
        "The heart is at the upper limits of normal.",
        "Interstitial markings are within normal limits.",
        "Pneumonia is unlikely. The lungs are clear.",
        "Clear lungs. If there is concern for a fracture, rib films are better.",
        "Chest: the lungs are clear. Left knee: osteophytes and an effusion.",
        "Massive or not, nothing focal: the lungs are clear.",
    ),
    "no_statement": ("Comparison is made with the film of ___.",),
    "operation": ("The lungs are clear. Postsurgical change of the breast.",),
    "unclear": (
        "No mass, nodule is seen.",
        "Clear lungs. No effusion, edema.",
        "The lungs are clear, except on the left.",
        "No lung is free of consolidation.",
        "Clear lungs. Something odd is present on the left.",
    ),
}
# Beside clear lungs, these are normal: a denial reaches all that it names.
DENIED = (
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


@pytest.mark.parametrize("rule", SENTENCES)
def test_sentences(rule):
    label = "abnormal" if rule in FINDINGS else "unknown"
    label = "normal" if rule == "normal_statement" else label
    for sentence in SENTENCES[rule]:
        assert reports.label_sections({"findings": sentence}) == (label, rule), sentence


def test_a_denial_reaches_all_that_it_names():
    for sentence in DENIED:
        verdict = reports.label_sections({"findings": f"{sentence} Lungs are clear."})
        assert verdict == ("normal", "normal_statement"), sentence


def test_other_films_end_with_their_section():
    text = "FINDINGS: Chest: clear lungs. Right foot: old fracture.\n\nIMPRESSION: Small nodule."
    assert reports.label_report(text) == ("abnormal", "nodule")


def test_a_finding_where_none_are_read_is_undecided():
    parts = {"findings": "The lungs are clear.", "nuclear medicine": "There is a small nodule."}
    assert reports.label_sections(parts) == ("unknown", "other_section")
    assert reports.label_sections(parts | {"nuclear medicine": ""}).label == "normal"


def test_only_findings_and_impression_count():
    assert reports.label_report(MIMIC) == ("normal", "normal_statement")
    changed = MIMIC.replace("The heart size is normal.", "The heart is enlarged.")
    assert reports.label_report(changed).label == "abnormal"
    found = sections.sections(MIMIC)
    assert " ".join(found) == "examination indication technique comparison findings impression"
    assert found["impression"] == "No acute cardiopulmonary process."
    assert found["findings"].startswith("The lungs") and found["findings"].endswith("normal.")


BOTH = {"findings": "Clear.", "impression": "Normal."}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Clear lungs.", {"impression": "Clear lungs."}),
        ("FINDINGS AND IMPRESSION: Clear.", {"findings": "Clear.", "impression": "Clear."}),
        ("Findings/Impression:\nClear.", {"findings": "Clear.", "impression": "Clear."}),
        ("IMPRESSION: Normal.\n\nFINDINGS: Clear.", BOTH),
        ("findings: Clear.\nimpression: Normal.", BOTH),
        ("Findings: Clear. Impression: Normal.", BOTH),
        ("FINDINGS\nClear.\nCONCLUSION\nNormal.", BOTH),
        (
            "CHEST, TWO VIEWS\n\nClear.\n\nThe heart.\n\nNormal.",
            BOTH | {"preamble": "CHEST, TWO VIEWS", "findings": "Clear.\n\nThe heart."},
        ),
        (
            "HISTORY: Cough.\n\nClear lungs.\n\nNormal chest.",
            {"indication": "Cough.", "findings": "Clear lungs.", "impression": "Normal chest."},
        ),
        (
            "PORTABLE CHEST: Clear lungs. No change in comparison: none.\n\nIMPRESSION: Normal.",
            BOTH | {"findings": "Clear lungs. No change in comparison: none."},
        ),
        (
            "FINDINGS: Clear.\n\nBONES: Intact.\n\nIMPRESSION: Normal.\n\nIMPRESSION: Still so.",
            {"findings": "Clear.\n\nBONES: Intact.", "impression": "Normal.\n\nStill so."},
        ),
        (
            "WET READ: 9 PM\n Nodule.\n____\n FINAL REPORT\n FINDINGS: Clear.\n\n"
            " ADDENDUM: Seen again.\n\n RECOMMENDATION(S): None.\r\n NOTIFICATION: By phone.",
            {
                "wet read": "9 PM\n Nodule.\n____",
                "findings": "Clear.",
                "addendum": "Seen again.",
                "recommendation": "None.",
                "notification": "By phone.",
            },
        ),
        ("FINDINGS:\n\nIMPRESSION: Normal.", {"impression": "Normal."}),
        ("", {}),
    ],
)
def test_sections(text, expected):
    assert sections.sections(text) == expected


def test_a_wet_read_counts_alone_only():
    wet = "WET READ: Large effusion."
    assert reports.label_report(wet) == ("abnormal", "effusion")
    assert reports.label_report(f"{wet}\nFINAL REPORT\nFINDINGS: Clear lungs.").label == "normal"
    assert reports.label_report(f"FINDINGS: Clear lungs.\nADDENDUM: {wet[10:]}").rule == "effusion"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("FINDINGS:  ___ \n\nIMPRESSION: XXXX.", "empty"),
        ("... 1. 2.", "empty"),
        ("Kein Nachweis eines Pneumothorax. Herz normal groß, keine Infiltrate.", "not_english"),
        ("No se observa derrame pleural. Corazón normal, sin cardiomegalia.", "not_english"),
        ("Pas d'épanchement. Silhouette cardiaque normale, pneumothorax absent.", "not_english"),
        ("Nie stwierdza się zmian. Odma opłucnowa niewidoczna, serce w normie.", "not_english"),
        ("両側肺野に異常陰影を認めない。胸水なし。", "not_english"),
        ("Очаговых и инфильтративных изменений в легких не выявлено.", "not_english"),
    ],
)
def test_what_is_not_read(text, rule):
    assert reports.label_report(text) == ("unknown", rule)


def test_too_long():
    text = "FINDINGS: " + "Clear. " * reports.MAX_CHARACTERS
    assert reports.label_report(text) == ("unknown", "too_long")
    assert reports.label_sections({"findings": text}) == ("unknown", "too_long")


def test_binary_and_text():
    assert sections.decode("Größe ±2".encode()) == "Größe ±2"
    assert sections.decode("\ufeffClear".encode()) == "Clear"
    assert sections.decode("Größe ±2".encode("latin-1")) == "Größe ±2"
    assert sections.decode(b"") == ""
    assert sections.decode(b"Clear\x07 lungs." + b" " * 200).startswith("Clear")
    assert sections.decode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") is None
    assert sections.decode(b"\x1f\x8b\x08\x08" + bytes(range(1, 256))) is None
    assert sections.decode("Clear lungs".encode("utf-16")) is None


@pytest.mark.parametrize(
    "unit",
    [
        "no evidence of ", "lungs ", "is not seen , ", "history for of ", "FINDINGS: ", "A", "\n",
        "heart heart large ", "___ ", "without, there is ", "edema and ", "no a or b, ",
        "removal of ",
    ],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_no_report_takes_long(unit):
    """A quarter of a second, where the time is linear in the length."""
    text = "IMPRESSION: " + (unit * 50_000)[:50_000]
    assert reports.label_report(text).rule not in ("too_long", "")
