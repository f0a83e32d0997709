"""The one reader of CSV tables: whole and bounded, every value as the text that stands there."""

import csv
import difflib
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence

from cxr_embeddings.common import files, paths

_OTHERS = {";": "semicolons", "\t": "tabs"}  # between values, where commas are expected


def read_rows(
    path: str | os.PathLike[str], *, strip: bool = True, errors: str = "strict"
) -> Iterator[tuple[int, list[str]]]:
    """Number and values of each row that is not blank of a CSV or CSV.gz; first of the header.

    Args:
        path: local or an address.
        strip: leaves out blanks around values; those of the header always.
        errors: as of `bytes.decode`; `surrogateescape` for tables of this program, which hold names
            of files that need not be UTF-8.

    Raises:
        OSError: it is not there or cannot be read.
        ValueError: it is too large, no UTF-8 text, or damaged, or rows differ in length.
    """
    path = paths.typed(os.fspath(path))
    try:
        text = io.TextIOWrapper(io.BytesIO(files.read_table(path)), "utf-8-sig", errors, newline="")
        header: list[str] = []
        for number, row in enumerate(csv.reader(text, strict=True), 1):
            if not row:
                continue
            values = [value.strip() for value in row] if strip or not header else row
            header = header or values
            if len(header) == 1 and (mark := next((m for m in _OTHERS if m in header[0]), "")):
                raise ValueError(
                    f"{path} has {_OTHERS[mark]} between its values: save it with commas"
                )
            if len(row) != len(header):
                raise ValueError(
                    f"row {number} of {path} has {len(row)} values, its header {len(header)}; "
                    "expected as many: the file is cut short or damaged, get it again"
                )
            yield number, values
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"found no table {path}; expected a CSV file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): save it as CSV in UTF-8") from error
    except (csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole CSV file ({error}): get it again") from error


def read_columns(path: str | os.PathLike[str], wanted: Sequence[str] = ()) -> dict[str, list[str]]:
    """The `wanted` columns of a table, or all that have a name, without blanks around values.

    Raises as `read_rows`, and ValueError where a column is missing, its name stands twice, or there
    are no rows.
    """
    rows = read_rows(path)
    _, header = next(rows, (1, []))
    names = list(wanted) or [name for name in header if name]
    if missing := [name for name in names if name not in header]:
        raise ValueError(
            f"{path} has the columns {', '.join(header) or '(none)'}; expected also "
            f"{', '.join(missing)}: is it another table?"
        )
    if twice := sorted({name for name in names if header.count(name) > 1}):
        raise ValueError(f"{path} has more than one column named {twice}: rename all but one")
    places = [header.index(name) for name in names]
    columns: list[list[str]] = [[] for _ in names]
    shared: dict[str, str] = {}  # a value of many rows is one string in memory
    for _, row in rows:
        for place, column in zip(places, columns, strict=True):
            column.append(shared.setdefault(row[place], row[place]))
    if not any(columns):
        raise ValueError(f"{path} has no rows; expected a header and at least one row")
    return dict(zip(names, columns, strict=True))


def read_records(path: str) -> list[dict[str, str]]:
    """The rows of a table as they stand there, by column. Raises as `read_rows`."""
    rows = read_rows(path, strip=False, errors="surrogateescape")
    _, header = next(rows, (1, []))
    return [dict(zip(header, row, strict=True)) for _, row in rows]


def plain(name: str) -> str:
    """A name without case, spaces, `_` and `#`: `Patient ID`, `patient_id` and `PatientID`."""
    return re.sub(r"[\s_#]+", "", name).casefold()


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
