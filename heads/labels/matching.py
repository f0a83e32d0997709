"""Finds the row of a table that is about a film, a study or a patient."""

import re
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64, Shaped

from heads.labels.tables import find, read_table, role_columns

# Of images and embeddings only: what follows a dot may be a part of a DICOM UID.
SUFFIXES = ("dcm", "dicom", "ima", "png", "jpg", "jpeg", "tfrecord", "npz")
MIMIC_FOLDERS = re.compile(r"(?:^|/)p(\d{8})/s(\d{8})(?:/|$)")
KEYS = ("image", "study", "patient")  # finest first


class Films(NamedTuple):
    """The films that have embeddings.

    Attributes:
        image_id: path, address or name.
        image: the same, cleaned.
        study: "" where unknown.
        patient: "" where unknown.
    """

    image_id: Shaped[np.ndarray, " n"]
    image: Shaped[np.ndarray, " n"]
    study: Shaped[np.ndarray, " n"]
    patient: Shaped[np.ndarray, " n"]


class Facts(NamedTuple):
    """What a table says, one row an id.

    Attributes:
        path: of the table.
        ids: text, for those of `KEYS` that the table has, finest first. A row is about what the
            first of them names.
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


def read_facts(path: str, wanted: list[str]) -> Facts:
    """Reads some columns of a table that may have several rows an id.

    Raises:
        ValueError: the table has no ids, or lacks a wanted column.
    """
    table = read_table(path)
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
    row = ids.groupby(keys, sort=False).ngroup().to_numpy()
    ids = ids.drop_duplicates()
    values, disagree = {}, {}
    for name in wanted:
        said = pd.DataFrame({"row": row, "value": table[find(name, table.columns, path)].array})
        said = said[said["value"] != ""].drop_duplicates()
        values[name], disagree[name] = np.full(len(ids), "", object), np.zeros(len(ids), bool)
        values[name][said["row"]] = said["value"]
        disagree[name][said["row"][said["row"].duplicated()]] = True
        values[name][disagree[name]] = ""
    return Facts(path, {key: ids[key].to_numpy(object) for key in keys}, values, disagree)


def film_ids(image_id: Shaped[np.ndarray, " n"]) -> Films:
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
    return Films(image_id, image, study, patient)


def clean(name: str) -> str:
    """A name with single `/` between its parts and without `SUFFIXES`."""
    name = "/".join(filter(None, name.replace("\\", "/").split("/")))
    stem, _, suffix = name.rpartition(".")
    while suffix.casefold() in SUFFIXES and stem and not stem.endswith("/"):
        name = stem
        stem, _, suffix = name.rpartition(".")
    return name


def place(films: Films, facts: Facts) -> tuple[Int64[np.ndarray, " n"], str]:
    """Finds each film in a table.

    Names of films are compared by their last k parts between slashes, with the largest k for which
    any two are the same: a table of `images/1.png` fits the film `/data/images/1.png` (k = 2) as
    well as `/copy/1.png` (k = 1). One k serves the whole table.

    Returns:
        The row of `facts` for each film, -1 where there is none; and by what they were compared.

    Raises:
        ValueError: no film is there, one fits several rows, or one row several films by name.
    """
    ours, theirs, how = _compared(films, facts)
    code, texts = pd.factorize(np.concatenate([ours, theirs]))
    code, row_code = code[: len(ours)], code[len(ours) :]
    films_of, rows_of = (np.bincount(c, minlength=len(texts)) for c in (code, row_code))
    named = texts != ""
    if not (named & (films_of > 0) & (rows_of > 0)).any():
        raise ValueError(_no_match(films, facts))
    several = texts[named & (films_of > 0) & (rows_of > 1)]
    if len(several):
        raise ValueError(
            f"{len(several)} names of films fit more than one row of {facts.path} by {how}: "
            f"{', '.join(several[:5])}; expected one, or two films would share a row: name the "
            "films with more of their folders, or correct the rows that repeat an id"
        )
    several = texts[named & (films_of > 1) & (rows_of > 0)]
    if facts.key == "image" and len(several):
        raise ValueError(
            f"{len(several)} rows of {facts.path} fit more than one film by {how}: "
            f"{', '.join(several[:5])}; expected one, or two films would share a row: name the "
            "films in the table with more of their folders, or leave out copies of films"
        )
    row_of = np.full(len(texts), -1)
    row_of[row_code] = np.arange(len(theirs))
    row_of[~named] = -1
    return row_of[code], how


def _compared(
    films: Films, facts: Facts
) -> tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " row"], str]:
    """What to compare films and rows by, "" where unknown, and the words for it."""
    ours, theirs = films._asdict(), facts.ids
    if facts.key == "image":
        return _last_parts(films.image, [clean(name) for name in theirs["image"]])
    numbers_repeat = len(set(theirs[facts.key])) < len(theirs[facts.key])
    if facts.key == "study" and numbers_repeat:  # no more than a number within each patient
        pairs = [
            np.where((t["patient"] == "") | (t["study"] == ""), "", t["patient"] + "/" + t["study"])
            for t in (ours, theirs)
        ]
        return *pairs, "patient and study"
    return ours[facts.key], theirs[facts.key], facts.key


def _last_parts(
    ours: Collection[str], theirs: Collection[str]
) -> tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " row"], str]:
    """Both with as many parts as leave any in common, or one if none does."""
    longest = 1 + max(name.count("/") for name in theirs)
    for k in range(longest, 0, -1):
        tails = [["/".join(name.split("/")[-k:]) for name in names] for names in (ours, theirs)]
        if not set(tails[0]).isdisjoint(tails[1]):
            break
    how = f"the last {k} of up to {longest} parts of the names in the table"
    return *(np.array(names, object) for names in tails), how


def _no_match(films: Films, facts: Facts) -> str:
    ours, theirs = films._asdict()[facts.key][0] or "unknown", facts.ids[facts.key][0]
    found = (
        f"none of {len(films.image_id)} films is in {facts.path}; the first film is "
        f"{films.image_id[0]} ({facts.key}: {ours}), the first {facts.key} of the table {theirs}"
    )
    if facts.key == "image":
        return (
            f"{found}; expected the same names, but for folders and suffixes: name the column that "
            "has them with id_column, or take the table of these films"
        )
    return (
        f"{found}; expected ids in folders as MIMIC-CXR has them (p10000032/s50414267), or a table "
        f"that has films and one of their {facts.key} each, as split_path or metadata_path"
    )


def with_ids(films: Films, facts: Facts, position: Int64[np.ndarray, " n"]) -> Films:
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
