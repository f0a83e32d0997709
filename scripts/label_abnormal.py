"""Labels for pretraining, abnormal or normal, from radiology reports or from a table of findings.

python scripts/label_abnormal.py --reports /data/mimic-cxr-reports.zip --output abnormal.csv
python scripts/label_abnormal.py --findings mimic-cxr-2.0.0-chexpert.csv.gz --output abnormal.csv

--reports: MIMIC-CXR's archive or a folder of files/p10/p10000032/s50414267.txt; another folder or
archive (.zip, .tar, .tgz) of .txt files, whose names are ids of studies, or of Open-i's .xml; or a
CSV with a column of texts (report, text), or of findings and impressions, and one of ids.
--findings: the CheXpert or NegBio table of MIMIC-CXR, or the table of ChestX-ray14 or Kermany.

Writes one row a study, or a film where the table has films: its ids, abnormal (1, 0, or nothing
where it is unknown) and the rule that decided. pretrain.py reads it by --config.input.labels,
train_head.py by --config.labels.path. Where a report could not be read, or labelling it failed, the
table is written all the same, but the exit code is 1.
"""

FLAGS = {
    "reports": "folder, archive (.zip, .tar, .tgz) or CSV of reports",
    "findings": "table of findings, CSV or CSV.gz",
    "devices": "what tubes, lines and devices alone are: unknown (default), normal or abnormal",
    "output": "CSV to be written",
}
NUMBERS = {"abnormal": "1", "normal": "0", "unknown": ""}
SHOWN = 10  # ids of what is to be looked at
BROKEN = ("failed", "unreadable")  # rules of reports to be got again, or of a fault of ours


def label_abnormal(
    output: str,
    reports: str | None = None,
    findings: str | None = None,
    devices: str = "unknown",
) -> int:
    """Writes the labels; the arguments are `FLAGS`. Returns the exit code."""
    if bool(reports) == bool(findings):
        raise ValueError("expected either --reports or --findings, which names what is read")
