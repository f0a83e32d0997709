"""What the table of a data set says of findings: lists, columns, readers, and their names."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float32

from cxr_embeddings.common.csv_tables import alike, find
from cxr_embeddings.common.finding_names import NO_FINDING, VALUES
from cxr_embeddings.configs.schema_data_sets import DataSet

from .data_set_facts import column_text, columns_of

_NOTHING = ("", "nan", "none")  # entries of a list that are none
_ENTRY = r"'[^']*'|\"[^\"]*\"|nan|None"
_PYTHON_LIST = re.compile(rf"\[\s*(?:(?:{_ENTRY})\s*(?:,\s*(?:{_ENTRY})\s*)*,?\s*)?\]")


def entries(text: str, separator: str) -> list[str] | None:
    """The entries of a list of findings, without blanks; None if it is damaged.

    A Python list as text is taken apart by a pattern; nothing is evaluated.
    """
    if separator == "python" and text.casefold() not in _NOTHING:
        if not _PYTHON_LIST.fullmatch(text):
            return None
        found = [one[1:-1] for one in re.findall(_ENTRY, text) if one[0] in "'\""]
    else:
        found = text.split(separator) if separator not in ("", "python") else [text]
    return [one for one in map(str.strip, found) if one.casefold() not in _NOTHING]


def read_list(
    column: pd.Series, entry: DataSet, path: str
) -> tuple[pd.DataFrame, Mapping[str, int]]:
    """Codes of the findings of a column that lists what is positive, by the table's own names.

    A row without any entry, in a data set that has a word for normal films, is unknown for every
    finding. So is a row with one of `unusable`, but for what it lists.

    Returns:
        Codes 1, 0 or NaN; and counts of what is unknown.

    Raises:
        ValueError: a list is damaged, has an entry that is none of `findings` where there may be no
            others (a misspelt one would make a negative of a positive), or has `normal` beside a
            finding there.
    """
    lists = {text: entries(text, entry.separator) for text in column.unique()}
    if damaged := [text for text, found in lists.items() if found is None]:
        rows = column.isin(damaged).to_numpy()
        raise ValueError(
            f"{rows.sum()} rows of {path} have no whole list in {column.name!r}, the first is row "
            f"{rows.argmax() + 2} ({damaged[0][:60]!r}); expected such as ['a', 'b']: correct them"
        )
    known = named_findings(entry)
    named: dict[str, str] = {one: "" for one in entry.unusable}
    for one in sorted({one for found in lists.values() for one in found or ()} - named.keys()):
        if entry.others and not alike(one, known):
            known.append(one)
        where = f"what is known of {column.name!r} ({path})"
        named[one] = find(one, known, where, "finding")
    codes = {text: _listed(found or [], named, known, entry) for text, found in lists.items()}
    table = np.stack([codes[text] for text in column])
    counts = {}
    if entry.normal:
        normal = known.index(entry.normal)
        rest = [i for i, one in enumerate(known) if i != normal and one not in entry.devices]
        both = (table[:, normal] == 1) & (table[:, rest] == 1).any(axis=1)
        if both.any() and not entry.others:
            raise ValueError(
                f"{both.sum()} rows of {path} list {entry.normal} beside a finding, the first in "
                f"row {both.argmax() + 2} ({column.iloc[both.argmax()]}); expected one or the "
                "other: correct them"
            )
        table[both, normal] = np.nan
        if both.any():
            what = f"rows that list {entry.normal} beside a finding, {entry.normal} unknown"
            counts[what] = int(both.sum())
    return pd.DataFrame(table, column.index, known), counts


def _listed(
    found: Sequence[str], named: Mapping[str, str], known: Sequence[str], entry: DataSet
) -> Float32[np.ndarray, " finding"]:
    unusable = any(not named[one] for one in found) or (bool(entry.normal) and not found)
    absent = np.nan if unusable or entry.absent == "unknown" else 0
    there = {named[one] for one in found}
    return np.array([1 if one in there else absent for one in known], np.float32)


def read_columns(raw: pd.DataFrame, names: Sequence[str], path: str) -> pd.DataFrame:
    """Codes 1, 0, -1 and NaN of columns of `VALUES`. Raises ValueError for any other value."""
    for name in names:
        wrong = ~raw[name].isin(VALUES).to_numpy()
        if wrong.any():
            raise ValueError(
                f"found {raw[name].iloc[wrong.argmax()]!r} in row {wrong.argmax() + 2}, column "
                f"{name!r}, of {path}, the first of {wrong.sum()}; expected 1, 0, -1 or nothing: "
                "correct the table, or leave this column out of findings"
            )
    return raw[list(names)].apply(lambda column: column.map(VALUES)).astype(np.float32)


def named_findings(entry: DataSet) -> list[str]:
    """The findings that an entry names, with the word for none, as the table writes them."""
    return list(dict.fromkeys([*entry.findings, *filter(None, [entry.normal])]))


def read_findings(
    raw: pd.DataFrame, entry: DataSet, path: str
) -> tuple[pd.DataFrame, Mapping[str, int]]:
    """Codes of all findings by their common names, and counts of what is unknown.

    Where several of the table's findings have one common name, it is positive if one of them is,
    else uncertain if one is, else negative if one is. There may be none.

    Args:
        raw: the table, as text.
        entry: of its data set.
        path: for errors.

    Raises:
        ValueError: as `read_list` and `read_columns`.
    """
    listed = column_text(raw, entry.columns.findings, entry.patterns.findings)
    counts: Mapping[str, int] = {}
    if listed is not None:
        codes, counts = read_list(listed, entry, path)
    else:
        header = [str(name) for name in raw]
        wanted = [name for name in named_findings(entry) if alike(name, header)]
        if not entry.findings:
            free = [name for name in header if not alike(name, columns_of(entry))]
            filled = (name for name in free if (raw[name] != "").any())
            wanted = [name for name in filled if raw[name].isin(VALUES).all()]
        found = [find(name, header, path) for name in wanted]
        codes = read_columns(raw, found, path).set_axis(wanted, axis=1)
        if entry.absent == "negative":
            codes[codes.notna().any(axis=1)] = codes.fillna(0)
    names = {**entry.names, entry.normal: NO_FINDING}
    common = [names.get(name, name) for name in map(str, codes)]
    ordered = codes.replace(-1, 0.5).set_axis(common, axis=1)  # so that the highest counts
    merged = {name: ordered[[name]].max(axis=1) for name in dict.fromkeys(common)}
    return pd.DataFrame(merged, codes.index).replace(0.5, -1), counts


def merge_rows(
    codes: pd.DataFrame, of: pd.Series, how: str
) -> tuple[pd.DataFrame, Mapping[str, int]]:
    """The codes of each film, by what `of` says of the rows: "any" of its boxes, or the "majority"
    of its readers, -1 where as many say 1 as 0; and on how many films readers differ."""
    films = codes.replace(-1, 0.5).groupby(of, sort=False)
    if how == "any":
        return films.max().replace(0.5, -1), {}
    share, differ = films.mean(), int((films.nunique() > 1).any(axis=1).sum())
    merged = share.mask(share > 0.5, 1).mask(share < 0.5, 0).mask(share == 0.5, -1)
    counts = {"films on which readers differ, taken as most of them say": differ}
    return merged.astype(np.float32), counts if differ else {}


def texts(codes: pd.DataFrame) -> pd.DataFrame:
    """Codes as they stand in a table: "1", "0", "-1" and ""."""
    written = {1.0: "1", 0.0: "0", -1.0: "-1"}
    return codes.apply(lambda column: column.map(written).fillna("")).astype("str")
