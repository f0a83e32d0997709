"""What a head sees beside the embedding of a film: a prior film's, and the patient's record.

All stands in one matrix, a row a film: the embedding; with a prior, the embedding of the last
earlier study or the difference to it (zeros where there is none); the logarithm of one and the days
between the two; the record. One matrix serves linear probes and hidden layers alike.
"""

import dataclasses
import os
import tempfile
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Shaped
from typing_extensions import TypedDict

from cxr_embeddings.common import untrusted
from cxr_embeddings.configs.schema import LabelsConfig

from . import features
from .labels import priors, record
from .labels.label_table import Examples
from .labels.matching import FilmIds, film_ids
from .labels.studies import merge_embeddings
from .statistics.results import Note

AGE = "log(1 + days since the prior film)"  # hours to years: the longest would rule the others


@untrusted.may_have_more
class Inputs(TypedDict):
    """What a head needs beside embeddings: a part of its card."""

    prior: Literal["none", "difference", "concatenate"]
    age: list[record.Column]  # of the prior film; none without a prior
    record: list[record.Column]


class Known(NamedTuple):
    """What tables say of all films that have embeddings."""

    record: dict[str, Shaped[np.ndarray, " film"]]
    priors: priors.Priors | None
    merge: str  # of several films of a prior study: mean or max
    notes: list[Note]


def check(config: LabelsConfig) -> None:
    """Raises ValueError where settings cannot be followed."""
    if config.prior not in priors.KINDS:
        raise ValueError(
            f"labels.prior is {config.prior!r}; expected one of {', '.join(priors.KINDS)}"
        )
    if config.covariates_path and not config.covariates:
        raise ValueError(
            f"found covariates_path={config.covariates_path} and no covariates; expected the "
            "columns of it that the head is to know, such as age,heartrate"
        )
    if len({*config.covariates}) < len(config.covariates):
        raise ValueError(f"covariates={config.covariates} names a column twice")


def gather(config: LabelsConfig, films: FilmIds) -> Known | None:
    """Reads the record and the times of films; None where the settings ask for neither.

    Raises:
        ValueError: tables are damaged, contradict themselves, or say nothing of these films.
    """
    tables = []
    if config.covariates:
        tables.append(record.read(config.covariates_path or config.path, config.covariates))
    if config.prior != "none":
        tables.append(priors.read(config.metadata_path or config.path))
    if not tables:
        return None
    if config.prior == "none" and config.metadata_path:  # it may tell studies and patients
        tables.append(record.read(config.metadata_path, []))
    films, rows, notes = record.locate(films, tables, config.name_parts)
    known = [record.values(*pair) for pair in zip(tables, rows, strict=True)]
    found = None
    if config.prior != "none":
        date, time, *view = known.pop().values()
        of_films = config.per_study == "none"  # else all views of a study are one example
        found, more = priors.find(
            films, priors.moments(date, time), view[0] if view and of_films else None
        )
        notes += more
    merge = "max" if config.per_study == "max" else "mean"
    return Known(known[0] if known else {}, found, merge, notes)


def learn(config: LabelsConfig, known: Known, train: Int64[np.ndarray, " train"]) -> Inputs:
    """How tables become numbers, by the films of train, rows of the embeddings, alone.

    Raises:
        ValueError: a column cannot serve, or no film of train has an earlier study.
    """
    age = []
    if known.priors:
        if np.isnan(known.priors.days[train]).all():
            raise ValueError(
                f"none of {len(train)} films of train has an earlier study of its patient among "
                "the embeddings; expected some: embed more films, or leave out labels.prior"
            )
        age = [record.learn(AGE, np.log1p(known.priors.days[train]), may_be_equal=True)]
    columns = [record.learn(name, values[train]) for name, values in known.record.items()]
    return Inputs(prior=config.prior, age=age, record=columns)  # type: ignore[typeddict-item]


