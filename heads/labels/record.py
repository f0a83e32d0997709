"""The patient's record beside a film: columns of a table as numbers, learnt on train alone."""

import os
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Gt
from jaxtyping import Bool, Float32, Float64, Int64, Shaped
from typing_extensions import TypedDict

from cxr_embeddings.common import untrusted

from ..statistics.results import Note
from .label_table import note
from .matching import KEYS, Facts, FilmIds, place, read_facts, take, with_ids

MISSING = ("", "na", "nan")  # in any case
MOST_CATEGORIES = 20  # of a column of text
LARGEST = 1e30  # no measurement is larger, and float32 still holds it


@untrusted.may_have_more
class Column(TypedDict):
    """How a column becomes numbers: a part of a head's card."""

    name: str
    categories: list[str] | None  # a column of text is 1 at its own and else 0; None: a number
    mean: float  # in train, which a missing number becomes; 0 of text
    scale: Annotated[float, Gt(0)]  # deviation in train; 1 of text
    indicator: bool  # one more number says that the value is missing, as it is in some of train


def read(path: str | os.PathLike, wanted: Sequence[str]) -> Facts:
    """Reads columns of a table of which every id has one value.

    Raises:
        ValueError: a column is missing, or ids stand in rows with different values.
    """
    facts = read_facts(os.fspath(path), list(wanted))
    for name, several in facts.disagree.items():
        if several.any():
            ids = facts.ids[facts.key][several]
            raise ValueError(
                f"{len(ids)} ids of {facts.path} have several values of {name!r}: "
                f"{', '.join(ids[:5])}; expected one for each {facts.key}: correct the table, or "
                "give one that names films"
            )
    return facts


def locate(
    films: FilmIds, tables: Sequence[Facts], name_parts: int = 0
) -> tuple[FilmIds, list[Int64[np.ndarray, " film"]], list[Note]]:
    """The row of every film in each table, by ids, with what tables of films say of studies."""
    rows: dict[int, np.ndarray] = {}
    notes: list[Note] = []
    for i in sorted(range(len(tables)), key=lambda i: KEYS.index(tables[i].key)):
        rows[i], _ = place(films, tables[i], name_parts)
        films = with_ids(films, tables[i], rows[i])
        what = f"films with an embedding that are not in {tables[i].path}"
        notes += note(what, films.image_id[rows[i] < 0])
    return films, [rows[i] for i in range(len(tables))], notes


def values(facts: Facts, row: Int64[np.ndarray, " film"]) -> dict[str, Shaped[np.ndarray, " film"]]:
    """The text of every column for each film, "" where the table does not have it."""
    return {name: take(column, row) for name, column in facts.values.items()}


def learn(name: str, values: Shaped[np.ndarray, " train"], may_be_equal: bool = False) -> Column:
    """How the values of the films of train, text or float64 with NaN, become numbers.

    A column is of numbers if at least half of its known values are; `may_be_equal` allows it to be
    the same for all films.

    Raises:
        ValueError: all values are missing or equal, some of a column of numbers are none, or there
            are too many categories.
    """
    number, missing = _parsed(values)
    if missing.all():
        raise ValueError(
            f"the column {name!r} is empty for all {len(values)} films of train; expected values: "
            "leave it out, or give the table of these films"
        )
    known = values[~missing]
    if np.isfinite(number[~missing]).mean() >= 0.5:
        _check(name, number, missing, values)
        mean, scale = float(number[~missing].mean()), float(number[~missing].std())
        equal, categories = scale <= 1e-9 * max(1.0, abs(mean)), None
        scale = 1.0 if equal else scale
    else:
        mean, scale, categories = 0.0, 1.0, sorted({*_texts(known)})
        equal = len(categories) == 1
        _check_categories(name, categories)
    if equal and not missing.any() and not may_be_equal:
        raise ValueError(
            f"the column {name!r} is {known[0]} for every film of train, so that nothing can be "
            "learnt from it: leave it out"
        )
    indicator = bool(missing.any())
    return Column(name=name, categories=categories, mean=mean, scale=scale, indicator=indicator)


def width(columns: Sequence[Column]) -> int:
    """How many numbers a film gets from the columns."""
    return sum(len(one["categories"] or [0]) + one["indicator"] for one in columns)


def encode(
    column: Column, values: Shaped[np.ndarray, " film"]
) -> Float32[np.ndarray, "film number"]:
    """The numbers of each film.

    Numbers lose the mean of train and are divided by its deviation; a missing one is 0. A text has
    a 1 at its category. One that train did not have is all zeros, as a missing one is.

    Raises:
        ValueError: a column of numbers has text or infinities.
    """
    number, missing = _parsed(values)
    categories = column["categories"]
    if categories is None:
        _check(column["name"], number, missing, values)
        found = np.where(missing, 0, (number - column["mean"]) / column["scale"])[:, None]
    else:
        found = _texts(values)[:, None] == np.array(categories, object)
    if column["indicator"]:
        found = np.concatenate([found, missing[:, None]], axis=1)
    return found.astype(np.float32)


def unlike_train(column: Column, values: Shaped[np.ndarray, " film"]) -> list[Note]:
    """Notes of values that no film of train has: texts, and missing ones."""
    name, missing = column["name"], _parsed(values)[1]
    notes: list[Note] = []
    if column["categories"] is not None:
        new = _texts(values)[
            ~missing & ~np.isin(_texts(values), np.array(column["categories"], object))
        ]
        what = f"films whose {name!r} is in no film of train, such as {', '.join([*new[:1]])}"
        notes += note(f"{what}: taken as none of its texts", len(new), used=True)
    if missing.any() and not column["indicator"]:
        taken = "the mean of train" if column["categories"] is None else "none of its texts"
        what = f"films without {name!r}, which all films of train have: taken as {taken}"
        notes += note(what, int(missing.sum()), used=True)
    return notes


def _texts(values: Shaped[np.ndarray, " film"]) -> Shaped[np.ndarray, " film"]:
    return np.array([str(one).strip() for one in values], object)


def _parsed(
    values: Shaped[np.ndarray, " film"],
) -> tuple[Float64[np.ndarray, " film"], Bool[np.ndarray, " film"]]:
    """Values as numbers, NaN where they are none; and whether they are missing."""
    if values.dtype.kind == "f":
        return values.astype(np.float64), np.isnan(values)
    text = pd.Series(values, dtype=object).str.strip()
    missing = text.str.casefold().isin(MISSING)
    number = pd.to_numeric(text.mask(missing), errors="coerce")
    return number.to_numpy(np.float64), missing.to_numpy(bool)


def _check(name: str, number: np.ndarray, missing: np.ndarray, values: np.ndarray) -> None:
    for what, wrong in (
        ("no number", ~missing & np.isnan(number)),
        (f"infinite, or beyond {LARGEST:g}", ~missing & (np.abs(number) > LARGEST)),
    ):
        if wrong.any():
            found = ", ".join(repr(str(one)) for one in np.unique(values[wrong].astype(str))[:3])
            raise ValueError(
                f"the column {name!r}, which is of numbers, is {what} for {wrong.sum()} films "
                f"({found}); expected numbers or nothing: correct the table"
            )


def _check_categories(name: str, categories: Sequence[str]) -> None:
    if len(categories) > MOST_CATEGORIES:
        raise ValueError(
            f"the column {name!r} has {len(categories)} different texts in train, such as "
            f"{', '.join(categories[:3])}; expected numbers, or at most {MOST_CATEGORIES} texts: "
            "sort them into fewer, or leave it out"
        )
