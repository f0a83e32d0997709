"""CSV tables as text, and their columns by name."""

import csv
import difflib
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Mapping

import pandas as pd

from cxr_embeddings.common import paths, untrusted

# Columns that say which film, study, patient or split a row is about; the first one there counts.
ROLES = {
    "image": ("image_id", "dicom_id", "Image Index", "file"),
    "study": ("study_id",),
    "patient": ("subject_id", "patient_id"),
    "split": ("split",),
}


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """Reads a CSV file, `.gz` or not, at any address that fsspec reads.

    Returns:
        Every value as the text that stands in the file, without blanks around it, so that ids keep
        their leading zeros. Row 0 is the second row of the file. Columns without a name are left
        out.

    Raises:
        ValueError: it is larger than `untrusted.read_table` reads, no UTF-8 text, has no rows, rows
            of different lengths, or two columns of one name.
    """
    try:
        file = paths.typed(os.fspath(path))
        with paths.open_file(file) as stream:
            data = untrusted.read_table(stream, file.lower().endswith(".gz"), file)
        widths = list(map(len, csv.reader(_lines(data), strict=True)))
        # A blank line has no width. pandas fills short rows up, as if a cut file were whole.
        odd = [row for row, width in enumerate(widths, 1) if width not in (0, max(widths[0], 1))]
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"found no table {path}; expected a CSV file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}): save it as CSV in UTF-8") from error
    except (csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is no whole CSV file ({error}): get it again") from error
    if odd:
        raise ValueError(
            f"row {odd[0]} of {path} has {widths[odd[0] - 1]} values, its header {widths[0]}, and "
            f"{len(odd)} rows are like that; expected as many: the file is cut short or damaged"
        )
    if sum(map(bool, widths)) < 2:
        raise ValueError(f"{path} has no rows; expected a header and at least one row")
    table = pd.read_csv(_lines(data), dtype=str, keep_default_na=False, header=None)
    header = table.iloc[0].str.strip()
    if twice := sorted(set(header[header.duplicated() & (header != "")])):
        raise ValueError(f"{path} has more than one column named {twice}: rename all but one")
    if len(header) == 1 and ";" in header[0]:
        raise ValueError(f"{path} has semicolons between its values: save it with commas")
    table = table.iloc[1:].set_axis(header.tolist(), axis=1).reset_index(drop=True)
    table = table.apply(lambda column: column.str.strip())
    return table.loc[:, (header != "").to_numpy()]


def _lines(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")


def as_number(text: str) -> str:
    """An id as programs write it that take it for a number: 1 for 001 and for 1.0."""
    return re.sub(r"^0+(?=\d+$)", "", re.sub(r"(?<=\d)\.0+$", "", text))


def plain(name: str) -> str:
    """A name without case, spaces, `_` and `#`: `Patient ID`, `patient_id` and `PatientID`."""
    return re.sub(r"[\s_#]+", "", name).casefold()


def alike(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that are `name`: the same text if there is one, else the same but plain."""
    names = list(names)
    return [name] if name in names else [other for other in names if plain(other) == plain(name)]


def find(name: str, names: Iterable[str], where: str, what: str = "column") -> str:
    """The one of `names` that is `name`, as `alike` has it.

    Args:
        name: what is looked for.
        names: what there is.
        where: whose names these are, for the error.
        what: what they name, likewise.

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
    hint = f"did you mean {' or '.join(repr(by_plain[key]) for key in close)}? " if close else ""
    raise ValueError(f"{where} has no {what} {name!r}: {hint}There are: {', '.join(names)}")


def role_columns(table: pd.DataFrame, path: str, named: Mapping[str, str]) -> dict[str, str]:
    """Finds the columns of `ROLES` in a table.

    Args:
        table: as `read_table` gives it.
        path: of the table, for errors.
        named: role to column, where the caller named one; "" where not.

    Returns:
        Role to column, for the roles that have one.

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
