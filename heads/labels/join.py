"""Joins labels to embeddings: by the ids of films, studies and patients, never by position."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Shaped

from cxr_embeddings.common.csv_tables import find

from ..statistics.results import Note
from .label_table import Examples, LabelTable, note
from .matching import KEYS, Facts, film_ids, near_misses, place, read_facts, take, with_ids
from .splits import SPLITS, check_patients, check_used, named_splits, random_splits

AGES = {"0-17": 18, "18-39": 40, "40-59": 60, "60-79": 80, "80+": 121}  # band to its end, in years
YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # DICOM PS3.5, type AS
MOST_VALUES = 20  # of a subgroup


def join(
    image_id: Shaped[np.ndarray, " embedding"],
    labels: LabelTable,
    seed: int = 0,
    needed: Sequence[str] = ("train", "tune"),
) -> Examples:
    """Finds the label, the split and the subgroups of each embedding.

    A table that names films is compared with `image_id`, folders included as far as both have them
    (see `matching.place`). A table that names studies or patients is compared with their ids. These
    stand in MIMIC-CXR's paths (`p10000032/s50414267/`), or come from whichever of the tables
    names films.

    Args:
        image_id: path, address or name of the film of each embedding.
        labels: the table. The split is its own, that of `config.split_path` or drawn by
            `config.fractions`; subgroups that it lacks are of `config.metadata_path`.
        seed: of the draw.
        needed: splits that must have films. For ("test",) no split need be there: where `config`
            names none (`split_path`, `split_column`, `test`), all films are test.

    Returns:
        The films in one of the three splits with any known label, in the order of the embeddings.

    Raises:
        ValueError: films or rows cannot be told apart, tables disagree on a film, a patient (or,
            where patients are unknown, a study) is in two splits, nothing matches, or a needed
            split has no film.
    """
    config = labels.config
    named = config.split_path or config.split_column or config.test or config.fractions
    whole = "train" not in needed and not named
    tables = _read_tables(labels, whole)
    films, position = film_ids(image_id), {}
    notes = list(labels.notes)
    unmatched: list[tuple[str, str]] = []
    for name, table in sorted(tables.items(), key=lambda item: KEYS.index(item[1].key)):
        # films first: they tell studies and patients
        position[name], how = place(films, table, config.name_parts)
        for what, some in near_misses(films, table, position[name]):
            notes += note(what, some)
        films = with_ids(films, table, position[name])
        count = int((position[name] >= 0).sum())
        notes += note(f"films found in {table.path} by {how}", count, used=True)

    def leave_out(what: str, ids: np.ndarray) -> None:
        notes.extend(note(what, ids))
        unmatched.extend((what, str(one)) for one in ids)

    image_id, patient_id = films.image_id, films.patient
    row = np.flatnonzero(position["labels"] >= 0)
    leave_out("films without a label", image_id[position["labels"] < 0])
    keys = labels.facts.ids[labels.facts.key]
    left = np.setdiff1d(np.arange(len(keys)), position["labels"])
    leave_out("label rows without a film", keys[left])

    mask = labels.mask[position["labels"][row]]
    if config.fractions:
        names = split = random_splits(patient_id[row], config.fractions, seed)
    elif whole:
        names = split = np.full(len(row), "test", object)
    else:
        source = "split" if config.split_path else "labels"
        names = take(tables[source].values["split"], position[source][row])
        known_names = {name: getattr(config, name) or SPLITS[name] for name in SPLITS}
        split = named_splits(names, known_names)
    guessed = labels.uncertain[position["labels"][row]] & (split != "train")[:, None] & mask
    what = "labels of films in tune and test that are -1 (uncertain), unknown there"
    notes += note(what, int(guessed.sum()))
    mask = mask & ~guessed
    known = mask.any(axis=1)
    check_used(split[known], names[known], needed)
    for name in sorted(set(names[split == ""])):
        what = f"films in the split {name!r}, which is not used"
        leave_out(what if name else "films without a split", image_id[row[names == name]])
    leave_out("films without a known label", image_id[row[(split != "") & ~known]])

    kept = (split != "") & known
    row, split, mask = row[kept], split[kept], mask[kept]
    notes += check_patients(patient_id[row], films.study[row], split)
    groups = {}
    for name in config.subgroups:
        source = "labels" if name in labels.facts.values else "metadata"
        values = take(tables[source].values[name], position[source][row])
        groups[name], more = group_values(name, values, image_id[row])
        notes += more
    if "metadata" in tables:
        notes += _unknown_groups(tables["metadata"], position["metadata"][row], image_id[row])
    label = labels.label[position["labels"][row]]
    return Examples(
        row=row,
        image_id=image_id[row],
        patient_id=patient_id[row],
        study_id=films.study[row],
        split=split,
        label=np.where(mask, label, np.float32(0)),
        mask=mask,
        findings=labels.findings,
        groups=groups,
        definitions=labels.definitions,
        notes=notes,
        unmatched=unmatched,
        embedded=films,
    )


def _read_tables(labels: LabelTable, whole: bool) -> dict[str, Facts]:
    """Tables by what they are for: "labels", and "split" and "metadata" if given."""
    config, path = labels.config, labels.facts.path
    if config.fractions and config.split_path:
        raise ValueError(
            "found fractions as well as split_path; expected one of them (studies and patients of "
            "films can come from metadata_path too)"
        )
    unsplit = not config.fractions and not config.split_path and not whole
    if unsplit and "split" not in labels.facts.values:
        raise ValueError(
            f"found no split in {path}; expected a column `split`: name it with split_column, give "
            "a table that has one as split_path, or draw one with fractions, such as "
            "--config.labels.fractions=0.7,0.1,0.2"
        )
    elsewhere = [name for name in config.subgroups if name not in labels.facts.values]
    if elsewhere and not config.metadata_path:  # the error names the columns there are
        find(elsewhere[0], labels.columns, f"{path} (and no metadata_path is given)")
    tables = {"labels": labels.facts}
    if config.split_path:
        table = tables["split"] = read_facts(config.split_path, ["split"])
        differ = table.ids[table.key][table.disagree["split"]]
        if len(differ):
            raise ValueError(
                f"{len(differ)} ids of {table.path} stand in rows of different splits: "
                f"{', '.join(differ[:5])}; expected one split for each: correct the table"
            )
    if config.metadata_path:
        tables["metadata"] = read_facts(config.metadata_path, elsewhere, config.data_set)
    return tables


def _unknown_groups(
    metadata: Facts, position: Int64[np.ndarray, " n"], image_id: Shaped[np.ndarray, " n"]
) -> list[Note]:
    """Notes of the films for which the table has no value, or several."""
    what = f"films that are not in {metadata.path}, their subgroups unknown"
    notes = note(what, image_id[position < 0])
    for name, disagree in metadata.disagree.items():
        what = f"films for which rows of {metadata.path} differ in {name!r}, which is then unknown"
        notes += note(what, image_id[take(disagree, position)])
    return notes


def group_values(
    column: str, values: Shaped[np.ndarray, " n"], image_id: Shaped[np.ndarray, " n"]
) -> tuple[Shaped[np.ndarray, " n"], list[Note]]:
    """The subgroup of each film, "" where unknown.

    A column holds ages if one of its words is `age`.

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
