"""The check that no covariate is of the future and no outcome of the past, on the files."""

import pathlib
from collections.abc import Iterator, Mapping

import duckdb
from typing_extensions import TypedDict

from cxr_embeddings.common import files, untrusted

from . import tables
from .covariates import ALWAYS, AT_FILM, KEYS

PARTS = {"covariates": KEYS, "outcomes": KEYS, "links": (*KEYS, "stay")}
# file -> the role of its columns, where their time lies, and what is said where it does not
SIDES = {
    "covariates": ("covariate", "<=", "known after the film"),
    "outcomes": ("outcome", ">", "settled before the film"),
}
# Films that are chosen without their future are rarely the last of their stays.
LAST_SHARE, FEWEST_STAYS = 0.9, 10


@untrusted.may_have_more
class Description(TypedDict):
    """Of one column in columns.json."""

    role: str  # covariate or outcome
    known: str  # column with the time at which it was known, or settled; ALWAYS


def check(folder: pathlib.Path, splits: pathlib.Path | None = None) -> int:
    """Looks for the future in covariates.csv, and for the past in outcomes.csv, of a folder.

    Args:
        folder: as `link_mimic_iv.py` writes it; rows and columns may have been removed since.
        splits: CSV with dicom_id and split, of which all films of a patient must be in one.

    Returns:
        How many values were checked.

    Raises:
        ValueError: there is a leak, a column that columns.json does not describe, or a file is
            damaged; all leaks are named, with their counts.
    """
    columns = files.read_json(folder / "columns.json", dict[str, Description], "link again")
    with tables.database(folder) as db:
        there = {
            part: tables.load_text(db, part, folder / f"{part}.csv", needed)
            for part, needed in PARTS.items()
        }
        checked, found = 0, list[str]()
        for part in SIDES:
            number, leaks = _wrong_side(db, part, there[part], columns)
            checked, found = checked + number, found + leaks
        outcomes = [name for name in there["outcomes"] if name in columns]
        found += [*_last_films(db, outcomes), *_split_patients(db, splits)]
    if found:
        raise ValueError(
            f"{folder} leaks: {'; '.join(found)}. Expected covariates that were known at the film, "
            "and outcomes that were open: link the tables again, and choose films by nothing that "
            "came later"
        )
    return checked


def _wrong_side(
    db: duckdb.DuckDBPyConnection,
    part: str,
    there: list[str],
    columns: Mapping[str, Description],
) -> tuple[int, list[str]]:
    """How many values of a file were checked, and what is wrong with the times of some."""
    role, side, said = SIDES[part]
    known = {name: one["known"] for name, one in columns.items() if one["role"] == role}
    checked, found = 0, list[str]()
    if unknown := [name for name in there if name not in {*KEYS, *known, *known.values()}]:
        found += [
            f"columns.json says of no column of {part}.csv when {', '.join(unknown)} is known"
        ]
    others = db.execute(
        f"SELECT count(*) FROM {part} LEFT JOIN links USING (dicom_id) "
        f"WHERE {part}.{AT_FILM} IS DISTINCT FROM links.{AT_FILM}"
    ).fetchall()[0][0]
    if others:
        found += [f"{others} films of {part}.csv have another {AT_FILM} in links.csv, or none"]
    for name in (name for name in there if known.get(name, ALWAYS) != ALWAYS):
        if known[name] not in there:
            found += [f"{part}.csv has no column {known[name]}, the time of {name}"]
            continue
        times = (f"TRY_CAST({tables.quoted(one)} AS TIMESTAMP)" for one in (known[name], AT_FILM))
        count, bad = db.execute(
            f"SELECT count(*), count(*) FILTER (NOT coalesce({f' {side} '.join(times)}, false)) "
            f"FROM {part} WHERE {tables.quoted(name)} <> ''"
        ).fetchall()[0]
        checked += count
        if bad:
            found += [f"{bad} of {count} values of {name} in {part}.csv are {said}, or undated"]
    return checked, found


def _last_films(db: duckdb.DuckDBPyConnection, outcomes: list[str]) -> Iterator[str]:
    """Whether the films with outcomes are the last ones of stays that have several."""
    known = " OR ".join(f"o.{tables.quoted(name)} <> ''" for name in outcomes) or "false"
    stays, last = db.execute(
        "SELECT count(*), count(*) FILTER (first_kept = last_film) FROM (SELECT "
        f"max(l.{AT_FILM}) AS last_film, min(o.{AT_FILM}) AS first_kept, "
        f"count(DISTINCT l.{AT_FILM}) AS times, count(DISTINCT o.{AT_FILM}) AS kept "
        f"FROM links l LEFT JOIN outcomes o ON o.dicom_id = l.dicom_id AND ({known}) "
        "WHERE l.stay <> '' GROUP BY l.stay) WHERE times > 1 AND kept = 1"
    ).fetchall()[0]
    if stays >= FEWEST_STAYS and last >= LAST_SHARE * stays:
        yield (
            f"{last} of {stays} stays with several films have only the last one in outcomes.csv, "
            "which nobody knows to be the last before the stay is over"
        )


def _split_patients(db: duckdb.DuckDBPyConnection, splits: pathlib.Path | None) -> Iterator[str]:
    if splits is None:
        return
    tables.load_text(db, "splits", splits, ("dicom_id", "split"))
    number, first = db.execute(
        "SELECT count(*), min(subject_id) FROM (SELECT c.subject_id FROM covariates c "
        "JOIN splits USING (dicom_id) WHERE split <> '' GROUP BY c.subject_id "
        "HAVING count(DISTINCT split) > 1)"
    ).fetchall()[0]
    if number:
        yield f"{number} patients have films in more than one split of {splits}, as {first}"
