"""The films of one study as one example: their embeddings averaged, or the largest of each."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Shaped

from .label_table import Examples, note
from .matching import film_ids

MERGES = ("none", "mean", "max")


def merge_embeddings(
    embedding: Float[np.ndarray, "table dim"],
    row: Int[np.ndarray, " film"],
    study: Int[np.ndarray, " film"],
    how: str,
) -> Float[np.ndarray, "study dim"]:
    """The "mean" or "max" of the films of each study, 0, 1, ..., in the dtype of the others."""
    order = np.argsort(study, kind="stable")
    starts = np.flatnonzero(np.diff(study[order], prepend=-1))
    merged = np.empty((len(starts), embedding.shape[1]), embedding.dtype)
    for i, films in enumerate(np.split(row[order], starts[1:])):
        some = embedding[films].astype(np.float32)
        merged[i] = some.mean(0) if how == "mean" else some.max(0)
    return merged


def merge(
    embedding: Float[np.ndarray, "table dim"], examples: Examples, how: str
) -> tuple[Float[np.ndarray, "study dim"], Examples]:
    """Makes every study one example; a film without a known study stays alone.

    All its films that have embeddings are merged, with a label or without: a prediction, which
    knows no labels, merges the same ones. A study has a finding where one of its films has it, and
    does not have it where none has and one is known not to. Subgroups in which its films differ,
    such as the view, become unknown.

    Raises:
        ValueError: an unknown `how`, no film with a known study, or films of one study in several
            splits or of several patients.
    """
    if how not in MERGES:
        raise ValueError(f"labels.per_study is {how!r}; expected one of {', '.join(MERGES)}")
    if how == "none":
        return embedding, examples
    known = examples.study_id != ""
    if not known.any():
        raise ValueError(
            f"labels.per_study is {how!r}, but no film has a known study; expected a column of "
            "studies (labels.study_column), or MIMIC-CXR's folders"
        )
    key = np.where(known, examples.study_id, [f"\0{i}" for i in range(len(known))]).astype(str)
    names, first, study = np.unique(key, return_index=True, return_inverse=True)
    films = examples.embedded
    of_all = films.study.astype(str)
    others = np.isin(of_all, names)
    others[examples.row] = False
    row = np.concatenate([examples.row, np.flatnonzero(others)])
    of_row = np.concatenate([study, np.searchsorted(names, of_all[others])])
    for what, values, of in (
        ("splits", examples.split, study),
        ("patients", films.patient[row], of_row),
    ):
        if (apart := values != values[first][of]).any():
            raise ValueError(
                f"{len(np.unique(of[apart]))} studies have films of several {what}, such as "
                f"{names[of[apart][0]]}: correct the tables, or leave out labels.per_study"
            )
    groups = {name: values[first].copy() for name, values in examples.groups.items()}
    for name, agreed in groups.items():
        agreed[study[examples.groups[name] != agreed[study]]] = ""
    studies = len(first)
    yes, no = (np.zeros((studies, len(examples.findings)), bool) for _ in range(2))
    np.logical_or.at(yes, study, examples.mask & (examples.label > 0))
    np.logical_or.at(no, study, examples.mask & (examples.label == 0))
    merged = dataclasses.replace(
        examples,
        row=np.arange(studies),
        image_id=np.where(known, examples.study_id, examples.image_id)[first],
        patient_id=examples.patient_id[first],
        study_id=examples.study_id[first],
        split=examples.split[first],
        label=yes.astype(np.float32),
        mask=yes | no,
        groups=groups,
        taken=None if examples.taken is None else examples.taken[first],
        notes=examples.notes
        + note(f"films merged into studies by their {how}", len(row), used=True),
    )
    return merge_embeddings(embedding, row, of_row, how), merged


def merge_by_path(
    embedding: Float[np.ndarray, "table dim"], image_id: Shaped[np.ndarray, " table"], how: str
) -> tuple[Float[np.ndarray, "study dim"], Shaped[np.ndarray, " study"]]:
    """Embeddings of studies, and their `names_by_path`, which may raise."""
    names, study = np.unique(names_by_path(image_id), return_inverse=True)
    return merge_embeddings(embedding, np.arange(len(embedding)), study, how), names


def first_by_path(
    values: Float[np.ndarray, " film"], image_id: Shaped[np.ndarray, " film"]
) -> Float[np.ndarray, " study"]:
    """The value of the first film of each study of `merge_by_path`."""
    _, first = np.unique(names_by_path(image_id), return_index=True)
    return values[first]


def names_by_path(image_id: Shaped[np.ndarray, " film"]) -> Shaped[np.ndarray, " film"]:
    """Patients and studies as p10000032/s50414267 in the paths.

    Raises:
        ValueError: a path tells no study.
    """
    films = film_ids(image_id)
    if (unknown := films.study == "").any():
        raise ValueError(
            f"{unknown.sum()} of {len(unknown)} films are of no known study, such as "
            f"{image_id[unknown][0]}; expected p10000032/s50414267 in their paths, since this head "
            "judges studies"
        )
    return np.array([f"p{p}/s{s}" for p, s in zip(films.patient, films.study, strict=True)])
