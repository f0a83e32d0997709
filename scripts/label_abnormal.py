"""Labels for pretraining, abnormal or normal, from radiology reports or from a table of findings.

python scripts/label_abnormal.py --reports /data/mimic-cxr-reports.zip --output abnormal.csv
python scripts/label_abnormal.py --findings mimic-cxr-2.0.0-chexpert.csv.gz --output abnormal.csv

--reports: MIMIC-CXR's archive or its folder with files/p10/p10000032/s50414267.txt; another folder
or archive (.zip, .tar, .tgz) of .txt files, whose names are ids of studies, or of Open-i's .xml
files; or a CSV with a column of ids, and one of texts (report, text) or findings and impressions.
--findings: the CheXpert or NegBio table of MIMIC-CXR, or the table of ChestX-ray14 or Kermany.

Writes one row for each study, or for each film if the table has films: its ids, abnormal (1, 0, or
empty for unknown) and the rule that decided. pretrain.py and train_head.py read it by --labels. If
a report could not be read or labelled, the table is still written, but the exit code is 1.
"""

import sys
from collections.abc import Sequence

from cxr_embeddings import cli, report_labelling

FLAGS = {
    "reports": "folder, archive (.zip, .tar, .tgz) or CSV of reports",
    "findings": "table of findings, CSV or CSV.gz",
    "devices": "what tubes, lines and devices alone are: unknown (default), normal or abnormal",
    "output": "CSV to be written",
}


def label_abnormal(
    output: str,
    reports: str | None = None,
    findings: str | None = None,
    devices: str = "unknown",
) -> int:
    """Writes the labels; the arguments are `FLAGS`. Returns the exit code."""
    labels = report_labelling.run(
        reports=reports, findings=findings, output=output, devices=devices, shown=True
    )
    for line in labels.summary():
        print(line)
    print(f"in {output}")
    if labels.broken:
        print(
            f"error: {labels.broken} of {len(labels.rows)} reports could not be read or labelled, "
            "and count as unknown: check that they are whole and can be read, then run this again",
            file=sys.stderr,
        )
    return 1 if labels.broken else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_flags(label_abnormal, __doc__ or "", "nothing was written", FLAGS, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
