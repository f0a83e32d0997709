"""The films to pretrain on: stores, joined by id to their labels and splits."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import LabelsConfig
from cxr_embeddings.configs.schema_pretraining import TrainingFilmsConfig
from cxr_embeddings.heads.labels.columns import alike, find
from cxr_embeddings.heads.labels.findings import read_recognised
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
    findings: tuple[str, ...]  # that are trained on
    questions: tuple[str, ...]  # that the watch asks: the findings, and more
    answers: Int32[np.ndarray, "film question"]  # 1, 0, or -1 where it is unknown
    split: Shaped[np.ndarray, " film"]  # train, tune or test; "" for films that are not used
    repeat: Int64[np.ndarray, " store"]  # how often an epoch takes each film of train

    @property
    def label(self) -> Int32[np.ndarray, "film finding"]:
        """1, 0, or -1 where it is unknown."""
        return self.answers[:, : len(self.findings)]

    def by_store(self) -> Int32[np.ndarray, "film column"]:
        """`label` with columns of its own for each store, which are unknown of the others' films.

        So nothing is known of two films of different stores alike.
        """
        label = self.label
        apart = np.full((len(label), len(self.stores), len(self.findings)), -1, np.int32)
        apart[np.arange(len(label)), self.places.store] = label
        return apart.reshape(len(label), -1)

    def rows(self, split: str) -> Int64[np.ndarray, " row"]:
        """Indices of the films of a split with at least one known finding."""
        return np.flatnonzero((self.split == split) & (self.label >= 0).any(axis=1))

    def epoch(self) -> Int64[np.ndarray, " row"]:
        """Those of train, each as often as an epoch takes it."""
        rows = self.rows("train")
        return np.repeat(rows, self.repeat[self.places.store[rows]])


def read(
    config: TrainingFilmsConfig, more: Sequence[str], say: Callable[[str], object]
) -> TrainingFilms:
    """Opens the stores and finds the labels and the split of each of their films.

    What a store's table has no column for is unknown of its films.

    Args:
        more: columns that are read for the watch alone.

    Raises:
        ValueError: tables and stores are not as many, or do not fit; a finding is in no table, or
            is the same in all films of train; or a patient is in two splits, of one store or of
            two.
        OSError: one of them cannot be read.
    """
    findings = config.findings
    if not 0 < len(findings) == len(set(findings)):
        raise ValueError(f"input.findings is {findings}; expected one or more, each once")
    questions = tuple(dict.fromkeys((*findings, *more)))
    splits = config.splits or ("",) * len(config.stores)
    repeat = config.repeat or (1,) * len(config.stores)
    if len(repeat) != len(config.stores) or min(repeat) < 1:
        raise ValueError(
            f"input.repeat is {repeat}; expected a number of 1 or more for each of the "
            f"{len(config.stores)} stores"
        )
    for name, given in (("labels", config.labels), ("splits", splits)):
        if len(given) != len(config.stores):
            raise ValueError(
                f"input.{name} names {len(given)} tables for {len(config.stores)} stores; expected "
                "one for each store, in the same order"
            )
    stores = [dataset.open_store(paths.typed(path)) for path in config.stores]
    places = random_access.find_films(stores)
    answers = np.full((len(places.image_id), len(questions)), -1, np.int32)
    split, patient, study = (np.full(len(answers), "", object) for _ in range(3))
    asked = _columns_of_tables(config.labels, findings, questions)
    for i, (opened, table, split_path) in enumerate(
        zip(stores, config.labels, splits, strict=True)
    ):
        mine = np.flatnonzero(places.store == i)
        names = tuple(questions[j] for j in asked[i])
        labels = LabelsConfig(
            table,
            names,
            not_mentioned=config.not_mentioned,
            split_path=split_path,
            name_parts=config.name_parts,
        )
        known_labels = read_labels(labels)
        if not split_path and "split" not in known_labels.facts.values:
            raise ValueError(
                f"found no split in {table}; expected a column `split` that says train or tune: "
                "add it, or name a table that has one for each store by input.splits"
            )
        found = join(places.image_id[mine], known_labels)
        rows = mine[found.row]
        answers[np.ix_(rows, asked[i])] = np.where(found.mask, found.label, -1)
        split[rows], patient[rows], study[rows] = found.split, found.patient_id, found.study_id
        known = (answers[rows, : len(findings)] >= 0).any(axis=1).sum()
        say(f"{len(mine)} films in {opened.folder}, {known} of them with label and split")
        for note in found.notes:
            say(f"  {note['count']:8} {note['what']}")
    films = TrainingFilms(
        stores, places, findings, questions, answers, split, np.array(repeat, np.int64)
    )
    used = (films.label >= 0).any(axis=1)
    try:
        check_patients(patient[used], study[used], split[used])
    except ValueError as error:
        raise ValueError(
            f"all stores together: {error}. If their tables number patients or studies each on its "
            "own, put the store's name before the ids in one of the tables"
        ) from error
    for name in ("train", "tune", "test"):
        rows = films.rows(name)
        counts = zip(findings, _counts(films.label[rows]), strict=True)
        each = (f"{finding} {positive}, not {negative}" for finding, (negative, positive) in counts)
        say(f"{name:5} {len(rows):8} films; {'; '.join(each)}")
    for finding, found in zip(findings, _counts(films.label[films.rows("train")]), strict=True):
        if not min(found):
            raise ValueError(
                f"input.findings: {found[1]} films of train have {finding!r}, {found[0]} have not; "
                "expected films of both classes: leave it out, or add films"
            )
    return films


def _counts(label: Int32[np.ndarray, "n finding"]) -> list[tuple[int, int]]:
    """Negative and positive films of each finding."""
    return [(int((one == 0).sum()), int((one == 1).sum())) for one in label.T]


def _columns_of_tables(
    paths: Sequence[str], findings: Sequence[str], questions: Sequence[str]
) -> list[list[int]]:
    """Which of the questions each table has a column for.

    Raises ValueError where a question is in no table, or a table has none of the findings.
    """
    columns = [list(read_recognised(path)[0].columns) for path in paths]
    for name in questions:
        if not any(alike(name, some) for some in columns):
            every = dict.fromkeys(column for some in columns for column in some)
            find(name, every, ", ".join(paths), "finding")
    for path, some in zip(paths, columns, strict=True):
        if not any(alike(name, some) for name in findings):
            raise ValueError(
                f"{path} has none of input.findings, {', '.join(findings)}; expected at least one. "
                f"There are: {', '.join(some)}"
            )
    return [[j for j, name in enumerate(questions) if alike(name, some)] for some in columns]
