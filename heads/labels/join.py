"""Joins labels to embeddings: by the ids of films, studies and patients, never by position."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64, Shaped

from .categories import group_values
from .columns import find
from .label_table import Examples, LabelTable, Note, note
from .matching import KEYS, Facts, film_ids, near_misses, place, read_facts, take, with_ids
from .splits import SPLITS, check_patients, check_used, named_splits, random_splits


def join(
    image_id: Shaped[np.ndarray, " embedding"],
    labels: LabelTable,
    *,
    split_path: str | os.PathLike = "",
    metadata_path: str | os.PathLike = "",
    fractions: tuple[float, ...] | None = None,
    seed: int = 0,
    split_names: Mapping[str, Sequence[str]] = SPLITS,
    name_parts: int = 0,
) -> Examples:
    """Finds the label, the split and the subgroups of each embedding.

    A table that names films is compared with `image_id`, folders included as far as both have them
    (see `matching.place`). A table that names studies or patients is compared with their ids. These
    stand in MIMIC-CXR's paths (`p10000032/s50414267/`), or come from whichever of the tables
    names films.

    Args:
        image_id: path, address or name of the film of each embedding.
        labels: what `label_table.read_labels` gives.
        split_path: table with a column `split`, of films, studies or patients; "": the one in the
            labels.
        metadata_path: table with the subgroups that the labels lack, likewise.
        fractions: of the patients, for train, tune and test, to draw a split instead.
        seed: of that draw.
        split_names: what the table calls train, tune and test.
        name_parts: how many of the last parts of names are compared; 0: all.

    Returns:
        The films in one of the three splits with any known label, in the order of the embeddings.

    Raises:
        ValueError: films or rows cannot be told apart, tables disagree on a film, a patient (or,
            where patients are unknown, a study) is in two splits, nothing matches, or there is no
            film to train or to tune on.
    """
    tables = _read_tables(labels, split_path, metadata_path, fractions)
    films, position = film_ids(image_id), {}
    notes = list(labels.notes)
    unmatched: list[tuple[str, str]] = []
    for name, table in sorted(tables.items(), key=lambda item: KEYS.index(item[1].key)):
        # films first: they tell studies and patients
        position[name], how = place(films, table, name_parts)
        for what, some in near_misses(films, table, position[name]):
            notes += note(what, some)
        films = with_ids(films, table, position[name])
        count = int((position[name] >= 0).sum())
        notes.append(Note(f"films found in {table.path} by {how}", count, [], used=True))

    def leave_out(what: str, ids: np.ndarray) -> None:
        notes.extend(note(what, ids))
        unmatched.extend((what, str(one)) for one in ids)

    image_id, patient_id = films.image_id, films.patient
    row = np.flatnonzero(position["labels"] >= 0)
    leave_out("films without a label", image_id[position["labels"] < 0])
    keys = tables["labels"].ids[tables["labels"].key]
    left = np.setdiff1d(np.arange(len(keys)), position["labels"])
    leave_out("label rows without a film", keys[left])

    mask = labels.mask[position["labels"][row]]
    if fractions is None:
        source = "split" if split_path else "labels"
        names = take(tables[source].values["split"], position[source][row])
        split = named_splits(names, split_names)
    else:
        names = split = random_splits(patient_id[row], fractions, seed)
    guessed = labels.uncertain[position["labels"][row]] & (split != "train")[:, None] & mask
    if count := int(guessed.sum()):
        what = "labels of films in tune and test that are -1 (uncertain), unknown there"
        notes.append(Note(what, count, []))
    mask = mask & ~guessed
    known = mask.any(axis=1)
    check_used(split[known], names[known])
    for name in sorted(set(names[split == ""])):
        what = f"films in the split {name!r}, which is not used"
        leave_out(what if name else "films without a split", image_id[row[names == name]])
    leave_out("films without a known label", image_id[row[(split != "") & ~known]])

    kept = (split != "") & known
    row, split, mask = row[kept], split[kept], mask[kept]
    notes += check_patients(patient_id[row], films.study[row], split)
    groups = {}
    for name in labels.subgroups:
        source = "labels" if name in labels.groups else "metadata"
        values = take(tables[source].values[name], position[source][row])
        groups[name], more = group_values(name, values, image_id[row])
        notes += more
    if metadata_path:
        notes += _unknown_groups(tables["metadata"], position["metadata"][row], image_id[row])
    label_row = position["labels"][row]
    return Examples(
        row=row,
        image_id=image_id[row],
        patient_id=patient_id[row],
        study_id=films.study[row],
        split=split,
        label=np.where(mask, labels.label[label_row], np.float32(0)),
        mask=mask,
        findings=labels.findings,
        groups=groups,
        notes=notes,
        unmatched=unmatched,
        embedded=films,
    )


def _read_tables(
    labels: LabelTable,
    split_path: str | os.PathLike,
    metadata_path: str | os.PathLike,
    fractions: tuple[float, ...] | None,
) -> dict[str, Facts]:
    """Tables by what they are for: "labels", and "split" and "metadata" if given."""
    given = ("fractions", fractions is not None), ("split_path", bool(split_path))
    if all(there for _, there in given):
        raise ValueError(
            "found fractions as well as split_path; expected one of them (studies and patients of "
            "films can come from metadata_path too)"
        )
    if not any(there for _, there in given) and not (labels.split != "").any():
        raise ValueError(
            f"found no split in {labels.path}; expected a column `split`: name it with "
            "split_column, give a table that has one as split_path, or draw one with fractions"
        )
    elsewhere = [name for name in labels.subgroups if name not in labels.groups]
    if elsewhere and not metadata_path:  # the error names the columns there are
        find(elsewhere[0], labels.columns, f"{labels.path} (and no metadata_path is given)")
    tables = {"labels": labels.facts}
    if split_path:
        tables["split"] = read_facts(os.fspath(split_path), ["split"])
        ids, differ = tables["split"].ids[tables["split"].key], tables["split"].disagree["split"]
        differ = ids[differ]
        if len(differ):
            raise ValueError(
                f"{len(differ)} ids of {split_path} stand in rows of different splits: "
                f"{', '.join(differ[:5])}; expected one split for each: correct the table"
            )
    if metadata_path:
        tables["metadata"] = read_facts(os.fspath(metadata_path), elsewhere)
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
