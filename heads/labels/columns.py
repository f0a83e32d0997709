"""CSV tables as text, and their columns by name."""

import os
import re
from collections.abc import Mapping

import pandas as pd

from cxr_embeddings.common import csv_tables, data_sets
from cxr_embeddings.common.csv_tables import alike, find

# Columns that say which film, study, patient or split a row is about; the first one there counts.
ROLES = {
    "image": ("image_id", "dicom_id", "Image Index", "file"),
    "study": ("study_id",),
    "patient": ("subject_id", "patient_id"),
    "split": ("split",),
}


def read_table(path: str | os.PathLike, data_set: str = "") -> pd.DataFrame:
    """A CSV file as text, as `csv_tables.read_columns` has it. Row 0 is the second of the file.

    Of a data set its table in the plain form, as `data_sets.read` has it.
    """
    if data_set:
        return data_sets.read(path, data_sets.load(data_set)).rows
    return pd.DataFrame(csv_tables.read_columns(path), dtype="str")


def as_number(text: str) -> str:
    """An id as programs write it that take it for a number: 1 for 001 and for 1.0."""
    return re.sub(r"^0+(?=\d+$)", "", re.sub(r"(?<=\d)\.0+$", "", text))


def role_columns(table: pd.DataFrame, path: str, named: Mapping[str, str]) -> dict[str, str]:
    """Role to column, for those of `ROLES` that a table has; `named` has what the caller named.

    Raises:
        ValueError: a named column is missing.
    """
    columns = {}
    for role, known in ROLES.items():
        if named.get(role):
            columns[role] = find(named[role], table.columns, path)
        elif there := [name for name in known if alike(name, table.columns)]:
            columns[role] = find(there[0], table.columns, path)
    return columns
