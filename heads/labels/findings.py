"""Columns of findings: which ones a table has, and what their values mean."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from cxr_embeddings.common import data_sets
from cxr_embeddings.common.csv_tables import alike, find, plain
from cxr_embeddings.common.data_set_facts import column_text
from cxr_embeddings.common.data_set_findings import named_findings, read_columns, read_list, texts
from cxr_embeddings.common.finding_names import NO_FINDING, VALUES
from cxr_embeddings.configs.schema_data_sets import DataSet

from .columns import read_table


class Findings(NamedTuple):
    """What a table says on some findings."""

    names: tuple[str, ...]
    code: Float32[np.ndarray, "row finding"]  # 1, 0, -1 uncertain, NaN not mentioned
    one_sided: Bool[np.ndarray, " finding"]  # whether empty values mean negative
    unlabelled: Bool[np.ndarray, " row"]  # whether it says nothing on any finding of the table


def read_recognised(path: str) -> tuple[pd.DataFrame, DataSet | None]:
    """A table as text, and the data set whose findings it has, if that is known by its columns.

    What its list of findings may hold becomes columns of 0 and 1, of which those that are there
    stay as they are. Where the list is empty, so are the new ones. Raises ValueError as `read_list`
    and `read_table`.
    """
    table = read_table(path)
    entry = data_sets.recognise(table.columns)
    if entry is None:
        return table, None
    listed = column_text(table, entry.columns.findings)
    missing = [name for name in named_findings(entry) if not alike(name, table.columns)]
    if listed is None or not missing:
        return table, entry
    return table.join(texts(read_list(listed, entry, path)[0][missing])), entry


def read_findings(
    table: pd.DataFrame,
    path: str,
    findings: tuple[str, ...],
    ids: Collection[str],
    subgroups: Collection[str],
    known: Collection[str],
) -> Findings:
    """Reads the columns of findings of a table of text.

    Columns of ids are no findings. "all" are those that the table is `known` to have;
    without any it leaves out subgroups too, though a finding may be one.

    Raises:
        ValueError: a finding is not there, or a value is none of `VALUES`.
    """
    free = [name for name in table.columns if name not in ids]
    standard = [find(name, free, path) for name in known]
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
    code = read_columns(table, names, path).to_numpy()
    one_sided = np.array([name in standard and plain(name) == plain(NO_FINDING) for name in names])
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
