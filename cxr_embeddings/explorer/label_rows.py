"""The lines of the labels' file: a row a film, in the order in which films were first labelled.

It is in the form that `train_head.py` reads. Beside its findings (1, 0, or empty) a row has who
labelled it last (`reader`, and `time` in UTC), how the film had been `chosen`, and which findings
were `called_unknown`. Other columns of the file are kept.
"""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from cxr_embeddings.common import csv_tables, writing
from cxr_embeddings.common.finding_names import VALUES
from cxr_embeddings.heads.labels import columns, matching

Said = Literal["positive", "negative", "unknown", ""]  # "": nothing
Row = dict[str, str]  # by column

CHOSEN = ("random", "diverse", "looked_up", "uncertain", "likely")  # how a film came to be labelled
CELLS = {"positive": "1", "negative": "0", "unknown": "", "": ""}
_SAID: dict[int | None, Said] = {1: "positive", 0: "negative", -1: "unknown", None: ""}
_IDS, _ABOUT = ("image_id", "patient_id"), ("reader", "time", "chosen", "called_unknown")
_SEPARATOR = "|"  # between the findings of `called_unknown`


def read(
    path: pathlib.Path, image_id: Shaped[np.ndarray, " film"]
) -> tuple[dict[str, Row], list[str]]:
    """The rows of a file, by the names that its films have now, and its findings.

    Raises:
        ValueError: it is damaged, another table, or of none of these films.
        OSError: it cannot be read.
    """
    records = csv_tables.read_records(str(path))
    names = [row.get("image_id", "") for row in records]
    if records and not {*_IDS, *_ABOUT} <= records[0].keys():
        raise ValueError(
            f"{path} was not made by the explorer: it lacks one of {', '.join(_IDS + _ABOUT)}; "
            "name another file for the labels to be made, and give this one as the labels' table"
        )
    if len({*names}) < len(names):
        raise ValueError(f"{path} names a film twice: leave out one of the rows")
    for number, row in enumerate(records, 2):
        if row["chosen"] not in CHOSEN:
            raise ValueError(
                f"row {number} of {path} has {row['chosen']!r} in the column chosen; expected one "
                f"of {', '.join(CHOSEN)}"
            )
    if records and not {*names} & {*image_id}:  # they were embedded again, in another folder
        facts = matching.Facts(str(path), {"image": np.array(names, object)}, {}, {})
        position, _ = matching.place(matching.film_ids(image_id), facts)
        for film in np.flatnonzero(position >= 0):
            names[position[film]] = image_id[film]
    unknown = {name for row in records for name in _unknown(row)}
    free = [name for name in (records or [{}])[0] if name.strip() and name not in _IDS + _ABOUT]
    found = [
        name
        for name in free
        if all(row[name] in VALUES for row in records)
        and (name in unknown or any(row[name] for row in records))
    ]
    return {name: row | {"image_id": name} for name, row in zip(names, records, strict=True)}, found


def encode(rows: Collection[Row], findings: Sequence[str]) -> bytes:
    """The file of these rows."""
    every = dict.fromkeys([*_IDS, *findings, *_ABOUT, *(name for row in rows for name in row)])
    return writing.encode_table([*every], ([row.get(name, "") for name in every] for row in rows))


def said(row: Row | None, finding: str) -> Said:
    """What a reader calls the film of a row."""
    found = _SAID[VALUES[(row or {}).get(finding, "")]]
    return found or ("unknown" if finding in _unknown(row) else "")


def changed(row: Row | None, finding: str, now: str, chosen: str, about: Row) -> Row:
    """A new row, in which the film is called so; `about` has ids, reader and time.

    A film counts as drawn at random if it was so for all of its findings.
    """
    row = row or {"chosen": chosen}
    unknown = [name for name in _unknown(row) if name != finding]
    unknown += [finding] * (now == "unknown")
    how = chosen if row["chosen"] == "random" and not said(row, finding) else row["chosen"]
    cells = {finding: CELLS[now], "chosen": how, "called_unknown": _SEPARATOR.join(unknown)}
    return row | about | cells


def check_finding(name: str, findings: Sequence[str], rows: Collection[Row]) -> None:
    """Raises ValueError where no further finding can have this name in the table of these rows."""
    if not name or name != name.strip() or _SEPARATOR in name or not name.isprintable():
        raise ValueError(
            f"{name!r} cannot name a finding: expected a text without | and end blanks"
        )
    roles = [column for known in columns.ROLES.values() for column in known]
    if alike := columns.alike(name, [*_IDS, *_ABOUT, *roles, *findings]):
        raise ValueError(
            f"the finding {name!r} would be taken for {alike[0]!r}: choose another name"
        )
    for row in rows:
        if (value := row.get(name, "")) not in VALUES:
            raise ValueError(f"the labels have {value!r} for {name}; expected 1, 0 or nothing")


def _unknown(row: Row | None) -> list[str]:
    return [name for name in (row or {}).get("called_unknown", "").split(_SEPARATOR) if name]
