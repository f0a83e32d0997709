"""Radiology reports, or tables of findings, to labels: abnormal, normal or unknown."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cxr_embeddings.common import files, machine, paths, progress, writing
from cxr_embeddings.errors import translated

if TYPE_CHECKING:
    import pandas as pd

    from cxr_embeddings.input_pipeline.reports.label import Labels

NUMBERS = {"abnormal": 1, "normal": 0, "unknown": None}
REJECTED = ("binary", "empty", "failed", "unreadable")  # rules of what holds no report
BROKEN = ("failed", "unreadable")  # those of reports to be got again, or of a fault of ours
_SHOWN = 10  # ids of what is to be looked at


def broken(labels: Labels) -> int:
    """Reports that could not be read, or that labelling failed on."""
    return sum(verdict.rule in BROKEN for verdict in labels.rows.values())


def summary(labels: Labels) -> Iterator[str]:
    """How many there are of each label and rule, and ids of those to look at; in lines."""
    yield labels.about
    counts = collections.Counter(labels.rows.values())
    for label in NUMBERS:
        some = [(v, n) for v, n in counts.most_common() if v.label == label]
        yield f"{label:8} {sum(n for _, n in some):9}"
        yield from (f"    {verdict.rule:32} {count:9}" for verdict, count in some)
    for rule in ("contradiction", *REJECTED):
        ids = [" ".join(one) for one, verdict in labels.rows.items() if verdict.rule == rule]
        if ids:
            more = ", ..." if len(ids) > _SHOWN else ""
            yield f"{rule} ({', '.join(labels.columns)}): {', '.join(ids[:_SHOWN])}{more}"


@translated
def label_reports(
    reports: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    devices: str = "unknown",
    workers: int = 0,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Labels radiology reports by what they say of the chest film.

    Any finding makes a report abnormal, also an old one, and what may be there counts as there;
    see docs/pretraining.md. No text of a report is kept or shown.

    Args:
        reports: folder (searched recursively) or archive (.zip, .tar, .tgz) of MIMIC-CXR's reports,
            of other .txt files or of Open-i's .xml; or a CSV file with a column of texts (report,
            text), or of findings and impressions, and one of ids. Local or an address.
        output: CSV file to be written, which `train_head` and pretraining read; None: none.
        devices: what tubes, lines and devices alone are: "unknown", "normal" or "abnormal".
        workers: processes; 0: one for each processor.
        progress: show a progress bar; None: in a terminal or a notebook.

    Returns:
        One row a study, or a film where the reports name films: its ids (text), `abnormal` (1, 0,
        or missing where it is unknown; Int8) and `rule`, which names what decided.

    Raises:
        InputError: no report is there, there are several kinds, two are of one study, or an archive
            is damaged.
        FileError: something cannot be read or written.
    """
    import pandas as pd

    labels = run(reports=reports, output=output, devices=devices, workers=workers, shown=progress)
    table = pd.DataFrame(list(labels.rows), columns=list(labels.columns), dtype="str")
    numbers = [NUMBERS[verdict.label] for verdict in labels.rows.values()]
    rules = [verdict.rule for verdict in labels.rows.values()]
    return table.assign(abnormal=pd.array(numbers, "Int8"), rule=pd.array(rules, "str"))


def run(
    *,
    reports: str | os.PathLike[str] | None = None,
    findings: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    devices: str = "unknown",
    workers: int = 0,
    shown: bool | None = None,
) -> Labels:
    """The job of `scripts/label_abnormal.py`: labels of reports, or of a table of findings.

    The options are those of `label_reports`; `findings`, in place of `reports`, is a table as of
    `abnormal.read_labels`; `shown` is its `progress`. Raises ValueError and OSError.
    """
    from cxr_embeddings.input_pipeline.reports import abnormal, corpus

    if bool(reports) == bool(findings):
        raise ValueError("expected either --reports or --findings, which names what is read")
    if devices not in abnormal.DEVICES:
        raise ValueError(f"devices is {devices!r}; expected {', '.join(abnormal.DEVICES)}")
    source = paths.typed(os.fspath(reports or findings or ""))
    file = paths.typed(os.fspath(output or ""))
    if output and not paths.is_remote(file):
        paths.typed_file(file, "output")
    if output and file == source:
        raise ValueError(f"{file} is the input; expected another file as output")
    if reports:
        labels = corpus.label_reports(
            source,
            workers or machine.processors(),
            lambda total: progress.bar(total, what="reports", shown=shown),
        )
    else:
        labels = abnormal.read_labels(source)
    rows = {
        ids: abnormal.with_devices(found, devices) for ids, found in sorted(labels.rows.items())
    }
    if output:
        header = [*labels.columns, "abnormal", "rule"]
        lines = [[*ids, NUMBERS[label], rule] for ids, (label, rule) in rows.items()]
        files.write_whole(file, writing.encode_table(header, lines))
    return labels._replace(rows=rows)
