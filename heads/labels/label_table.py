"""Tables of labels: what their values mean, as arrays with one row an id."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64, Shaped

from cxr_embeddings.common import data_sets
from cxr_embeddings.common.csv_tables import alike, find
from cxr_embeddings.configs.schema import LabelsConfig

from ..statistics.results import Note
from . import changes
from .columns import role_columns
from .findings import decide, read_findings, read_recognised
from .matching import Facts, FilmIds

UNCERTAIN = {"ignore": "unknown", "zeros": "negative", "ones": "positive"}
NOT_MENTIONED = {"ignore": "unknown", "negative": "negative"}


def note(what: str, found: Sequence[str] | np.ndarray | int, used: bool = False) -> list[Note]:
    """One note of these ids, or of so many things; none if there are none."""
    count = found if isinstance(found, int) else len(found)
    examples = [] if isinstance(found, int) else [str(one) for one in found[:5]]
    return [{"what": what, "count": count, "examples": examples, "used": used}] if count else []


@dataclasses.dataclass(frozen=True)
class Examples:
    """Films with labels, aligned with rows of the embeddings; texts are "" where unknown."""

    row: Int64[np.ndarray, " n"]  # of each film in the embeddings
    image_id: Shaped[np.ndarray, " n"]  # as the embeddings name it
    patient_id: Shaped[np.ndarray, " n"]
    study_id: Shaped[np.ndarray, " n"]
    split: Shaped[np.ndarray, " n"]  # train, tune or test
    label: Float32[np.ndarray, "n finding"]  # 0 or 1; 0 where `mask` is False
    mask: Bool[np.ndarray, "n finding"]  # whether it is known; every film has one that is
    findings: tuple[str, ...]
    groups: dict[str, Shaped[np.ndarray, " n"]]  # by column; ages in bands such as "40-59"
    definitions: list[str]  # sentences on what the labels mean
    notes: list[Note]
    unmatched: list[tuple[str, str]]  # why, and the id, of all that was left out one by one
    embedded: FilmIds  # all films that have embeddings, of which `row` are some
    taken: Shaped[np.ndarray, " n"] | None = None  # datetime64[s] of the study, NaT where unknown

    def at(self, keep: Bool[np.ndarray, " n"]) -> "Examples":
        """Some of the films."""
        of_films = ("row", "image_id", "patient_id", "study_id", "split", "label", "mask")
        parts = {name: getattr(self, name)[keep] for name in of_films}
        groups = {name: values[keep] for name, values in self.groups.items()}
        taken = None if self.taken is None else self.taken[keep]
        return dataclasses.replace(self, **parts, groups=groups, taken=taken)


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """A table of labels, one row an image, or one row a study where it names no image."""

    config: LabelsConfig  # by which it was read
    facts: Facts  # ids, the split if it has any, and those of `config.subgroups` that it has
    label: Float32[np.ndarray, "row finding"]  # 0 or 1; 0 where `mask` is False
    mask: Bool[np.ndarray, "row finding"]  # whether it is known under the policies
    uncertain: Bool[np.ndarray, "row finding"]  # whether it is -1 in the table
    findings: tuple[str, ...]
    columns: tuple[str, ...]  # all that the table has
    definitions: list[str]  # sentences on what the labels mean
    notes: list[Note]


def read_labels(config: LabelsConfig) -> LabelTable:
    """Reads a table of labels: MIMIC-CXR's, ChestX-ray14's, the toolkit's, or any other CSV.

    Values are 1, 0, -1 (uncertain) or empty (not mentioned). In a column `NAME_change` they are -1
    improved, 0 stable, 1 worse or empty (unknown): it becomes two findings (`changes.split`).
    Neither policy touches these columns, or the column `No Finding` of CheXpert and NegBio, where
    the labellers write 1 or nothing: empty is negative.
    A row of a known data set whose findings are all empty, because its report could not be
    labelled, is unknown for every finding whatever the policies.

    Args:
        config: its `path` is a CSV or CSV.gz in UTF-8. `findings` are columns, matched exactly or
            else without case, spaces and `_`; or ("all",): those of the data set, which is
            `data_set` or known by its columns (`data_sets.recognise`), or of another table every
            column of 0, 1, -1 and empty values that is not empty in all rows. Rows are about whole
            studies where no column names a film.

    Raises:
        ValueError: a column, finding or policy is unknown, a value is none of the above, or rows of
            one id differ.
    """
    path = config.path
    for name, policies in (("uncertain", UNCERTAIN), ("not_mentioned", NOT_MENTIONED)):
        if (policy := getattr(config, name)) not in policies:
            raise ValueError(f"found {name}={policy!r}; expected one of {', '.join(policies)}")
    findings, notes = config.findings, []
    if config.data_set:
        entry = data_sets.load(config.data_set)
        table, known, counts = data_sets.read(path, entry)
        findings = tuple(entry.names.get(name, name) for name in findings)
        notes = [one for what, count in counts.items() for one in note(what, count, used=True)]
    else:
        table, entry = read_recognised(path)
        known = entry.findings if entry else ()
    named = {
        "image": config.id_column,
        "study": config.study_column,
        "patient": config.patient_column,
        "split": config.split_column,
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
        for name in config.subgroups
        if alike(name, table.columns)
    }
    subgroup_columns = [str(column.name) for column in groups.values()]
    columns_of = changes.columns_of(findings)
    found = read_findings(table, path, columns_of, columns.values(), subgroup_columns, known)
    found, no_change = changes.split(found, findings)
    definitions = data_sets.definitions(entry, bool(config.data_set), found.names)
    definitions += map(changes.DEFINITION.format, changes.columns(found.names))

    key = ["image"] if "image" in columns else ["study", "patient"]
    said = [ids, *groups.values(), pd.DataFrame(found.code), pd.Series(found.unlabelled)]
    keep, more = _one_row_an_id(ids[key], pd.concat(said, axis=1), path)
    notes += more
    notes += note(
        "label rows in which every finding is empty: unknown for all, whatever the policy",
        ids[key[0]].to_numpy()[keep & found.unlabelled],
    )
    # Where absence is negative, a cell is empty if nothing can be told, as by PadChest's exclude.
    hidden = entry is not None and bool(config.data_set) and entry.absent == "negative"
    not_mentioned = "ignore" if hidden else config.not_mentioned
    label, mask, not_said = decide(found, config.uncertain, not_mentioned)
    mask, not_said = mask & ~no_change, not_said & ~no_change
    for what, cells, taken in (
        ("-1 (uncertain)", found.code == -1, UNCERTAIN[config.uncertain]),
        ("empty (not mentioned)", not_said, NOT_MENTIONED[not_mentioned]),
    ):
        text = f"labels of the table that are {what}, taken as {taken}"
        notes += note(text, int(cells[keep].sum()), used=taken != "unknown")
    texts = {role: ids[role].to_numpy(object)[keep] for role in named}
    texts = {role: values for role, values in texts.items() if (values != "").any()}
    values = {"split": texts.pop("split")} if "split" in texts else {}
    values |= {name: column.to_numpy(object)[keep] for name, column in groups.items()}
    return LabelTable(
        config,
        Facts(path, texts, values, {}),
        label[keep],
        mask[keep],
        found.code[keep] == -1,
        found.names,
        tuple(table.columns),
        definitions,
        notes,
    )


def _one_row_an_id(
    key: pd.DataFrame, facts: pd.DataFrame, path: str
) -> tuple[Bool[np.ndarray, " row"], list[Note]]:
    """Which rows to keep so that each id has one, and notes of the others.

    The id is in the first column of `key`, the second only tells ids apart; `facts` are all that a
    row says of its id. Raises ValueError if rows of one id differ.
    """
    ids = key.iloc[:, 0].to_numpy(object)
    without, repeated = ids == "", facts.duplicated().to_numpy()
    rows = [f"row {n + 2}" for n in np.flatnonzero(without)]
    notes = note("label rows without an id, left out", rows)
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
