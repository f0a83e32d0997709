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
