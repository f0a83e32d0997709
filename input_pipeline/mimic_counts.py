"""The counts that MIMIC-CXR was published with, and those of a list of films beside them."""

import re
from collections.abc import Mapping

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


def counts_rows(counts: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """`FilmList.counts` beside the published ones, as rows of a table with a header."""
    rows = [("what", "here", "published")]
    for what, number in counts.items():
        about = "about " if what in APPROXIMATE else ""
        published = f"{about}{PUBLISHED[what]}" if what in PUBLISHED else ""
        rows.append((what, str(number), published))
    return rows


def counts_table(counts: Mapping[str, int]) -> str:
    """The same as text in columns, for a terminal."""
    rows = [
        [re.sub("[0-9]{4,}", lambda digits: f"{int(digits[0]):,}", cell) for cell in row]
        for row in counts_rows(counts)
    ]
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{what:{first}}  {here:>{second}}  {published:>{third}}".rstrip()
        for what, here, published in rows
    )
