"""Radiology reports, or tables of findings, to labels: abnormal, normal or unknown."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from cxr_embeddings.common import files, machine, paths, progress, writing
from cxr_embeddings.errors import translated

if TYPE_CHECKING:
    import pandas as pd

    from cxr_embeddings.input_pipeline.reports.label import Verdict

NUMBERS = {"abnormal": "1", "normal": "0", "unknown": ""}
BROKEN = ("failed", "unreadable")  # rules of reports to be got again, or of a fault of ours
_SHOWN = 10  # ids of what is to be looked at


class Labels(NamedTuple):
    """Labels of studies or films."""

    about: str  # a sentence: what was read
    columns: tuple[str, ...]  # names of the ids
    rows: Mapping[tuple[str, ...], Verdict]  # ids -> label, and the rule that decided

    @property
    def broken(self) -> int:
        """Reports that could not be read, or that labelling failed on."""
        return sum(verdict.rule in BROKEN for verdict in self.rows.values())

    def table(self) -> pd.DataFrame:
        """One row a study or film: its ids, `abnormal` (1, 0 or missing), and `rule`."""
        import pandas as pd

        table = pd.DataFrame(list(self.rows), columns=list(self.columns), dtype="str")
        numbers = {"abnormal": 1, "normal": 0, "unknown": None}
        found = [numbers[verdict.label] for verdict in self.rows.values()]
        rules = [verdict.rule for verdict in self.rows.values()]
        return table.assign(abnormal=pd.array(found, "Int8"), rule=pd.array(rules, "str"))

    def write(self, file: str) -> None:
        """Writes the same as a CSV file."""
        rows = [[*ids, NUMBERS[label], rule] for ids, (label, rule) in self.rows.items()]
        files.write_whole(file, writing.encode_table([*self.columns, "abnormal", "rule"], rows))

    def summary(self) -> Iterator[str]:
        """How many there are of each label and rule, and ids of those to look at; in lines."""
        from cxr_embeddings.input_pipeline.reports import corpus

        yield self.about
        counts = collections.Counter(self.rows.values())
        for label in NUMBERS:
            some = [(v, n) for v, n in counts.most_common() if v.label == label]
            yield f"{label:8} {sum(n for _, n in some):9}"
            yield from (f"    {verdict.rule:32} {count:9}" for verdict, count in some)
        for rule in ("contradiction", *corpus.REJECTED):
            ids = [" ".join(one) for one, verdict in self.rows.items() if verdict.rule == rule]
            if ids:
                more = ", ..." if len(ids) > _SHOWN else ""
                yield f"{rule} ({', '.join(self.columns)}): {', '.join(ids[:_SHOWN])}{more}"


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
    labels = run(reports=reports, output=output, devices=devices, workers=workers, shown=progress)
    return labels.table()


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

    The options are those of `label_reports`; `findings`, in place of `reports`, is a table of one
    of `abnormal.DATASETS`; `shown` is its `progress`. Raises ValueError and OSError.
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
        found = corpus.label_reports(
            source,
            workers or machine.processors(),
            lambda total: progress.bar(total, what="reports", shown=shown),
        )
        counted = "films of reports" if found.columns[0] == "image_id" else "reports"
        about = f"{len(found.rows)} {counted} in {source}; ignored {found.ignored} other files"
        columns, rows = found.columns, found.rows
    else:
        table = abnormal.read_labels(source)
        about = f"{len(table.rows)} rows in {source}, a table as {table.dataset} has it"
        columns, rows = table.columns, table.rows
    rows = {ids: abnormal.with_devices(verdict, devices) for ids, verdict in sorted(rows.items())}
    labels = Labels(about, columns, rows)
    if output:
        labels.write(file)
    return labels
