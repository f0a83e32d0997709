"""Tables of labels: what their values mean, as arrays with one row an id."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64, Shaped

from ..statistics.results import NoteRecord
from .columns import alike, find, read_table, role_columns
from .findings import decide, read_findings, split_finding_labels
from .matching import Facts, FilmIds

UNCERTAIN = {"ignore": "unknown", "zeros": "negative", "ones": "positive"}
NOT_MENTIONED = {"ignore": "unknown", "negative": "negative"}


@dataclasses.dataclass(frozen=True)
class Note:
    """Something that was left out, or `used` in a way to know of: how many, and up to five ids."""

    what: str
    count: int
    examples: list[str]
    used: bool = False

    def record(self) -> NoteRecord:
        """As it stands in metrics.json."""
        return {
            "what": self.what,
            "count": self.count,
            "examples": self.examples,
            "used": self.used,
        }


def note(what: str, ids: Sequence[str] | np.ndarray, used: bool = False) -> list[Note]:
    """One note of these ids; none if there are none."""
    return [Note(what, len(ids), [str(one) for one in ids[:5]], used)] if len(ids) else []


@dataclasses.dataclass(frozen=True)
class Examples:
    """Films with labels, aligned with rows of the embeddings.

    Attributes:
        row: row of each film in the embeddings.
        image_id: as the embeddings name it.
        patient_id: "" where unknown.
        study_id: "" where unknown.
        split: "train", "tune" or "test".
        label: 0 or 1; 0 where `mask` is False.
        mask: whether the label is known; every film has at least one that is.
        findings: names of the columns of `label`.
        groups: column to the value of each film, "" where unknown; ages in bands such as "40-59".
        notes: what was left out, and why.
        unmatched: (what, id) of everything that was left out one by one.
        embedded: all films that have embeddings, of which `row` are some.
    """

    row: Int64[np.ndarray, " n"]
    image_id: Shaped[np.ndarray, " n"]
    patient_id: Shaped[np.ndarray, " n"]
    study_id: Shaped[np.ndarray, " n"]
    split: Shaped[np.ndarray, " n"]
    label: Float32[np.ndarray, "n finding"]
    mask: Bool[np.ndarray, "n finding"]
    findings: tuple[str, ...]
    groups: dict[str, Shaped[np.ndarray, " n"]]
    notes: list[Note]
    unmatched: list[tuple[str, str]]
    embedded: FilmIds


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """A table of labels, one row an image, or one row a study where `image_id` is empty.

    Attributes:
        path: where it was read.
        image_id, study_id, patient_id, split: text as in the table; "" where it has no such column.
        label: 0 or 1; 0 where `mask` is False.
        mask: whether the label is known under the policies.
        uncertain: whether it is -1 in the table, so that a policy made it known.
        findings: names of the columns of `label`.
        columns: all that the table has.
        subgroups: columns asked for.
        groups: those of them that the table has, to their values.
        notes: what was left out or taken another way.
    """

    path: str
    image_id: Shaped[np.ndarray, " row"]
    study_id: Shaped[np.ndarray, " row"]
    patient_id: Shaped[np.ndarray, " row"]
    split: Shaped[np.ndarray, " row"]
    label: Float32[np.ndarray, "row finding"]
    mask: Bool[np.ndarray, "row finding"]
    uncertain: Bool[np.ndarray, "row finding"]
    findings: tuple[str, ...]
    columns: tuple[str, ...]
    subgroups: tuple[str, ...]
    groups: dict[str, Shaped[np.ndarray, " row"]]
    notes: list[Note]

    @property
    def facts(self) -> Facts:
        """What it says of films: their ids, splits and groups."""
        ids = {"image": self.image_id, "study": self.study_id, "patient": self.patient_id}
        ids = {key: values for key, values in ids.items() if (values != "").any()}
        return Facts(self.path, ids, {"split": self.split, **self.groups}, {})


def read_labels(
    path: str | os.PathLike,
    findings: Sequence[str] = ("all",),
    *,
    uncertain: str = "ignore",
    not_mentioned: str = "ignore",
    id_column: str = "",
    study_column: str = "",
    patient_column: str = "",
    split_column: str = "",
    subgroups: Sequence[str] = (),
) -> LabelTable:
    """Reads a table of labels: MIMIC-CXR's, ChestX-ray14's, the toolkit's, or any other CSV.

    Values are 1, 0, -1 (uncertain) or empty (not mentioned). Neither policy touches the column
    `No Finding` of CheXpert and NegBio, where the labellers write 1 or nothing: empty is negative.
    A row whose known findings (`TABLES`) are all empty, because its report could not be labelled,
    is unknown for every finding whatever the policies.

    Args:
        path: CSV or CSV.gz in UTF-8.
        findings: columns, matched exactly or else without case, spaces and `_`; or ("all",): those
            of the table in `TABLES`, or of another table every column of 0, 1, -1 and empty values
            that is not empty in all rows.
        uncertain: takes -1 as unknown ("ignore"), negative ("zeros") or positive ("ones"); of films
            to train on, since `join.join` leaves it unknown in tune and test.
        not_mentioned: takes empty as unknown ("ignore") or negative ("negative").
        id_column: which film a row is about; "" for those of `tables.ROLES`, here and below.
        study_column: the study; rows are about whole studies where no column names a film.
        patient_column: the patient.
        split_column: the split.
        subgroups: columns by which results are to be broken down, if this table has them.

    Raises:
        ValueError: a column, finding or policy is unknown, a value is none of the above, or rows of
            one id differ.
    """
    path = os.fspath(path)
    for name, policy, known in (
        ("uncertain", uncertain, UNCERTAIN),
        ("not_mentioned", not_mentioned, NOT_MENTIONED),
    ):
        if policy not in known:
            raise ValueError(f"found {name}={policy!r}; expected one of {', '.join(known)}")
    table = split_finding_labels(read_table(path), path)
    named = {
        "image": id_column,
        "study": study_column,
        "patient": patient_column,
        "split": split_column,
    }
    columns = role_columns(table, path, named)
    if not columns.keys() & {"image", "study"}:
        raise ValueError(
            f"found no column with the ids of films or studies in {path}; expected one: name it "
            f"with id_column or study_column. There are: {', '.join(table.columns)}"
        )
    ids = pd.DataFrame({role: table[columns[role]] if role in columns else "" for role in named})
    groups = {
        name: table[find(name, table.columns, path)]
        for name in subgroups
        if alike(name, table.columns)
    }
    subgroup_columns = [str(column.name) for column in groups.values()]
    found = read_findings(table, path, tuple(findings), columns.values(), subgroup_columns)

    key = ["image"] if "image" in columns else ["study", "patient"]
    facts = [ids, *groups.values(), pd.DataFrame(found.code), pd.Series(found.unlabelled)]
    keep, notes = _one_row_an_id(ids[key], pd.concat(facts, axis=1), path)
    shown = ids[key[0]].to_numpy()
    notes += note(
        "label rows in which every finding is empty: unknown for all, whatever the policy",
        shown[keep & found.unlabelled],
    )
    label, mask, not_said = decide(found, uncertain, not_mentioned)
    for what, cells, taken in (
        ("-1 (uncertain)", found.code == -1, UNCERTAIN[uncertain]),
        ("empty (not mentioned)", not_said, NOT_MENTIONED[not_mentioned]),
    ):
        if count := int(cells[keep].sum()):
            used = taken != "unknown"
            said = f"labels of the table that are {what}, taken as {taken}"
            notes.append(Note(said, count, [], used))
    return LabelTable(
        path=path,
        image_id=ids["image"].to_numpy(object)[keep],
        study_id=ids["study"].to_numpy(object)[keep],
        patient_id=ids["patient"].to_numpy(object)[keep],
        split=ids["split"].to_numpy(object)[keep],
        label=label[keep],
        mask=mask[keep],
        uncertain=found.code[keep] == -1,
        findings=found.names,
        columns=tuple(table.columns),
        subgroups=tuple(subgroups),
        groups={name: column.to_numpy(object)[keep] for name, column in groups.items()},
        notes=notes,
    )


def _one_row_an_id(
    key: pd.DataFrame, facts: pd.DataFrame, path: str
) -> tuple[Bool[np.ndarray, " row"], list[Note]]:
    """Which rows to keep so that each id has one, and notes of the others.

    Args:
        key: the id of each row; it is in the first column, the second only tells ids apart.
        facts: all that a row says of its id.
        path: of the table, for errors.

    Raises:
        ValueError: rows of one id differ.
    """
    ids = key.iloc[:, 0].to_numpy(object)
    without, repeated = ids == "", facts.duplicated().to_numpy()
    notes = note(
        "label rows without an id, left out", [f"row {n + 2}" for n in np.flatnonzero(without)]
    )
    again = ids[repeated & ~without]
    notes += note("repeated label rows that say the same, taken once", again, used=True)
    keep = ~without & ~repeated
    if not keep.any():
        raise ValueError(f"found no id in {path}, column {key.columns[0]}; expected one a row")
    differ = pd.unique(ids[keep][key[keep].duplicated(keep=False).to_numpy()])
    if len(differ):
        raise ValueError(
            f"{len(differ)} ids of {path} stand in rows with different labels, studies, patients, "
            f"splits or subgroups: {', '.join(differ[:5])}; expected one row for each: correct them"
        )
    return keep, notes
