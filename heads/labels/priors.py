"""Films of a patient in the order in which they were taken, and the last study before each.

The order is that of `StudyDate` and `StudyTime` alone: numbers of studies are in no order of time.
"""

import os
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64, Shaped

from cxr_embeddings.common import csv_tables

from ..statistics.results import Note
from . import record
from .columns import alike
from .label_table import note
from .matching import Facts, FilmIds

DATE, TIME, VIEW = "StudyDate", "StudyTime", "ViewPosition"
KINDS = ("none", "difference", "concatenate")
DAY = pd.Timedelta(days=1)


class Priors(NamedTuple):
    """The prior films of all films, and when these were taken."""

    of: Int64[np.ndarray, " pair"]  # a film,
    film: Int64[np.ndarray, " pair"]  # and a film of the last study before it
    days: Float64[np.ndarray, " film"]  # between the two studies, above 0; NaN: no study before
    taken: Shaped[np.ndarray, " film"]  # datetime64[s] of the study; NaT where it is unknown


def read(path: str | os.PathLike) -> Facts:
    """Reads dates, times and, if the table has them, views.

    Raises:
        ValueError: a column is missing, or ids have several dates, times or views.
    """
    _, header = next(csv_tables.read_rows(path), (1, []))
    return record.read(path, [DATE, TIME, *([VIEW] if alike(VIEW, header) else [])])


def moments(
    date: Shaped[np.ndarray, " film"], time: Shaped[np.ndarray, " film"]
) -> Shaped[np.ndarray, " film"]:
    """Date and time as datetime64[s], NaT where one of them is empty.

    A date is 21800506 or 2180-05-06. A time is DICOM's hhmmss with or without a fraction, also
    without leading zeros, as MIMIC-CXR's table has it after it was read as a number (93025.84).

    Raises:
        ValueError: a date or a time is none, or times have no seconds.
    """
    dates, times = (pd.Series(one, dtype=object).astype(str).str.strip() for one in (date, time))
    day = dates.str.replace("-", "").str.replace(r"\.0$", "", regex=True)
    there = pd.to_datetime(day, format="%Y%m%d", errors="coerce")
    digits = times.str.extract(r"^(\d{1,6})(?:\.\d*)?$")[0]
    clock = pd.to_datetime(digits.str.zfill(6), format="%H%M%S", errors="coerce")
    short = digits.str.match(r"0\d{1,4}$", na=False)  # a leading zero, and too few digits
    known = (dates != "") & (times != "")
    if digits[known].str.len().max() <= 4 and not times.str.contains(r"\.\d*[1-9]").any():
        short = known  # all before 1:00, and no part of a second: these are hours and minutes
    for what, wrong, values, expected in (
        (DATE, there.isna() & (dates != ""), dates, "a day such as 21800506"),
        (f"{TIME} without seconds", short, times, "hhmmss, such as 093025"),
        (TIME, clock.isna() & (times != ""), times, "hhmmss, such as 093025 or 93025.84"),
    ):
        if wrong.any():
            raise ValueError(
                f"{wrong.sum()} films have a {what} that cannot be read, the first "
                f"{values[wrong].iloc[0]!r}; expected {expected}: correct the table"
            )
    moment = there + (clock - clock.dt.normalize())
    return moment.where(known).to_numpy("datetime64[s]")


def find(
    films: FilmIds,
    taken: Shaped[np.ndarray, " film"],
    view: Shaped[np.ndarray, " film"] | None,
) -> tuple[Priors, list[Note]]:
    """The films of the last earlier study of the same patient, for each film.

    A study is taken when its first film is. Studies of a patient at the same second are one in the
    order: neither is before the other. With `view`, only films of the same view count where that
    study has any.

    Raises:
        ValueError: no film has a patient and a time, or films of a study lie more than a day apart.
    """
    table = pd.DataFrame(
        {
            "film": np.arange(len(taken)),
            "patient": films.patient,
            "study": [study or f"\0{i}" for i, study in enumerate(films.study)],
            "taken": pd.Series(taken).astype("datetime64[s]"),
            "view": "" if view is None else view,
        }
    )
    unknown = ((table["patient"] == "") | table["taken"].isna()).to_numpy()
    if unknown.all():
        raise ValueError(
            f"found the patient and the time of none of {len(taken)} films; expected both: give a "
            f"table of these films with subject_id, study_id, {DATE} and {TIME} as metadata_path"
        )
    what = "films of an unknown patient or time, without a prior film, and prior to none"
    notes = note(what, films.image_id[unknown])
    table = table[~unknown]
    of_study = table.groupby(["patient", "study"])["taken"]
    first, last = of_study.transform("min"), of_study.transform("max")
    apart = table["study"][last - first > DAY].unique()
    if len(apart):
        raise ValueError(
            f"the films of {len(apart)} studies lie more than a day apart, such as those of "
            f"{apart[0]}; expected one date for a study: correct the table"
        )
    what = "studies whose films differ in time, taken at that of the first"
    notes += note(what, table["study"][last > first].unique(), used=True)
    table["taken"] = first
    order = table[["patient", "taken"]].drop_duplicates().sort_values(["patient", "taken"])
    order["before"] = order.groupby("patient")["taken"].shift()
    together = table.groupby(["patient", "taken"])["study"].transform("nunique") > 1
    what = "studies at the same second as another of the patient, neither prior to the other"
    notes += note(what, table["study"][together].unique(), used=True)

    table = table.merge(order)
    days, when = np.full(len(taken), np.nan), np.full(len(taken), "NaT", "datetime64[s]")
    days[table["film"]] = (table["taken"] - table["before"]).dt.total_seconds() / 86_400
    when[table["film"]] = table["taken"]
    earlier = table[["patient", "taken", "film", "view"]]
    pairs = table.merge(
        earlier.rename(columns={"taken": "before", "film": "prior", "view": "seen"}),
        on=["patient", "before"],
    ).sort_values(["film", "prior"])
    same = (pairs["view"] == pairs["seen"]) & (pairs["view"] != "")
    pairs = pairs[same | ~same.groupby(pairs["film"]).transform("any").astype(bool)]
    what = "films with an embedding and an earlier study of the patient that has one"
    notes += note(what, int((days > 0).sum()), used=True)
    return Priors(pairs["film"].to_numpy(), pairs["prior"].to_numpy(), days, when), notes
