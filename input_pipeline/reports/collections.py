"""Where reports lie: a folder, an archive or a table, as ids and contents, one report at a time."""

import contextlib
import dataclasses
import functools
import gzip
import io
import itertools
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from cxr_embeddings.common import csv_tables, files
from cxr_embeddings.common.untrusted import TarMember

from .label import MAX_CHARACTERS

MOST = 4 * (MAX_CHARACTERS + 1)  # bytes of a report; those that have as many are too long
_MIMIC = re.compile(r"(?:^|/)p(\d+)/s(\d+)\.txt$")  # files/p10/p10000032/s50414267.txt
# Those that Python unpacks no further than it is asked to.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
OPENI = ("image_id", "study_id")
_KINDS = {".txt": ("study_id",), ".xml": OPENI}
# Files beside reports: hidden ones, and what describes a data set.
_NO_REPORT = re.compile(
    r"(?:^|/)(?:\.(?!\.?/)|__MACOSX/|(?:readme|licen[sc]e|changelog|\w*sums?)\b)", re.I
)
# What we write -> what a table may call it; compared as `csv_tables.plain` has it.
_TEXT = ("report", "reports", "text", "report_text", "full_text")
_SECTIONS = ("findings", "impression", "addendum")
_IDS = {
    "image_id": ("image_id", "dicom_id", "image", "file", "filename", "file_name", "path"),
    "study_id": ("study_id", "study", "report_id", "accession_number", "accession", "uid", "id"),
    "subject_id": ("subject_id", "patient_id", "patient"),
}


class Content(NamedTuple):
    """One report: its ids, and its file's bytes (None: unreadable), its text or its sections."""

    ids: tuple[str, ...]
    data: bytes | str | dict[str, str] | None


@dataclasses.dataclass(frozen=True)
class Collection:
    """Reports, to be read once.

    Attributes:
        columns: names of the ids; `OPENI` for Open-i's XML files, which name their films.
        count: number of reports.
        ignored: number of other files there.
        contents: the reports.
    """

    columns: tuple[str, ...]
    count: int
    ignored: int
    contents: Iterator[Content]


@contextlib.contextmanager
def open_reports(path: str) -> Iterator[Collection]:
    """Opens what `path` names: a table (.csv, .csv.gz), an archive (.zip, .tar, .tgz) or a folder.

    Of an archive, no name is used as a path, links and devices are ignored, and no more of a member
    is in memory than `MOST` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, holds no report or several kinds, or has two reports of one id.
    """
    name = path.lower()
    if name.endswith((".csv", ".csv.gz")):
        yield _read_table(path)
    elif name.endswith(".zip"):
        with files.open_input(path) as stream, _archive(path), zipfile.ZipFile(stream) as archive:
            names = [one.filename for one in archive.infolist() if _is_file(one)]
            yield _listed(names, path, lambda name: _extract(archive, name))
    elif name.endswith((".tar", ".tgz", ".tar.gz")):
        with files.open_input(path) as stream, _archive(path):
            names = [name for name, _ in _members(stream)]
            columns, listed = _choose(names, path)
            kept = {name: ids for ids, name in listed}
            stream.seek(0)
            contents = (
                Content(kept[name], attempt(read))
                for name, read in _members(stream)
                if name in kept
            )
            yield Collection(columns, len(kept), len(names) - len(kept), contents)
    else:
        yield _listed(files.walk(path), path, _start)


