"""MIMIC-CXR's tables."""

import posixpath
import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from cxr_embeddings.common import csv_tables, data_sets, paths
from cxr_embeddings.common.film_names import clean, same_films

from ..films.film import film_key

# Column of MIMIC-CXR -> of the plain table of a data set
_OF_DATA_SET = {"subject_id": "patient_id", "study_id": "study_id", "ViewPosition": "view"}
_OF_DATA_SET |= {name: name for name in ("Rows", "Columns")}
SPLITS = ("train", "validate", "test")
UNASSIGNED = "unassigned"  # the split of a film for which no table says one


class Table(NamedTuple):
    """Columns of a table as text, and where it is from."""

    path: str
    rows: pd.DataFrame  # `film` is the dicom_id, or the path of the film; one row a film
    has_paths: bool = False

    def rows_of(self, image_ids: Sequence[str]) -> pd.DataFrame:
        """The row of each film, its number as index; -1 and missing values where there is none.

        By the file's name; or by paths from their ends, as far as film and table both have them.
        Raises ValueError where one film has several rows so, or none has any.
        """
        films = self.rows["film"]
        if not self.has_paths:
            return self.rows.reindex(pd.Index(films).get_indexer([*map(dicom_id_of, image_ids)]))
        found = [-1] * len(image_ids)
        for film, row in same_films([*map(clean, image_ids)], films.tolist()):
            if found[film] not in (-1, row):
                raise ValueError(
                    f"{image_ids[film]} fits several rows of {self.path}; expected one: name the "
                    "folder above the films as input"
                )
            found[film] = row
        if found and max(found) < 0:
            raise ValueError(
                f"none of {len(found)} films has a row in {self.path}; the first film is "
                f"{image_ids[0]}, the first of the table {next(iter(films), 'none')}; expected the "
                "same names, but for suffixes and for folders that one of them lacks"
            )
        return self.rows.reindex(found)


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
    return _one_row_each(path, pd.DataFrame({"film": found.pop("dicom_id"), **found}, dtype="str"))


def read_data_set(name: str, folder: str, given: str | None) -> Table:
    """The same of a data set of `data_sets`: of the `given` table, or of those in the folder.

    Raises OSError and ValueError likewise.
    """
    entry = data_sets.load(name)
    found = [paths.typed(given)] if given else data_sets.find_tables(entry, folder)
    films = [data_sets.read_films(path, entry) for path in found]
    rows = pd.concat(films, ignore_index=True).drop_duplicates().fillna("")
    columns = {ours: rows.get(theirs, "") for ours, theirs in _OF_DATA_SET.items()}
    films = pd.DataFrame({"film": rows["image_id"].map(clean), **columns}, dtype="str")
    return _one_row_each(" and ".join(found), films)._replace(has_paths=True)


def dicom_id_of(image_id: str) -> str:
    return film_key(image_id.rpartition("/")[2])


def _one_row_each(path: str, rows: pd.DataFrame) -> Table:
    twice = rows["film"][rows["film"].duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{path} has more than one row for {len(twice)} films, the first of them {twice[0]!r}; "
            "expected one row a film: get it again, or correct it"
        )
    return Table(path, rows)
