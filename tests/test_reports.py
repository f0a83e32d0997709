"""Reports to sections and verdicts, on invented ones; `test_report_phrases` has the public ones."""

import time

import numpy as np
import pytest

from cxr_embeddings.input_pipeline.reports import label as reports
from cxr_embeddings.input_pipeline.reports import sections
from cxr_embeddings.input_pipeline.synthetic import report_text as synthetic

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


def _label(findings):
    return reports.label_sections({"findings": findings})


@pytest.mark.parametrize(
    ("sentence", "rule"),
    [
        ("A small effusion persists on the left.", "effusion"),
        ("No pneumothorax, but a granuloma in the right apex.", "granuloma"),
        ("No focal consolidation and there is mild scoliosis.", "curvature"),
        ("The lungs are clear; the aorta is tortuous.", "aorta"),
        ("The heart is not enlarged. Low lung volumes.", "hypoinflation"),
        ("No change in the hiatal hernia.", "hernia"),
        ("Emphysema without pneumothorax.", "emphysema"),
        ("The left lung shows scarring, an effusion is not seen.", "scar"),
        ("There is a nodule, not seen on the prior film.", "nodule"),
        ("No acute process with stable cardiomegaly.", "cardiomegaly"),
        ("No pneumothorax, right hilum is enlarged.", "mediastinum"),
        ("Lungs clear. Wedging of two vertebral bodies.", "fracture"),
        ("Clips in the right upper abdomen.", "surgery"),
        ("Aortic arch with a faint rim of calcification.", "calcified"),
        # What may be there counts as there.
        ("Pneumonia cannot be excluded.", "pneumonia"),
        ("Early pneumonia is not entirely excluded.", "pneumonia"),
        ("The base may hold some atelectasis.", "atelectasis"),
        ("Question of a nodule at the apex.", "nodule"),
        # Devices, and that other findings go first.
        ("Endotracheal tube in place. The lungs are clear.", "device_tube"),
        ("A PICC ends in the upper SVC.", "device_line"),
        ("Dual-chamber pacemaker, and the lungs are clear.", "device_pacemaker"),
        ("Feeding tube in the stomach. Streaky right base.", "opacity"),
    ],
)
def test_finding(sentence, rule):
    assert _label(sentence) == ("abnormal", rule)


@pytest.mark.parametrize(
    "sentence",
    [
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
    ],
)
def test_no_finding(sentence):
    assert _label(sentence) == ("normal", "normal_statement")


@pytest.mark.parametrize(
    ("sentence", "rule"),
    [
        ("Comparison is made with the film of ___.", "no_statement"),
        ("The lungs are clear. Postsurgical change of the breast.", "operation"),
        ("No mass, nodule is seen.", "unclear"),
        ("Clear lungs. No effusion, edema.", "unclear"),
        ("The lungs are clear, except on the left.", "unclear"),
        ("No lung is free of consolidation.", "unclear"),
        ("Clear lungs. Something odd is present on the left.", "unclear"),
    ],
)
def test_undecided(sentence, rule):
    assert _label(sentence) == ("unknown", rule)


def test_other_films_end_with_their_section():
    text = "FINDINGS: Chest: clear lungs. Right foot: old fracture.\n\nIMPRESSION: Small nodule."
    assert reports.label_report(text) == ("abnormal", "nodule")
    assert _label("Thoracic spine: osteophytes.").label == "abnormal"  # a heading, no other film


