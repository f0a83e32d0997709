"""Finds the row of a table that is about a film, a study or a patient."""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64, Shaped

from cxr_embeddings.common.csv_tables import find
from cxr_embeddings.common.film_names import clean, places, same_films, tail

from .columns import as_number, read_table, role_columns

MIMIC_FOLDERS = re.compile(r"(?:^|/)p(\d{8})/s(\d{8})(?:/|$)")
KEYS = ("image", "study", "patient")  # finest first


class FilmIds(NamedTuple):
    """The films that have embeddings."""

    image_id: Shaped[np.ndarray, " n"]  # path, address or name
    image: Shaped[np.ndarray, " n"]  # the same, cleaned
    study: Shaped[np.ndarray, " n"]  # "" where unknown, as the next
    patient: Shaped[np.ndarray, " n"]


class Facts(NamedTuple):
    """What a table says, one row an id: the first of `ids` names what a row is about.

    Attributes:
        ids: text, for those of `KEYS` that the table has, finest first.
        values: column to text.
        disagree: column to whether the table has several values for that id; the one here is "".
    """

    path: str
    ids: dict[str, Shaped[np.ndarray, " row"]]
    values: dict[str, Shaped[np.ndarray, " row"]]
    disagree: dict[str, Bool[np.ndarray, " row"]]

    @property
    def key(self) -> str:
        """Which of `ids` says what a row is about."""
        return next(iter(self.ids))


def read_facts(path: str, wanted: list[str], data_set: str = "") -> Facts:
    """Reads some columns of a table, which may be a data set's; an id may have several rows.

    Raises:
        ValueError: the table has no ids, or lacks a wanted column.
    """
    table = read_table(path, data_set)
    columns = role_columns(table, path, {})
    keys = [key for key in KEYS if key in columns]
    if not keys:
        raise ValueError(
            f"found no column with ids in {path}; expected image_id, dicom_id, study_id, "
            f"subject_id or patient_id. There are: {', '.join(table.columns)}"
        )
    table = table[table[columns[keys[0]]] != ""]
    if table.empty:
        raise ValueError(f"found no id in {path}, column {columns[keys[0]]}; expected one a row")
    ids = table[[columns[key] for key in keys]].set_axis(keys, axis=1)
    values, disagree = {}, {}
    for name in wanted:
        column = table[find(name, table.columns, path)]
        said = column.mask(column == "").groupby([ids[key] for key in keys], sort=False)
        several = disagree[name] = (said.nunique() > 1).to_numpy()
        values[name] = said.first().fillna("").mask(several, "").to_numpy(object)
    ids = ids.drop_duplicates()
    return Facts(path, {key: ids[key].to_numpy(object) for key in keys}, values, disagree)


def film_ids(image_id: Shaped[np.ndarray, " n"]) -> FilmIds:
    """What the names of films tell: their studies and patients from MIMIC-CXR's folders.

    Raises:
        ValueError: there is no film, or one without a name or with the name of another.
    """
    image_id = image_id.astype(object)
    if not len(image_id) or (image_id == "").any():
        raise ValueError(
            f"found {len(image_id)} films, {(image_id == '').sum()} of them without an image id; "
            "expected the path of each"
        )
    if len(twice := np.unique(image_id[pd.Series(image_id, dtype=object).duplicated()])):
        raise ValueError(
            f"{len(twice)} films are there more than once ({', '.join(twice[:5])}); "
            "expected each once: leave the copies out"
        )
    image = np.array([clean(name) for name in image_id], object)
    found = [MIMIC_FOLDERS.search(name) for name in image]
    patient, study = (np.array([m[i] if m else "" for m in found], object) for i in (1, 2))
    return FilmIds(image_id, image, study, patient)


def place(films: FilmIds, facts: Facts, parts: int = 0) -> tuple[Int64[np.ndarray, " n"], str]:
    """Finds each film in a table.

    Names of films are compared part by part between slashes, from the last one back, as far as both
    go: a table of `images/1.png` fits the film `/data/images/1.png` and the film `1.png`, and never
    `/other/1.png`, which is in another folder than the table says.

    So many last parts of both are compared, 0: all; with 1 no folder counts.

    Returns:
        The row of `facts` for each film, -1 where there is none; and by what they were compared.

    Raises:
        ValueError: no film is there, one fits several rows, or one row several films by name.
    """
    if facts.key == "image":
        theirs = [tail(clean(name), parts) for name in facts.ids["image"]]
        pairs = same_films([tail(name, parts) for name in films.image], theirs)
        how = f"the last {parts} parts of their names" if parts else "their names with all folders"
    else:
        films_of, theirs, how = _compared(films, facts)
        pairs = [(i, row) for row, text in enumerate(theirs) if text for i in films_of[text]]
    if not pairs:
        raise ValueError(_no_match(films, facts))
    film, row = np.array(pairs, np.int64).T
    _refuse_several(
        film,
        films.image_id,
        f"films fit more than one row of {facts.path} by {how}",
        "name the films with more of their folders, or correct the rows that repeat an id",
    )
    if facts.key == "image":
        _refuse_several(
            row,
            facts.ids["image"],
            f"rows of {facts.path} fit more than one film by {how}",
            "name the films in the table with more of their folders, or leave out copies of films",
        )
    position = np.full(len(films.image_id), -1)
    position[film] = row
    return position, how


