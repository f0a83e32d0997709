"""The values of subgroup columns: ages in bands, others as they are."""

import re

import numpy as np
from jaxtyping import Shaped

from .label_table import Note, note

AGES = {"0-17": 18, "18-39": 40, "40-59": 60, "60-79": 80, "80+": 121}  # band to its end, in years
YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # DICOM PS3.5, type AS
MOST_VALUES = 20


def group_values(
    column: str, values: Shaped[np.ndarray, " n"], image_id: Shaped[np.ndarray, " n"]
) -> tuple[Shaped[np.ndarray, " n"], list[Note]]:
    """The subgroup of each film.

    Args:
        column: name of the column; it holds ages if one of its words is `age`.
        values: text of each film, "" where unknown.
        image_id: of each film, for the note.

    Returns:
        The values, ages as bands; and a note of the ages that are none (below 0 or above 120 years,
        or no number with or without a unit such as `058Y`), which become "".

    Raises:
        ValueError: there are too many values, or no value of a column of ages reads as one.
    """
    notes: list[Note] = []
    if "age" in [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column)]:
        unique, inverse = np.unique(values.astype(np.str_), return_inverse=True)
        bands = np.array([_band(value) for value in unique], object)[inverse]
        wrong = (bands == "") & (values != "")
        if wrong.any() and (bands == "").all():
            raise ValueError(
                f"found no age in the column {column!r}; expected years (61) or DICOM's form "
                "(061Y): rename the column if it holds something else"
            )
        values = bands
        notes = note(
            f"films whose {column!r} is no age of 0 to 120 years: unknown", image_id[wrong]
        )
    count = len(set(values) - {""})
    if count > MOST_VALUES:
        raise ValueError(
            f"the subgroup {column!r} has {count} different values; expected {MOST_VALUES} or "
            "fewer: leave it out of subgroups, or sort them into fewer in a column of their own"
        )
    return values, notes


def _band(age: str) -> str:
    """The band of an age; "" if it is none."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)([YMWD]?)", age.strip().upper())
    if not number:
        return ""
    years = float(number[1]) * YEARS[number[2]]
    return next((band for band, end in AGES.items() if years < end), "")
