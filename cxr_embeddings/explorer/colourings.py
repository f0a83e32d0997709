"""What the map can be coloured by, beside labels and scores: columns of a table, folders."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped

from cxr_embeddings.heads.labels import columns, matching

MOST_CATEGORIES = 8  # as many as there are colours that can be told apart


class Colouring(NamedTuple):
    """A number or a category of every film."""

    title: str
    values: Float32[np.ndarray, " film"]  # NaN: unknown. Categories are numbered from 0
    categories: tuple[str, ...] = ()  # of numbers: none


def of_table(
    image_id: Shaped[np.ndarray, " film"], path: str, findings: Collection[str]
) -> list[Colouring]:
    """The columns of a table of labels that group or order films, such as split, view or age.

    Its ids and its `findings` are left out.

    Raises:
        ValueError: the table says nothing of these films.
        OSError: it cannot be read.
    """
    table = columns.read_table(path)
    ids = {name for key in matching.KEYS for name in columns.ROLES[key]}
    names = [
        name
        for name in table.columns
        if name and name not in findings and not any(columns.alike(name, [one]) for one in ids)
    ]
    facts = matching.read_facts(path, names)
    position, _ = matching.place(matching.film_ids(image_id), facts)
    found = (of_texts(name, matching.take(facts.values[name], position)) for name in names)
    return [one for one in found if one]


def of_folders(image_id: Shaped[np.ndarray, " film"]) -> list[Colouring]:
    """The first folder in which films differ, such as one of a hospital or a class."""
    parts = [name.replace("\\", "/").split("/")[:-1] for name in image_id]
    for depth in range(min(map(len, parts))):
        names = np.array([one[depth] for one in parts], object)
        if len({*names}) > 1:
            found = of_texts("folder", names)
            return [found] if found and found.categories else []
    return []


def of_texts(title: str, texts: Shaped[np.ndarray, " film"]) -> Colouring | None:
    """The colouring of some cells; None where they are neither numbers nor few categories."""
    known = sorted({*texts} - {""})
    if 1 < len(known) <= MOST_CATEGORIES:
        number = {name: i for i, name in enumerate(known)} | {"": np.nan}
        values = np.array([number[text] for text in texts], np.float32)
        return Colouring(title, values, tuple(known))
    try:
        values = np.array([float(text) if text else np.nan for text in texts], np.float32)
    except ValueError:
        return None
    return Colouring(title, values) if len(known) > 1 and np.isfinite(values).any() else None
