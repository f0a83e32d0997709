"""Reports of a folder, an archive or a table, labelled in all processors of this machine.

Of the reports' texts nothing is kept, shown or put into an error: only ids, labels and rules.
"""

import contextlib
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, NamedTuple, cast
from xml.etree import ElementTree

from cxr_embeddings.common import paths, workers

from ..run_folder import Bar
from . import label
from . import sections as report_sections
from .collections import OPENI, Collection, Content, open_reports
from .label import Verdict

# Rules of reports that are none, or that nothing could be made of; their label is unknown.
REJECTED = ("binary", "empty", "failed", "unreadable")
CHUNK = 64  # reports that a process labels at a time: some 20 to 100 ms
Report = str | dict[str, str]  # a text, or its sections


class LabelledReports(NamedTuple):
    """Reports, judged.

    Attributes:
        columns: names of the ids.
        rows: ids -> verdict, by a rule of `REJECTED` where there is no report to read.
        ignored: number of other files that were there.
    """

    columns: tuple[str, ...]
    rows: Mapping[tuple[str, ...], Verdict]
    ignored: int


def label_reports(path: str, processes: int, progress: Callable[[int], Bar]) -> LabelledReports:
    """Labels every report of a folder, searched recursively, of an archive or of a table.

    Read are MIMIC-CXR's reports, by study and patient; any other .txt, by its name; Open-i's .xml,
    by the films that it names; and a CSV with a column of texts, or of findings and impressions.

    Args:
        path: local path or address, as `collections.open_reports` takes it.
        processes: how many to start, if the reports are many.
        progress: number of reports -> a progress bar as tqdm's, a context manager.

    Raises:
        OSError: the folder or the archive cannot be read, or a process ended.
        ValueError: it is damaged, it holds no report or several kinds, or two of one id.
    """
    found: dict[tuple[str, ...], Verdict] = {}
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_reports(paths.typed(path)))
        labellers: list[Callable[[Sequence[Report]], Sequence[Verdict]]] = [_verdicts]
        if source.count > CHUNK:
            labellers = [stack.enter_context(_Labeller()) for _ in range(processes)]
        bar = stack.enter_context(progress(source.count))
        for read, verdicts in workers.in_order(_chunks(source), labellers, 2 * len(labellers)):
            judged = iter(verdicts)
            for ids, report in read:
                verdict = report if isinstance(report, Verdict) else next(judged)
                found |= dict.fromkeys(ids, verdict)
            bar.update(len(read))
        return LabelledReports(source.columns, dict(sorted(found.items())), source.ignored)


_Read = tuple[list[tuple[str, ...]], Report | Verdict]


def _chunks(source: Collection) -> Iterator[tuple[list[_Read], list[Report]]]:
    """Some reports with the ids of their rows; and those of them that are to be labelled."""
    while contents := list(itertools.islice(source.contents, CHUNK)):
        read = [_read(content, source.columns) for content in contents]
        yield read, [report for _, report in read if not isinstance(report, Verdict)]


def _read(content: Content, columns: tuple[str, ...]) -> _Read:
    """The rows that a report has, and its text, sections, or why it has neither."""
    ids, data = [content.ids], content.data
    if data is None:
        return ids, Verdict("unknown", "unreadable")
    if not isinstance(data, bytes):
        return ids, data
    if columns != OPENI:
        try:
            return ids, report_sections.decode(data)
        except ValueError:
            return ids, Verdict("unknown", "binary")
    try:
        films, sections = _read_openi(data)
    except (ValueError, ElementTree.ParseError):
        return ids, Verdict("unknown", "unreadable")
    return [(film, content.ids[1]) for film in films] or ids, sections


def _read_openi(data: bytes) -> tuple[list[str], dict[str, str]]:
    """The films that an XML file of Open-i names, and its sections."""
    if b"<!ENTITY" in data:  # which may unfold to any size
        raise ValueError("the file defines entities; expected none")
    report = ElementTree.fromstring(data)
    sections = {
        part.get("Label", "").lower(): part.text or "" for part in report.iter("AbstractText")
    }
    films = [image.get("id", "") for image in report.iter("parentImage")]
    return [film for film in dict.fromkeys(films) if film], sections


def _verdicts(reports: Sequence[Report]) -> list[Verdict]:
    return [_verdict(report) for report in reports]


def _verdict(report: Report) -> Verdict:
    try:
        if isinstance(report, dict):
            return label.label_sections(report)
        return label.label_report(report)
    except Exception:  # which might quote the report
        return Verdict("unknown", "failed")


class _Labeller:
    """A process that labels reports, started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "_Labeller":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def __call__(self, reports: Sequence[Report]) -> list[Verdict]:
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = workers.start(__name__, stdin=pipe, stdout=pipe)
        data, answer = json.dumps(reports).encode() + b"\n", b""
        with contextlib.suppress(BrokenPipeError):
            stdin, stdout = self._process.stdin, self._process.stdout
            cast(IO[bytes], stdin).write(data)
            cast(IO[bytes], stdin).flush()
            answer = cast(IO[bytes], stdout).readline()
        if not answer:
            raise OSError("a process that labels reports was killed, perhaps for lack of memory")
        return [Verdict(*verdict) for verdict in json.loads(answer)]


def serve() -> None:
    """A process of `_Labeller`: lines of reports in, of verdicts out. Ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    for line in sys.stdin.buffer:
        print(json.dumps(_verdicts(json.loads(line))), flush=True)