def test_only_findings_and_impression_count():
    assert reports.label_report(MIMIC) == ("normal", "normal_statement")
    changed = MIMIC.replace("The heart size is normal.", "The heart is enlarged.")
    assert reports.label_report(changed).label == "abnormal"
    found = sections.sections(MIMIC)
    assert " ".join(found) == "examination indication technique comparison findings impression"
    assert found["impression"] == "No acute cardiopulmonary process."
    assert found["findings"].startswith("The lungs") and found["findings"].endswith("normal.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Clear lungs.", {"impression": "Clear lungs."}),
        ("CHEST, TWO VIEWS\n\nClear.\n\nThe heart.\n\nNormal chest.", "no headings"),
        ("FINDINGS AND IMPRESSION: Clear.", {"findings": "Clear.", "impression": "Clear."}),
        ("Findings/Impression:\nClear.", {"findings": "Clear.", "impression": "Clear."}),
        (
            "IMPRESSION: Normal.\n\nFINDINGS: Clear.",
            {"impression": "Normal.", "findings": "Clear."},
        ),
        ("findings: Clear.\nimpression: Normal.", {"findings": "Clear.", "impression": "Normal."}),
        (
            "Findings: Clear. Impression: Normal.",
            {"findings": "Clear.", "impression": "Normal."},
        ),
        ("FINDINGS\nClear.\nCONCLUSION\nNormal.", {"findings": "Clear.", "impression": "Normal."}),
        (
            "HISTORY: Cough.\n\nClear lungs.\n\nNormal chest.",
            {"indication": "Cough.", "findings": "Clear lungs.", "impression": "Normal chest."},
        ),
        (
            "PORTABLE CHEST: Clear lungs. No change in comparison: none.\n\nIMPRESSION: Normal.",
            {
                "findings": "Clear lungs. No change in comparison: none.",
                "impression": "Normal.",
            },
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
    found = sections.sections(text)
    if expected == "no headings":
        assert (found["findings"], found["impression"]) == ("Clear.\n\nThe heart.", "Normal chest.")
    else:
        assert found == expected


def test_a_wet_read_counts_alone_only():
    wet = "WET READ: Large effusion."
    assert reports.label_report(wet) == ("abnormal", "effusion")
    assert reports.label_report(f"{wet}\nFINAL REPORT\nFINDINGS: Clear lungs.").label == "normal"
    assert reports.label_report(f"FINDINGS: Clear lungs.\nADDENDUM: {wet[10:]}").rule == "effusion"


@pytest.mark.parametrize("text", ["", " \n\t", "FINDINGS:  ___ \n\nIMPRESSION: XXXX.", "... 1. 2."])
def test_empty(text):
    assert reports.label_report(text) == ("unknown", "empty")


@pytest.mark.parametrize(
    "text",
    [
        "Kein Nachweis eines Pneumothorax. Herz normal groß, keine Infiltrate der Lunge.",
        "No se observa derrame pleural ni neumotórax. Corazón de tamaño normal, sin cardiomegalia.",
        "Pas d'épanchement pleural. Silhouette cardiaque de taille normale, pneumothorax absent.",
        "Nie stwierdza się zmian ogniskowych. Odma opłucnowa niewidoczna, serce niepowiększone.",
        "両側肺野に異常陰影を認めない。胸水なし。",
        "Очаговых и инфильтративных изменений в легких не выявлено.",
    ],
)
def test_not_english(text):
    assert reports.label_report(text) == ("unknown", "not_english")


def test_binary_and_text():
    assert sections.decode("Größe ±2".encode()) == "Größe ±2"
    assert sections.decode("\ufeffClear".encode()) == "Clear"
    assert sections.decode("Größe ±2".encode("latin-1")) == "Größe ±2"
    assert sections.decode(b"") == ""
    assert sections.decode(b"Clear\x07 lungs." + b" " * 200).startswith("Clear")
    for binary in (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"\x1f\x8b\x08\x08" + bytes(range(1, 256)),
        "Clear lungs".encode("utf-16"),
    ):
        with pytest.raises(ValueError, match=r"binary.*plain text"):
            sections.decode(binary)


@pytest.mark.parametrize(
    "unit",
    [
        "no evidence of ",
        "lungs ",
        "is not seen , ",
        "history for of ",
        "FINDINGS: ",
        "heart heart large ",
        "A",
        "\n",
        "___ ",
        "without, there is ",
        "edema and ",
        "no a or b, ",
        "removal of ",
    ],
)
def test_time_grows_with_the_length(unit):
    def seconds(characters):
        text = "IMPRESSION: " + (unit * characters)[:characters]
        return min(_seconds(reports.label_report, text) for _ in range(3))

    # Four times the text: quadratic growth would take sixteen times as long.
    assert seconds(80_000) < 9 * seconds(20_000) + 0.05


def _seconds(function, text):
    start = time.process_time()
    function(text)
    return time.process_time() - start


def test_too_long():
    text = "FINDINGS: " + "Clear. " * reports.MAX_CHARACTERS
    assert reports.label_report(text) == ("unknown", "too_long")
    assert reports.label_sections({"findings": text}) == ("unknown", "too_long")


def test_drawn_reports():
    """They say what their labels say, in the layout of MIMIC-CXR."""
    rng = np.random.default_rng(0)
    for case in synthetic.CASES * 5:
        labels = synthetic.draw_labels(rng, case)
        text = synthetic.report_text(rng, labels, "left", "CHEST (PORTABLE AP)", True)
        found = {label for label, value in labels.items() if value} - {"No Finding"}
        verdict = reports.label_report(text)
        assert verdict.label == ("abnormal" if found else "normal"), text
        assert verdict.rule.startswith("device_") == (found == {"Support Devices"}), text
