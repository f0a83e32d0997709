"""CSV tables as text, and their columns by name."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping

import pandas as pd

from cxr_embeddings.common import csv_tables
from cxr_embeddings.common.csv_tables import plain

# Columns that say which film, study, patient or split a row is about; the first one there counts.
ROLES = {
    "image": ("image_id", "dicom_id", "Image Index", "file"),
    "study": ("study_id",),
    "patient": ("subject_id", "patient_id"),
    "split": ("split",),
}


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """A CSV file as text, as `csv_tables.read_columns` has it. Row 0 is the second of the file."""
    return pd.DataFrame(csv_tables.read_columns(path), dtype="str")


def as_number(text: str) -> str:
    """An id as programs write it that take it for a number: 1 for 001 and for 1.0."""
    return re.sub(r"^0+(?=\d+$)", "", re.sub(r"(?<=\d)\.0+$", "", text))


def alike(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that are `name`: the same text if there is one, else the same but plain."""
    names = list(names)
    return [name] if name in names else [other for other in names if plain(other) == plain(name)]


def find(name: str, names: Iterable[str], where: str, what: str = "column") -> str:
    """The one of `names` that is `name`, as `alike` has it; `where` and `what` are for the error.

    Raises:
        ValueError: there is none, or more than one.
    """
    names = list(names)
    found = alike(name, names)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{where} has {found} for the {what} {name!r}: write one as it is there")
    by_plain = {plain(other): other for other in names}
    close = difflib.get_close_matches(plain(name), by_plain, 3)
    close += [key for key in by_plain if plain(name) in key and key not in close][:3]
    meant = " or ".join(repr(by_plain[key]) for key in close)
    hint = f"did you mean {meant}? There" if close else "there"
    raise ValueError(f"{where} has no {what} {name!r}; {hint} are: {', '.join(names)}")


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
