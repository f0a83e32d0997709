"""A table of labels, joined to the films that have embeddings, without splits."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Shaped


class LabelledFilms(NamedTuple):
    """What a table says of all films that have embeddings."""

    patient_id: Shaped[np.ndarray, " film"]  # "" where it is unknown
    label: Float32[np.ndarray, "film finding"]  # 0 or 1; 0 where `mask` is False
    mask: Bool[np.ndarray, "film finding"]  # whether that is known
    findings: tuple[str, ...]


def read_labelled_films(image_id: Shaped[np.ndarray, " film"], path: str) -> LabelledFilms:
    """Reads a table of labels as `train_head` does, joined by id; -1 (uncertain) is unknown.

    In a table of CheXpert or NegBio an empty cell is negative: these labellers write no 0.

    Raises:
        ValueError: the table is damaged or says nothing of these films, or ids are ambiguous.
        OSError: it cannot be read.
    """
    from cxr_embeddings.common import data_sets
    from cxr_embeddings.configs.schema import LabelsConfig
    from cxr_embeddings.heads.labels import label_table, matching

    config = LabelsConfig(path, ("all",))
    table = label_table.read_labels(config)
    entry = data_sets.recognise(table.columns)
    if entry and entry.absent == "unknown":
        table = label_table.read_labels(dataclasses.replace(config, not_mentioned="negative"))
    facts, films = table.facts, matching.film_ids(image_id)
    position, _ = matching.place(films, facts)
    patient_id = matching.with_ids(films, facts, position).patient
    mask = table.mask[position] & (position >= 0)[:, None]
    label = np.where(mask, table.label[position], np.float32(0))
    return LabelledFilms(patient_id, label, mask, table.findings)