def width(inputs: Inputs | None, film: int) -> int:
    """How many numbers a head sees with embeddings of so many."""
    if inputs is None:
        return film
    beside = record.width([*inputs["age"], *inputs["record"]])
    return film * (1 + (inputs["prior"] != "none")) + beside


def film_width(inputs: Inputs | None, whole: int) -> int:
    """How many of the numbers that a head sees are the embedding's."""
    if inputs is None:
        return whole
    return (whole - width(inputs, 0)) // (1 + (inputs["prior"] != "none"))


def parts(inputs: Inputs | None, film: int) -> dict[str, slice]:
    """Columns of the matrix to train on in place of all, to see what each part of it is worth."""
    if inputs is None:
        return {}
    whole, beside = width(inputs, film), record.width(inputs["record"])
    found = {"film alone": slice(0, film)}
    if inputs["prior"] != "none" and beside:
        found["film and prior"] = slice(0, whole - beside)
    if beside:
        found["record alone"] = slice(whole - beside, whole)
    return found


def gain(inputs: Inputs | None, film: int) -> Float32[np.ndarray, " wide"]:
    """By how much each number of the matrix counts more than standardised ones in a penalty.

    A few numbers beside thousands would be held back by the penalty that is best for those: soft
    block scaling multiplies them by the fourth root of how many times fewer they are (Eriksson et
    al., Multi- and Megavariate Data Analysis, 2013).
    """
    found, beside = np.ones(width(inputs, film), np.float32), width(inputs, 0)
    found[len(found) - beside :] = max(1.0, film / max(1, beside)) ** 0.25
    return found


def for_examples(
    config: LabelsConfig,
    embedding: Float[np.ndarray, "film dim"],
    examples: Examples,
    learnt: Inputs | None = None,
) -> tuple[Float[np.ndarray, "film wide"], Examples, Inputs | None]:
    """What a head sees of films, examples that know their times, and what it needs to predict.

    That is learnt on the films of train, unless it is given.

    Raises:
        ValueError: as `gather` and `learn`.
    """
    known = gather(config, examples.embedded)
    if known is None:
        return embedding, examples, None
    inputs = learnt or learn(config, known, examples.row[examples.split == "train"])
    matrix = widen(embedding, known, inputs)
    taken = known.priors.taken[examples.row] if known.priors else None
    notes = [*examples.notes, *known.notes, *_unlike_train(inputs, known, examples.row)]
    return matrix, dataclasses.replace(examples, taken=taken, notes=notes), inputs


def widen(
    embedding: Float[np.ndarray, "film dim"], known: Known, inputs: Inputs
) -> Float[np.ndarray, "film wide"]:
    """The matrix, in the dtype of the embeddings; one that is large lies in a file without a name.

    Raises:
        ValueError: a column of numbers has text or infinities.
    """
    films, dim = embedding.shape
    whole = width(inputs, dim)
    beside: list[tuple[record.Column, np.ndarray]] = []
    for column in inputs["age"]:
        if known.priors:
            beside.append((column, np.log1p(known.priors.days)))
    beside += [(column, known.record[column["name"]]) for column in inputs["record"]]
    shape, size = (films, whole), films * whole * embedding.itemsize
    if size <= features.IN_MEMORY:
        matrix = np.zeros(shape, embedding.dtype)
    else:
        with tempfile.TemporaryFile() as file:
            matrix = np.memmap(file, embedding.dtype, "w+", shape=shape)
    start = whole - record.width([column for column, _ in beside])
    for column, values in beside:
        numbers = record.encode(column, values)
        matrix[:, start : start + numbers.shape[1]] = numbers
        start += numbers.shape[1]
    for first in range(0, films, features.BLOCK):
        rows = slice(first, first + features.BLOCK)
        matrix[rows, :dim] = embedding[rows]
        if known.priors:
            inside = slice(*np.searchsorted(known.priors.of, (rows.start, rows.stop)))
            of, number = np.unique(known.priors.of[inside], return_inverse=True)
            if len(of):
                prior = merge_embeddings(embedding, known.priors.film[inside], number, known.merge)
                is_difference = inputs["prior"] == "difference"
                matrix[of, dim : 2 * dim] = embedding[of] - prior if is_difference else prior
    return matrix


