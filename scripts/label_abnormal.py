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

import collections
import os
import sys
from collections.abc import Sequence

from cxr_embeddings import cli
from cxr_embeddings.common import machine, paths, writing

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
    from cxr_embeddings.common import files
    from cxr_embeddings.input_pipeline.reports import abnormal, corpus

    if devices not in abnormal.DEVICES:
        raise ValueError(f"--devices is {devices!r}; expected {', '.join(abnormal.DEVICES)}")
    source, file = paths.typed(reports or findings), paths.typed(output)
    folder = os.path.dirname(file)
    if not paths.is_remote(file) and (os.path.isdir(file) or not os.path.isdir(folder)):
        raise ValueError(f"{file} cannot be written: expected a file in a folder that exists")
    if file == source:
        raise ValueError(f"{file} is what is read; expected another file to be written")

    if reports:
        workers = machine.processors()
        columns, rows, ignored = corpus.label_reports(
            source, workers, lambda total: cli.progress(total, what="reports")
        )
        counted = "films of reports" if columns[0] == "image_id" else "reports"
        print(f"{len(rows)} {counted} in {source}; {ignored} other files there were ignored")
    else:
        dataset, columns, rows = abnormal.read_labels(source)
        print(f"{len(rows)} rows in {source}, a table as {dataset} has it")
    rows = {ids: abnormal.with_devices(verdict, devices) for ids, verdict in sorted(rows.items())}
    table = [[*ids, NUMBERS[label], rule] for ids, (label, rule) in rows.items()]
    data = writing.encode_table([*columns, "abnormal", "rule"], table)
    files.write_whole(file, data)
    counts = collections.Counter(rows.values())
    for label in NUMBERS:
        print(f"{label:8} {sum(n for verdict, n in counts.items() if verdict.label == label):9}")
        for verdict, count in counts.most_common():
            if verdict.label == label:
                print(f"    {verdict.rule:32} {count:9}")
    for rule in ("contradiction", *corpus.REJECTED):
        some = [" ".join(ids) for ids, verdict in rows.items() if verdict.rule == rule]
        if some:
            more = ", ..." if len(some) > SHOWN else ""
            print(f"{rule} ({', '.join(columns)}): {', '.join(some[:SHOWN])}{more}")
    print(f"in {file}")
    broken = sum(verdict.rule in BROKEN for verdict in rows.values())
    if broken:
        print(
            f"error: {broken} of {len(rows)} reports are {' or '.join(BROKEN)} and count as "
            "unknown; see that they are whole and may be read, then run this again",
            file=sys.stderr,
        )
    return 1 if broken else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_flags(label_abnormal, __doc__ or "", "nothing was written", FLAGS, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
