"""The films to pretrain on: stores, joined by id to their labels and splits."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import LabelsConfig
from cxr_embeddings.configs.schema_pretraining import TrainingFilmsConfig
from cxr_embeddings.heads.labels.join import join
from cxr_embeddings.heads.labels.label_table import read_labels
from cxr_embeddings.heads.labels.splits import check_patients
from cxr_embeddings.input_pipeline.store import dataset, random_access
from cxr_embeddings.input_pipeline.store.dataset import Store
from cxr_embeddings.input_pipeline.store.random_access import Places


class TrainingFilms(NamedTuple):
    """Films of one or several stores."""

    stores: list[Store]
    places: Places
    label: Int32[np.ndarray, " film"]  # 0 or 1; -1 where it is unknown
    split: Shaped[np.ndarray, " film"]  # train, tune or test; "" for films that are not used

    def rows(self, split: str) -> Int64[np.ndarray, " row"]:
        """Indices of the labelled films of a split."""
        return np.flatnonzero((self.split == split) & (self.label >= 0))


def read(config: TrainingFilmsConfig, say: Callable[[str], object]) -> TrainingFilms:
    """Opens the stores and finds the label and the split of each of their films.

    Raises:
        ValueError: tables and stores are not as many, do not fit, no film has a label, or a patient
            is in two splits, of one store or of two.
        OSError: one of them cannot be read.
    """
    splits = config.splits or ("",) * len(config.stores)
    for name, given in (("labels", config.labels), ("splits", splits)):
        if len(given) != len(config.stores):
            raise ValueError(
                f"input.{name} names {len(given)} tables for {len(config.stores)} stores; expected "
                "one for each store, in the same order"
            )
    stores = [dataset.open_store(paths.typed(path)) for path in config.stores]
    places = random_access.find_films(stores)
    label = np.full(len(places.image_id), -1, np.int32)
    split, patient, study = (np.full(len(label), "", object) for _ in range(3))
    for i, (opened, table, split_path) in enumerate(
        zip(stores, config.labels, splits, strict=True)
    ):
        mine = np.flatnonzero(places.store == i)
        labels = LabelsConfig(
            table, (config.finding,), split_path=split_path, name_parts=config.name_parts
        )
        named = read_labels(labels)
        if len(named.findings) > 1:
            raise ValueError(
                f"input.finding is {config.finding!r}, which is {len(named.findings)} columns of "
                f"{table}; expected one"
            )
        found = join(places.image_id[mine], named)
        rows = mine[found.row]
        label[rows], split[rows] = found.label[:, 0].astype(np.int32), found.split
        patient[rows], study[rows] = found.patient_id, found.study_id
        say(f"{len(mine)} films in {opened.folder}, {len(rows)} of them with label and split")
        for note in found.notes:
            say(f"  {note['count']:8} {note['what']}")
    used = label >= 0
    try:
        check_patients(patient[used], study[used], split[used])
    except ValueError as error:
        raise ValueError(
            f"all stores together: {error}. If their tables number patients or studies each on its "
            "own, put the store's name before the ids in one of the tables"
        ) from error
    films = TrainingFilms(stores, places, label, split)
    for name in ("train", "tune", "test"):
        rows = films.rows(name)
        positive = int(label[rows].sum())
        say(
            f"{name:5} {len(rows):8} films; {config.finding} {positive}, not {len(rows) - positive}"
        )
    return films
