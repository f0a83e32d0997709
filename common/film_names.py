"""Names of films as paths: cleaned, and compared from their ends."""

import collections
import itertools
from collections.abc import Iterable, Sequence

# Suffixes of images and embeddings only: what follows a dot may be a part of a DICOM UID.
SUFFIXES = ("dcm", "dicom", "ima", "png", "jpg", "jpeg", "tfrecord", "npz")


def clean(name: str) -> str:
    """A name with single `/` between its parts and without `SUFFIXES`."""
    name = "/".join(filter(None, name.replace("\\", "/").split("/")))
    stem, _, suffix = name.rpartition(".")
    while suffix.casefold() in SUFFIXES and stem and not stem.endswith("/"):
        name = stem
        stem, _, suffix = name.rpartition(".")
    return name


def tail(name: str, parts: int) -> str:
    """The last parts of a name; all for 0."""
    return "/".join(name.split("/")[-parts:])


def places(values: Iterable[str]) -> dict[str, list[int]]:
    """Where each value stands."""
    places: dict[str, list[int]] = collections.defaultdict(list)
    for i, value in enumerate(values):
        places[value].append(i)
    return places


def same_films(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of a film and a row of which one's name is the end of the other's.

    Of names that repeat two are enough to be refused.
    """
    films, rows = places(ours), places(theirs)
    pairs: list[tuple[int, int]] = []
    for folders in {name.count("/") for name in rows}:  # the row's name is the end, or equal
        for name, some in films.items():
            if name.count("/") >= folders and (found := rows.get(tail(name, folders + 1))):
                pairs += itertools.product(some[:2], found[:2])
    for folders in {name.count("/") for name in films}:
        for name, some in rows.items():
            if name.count("/") > folders and (found := films.get(tail(name, folders + 1))):
                pairs += itertools.product(found[:2], some[:2])
    return pairs