def _unlike_train(inputs: Inputs, known: Known, rows: Int64[np.ndarray, " some"]) -> list[Note]:
    """Notes of the values of some films that no film of train has."""
    pairs = [(column, known.record[column["name"]][rows]) for column in inputs["record"]]
    return [one for pair in pairs for one in record.unlike_train(*pair)]


def of_card(
    inputs: Inputs | None,
    per_study: str,
    covariates: str | os.PathLike | None,
    metadata: str | os.PathLike | None,
) -> LabelsConfig:
    """The settings by which tables are read for new films.

    Raises:
        ValueError: a table that the head needs is not given, or one that it does not.
    """
    if inputs is None:
        if covariates or metadata:
            raise ValueError("the head sees films alone: leave out the covariates and the metadata")
        return LabelsConfig()
    config = LabelsConfig(
        covariates_path=os.path.expanduser(os.fspath(covariates or "")),
        metadata_path=os.path.expanduser(os.fspath(metadata or "")),
    )
    config = asked_by(inputs, config, per_study)
    names = config.covariates
    if covariates and not names:
        raise ValueError("the head knows no covariates: leave out their table")
    if names and not covariates:
        raise ValueError(
            f"the head knows the patient's record; expected a table of these films with "
            f"{', '.join(names)} (--covariates of predict.py, covariates= of predict)"
        )
    if inputs["prior"] != "none" and not metadata:
        raise ValueError(
            f"the head knows the prior film; expected a table of these films with "
            f"{priors.DATE} and {priors.TIME} (--metadata of predict.py, metadata= of predict)"
        )
    return config


def asked_by(inputs: Inputs | None, config: LabelsConfig, per_study: str) -> LabelsConfig:
    """Settings of tables with what the card of a head asks of them.

    Raises:
        ValueError: the settings ask for something themselves.
    """
    if config.covariates or config.prior != "none":
        raise ValueError(
            "found labels.covariates or labels.prior; expected none: the card of the head says "
            "what it needs, and the settings where it is (covariates_path, metadata_path)"
        )
    names = tuple(column["name"] for column in inputs["record"]) if inputs else ()
    prior = inputs["prior"] if inputs else "none"
    return dataclasses.replace(config, covariates=names, prior=prior, per_study=per_study)


def for_prediction(
    inputs: Inputs | None,
    embedding: Float[np.ndarray, "film dim"],
    image_id: Shaped[np.ndarray, " film"],
    per_study: str,
    covariates: str | os.PathLike | None,
    metadata: str | os.PathLike | None,
) -> tuple[Float[np.ndarray, "film wide"], Float64[np.ndarray, " film"] | None, list[Note]]:
    """What a head computes with, days since the prior film, and what the tables lack of the films.

    The days are NaN where there is no prior film, and None where the head asks for none.

    Raises:
        ValueError: a table that the head needs is not given, is another, or is not needed.
    """
    config = of_card(inputs, per_study, covariates, metadata)
    known = gather(config, film_ids(image_id)) if inputs else None
    if inputs is None or known is None:
        return embedding, None, []
    every = np.arange(len(image_id))
    notes = [*known.notes, *_unlike_train(inputs, known, every)]
    days = known.priors.days if known.priors else None
    return widen(embedding, known, inputs), days, notes


def needs(inputs: Inputs | None) -> list[str]:
    """What a head needs beside a film, in words."""
    if inputs is None:
        return []
    names = ", ".join(column["name"] for column in inputs["record"])
    record_of = [f"the patient's record ({names})"] if names else []
    return record_of + (["the patient's prior film"] if inputs["prior"] != "none" else [])