@contextlib.contextmanager
def _archive(path: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole archive ({error}): get it again") from error


def _listed(names: Iterable[str], path: str, read: Callable[[str], bytes]) -> Collection:
    names = list(names)
    columns, listed = _choose(names, path)
    contents = (Content(ids, attempt(functools.partial(read, name))) for ids, name in listed)
    return Collection(columns, len(listed), len(names) - len(listed), contents)


def _choose(
    names: Sequence[str], path: str
) -> tuple[tuple[str, ...], list[tuple[tuple[str, ...], str]]]:
    """Names of ids; and ids and name of each file that is a report, sorted by ids.

    Raises:
        ValueError: there is no report, there are several kinds, or two are of one id.
    """
    columns: tuple[str, ...] = ("study_id", "subject_id")
    listed: list[tuple[tuple[str, ...], str]] = [
        ((found[2], found[1]), one) for one in names if (found := _MIMIC.search(one))
    ]
    if not listed:
        named = [name for name in names if not _NO_REPORT.search(name)]
        kinds = {kind: [one for one in named if one.lower().endswith(kind)] for kind in _KINDS}
        found = [kind for kind in kinds if kinds[kind]]
        if len(found) != 1:
            there = " and ".join(f"{len(kinds[kind])} {kind}" for kind in found)
            raise ValueError(
                f"{there or 'no report'} in {path}, among {len(names)} files; expected reports as "
                ".txt or, of Open-i, as .xml, and only one of these: give the folder or archive "
                "(.zip, .tar, .tgz) that holds them, or a table (.csv)"
            )
        columns = _KINDS[found[0]]
        listed = [((_stem(one),) * len(columns), one) for one in kinds[found[0]]]
    listed.sort()
    for (ids, one), (others, other) in itertools.pairwise(listed):
        if ids == others:
            raise ValueError(
                f"{one} and {other} are reports of one study; expected one each: remove "
                "one of them, or give the folder above only one"
            )
    return columns, listed


def _stem(name: str) -> str:
    return os.path.splitext(name.rpartition("/")[2])[0]


def _start(name: str) -> bytes:
    return files.read_with(name, lambda stream: stream.read(MOST))


def _is_file(member: zipfile.ZipInfo) -> bool:
    return not member.is_dir() and not stat.S_ISLNK(member.external_attr >> 16)


def _extract(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type not in _COMPRESSIONS:
        raise NotImplementedError("a compression that is neither stored nor deflated")
    with archive.open(name) as member:
        return member.read(MOST)


def _members(stream: io.IOBase) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and reader of each plain file of a tar archive, in its order."""
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    with tarfile.open(
        fileobj=stream, mode="r:gz" if packed else "r:", tarinfo=TarMember
    ) as archive:
        while info := archive.next():
            archive.members = []  # type: ignore[attr-defined]  # which would grow with the archive
            if info.isreg():
                yield info.name, functools.partial(_start_of, archive, info)


def _start_of(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    with archive.extractfile(info) as stream:  # type: ignore[union-attr]  # a plain file
        return stream.read(MOST)


def attempt(read: Callable[[], bytes]) -> bytes | None:
    """The start of a file; None if it cannot be read, or not to its end if it is a .zip's."""
    try:
        return read()
    # RuntimeError: encrypted; NotImplementedError: compressed in a way that is not read
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError):
        return None


def _read_table(path: str) -> Collection:
    """The rows of a table with a column of texts, or columns of sections, and of ids."""
    rows = csv_tables.read_rows(path)
    _, names = next(rows, (1, []))
    header = [csv_tables.plain(name) for name in names]

    def columns(known: Sequence[str]) -> list[int]:
        meant = map(csv_tables.plain, known)
        return [header.index(name) for name in meant if name in header]

    texts = columns(_TEXT)
    sections = {name: found[0] for name in _SECTIONS if (found := columns([name]))}
    place = {ours: found[0] for ours, known in _IDS.items() if (found := columns(known))}
    if not (texts or sections) or not {"image_id", "study_id"} & place.keys():
        raise ValueError(
            f"{path} is not a table of reports: expected a column of texts ({', '.join(_TEXT)}) or "
            f"of sections ({', '.join(_SECTIONS)}), and one of ids ({', '.join(_IDS['study_id'])}, "
            f"or of films {', '.join(_IDS['image_id'])}). There are: {', '.join(names) or '(none)'}"
        )
    contents: dict[tuple[str, ...], Content] = {}
    for number, row in rows:
        ids = tuple(row[column] for column in place.values())
        if not ids[0] or ids in contents:
            what = f"is the second of {' '.join(ids)}" if ids[0] else "lacks an id"
            raise ValueError(f"row {number} of {path} {what}; expected one row for each id")
        data = row[texts[0]] if texts else {name: row[at] for name, at in sections.items()}
        contents[ids] = Content(ids, data)
    if not contents:
        raise ValueError(f"{path} has no rows; expected a header and at least one report")
    return Collection(tuple(place), len(contents), 0, iter(contents.values()))
