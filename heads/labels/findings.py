"""Columns of findings: which ones a table has, and what their values mean."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from cxr_embeddings.common.csv_tables import alike, find, plain
from cxr_embeddings.common.finding_names import CHEXPERT, NIH, NIH_COLUMN, NO_FINDING, VALUES

TABLES = {"CheXpert or NegBio": CHEXPERT, "ChestX-ray14": NIH}  # known by having all the columns


class Findings(NamedTuple):
    """What a table says on some findings."""

    names: tuple[str, ...]
    code: Float32[np.ndarray, "row finding"]  # 1, 0, -1 uncertain, NaN not mentioned
    one_sided: Bool[np.ndarray, " finding"]  # whether empty values mean negative
    unlabelled: Bool[np.ndarray, " row"]  # whether it says nothing on any finding of the table


def split_finding_labels(table: pd.DataFrame, path: str) -> pd.DataFrame:
    """Adds a column of 0 and 1 for each finding that ChestX-ray14's `Finding Labels` can list.

    Columns that are there stay as they are. Where `Finding Labels` is empty, so are the new ones.

    Raises:
        ValueError: a label is none of `NIH` or `NO_FINDING` (a misspelt one would make a negative
            of a positive, so none is taken for a new finding), or No Finding stands beside others.
    """
    missing = [name for name in (*NIH, NO_FINDING) if not alike(name, table.columns)]
    if not alike(NIH_COLUMN, table.columns) or not missing:
        return table
    column = table[find(NIH_COLUMN, table.columns, path)]
    listed = column.str.get_dummies("|").astype(bool)
    known = {name: np.zeros(len(table), bool) for name in (*NIH, NO_FINDING)}
    for label in map(str, listed):
        if not label.strip():
            continue
        name = find(label.strip(), known, f"what is known of `Finding Labels` ({path})", "finding")
        known[name] |= listed[label].to_numpy()
    both = known[NO_FINDING] & np.any([known[name] for name in NIH], axis=0)
    if both.any():
        raise ValueError(
            f"{both.sum()} rows of {path} list No Finding beside a finding, the first in row "
            f"{both.argmax() + 2} ({column.iloc[both.argmax()]}); expected one or the other: "
            "correct them"
        )
    blank = column.str.strip().to_numpy() == ""
    new = {name: np.where(blank, "", np.where(known[name], "1", "0")) for name in missing}
    return pd.concat([table, pd.DataFrame(new, table.index)], axis=1)


def read_findings(
    table: pd.DataFrame,
    path: str,
    findings: tuple[str, ...],
    ids: Collection[str],
    subgroups: Collection[str],
) -> Findings:
    """Reads the columns of findings of a table of text.

    Columns of ids are no findings; "all" leaves out subgroups too, though a finding may be one.

    Raises:
        ValueError: a finding is not there, or a value is none of `VALUES`.
    """
    free = [name for name in table.columns if name not in ids]
    standard = next((t for t in TABLES.values() if all(alike(name, free) for name in t)), ())
    standard = [find(name, free, path) for name in standard]
    if findings == ("all",):
        rest = [name for name in free if name not in subgroups]
        names = standard or [
            name for name in rest if table[name].isin(VALUES).all() and (table[name] != "").any()
        ]
    else:
        names = [find(name, free, path, "finding") for name in dict.fromkeys(findings)]
    if not names:
        raise ValueError(
            f"found no finding in {path} ({findings=}); expected the name of at least one column "
            f"of 0, 1, -1 and empty values, not all of them empty. There are: {', '.join(free)}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{findings=} names a column of {path} twice; expected each once")
    for name in names:
        wrong = ~table[name].isin(VALUES).to_numpy()
        if wrong.any():
            raise ValueError(
                f"found {table[name].iloc[wrong.argmax()]!r} in row {wrong.argmax() + 2}, column "
                f"{name!r}, of {path}, the first of {wrong.sum()}; expected 1, 0, -1 or nothing: "
                "correct the table, or leave this column out of findings"
            )
    code = table[names].apply(lambda column: column.map(VALUES)).to_numpy(np.float32)
    one_sided = np.array([bool(standard) and plain(name) == plain(NO_FINDING) for name in names])
    silent = (table[standard] == "").all(axis=1).to_numpy()
    return Findings(tuple(names), code, one_sided, silent & bool(standard))


def decide(
    found: Findings, uncertain: str, not_mentioned: str
) -> tuple[
    Float32[np.ndarray, "row finding"],
    Bool[np.ndarray, "row finding"],
    Bool[np.ndarray, "row finding"],
]:
    """Labels under the policies of `label_table.read_labels`.

    Returns:
        The labels, 0 or 1 and 0 where unknown; whether each is known; and whether it is one that
        the policy of what is not mentioned decides.
    """
    label, mask = found.code == 1, (found.code == 1) | (found.code == 0)
    unsure = found.code == -1
    silent = np.isnan(found.code) & ~found.unlabelled[:, None]
    by_policy = silent & ~found.one_sided
    mask |= silent & found.one_sided
    if not_mentioned == "negative":
        mask |= by_policy
    if uncertain != "ignore":
        mask |= unsure
    if uncertain == "ones":
        label |= unsure
    return label.astype(np.float32), mask, by_policy
