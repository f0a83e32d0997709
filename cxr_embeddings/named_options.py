"""Options of the Python face by name: which there are, and the configs that they become."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict, TypeVar

if TYPE_CHECKING:
    from cxr_embeddings.options import Dataclass

Config = TypeVar("Config", bound="Dataclass")


class LabelOptions(TypedDict, total=False):
    """Options about labels: fields of `LabelsConfig`, where they are explained."""

    data_set: str | os.PathLike[str]
    uncertain: str
    not_mentioned: str
    id_column: str
    name_parts: int
    study_column: str
    patient_column: str
    split_column: str
    split_path: str | os.PathLike[str]
    train: Sequence[str]
    tune: Sequence[str]
    test: Sequence[str]
    fractions: Sequence[float]
    metadata_path: str | os.PathLike[str]
    subgroups: Sequence[str]
    per_study: str
    covariates: Sequence[str]
    covariates_path: str | os.PathLike[str]
    prior: str


class HeadOptions(LabelOptions, total=False):
    """Options of `train_head`: also fields of `TrainingConfig` and `HeadConfig`."""

    optimizer: str
    hidden: Sequence[int]
    dropout: float
    standardise: bool
    weight_decays: Sequence[float]
    seeds: Sequence[int]
    batch_size: int
    epochs: int
    learning_rate: float
    patience: int
    shuffle: bool
    sizes: Sequence[str]
    draws: int
    compare: str | os.PathLike[str]
    resamples: int
    seed: int


def taken(config: Config, given: dict[str, object]) -> Config:
    """The config with what is given for its fields, which is taken out of `given`."""
    mine = {field.name for field in dataclasses.fields(config)} & given.keys()
    changes = {name: given.pop(name) for name in mine}
    for name, value in changes.items():
        if isinstance(value, list | os.PathLike):
            changes[name] = tuple(value) if isinstance(value, list) else os.fspath(value)
    return dataclasses.replace(config, **changes)


def check_all_taken(function: str, given: Mapping[str, object], known: type) -> None:
    """Raises ValueError where an option is left that a function of the face does not know."""
    if given:
        names, first = known.__annotations__, next(iter(given))
        similar = difflib.get_close_matches(first, names, 1)
        hint = f"did you mean {similar[0]}?" if similar else f"expected {', '.join(names)}"
        raise ValueError(f"{function} has no option {first}: {hint}")
