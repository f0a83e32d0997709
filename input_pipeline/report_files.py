"""A folder or an archive of MIMIC-CXR's reports, labelled in all processors of this machine.

Of the reports' texts nothing is kept, shown or put into an error: only ids, labels and rules.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import re
import signal
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from input_pipeline import files, report_sections, reports
from input_pipeline.reports import Verdict

# Rules of reports that are none, or that nothing could be made of; their label is unknown.
REJECTED = ("binary", "empty", "failed", "unreadable")
_NAME = re.compile(r"(?:^|/)p(\d+)/s(\d+)\.txt$")  # files/p10/p10000032/s50414267.txt
_CHUNK = 64  # reports that a process labels at a time: some 20 to 100 ms
# Those that Python unpacks no further than it is asked to.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MOST = 4 * (reports.MAX_CHARACTERS + 1)  # bytes of a report; those that have as many are too long


class Report(NamedTuple):
    """One report: its ids, as MIMIC-CXR's tables have them, and its place."""

    study_id: str
    subject_id: str
    path: str


def label_reports(
    path: str, workers: int, progress: Callable[[int], Any]
) -> tuple[dict[tuple[str, str], Verdict], int]:
    """Labels every report of a folder, searched recursively, or of a .zip archive.

    Args:
        path: local path or address.
        workers: number of processes.
        progress: number of reports -> a progress bar as tqdm's, a context manager.

    Returns:
        (study_id, subject_id) -> verdict, by a rule of `REJECTED` where there is no report to read;
        and the number of other files that were ignored.

    Raises:
        OSError: the folder or the archive cannot be read, or a process ended.
        ValueError: the archive is none, it holds no report, or two of one study.
    """
    path = files.absolute(path)
    found: dict[tuple[str, str], Verdict] = {}
    pending: collections.deque = collections.deque()
    with _open(path) as (names, read):
        listed, ignored = _list(names, path)
        chunks = (listed[i : i + _CHUNK] for i in range(0, len(listed), _CHUNK))
        pool = concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("forkserver"), _leave_interrupts
        )
        try:
            with progress(len(listed)) as bar:
                while True:
                    for chunk in itertools.islice(chunks, 4 * workers - len(pending)):
                        data = [_try(read, report.path) for report in chunk]
                        pending.append((chunk, pool.submit(_label, data)))
                    if not pending:
                        return found, ignored
                    chunk, verdicts = pending.popleft()
                    for report, verdict in zip(chunk, verdicts.result(), strict=True):
                        found[report.study_id, report.subject_id] = verdict
                    bar.update(len(chunk))
        except BrokenProcessPool as error:
            raise OSError("a process that labels reports was ended: is memory short?") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


@contextlib.contextmanager
def _open(path: str) -> Iterator[tuple[Iterable[str], Callable[[str], bytes]]]:
    """Names of the files of a folder or an archive, and how the start of one is read."""
    if not path.lower().endswith(".zip"):

        def read(name: str) -> bytes:
            with files.open_input(name) as stream:
                return stream.read(_MOST)

        yield files.walk(path), lambda name: files.retry(lambda: read(name))
        return
    with files.open_input(path) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is no whole ZIP archive ({error}): get it again") from error

        def extract(name: str) -> bytes:
            if archive.getinfo(name).compress_type not in _COMPRESSIONS:
                raise NotImplementedError("a compression that is neither stored nor deflated")
            with archive.open(name) as member:
                return member.read(_MOST)

        with archive:
            yield archive.namelist(), extract


def _list(names: Iterable[str], path: str) -> tuple[list[Report], int]:
    """The reports among files, sorted by study, and how many of the files are none by their name.

    Raises:
        ValueError: there is no report, or two are of one study.
    """
    listed, others = [], 0
    for name in names:
        if found := _NAME.search(name):
            listed.append(Report(found[2], found[1], name))
        else:
            others += not name.endswith("/")  # folders of an archive
    if not listed:
        raise ValueError(
            f"no report in {path}, but {others} other files; expected a folder with files such as "
            "files/p10/p10000032/s50414267.txt, or the archive mimic-cxr-reports.zip itself"
        )
    listed.sort()
    for one, other in itertools.pairwise(listed):
        if one[:2] == other[:2]:
            raise ValueError(
                f"{one.path} and {other.path} are reports of one study; expected one each: remove "
                "one of them, or give the folder above only one"
            )
    return listed, others


def _try(read: Callable[[str], bytes], name: str) -> bytes | None:
    """The start of a file; None if it cannot be read, or not to its end if it is an archive's."""
    try:
        return read(name)
    # RuntimeError: encrypted; NotImplementedError: compressed in a way that is not read
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError):
        return None


def _label(chunk: Sequence[bytes | None]) -> list[Verdict]:
    return [_verdict(data) for data in chunk]


def _verdict(data: bytes | None) -> Verdict:
    if data is None:
        return Verdict("unknown", "unreadable")
    try:
        text = report_sections.decode(data)
    except ValueError:
        return Verdict("unknown", "binary")
    try:
        return reports.label_report(text)
    except Exception:  # which might quote the report
        return Verdict("unknown", "failed")
