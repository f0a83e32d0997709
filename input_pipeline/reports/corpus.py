"""Reports of a folder, an archive or a table, labelled in all processors of this machine.

Of the reports' texts nothing is kept, shown or put into an error: only ids, labels and rules.
"""

import collections
import concurrent.futures
import itertools
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple
from xml.etree import ElementTree

from cxr_embeddings.common import paths

from . import label
from . import sections as report_sections
from .collections import OPENI, Content, open_source
from .label import Verdict

# Rules of reports that are none, or that nothing could be made of; their label is unknown.
REJECTED = ("binary", "empty", "failed", "unreadable")
_CHUNK = 64  # reports that a process labels at a time: some 20 to 100 ms
Labels = dict[tuple[str, ...], Verdict]


class Labelled(NamedTuple):
    """Reports, judged.

    Attributes:
        columns: names of the ids.
        rows: ids -> verdict, by a rule of `REJECTED` where there is no report to read.
        ignored: number of other files that were there.
    """

    columns: tuple[str, ...]
    rows: Labels
    ignored: int


def label_reports(path: str, workers: int, progress: Callable[[int], Any]) -> Labelled:
    """Labels every report of a folder, searched recursively, of an archive or of a table.

    Read are MIMIC-CXR's reports, by study and patient; any other .txt, by its name; Open-i's .xml,
    by the films that it names; and a CSV with a column of texts, or of findings and impressions.

    Args:
        path: local path or address, as `report_sources.open_source` takes it.
        workers: number of processes.
        progress: number of reports -> a progress bar as tqdm's, a context manager.

    Raises:
        OSError: the folder or the archive cannot be read, or a process ended.
        ValueError: it is damaged, it holds no report or several kinds, or two of one id.
    """
    found: Labels = {}
    pending: collections.deque = collections.deque()
    with open_source(paths.typed(path)) as source:
        pool = concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("forkserver"), _leave_interrupts
        )
        try:
            with progress(source.count) as bar:
                while True:
                    while len(pending) < 4 * workers:
                        chunk = list(itertools.islice(source.contents, _CHUNK))
                        if not chunk:
                            break
                        pending.append((len(chunk), pool.submit(_label, chunk, source.columns)))
                    if not pending:
                        return Labelled(source.columns, dict(sorted(found.items())), source.ignored)
                    count, labels = pending.popleft()
                    for ids, verdict in labels.result():
                        found[ids] = verdict
                    bar.update(count)
        except BrokenProcessPool as error:
            raise OSError("a process that labels reports was ended: is memory short?") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _label(
    chunk: Sequence[Content], columns: tuple[str, ...]
) -> list[tuple[tuple[str, ...], Verdict]]:
    rows: list[tuple[tuple[str, ...], Verdict]] = []
    for content in chunk:
        is_file = columns == OPENI and isinstance(content.data, bytes | None)  # no table's row
        rows += _label_films(content) if is_file else [(content.ids, _verdict(content.data))]
    return rows


def _label_films(content: Content) -> list[tuple[tuple[str, ...], Verdict]]:
    """A row for each film that a report of Open-i names; if it names none, one by its own id."""
    try:
        films, sections = _read_openi(content.data or b"")
    except (ValueError, ElementTree.ParseError):
        return [(content.ids, Verdict("unknown", "unreadable"))]
    verdict = _verdict(sections)
    return [((film, content.ids[1]), verdict) for film in films] or [(content.ids, verdict)]


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


def _verdict(data: bytes | str | dict[str, str] | None) -> Verdict:
    if data is None:
        return Verdict("unknown", "unreadable")
    try:
        text = report_sections.decode(data) if isinstance(data, bytes) else data
    except ValueError:
        return Verdict("unknown", "binary")
    try:
        return label.label_sections(text) if isinstance(text, dict) else label.label_report(text)
    except Exception:  # which might quote the report
        return Verdict("unknown", "failed")