def _refuse_several(
    found: Int64[np.ndarray, " pair"], names: Shaped[np.ndarray, " n"], what: str, remedy: str
) -> None:
    """Raises ValueError where a film, or a row, is in more than one pair."""
    several = names[np.flatnonzero(np.bincount(found) > 1)]
    if len(several):
        raise ValueError(
            f"{len(several)} {what}: {', '.join(several[:5])}; expected one, or two films would "
            f"share a row: {remedy}"
        )


def _compared(
    films: FilmIds, facts: Facts
) -> tuple[dict[str, list[int]], Shaped[np.ndarray, " row"], str]:
    """Films by their study or patient, what each row has for it, and the words for it."""
    ours, theirs, how = films._asdict(), facts.ids, facts.key
    numbers_repeat = len(set(theirs[how])) < len(theirs[how])
    if how == "study" and numbers_repeat:  # no more than a number within each patient
        of_films, of_rows = (
            np.where((t["patient"] == "") | (t["study"] == ""), "", t["patient"] + "/" + t["study"])
            for t in (ours, theirs)
        )
        return places(of_films), of_rows, "patient and study"
    return places(ours[how]), theirs[how], how


def near_misses(
    films: FilmIds, facts: Facts, position: Int64[np.ndarray, " n"]
) -> list[tuple[str, Shaped[np.ndarray, " some"]]]:
    """Films that fit no row, though nearly: why, and which."""
    rows = np.setdiff1d(np.arange(len(facts.ids[facts.key])), position)
    ours, theirs = films._asdict()[facts.key], facts.ids[facts.key][rows]
    kinds = {
        "in other upper or lower case": str.casefold,
        "as a number (1 for 001 or 1.0): get that table with its ids as text": as_number,
    }
    if facts.key == "image":
        ours, theirs = ([tail(clean(name), 1) for name in names] for names in (ours, theirs))
        folder = "in another folder (name_parts=1 compares no folder, 2 the last one, ...)"
        kinds = {folder: str} | kinds
    found, left = [], [i for i in np.flatnonzero(position < 0) if ours[i]]
    for how, change in kinds.items():
        there = {change(one) for one in theirs}
        near = [i for i in left if change(ours[i]) in there]
        left = [i for i in left if change(ours[i]) not in there]
        if near:
            found.append((f"films whose {facts.key} {facts.path} has {how}", films.image_id[near]))
    return found


def _no_match(films: FilmIds, facts: Facts) -> str:
    ours, theirs = films._asdict()[facts.key][0] or "unknown", facts.ids[facts.key][0]
    found = (
        f"none of {len(films.image_id)} films is in {facts.path}; the first film is "
        f"{films.image_id[0]} ({facts.key}: {ours}), the first {facts.key} of the table {theirs}"
    )
    for what, ids in near_misses(films, facts, np.full(len(films.image_id), -1)):
        found += f"; found {len(ids)} {what}"
    if facts.key == "image":
        return (
            f"{found}; expected the same names, but for suffixes and for folders that one of them "
            "lacks: call the column that has them image_id (or have train_head.py take it as "
            "id_column), or take the table of these films"
        )
    return (
        f"{found}; expected ids in folders as MIMIC-CXR has them (p10000032/s50414267), or a table "
        f"that has films and one of their {facts.key} each, as split_path or metadata_path"
    )


def with_ids(films: FilmIds, facts: Facts, position: Int64[np.ndarray, " n"]) -> FilmIds:
    """Fills in studies and patients from a table in which the films have been found.

    Raises:
        ValueError: the table says otherwise than the paths or the tables before.
    """
    for key in facts.ids.keys() & {"study", "patient"}:
        said, known = take(facts.ids[key], position), films._asdict()[key]
        other = (known != "") & (said != "") & (known != said)
        if other.any():
            i = other.argmax()
            raise ValueError(
                f"{other.sum()} films have another {key} in {facts.path} than in their path or "
                f"another table, the first {films.image_id[i]} ({said[i]}, not {known[i]}); "
                "expected one, or labels would go to other films: correct the table"
            )
        films = films._replace(**{key: np.where(known == "", said, known)})
    return films


def take(
    values: Shaped[np.ndarray, " row"], position: Int64[np.ndarray, " n"]
) -> Shaped[np.ndarray, " n"]:
    """Values of these rows; "" (False among truth values) where a position is -1."""
    return np.append(values, np.array([False if values.dtype == bool else ""], values.dtype))[
        position
    ]
