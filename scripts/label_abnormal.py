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

import dataclasses
import sys
from collections.abc import Sequence

from cxr_embeddings import cli, report_labelling
from cxr_embeddings.configs.schema import field


@dataclasses.dataclass(frozen=True)
class Options:
    reports: str | None = field(None, "folder, archive (.zip, .tar, .tgz) or CSV of reports")
    findings: str | None = field(None, "table of findings, CSV or CSV.gz")
    devices: str = field("unknown", "label of devices alone: unknown, normal or abnormal")
    output: str = field("", "CSV to be written", required=True)


def label_abnormal(options: Options) -> int:
    """Writes the labels. Returns the exit code."""
    labels = report_labelling.run(**dataclasses.asdict(options), shown=True)
    for line in report_labelling.summary(labels):
        print(line)
    print(f"in {options.output}")
    if broken := report_labelling.broken(labels):
        print(
            f"error: {broken} of {len(labels.rows)} reports could not be read or labelled, "
            "and count as unknown: check that they are whole and can be read, then run this again",
            file=sys.stderr,
        )
    return 1 if broken else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(label_abnormal, Options, __doc__, "nothing was written", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
