"""MIMIC-CXR's tables, and what they say of a film."""

import collections
import functools
import posixpath
import re
from collections.abc import Sequence
from typing import NamedTuple

from cxr_embeddings.common import csv_tables, paths

SPLITS = ("train", "validate", "test")
UNASSIGNED = "unassigned"  # the split of a film for which no table says one

# Code meanings of DICOM PS3.16, CID 4010 (DX View), hyphens as blanks
_CODED_VIEWS = {
    "antero posterior": "AP",
    "postero anterior": "PA",
    "lateral": "LATERAL",
    "left lateral": "LATERAL",
    "right lateral": "LATERAL",
}
_NAMED_VIEWS = {"AP": "AP", "PA": "PA", "LAT": "LATERAL", "LATERAL": "LATERAL"}
_OTHER_VIEWS = re.compile("OBL|DECUB|LORDOTIC")  # CHEST (LAT DECUB ONLY) is no lateral


class Table(NamedTuple):
    """Columns of a table, and where it is from."""

    path: str
    row_of: dict[str, int]  # by dicom_id, in the table's order
    columns: dict[str, list[str]]

    def take(self, column: str, rows: Sequence[int], missing: str = "") -> list[str]:
        """The values of some rows, and `missing` for row -1."""
        values = [*self.columns[column], missing]
        return [values[row] for row in rows]


def find_table(folder: str, names: set[str], kind: str, given: str | None) -> str | None:
    """The path of MIMIC-CXR-JPG's table of a kind, "metadata" or "split".

    It is the `given` one, else the one among the `names` in the folder; None where none is. Raises
    ValueError if the folder has more than one.
    """
    if given:
        return paths.typed(given)
    pattern = rf"mimic-cxr-2\.[0-9]+\.[0-9]+-{kind}\.csv(\.gz)?"
    found = sorted(name for name in names if re.fullmatch(pattern, name))
    if len(found) > 1:
        raise ValueError(
            f"{folder} has more than one {kind} table, {' and '.join(found)}: give the path of the "
            f"one to use as {kind}_path"
        )
    return posixpath.join(folder, found[0]) if found else None


def read_table(path: str, columns: Sequence[str]) -> Table:
    """Reads the ids and some further columns of a table; blanks around values are removed.

    Raises OSError; and ValueError if it is damaged, or has two rows for one film.
    """
    found = csv_tables.read_columns(path, ("dicom_id", "subject_id", "study_id", *columns))
    # A value with a line break is several rows behind a stray quotation mark.
    if any("\n" in value for column in found.values() for value in column):
        raise ValueError(
            f"{path} has a quotation mark that is not closed in its line: the file is damaged, get "
            "it again"
        )
    dicom_ids = found.pop("dicom_id")
    row_of = {dicom_id: row for row, dicom_id in enumerate(dicom_ids)}
    if len(row_of) < len(dicom_ids):
        counted = collections.Counter(dicom_ids)
        twice = [dicom_id for dicom_id, count in counted.items() if count > 1]
        raise ValueError(
            f"{path} has more than one row for {len(twice)} films, the first of them {twice[0]!r}; "
            "expected one row a dicom_id: get it again"
        )
    return Table(path, row_of, found)


@functools.lru_cache(maxsize=1 << 16)
def film_size(rows: str, columns: str) -> tuple[int, int] | None:
    """Rows and columns; a program that knows missing numbers may have written 2544 as 2544.0."""
    pattern = r"0*([1-9][0-9]{0,5})(?:\.0*)?"
    height, width = re.fullmatch(pattern, rows), re.fullmatch(pattern, columns)
    return (int(height[1]), int(width[1])) if height and width else None


def _coded_view(text: str) -> str:
    return _CODED_VIEWS.get(re.sub(r"[\s-]+", " ", text).lower(), "")


def _named_view(text: str) -> str:
    """The view that a description names if it is the only one: of CHEST (PA AND LAT), none."""
    words = re.findall("[A-Z]+", text)
    named = {_NAMED_VIEWS[word] for word in words if word in _NAMED_VIEWS}
    return named.pop() if len(named) == 1 else ""


# Columns that may tell the view, the most trusted first: a code is of the film, both descriptions
# are of the procedure, which may have been of several films.
VIEW_COLUMNS = {
    "ViewCodeSequence_CodeMeaning": _coded_view,
    "PerformedProcedureStepDescription": _named_view,
    "ProcedureCodeSequence_CodeMeaning": _named_view,
}


@functools.lru_cache(maxsize=1 << 16)
def told_view(*texts: str) -> tuple[str, str]:
    """The view that the `VIEW_COLUMNS` tell, and which of them does; both empty where none does.

    A column that names an oblique, decubitus or lordotic view ends the search: it is none of AP, PA
    and LATERAL, whatever the next column says.
    """
    for (column, read), text in zip(VIEW_COLUMNS.items(), map(str.upper, texts), strict=True):
        if _OTHER_VIEWS.search(text):
            break
        if view := read(text):
            return view, column
    return "", ""
