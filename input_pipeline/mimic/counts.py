"""The counts that MIMIC-CXR was published with, and those of a list of films beside them."""

import collections
import re
from collections.abc import Iterable, Mapping

import pandas as pd

from .tables import SPLITS, UNASSIGNED

# MIMIC-CXR 2.0.0 (https://doi.org/10.13026/C2JT1Q), by the keys of `FilmList.counts`
PUBLISHED = {
    "films listed": 377_110,
    "patients": 65_379,
    "studies": 227_835,
    "view not said": 15_770,
    "frontal (AP, PA)": 243_330,
    "split train": 368_960,
    "split validate": 2_991,
    "split test": 5_159,
    "patients train": 64_586,
    "patients validate": 500,
    "patients test": 293,
}
APPROXIMATE = frozenset({"view not said", "frontal (AP, PA)"})  # to the nearest ten


def count(films: pd.DataFrame, has_views: bool, has_splits: bool) -> dict[str, int]:
    """Counts films with the columns of `FilmRecord`; what there was no table for is left out."""
    patients = films[films["subject_id"] != ""].drop_duplicates(["split", "subject_id"])
    studies = films[films["study_id"] != ""]
    counts = {
        "films listed": len(films),
        "patients": patients["subject_id"].nunique(),
        "studies": len(studies[["subject_id", "study_id"]].drop_duplicates()),
    }
    if has_views:
        of = collections.Counter(films["view"])
        others = sorted(view for view in of if view not in ("AP", "PA", "", None))
        counts |= {f"view {view}": of[view] for view in ("AP", "PA", *others)}
        counts |= {"view not said": of[""], "view not in the table": of[None]}
        counts["frontal (AP, PA)"] = of["AP"] + of["PA"]
    if has_splits:
        counts |= by_split("split", films["split"])
        counts |= by_split("patients", patients["split"])
    return counts


def by_split(what: str, splits: Iterable[str]) -> dict[str, int]:
    """Counts of `splits`, none of which is left out, by "what split"."""
    of = collections.Counter(splits)
    return {f"{what} {split}": of[split] for split in (*SPLITS, UNASSIGNED)}


def counts_rows(counts: Mapping[str, int], data_set: str = "") -> list[tuple[str, str, str]]:
    """`FilmList.counts` as rows of a table with a header, beside the published ones if MIMIC-CXR's
    tables told of views or splits: films of elsewhere are not to be compared with them."""
    rows = [("what", "here", "published")]
    mimic = data_set in ("", "mimic_cxr") and {"split train", "view AP"} & counts.keys()
    compared = PUBLISHED if mimic else {}
    for what, number in counts.items():
        about = "about " if what in APPROXIMATE else ""
        published = f"{about}{compared[what]}" if what in compared else ""
        rows.append((what, str(number), published))
    return rows


def counts_table(counts: Mapping[str, int], data_set: str = "") -> str:
    """The same as text in columns, for a terminal."""
    rows = [
        [re.sub("[0-9]{4,}", lambda digits: f"{int(digits[0]):,}", cell) for cell in row]
        for row in counts_rows(counts, data_set)
    ]
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{what:{first}}  {here:>{second}}  {published:>{third}}".rstrip()
        for what, here, published in rows
    )
