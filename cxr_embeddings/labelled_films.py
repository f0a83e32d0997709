"""Embeddings and tables of labels as users name them, opened and joined."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from cxr_embeddings.common import files, paths
from cxr_embeddings.configs.schema import EmbeddingsConfig, LabelsConfig
from cxr_embeddings.embedding import read_embeddings

if TYPE_CHECKING:
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings

    Given = Embeddings | str | os.PathLike | Sequence[str | os.PathLike]

LIBRARIES = ("cxr-embeddings", "jax", "flax", "optax", "numpy", "scipy", "scikit-learn", "pandas")
TABLES = ("path", "split_path", "metadata_path", "covariates_path")


def open_embeddings(
    given: Given, config: EmbeddingsConfig, say: Callable[[str], object], shown: bool | None
) -> tuple[Embeddings, EmbeddingsConfig]:
    """The embeddings that are given, or (): those that the config names; and where they lie.

    Raises:
        ValueError, OSError: as `read_embeddings`.
    """
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings

    if isinstance(given, Embeddings):
        table, dtype = given, given.embedding.dtype.name
        about = EmbeddingsConfig(tuple(table.folders), dtype=dtype)
    else:
        several = [given] if isinstance(given, str | os.PathLike) else given
        places = tuple(os.fspath(one) for one in several)
        about = dataclasses.replace(config, path=places or config.path)
        cache = about.cache or None
        table = read_embeddings(about.path, cache=cache, dtype=about.dtype, progress=shown)
    count, width = table.embedding.shape
    say(f"{count} embeddings of {width:,} numbers in {', '.join(about.path) or 'memory'}")
    if table.encoder is None:
        say("warning: no manifest.json says which encoder made these embeddings")
    elif not table.encoder.get("trained"):
        say("warning: these are the embeddings of an untrained network")
    if table.complete is False:
        say("warning: the run that made them did not finish: some films are missing")
    if table.damaged:
        name, _, reason = table.damaged[0]
        say(f"warning: {len(table.damaged)} left out, such as {name}: {reason}")
    return table, about


def at_home(labels: LabelsConfig) -> LabelsConfig:
    """The config with `~` of its paths replaced."""
    return dataclasses.replace(
        labels, **{name: os.path.expanduser(getattr(labels, name)) for name in TABLES}
    )


def origin(labels: LabelsConfig) -> dict[str, dict[str, str]]:
    """SHA-256 of the tables of labels, and the versions of the libraries."""
    tables = [path for name in TABLES if (path := getattr(labels, name))]
    return {
        "tables_digests": {
            path: hashlib.sha256(files.read_bytes(paths.typed(path))).hexdigest()
            for path in tables
            if not os.path.isdir(paths.typed(path))  # of films or reports without a table
        },
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


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
