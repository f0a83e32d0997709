"""The labelled films of `benchmarks/quality.py`: children, adults, and drawn ones."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int

from benchmarks.folds import TABLES
from cxr_embeddings.input_pipeline.films import decode
from cxr_embeddings.input_pipeline.films.listing import list_inputs
from cxr_embeddings.input_pipeline.synthetic import mimic_folder
from cxr_embeddings.input_pipeline.synthetic.report_text import LABELS

LEAST_POSITIVES = 50  # of a finding that is measured
DRAWN = {"drawn400": (400, 22), "drawn1200": (1200, 23)}  # films and seed
VIEWS = ("AP", "PA")


class Films(NamedTuple):
    """Labelled films; those of real patients have five folds, drawn ones 0: test, 1: tune."""

    name: str
    folder: pathlib.Path
    stem: Sequence[str]  # names of the files, without suffix
    patient: np.ndarray
    fold: Int[np.ndarray, " film"]
    new: Bool[np.ndarray, " film"]  # the first demo weights were not trained on it
    questions: list[str]
    label: Float32[np.ndarray, "film question"]  # NaN: unknown
    findings: int  # so many questions, the first ones, are answered by one head

    @property
    def real(self) -> bool:
        return self.name not in DRAWN


def films_of(
    name: str,
    folder: pathlib.Path,
    table: pd.DataFrame,
    questions: dict[str, pd.Series],
    others: Mapping[str, pd.Series] = MappingProxyType({}),
) -> Films:
    """The films of a table; `questions` are findings, `others` are not."""
    stem = [pathlib.PurePath(one).stem for one in table.image_id]
    answers = {**questions, **others}
    label = np.stack([*answers.values()], 1).astype(np.float32)
    fold, patient = table.fold.to_numpy(), table.patient_id.to_numpy(str)
    new = (table.old_split != "train").to_numpy()
    return Films(name, folder, stem, patient, fold, new, [*answers], label, len(questions))


def children(folder: pathlib.Path) -> Films:
    """Kermany's films."""
    table = _with_folds("kermany", folder)
    return films_of("kermany", folder / "images", table, {"pneumonia": table.pneumonia})


def adults(folder: pathlib.Path) -> Films:
    """Those of ChestX-ray14: abnormal, findings that are frequent enough, sex, view and age."""
    table = _with_folds("nih", folder)
    counts = table.loc[:, "Atelectasis":"Hernia"].sum()
    questions = {"abnormal": 1 - table.no_finding}
    questions |= {name: table[name] for name in counts.index[counts >= LEAST_POSITIVES]}
    others = {"sex": table.sex == "M", "view": table["view"] == "AP", "age": table.age > 60}
    return films_of("nih", folder / "images", table, questions, others)


def _with_folds(name: str, folder: pathlib.Path) -> pd.DataFrame:
    labels = pd.read_csv(folder / "labels.csv").drop(columns="patient_id", errors="ignore")
    labels["image_id"] = labels.file.str.removeprefix("images/")
    table = pd.read_csv(TABLES / f"{name}.csv", dtype={"patient_id": str})
    return table.merge(labels, on="image_id", validate="1:1")


def drawn(name: str, work: pathlib.Path) -> Films:
    """Films of the generator, labelled and split as in the demo."""
    folder, (films, seed) = work / name, DRAWN[name]
    mimic_folder.write_mimic(folder, films=films, seed=seed)
    tables = (
        pd.read_csv(folder / f"mimic-cxr-2.0.0-{one}.csv.gz") for one in ("split", "chexpert")
    )
    table = functools.reduce(lambda a, b: a.merge(b, on=["subject_id", "study_id"]), tables)
    table = table[table.dicom_id.isin([*pixels(folder / "files", work / f"{name}.npz")])]
    fold = table.split.map({"test": 0, "validate": 1, "train": 2})
    table = table.assign(image_id=table.dicom_id, patient_id=table.subject_id, fold=fold)
    labels = {one: table[one].fillna(0).replace(-1, np.nan) for one in LABELS}
    return films_of(name, folder / "files", table.assign(old_split=""), labels)


@functools.cache
def pixels(folder: pathlib.Path, cache: pathlib.Path) -> dict[str, np.ndarray]:
    """The films that can be read, averaged to 56 x 56 pixels, by their names without suffix."""
    if not cache.exists():
        read = {}
        for film in list_inputs(str(folder)).files:
            found = decode.load(film.path, "native", 224, VIEWS)
            if isinstance(found, decode.Prepared):
                image = found.image.reshape(56, 4, 56, 4).mean((1, 3))
                read[pathlib.PurePath(film.path).stem] = image.ravel()
        np.savez(cache, **read)
    with np.load(cache) as saved:
        return dict(saved)
