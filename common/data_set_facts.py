"""What the table of a data set says of its films besides findings: ids, view, sex, age, date."""

import dataclasses
import datetime
import re
from collections.abc import Callable, Mapping

import pandas as pd

from cxr_embeddings.common.csv_tables import alike
from cxr_embeddings.configs.schema_data_sets import DataSet, Names

IDS = ("image", "study", "patient")
# Fact of an entry -> column of the plain table
FACTS = {one: f"{one}_id" for one in IDS} | {
    one: one for one in ("split", "view", "sex", "age", "date", "time")
}
OLDEST = 120  # years
STRIP = 3  # times as long as wide, or more: part of a film
_FIELD = re.compile(r"\{([^{}]+)\}")
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # DICOM PS3.5, type AS


def years(age: str) -> float | None:
    """An age in years, of 61, 61.5 or DICOM's 061Y; None if it is none of 0 to 120 years."""
    number = re.fullmatch(r"(\d+(?:\.\d*)?)([YMWD]?)", age.strip().upper())
    found = float(number[1]) * _YEARS[number[2]] if number else OLDEST + 1
    return found if found <= OLDEST else None


def iso_date(text: str) -> str:
    """A date as 2026-12-31, of that form or of 20261231, also as a number; "" if it is none."""
    digits = re.match(r"(\d{4})-?(\d\d)-?(\d\d)(?:\.0*)?(?:$|[ T])", text)
    try:
        return datetime.date(*map(int, digits.groups())).isoformat() if digits else ""
    except ValueError:
        return ""


def iso_time(text: str) -> str:
    """A time as 23:59:59; "" if it is none.

    It is of that form, or of DICOM's (PS3.5, type TM), also as a number without leading zeros, as
    MIMIC-CXR's 93025.84 is. Four digits alone are hours and minutes.
    """
    if re.fullmatch(r"\d{1,6}(\.\d*)?", text):
        text = f"{text}00" if re.fullmatch(r"\d{4}", text) else text.partition(".")[0].zfill(6)
        text = f"{text[:2]}:{text[2:4]}:{text[4:]}"
    try:
        return datetime.time.fromisoformat(text).isoformat("seconds")
    except ValueError:
        return ""


def _age(text: str) -> str:
    found = years(text)
    return "" if found is None else f"{found:g}"


def _age_at(birth: str, date: str) -> str:
    """Whole years from a date or year of birth to `iso_date`'s; "" where unknown or impossible."""
    born = re.match(r"(\d{4})(?:-?(\d\d)-?(\d\d))?", birth)
    if not born or not date:
        return ""
    before = bool(born[2]) and date[5:] < f"{born[2]}-{born[3]}"
    found = int(date[:4]) - int(born[1]) - before
    return str(found) if 0 <= found <= OLDEST else ""


# Fact -> what makes its text plain, "" if it is none; and what it is none of
_PLAIN: dict[str, tuple[Callable[[str], str], str]] = {
    "view": (lambda text: " ".join(text.upper().split()), "view"),
    "sex": (lambda text: _SEXES.get(text.casefold(), ""), "M or F"),
    "age": (_age, f"age of 0 to {OLDEST} years"),
    "date": (iso_date, "date"),
    "time": (iso_time, "time"),
}


def columns_of(entry: DataSet) -> list[str]:
    """All columns that the entry names as `Columns`."""
    said = (getattr(entry.columns, field.name) for field in dataclasses.fields(entry.columns))
    names = [name for one in said for name in ([one] if isinstance(one, str) else one)]
    return [field for name in names for field in _FIELD.findall(name) or [name]]


def column_text(
    raw: pd.DataFrame, names: Names, pattern: Names = "", *, complete: bool = False
) -> pd.Series | None:
    """A column of the table, or a text made of several, as `Columns` says; None: not there.

    With `complete` a text is "" where one of its columns is.
    """
    for name in [names] if isinstance(names, str) else names:
        fields = _FIELD.findall(name) or [name]
        found = [alike(field, raw.columns) for field in fields]
        if name and all(len(columns) == 1 for columns in found):
            break
    else:
        return None
    parts = raw[[columns[0] for columns in found]]
    between = _FIELD.split(name)[::2] if "{" in name else ["", ""]
    text = between[0] + parts.iloc[:, 0] + between[1]
    for i, more in enumerate(between[2:], 1):
        text = text + parts.iloc[:, i] + more
    text = text.str.strip()
    if complete:
        text = text.mask((parts == "").any(axis=1), "")
    return _mapped(text, lambda one: _found(str(pattern), one)) if pattern else text


def _found(pattern: str, text: str) -> str:
    """What the groups of a pattern find, with : between; else all that it finds."""
    found = re.search(pattern, text)
    return ":".join(filter(None, found.groups() or [found[0]])) if found else ""


def _mapped(column: pd.Series, change: Callable[[str], str]) -> pd.Series:
    return column.map({one: change(one) for one in column.unique()})


def read_facts(raw: pd.DataFrame, entry: DataSet) -> tuple[pd.DataFrame, Mapping[str, int]]:
    """The facts that the table has, by the names of `FACTS`; and counts of what is unknown.

    All are text, "" where unknown: ages in years, dates as 2026-12-31, times as 23:59:59, sexes as
    M and F, views in capitals. An age that comes from a year of birth may be one year too high.
    """
    facts: dict[str, pd.Series] = {}
    counts: dict[str, int] = {}
    for fact in (*FACTS, "birth"):
        names, pattern = getattr(entry.columns, fact), getattr(entry.patterns, fact)
        text = column_text(raw, names, pattern, complete=fact in IDS)
        if text is None:
            continue
        said = entry.values.get(fact, {})
        plain, what = _PLAIN.get(fact, (str, fact))
        facts[fact] = _mapped(text, lambda one: plain(said.get(one, one)))  # noqa: B023  # used at once
        meant = ~text.isin([one for one, other in said.items() if not other])
        odd = (text != "") & meant & (facts[fact] == "")
        if odd.any():
            counts[f"rows whose {fact} is no {what}, taken as unknown"] = int(odd.sum())
    if {"birth", "date"} <= facts.keys() and "age" not in facts:
        both = list(zip(facts["birth"], facts["date"], strict=True))
        facts["age"] = pd.Series([_age_at(*one) for one in both], raw.index, dtype="str")
        if odd := sum(all(one) and not age for one, age in zip(both, facts["age"], strict=True)):
            counts[f"rows of films before birth, or over {OLDEST} years after, age unknown"] = odd
    if {"Rows", "Columns"} <= {*raw}:
        sides = raw[["Rows", "Columns"]].apply(pd.to_numeric, errors="coerce")
        strips = int((sides.max(axis=1) >= STRIP * sides.min(axis=1)).sum())
        if strips:
            counts[f"rows of images {STRIP} times as long as wide or more, no whole films"] = strips
    facts.pop("birth", None)
    return pd.DataFrame({FACTS[fact]: text for fact, text in facts.items()}), counts
