"""Reports of a folder, an archive or a table, labelled on all processors of this machine.

No text of a report is kept, shown or put into an error: only ids, labels and rules.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection

from cxr_embeddings.common import workers

from ..run_folder import Bar
from . import label
from .collections import Ids, Report, open_reports
from .label import Labels, Verdict

CHUNK = 64  # reports that a process labels at a time: some 20 to 100 ms
Chunk = Sequence[Report | Sequence[str]]  # a verdict where there is no report to read


def label_reports(path: str, processes: int, progress: Callable[[int], Bar]) -> Labels:
    """Labels every report of a folder, searched recursively, of an archive or of a table.

    It reads MIMIC-CXR's reports, by study and patient; any other .txt, by its name; Open-i's .xml,
    by the films that it names; and a CSV with a column of texts, or of findings and impressions.

    Args:
        path: absolute path or address, as `collections.open_reports` takes it.
        processes: how many to start, if the reports are many.
        progress: number of reports -> a progress bar as tqdm's, a context manager.

    Raises:
        OSError: the folder or the archive cannot be read, or a process ended.
        ValueError: it is damaged, it holds no report or several kinds, or two of one id.
    """
    rows: dict[Ids, Verdict] = {}
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_reports(path))
        labellers: list[Callable[[Chunk], list[Verdict]]] = [_verdicts]
        if source.count > CHUNK:
            few = min(processes, -(-source.count // CHUNK))
            labellers = [stack.enter_context(_labeller()) for _ in range(few)]
        bar = stack.enter_context(progress(source.count))
        chunks = _chunks(source.reports)
        for ids, verdicts in workers.in_order(chunks, labellers, 2 * len(labellers)):
            for some, verdict in zip(ids, verdicts, strict=True):
                rows |= dict.fromkeys(some, verdict)
            bar.update(len(ids))
    what = "films of reports" if source.columns[0] == "image_id" else "reports"
    about = f"{len(rows)} {what} in {path}; ignored {source.ignored} other files"
    return Labels(about, source.columns, rows)


def _chunks(
    reports: Iterator[tuple[list[Ids], Report | Verdict]],
) -> Iterator[tuple[list[list[Ids]], Chunk]]:
    while some := list(itertools.islice(reports, CHUNK)):
        yield [ids for ids, _ in some], [report for _, report in some]


def _verdicts(reports: Chunk) -> list[Verdict]:
    return [_verdict(report) for report in reports]


def _verdict(report: Report | Sequence[str]) -> Verdict:
    try:
        match report:
            case str():
                return label.label_report(report)
            case dict():
                return label.label_sections(report)
        return Verdict(*report)
    except Exception:  # which might quote the report
        return Verdict("unknown", "failed")


@contextlib.contextmanager
def _labeller() -> Iterator[Callable[[Chunk], list[Verdict]]]:
    """A process that labels reports."""
    process, connection = workers.start(__name__)

    def ask(reports: Chunk) -> list[Verdict]:
        try:
            connection.send_bytes(json.dumps(reports).encode())
            answer = connection.recv_bytes()
        except (EOFError, OSError):
            why = "a process that labels reports was killed, perhaps for lack of memory"
            raise OSError(why) from None
        return [Verdict(*verdict) for verdict in json.loads(answer)]

    with connection:
        try:
            yield ask
        finally:
            process.kill()
            process.wait()


def serve(connection: Connection) -> None:
    """The process of `_labeller`: JSON of reports in, of verdicts out."""
    while True:
        verdicts = _verdicts(json.loads(connection.recv_bytes()))
        connection.send_bytes(json.dumps(verdicts).encode())
