"""Where reports lie: a folder, an archive or a table, read one report at a time."""

import collections
import contextlib
import dataclasses
import itertools
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence

from cxr_embeddings.common import archives, csv_tables, untrusted

from . import sections
from .label import MAX_CHARACTERS, Verdict

MOST = 4 * (MAX_CHARACTERS + 1)  # bytes of a report; those that have as many are too long
UNREADABLE = Verdict("unknown", "unreadable")
_MIMIC = re.compile(r"(?:^|/)p(\d+)/s(\d+)\.txt$")  # files/p10/p10000032/s50414267.txt
_OPENI = ("image_id", "study_id")
_KINDS = {".txt": ("study_id",), ".xml": _OPENI}
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

Ids = tuple[str, ...]
Report = str | dict[str, str]  # a text, or its sections by name


@dataclasses.dataclass(frozen=True)
class Collection:
    """Reports, to be read once.

    Attributes:
        columns: names of the ids.
        count: number of reports.
        ignored: number of other files there.
        reports: ids of the studies or films that a report labels; and the report, or else the
            verdict on one that cannot be read.
    """

    columns: Ids
    count: int
    ignored: int
    reports: Iterator[tuple[list[Ids], Report | Verdict]]


@contextlib.contextmanager
def open_reports(path: str) -> Iterator[Collection]:
    """Opens what `path` names: a table (.csv, .csv.gz), an archive (.zip, .tar, .tgz) or a folder.

    Names in an archive are never used as paths. Its links and devices are ignored, and at most
    `MOST` bytes of a member are in memory.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, holds no report or several kinds, or has two reports of one id.
    """
    if path.lower().endswith((".csv", ".csv.gz")):
        yield _read_table(path)
        return
    with archives.open_members(path, MOST) as members:
        yield _listed(members, path)


def _listed(members: archives.Members, path: str) -> Collection:
    names = [name for name, _ in members()]
    columns, chosen = _choose(names, path)
    reports = (_read(chosen[one], read, columns) for one, read in members() if one in chosen)
    return Collection(columns, len(chosen), len(names) - len(chosen), reports)


def _choose(names: Sequence[str], path: str) -> tuple[Ids, dict[str, Ids]]:
    """Names of ids; and the ids of each file that is a report.

    Raises:
        ValueError: there is no report, there are several kinds, or two are of one id.
    """
    columns: Ids = ("study_id", "subject_id")
    listed: list[tuple[Ids, str]] = [
        ((found[2], found[1]), one) for one in names if (found := _MIMIC.search(one))
    ]
    if not listed:
        named = [(_parted(one), one) for one in names if not _NO_REPORT.search(one)]
        kinds = collections.Counter(kind for (_, kind), _ in named if kind in _KINDS)
        if len(kinds) != 1:
            there = " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            raise ValueError(
                f"{there or 'no report'} in {path}, among {len(names)} files; expected reports as "
                ".txt or, of Open-i, as .xml, and only one of these: give the folder or archive "
                "(.zip, .tar, .tgz) that holds them, or a table (.csv)"
            )
        columns = _KINDS[min(kinds)]
        listed = [((stem,) * len(columns), one) for (stem, kind), one in named if kind in kinds]
    for (ids, one), (others, other) in itertools.pairwise(sorted(listed)):
        if ids == others:
            raise ValueError(
                f"{one} and {other} are reports of one study; expected one each: remove "
                "one of them, or give the folder above only one"
            )
    return columns, {one: ids for ids, one in listed}


def _parted(name: str) -> tuple[str, str]:
    """Name of a file without folder and ending; and the ending in lower case."""
    stem, kind = os.path.splitext(name.rpartition("/")[2])
    return stem, kind.lower()


def _read(ids: Ids, read: Callable[[], bytes], columns: Ids) -> tuple[list[Ids], Report | Verdict]:
    """A report of a file, as `Collection.reports` has it."""
    try:
        data = read()
    # RuntimeError: encrypted; NotImplementedError: compressed in a way that is not read
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError):
        return [ids], UNREADABLE
    if columns != _OPENI:
        text = sections.decode(data)
        return [ids], Verdict("unknown", "binary") if text is None else text
    report = untrusted.read_xml(data)
    if report is None:
        return [ids], UNREADABLE
    films = dict.fromkeys(image.get("id", "") for image in report.iter("parentImage"))
    parts = {part.get("Label", "").lower(): part.text or "" for part in report.iter("AbstractText")}
    return [(film, ids[1]) for film in films if film] or [ids], parts


def _read_table(path: str) -> Collection:
    """The rows of a table with a column of texts, or columns of sections, and of ids."""
    rows = csv_tables.read_rows(path)
    _, names = next(rows, (1, []))
    header = [csv_tables.plain(name) for name in names]

    def columns(known: Sequence[str]) -> list[int]:
        meant = map(csv_tables.plain, known)
        return [header.index(name) for name in meant if name in header]

    texts = columns(_TEXT)
    parts = {name: found[0] for name in _SECTIONS if (found := columns([name]))}
    place = {ours: found[0] for ours, known in _IDS.items() if (found := columns(known))}
    if not (texts or parts) or not {"image_id", "study_id"} & place.keys():
        raise ValueError(
            f"{path} is not a table of reports: expected a column of texts ({', '.join(_TEXT)}) or "
            f"of sections ({', '.join(_SECTIONS)}), and one of ids ({', '.join(_IDS['study_id'])}, "
            f"or of films {', '.join(_IDS['image_id'])}). There are: {', '.join(names) or '(none)'}"
        )
    reports: dict[Ids, Report] = {}
    for number, row in rows:
        ids = tuple(row[column] for column in place.values())
        if not ids[0] or ids in reports:
            what = f"is the second of {' '.join(ids)}" if ids[0] else "lacks an id"
            raise ValueError(f"row {number} of {path} {what}; expected one row for each id")
        reports[ids] = row[texts[0]] if texts else {name: row[at] for name, at in parts.items()}
    if not reports:
        raise ValueError(f"{path} has no rows; expected a header and at least one report")
    listed = (([ids], report) for ids, report in reports.items())
    return Collection(tuple(place), len(reports), 0, listed)
