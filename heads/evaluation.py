"""A head that exists, on films of another place: measured as a new head is on its test films."""

import dataclasses
import os
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from cxr_embeddings.common import csv_tables
from cxr_embeddings.common.film_names import clean, same_films
from cxr_embeddings.configs.schema import EvaluateConfig

from . import experiment, predictions
from .experiment import Experiment, Fitted
from .labels.columns import as_number
from .labels.label_table import Examples, note
from .labels.splits import random_splits
from .network import HeadNetwork
from .saved import Saved
from .statistics.metrics import Chosen, Scored


class Past(NamedTuple):
    """What is known of the films that a head was trained and chosen on."""

    films: pd.DataFrame | None  # ids of those of train and tune
    predicted: pd.DataFrame | None  # of those of tune, among others


def read_past(folder: str | os.PathLike) -> Past:
    """What the folder of a head says of its films; one that `Head.save` wrote says nothing."""
    file = os.path.join(folder, experiment.TRAINING_FILMS)
    known = pd.DataFrame(csv_tables.read_records(file)) if os.path.isfile(file) else None
    has = os.path.isfile(os.path.join(folder, "predictions.csv"))
    return Past(known, predictions.read(folder).predicted if has else None)


def fitted(saved: Saved, findings: tuple[str, ...]) -> Fitted:
    """The part of a head that scores some of its findings.

    Raises:
        ValueError: it does not score one of them.
    """
    card, trained = saved.card, saved.trained
    if lacking := [name for name in findings if name not in card["findings"]]:
        raise ValueError(
            f"the head does not score {', '.join(lacking)}; expected findings among "
            f"{', '.join(card['findings'])}"
        )
    columns = [card["findings"].index(name) for name in findings]
    layer = {
        name: leaf[..., columns] for name, leaf in trained.variables["params"]["logit"].items()
    }
    params = {**trained.variables["params"], "logit": layer}
    network = HeadNetwork(len(findings), trained.head.hidden)
    some = trained._replace(head=network, variables={**trained.variables, "params": params})
    chosen = {
        name: Chosen(card["temperatures"][name], card["thresholds"][name], None)
        for name in findings
    }
    return Fitted(some, saved.spread, chosen)


def check_new(examples: Examples, past: Past, head: str) -> None:
    """Raises ValueError where a head was trained or chosen on some of the patients or films.

    Folders count as far as the names of both have them, and zeros before a number do not.
    """
    if past.films is None:
        return
    known = past.films[past.films["split"] != "test"]
    seen = np.zeros(len(examples.row), bool)
    names = ([*map(clean, ids)] for ids in (examples.image_id, known["image_id"]))
    seen[[film for film, _ in same_films(*names)]] = True
    patients = {*map(as_number, known["patient_id"])} - {""}
    of_known = np.array([as_number(one) in patients for one in examples.patient_id], bool)
    if count := int((seen | of_known).sum()):
        raise ValueError(
            f"{head} was trained or chosen on {int(seen.sum())} of these {len(seen)} films, and on "
            f"patients of {count} of them, such as {examples.image_id[seen | of_known][0]}; "
            "expected none, or the head looks better than it is: name the split of its test films "
            "(labels.test, with labels.split_path or labels.split_column), or leave these films "
            "out. If only the numbers of the patients are alike, put the name of the hospital "
            "before them"
        )


def with_local(examples: Examples, share: float, seed: int) -> Examples:
    """The test films, with those of a share of the patients in the split "local".

    The draw depends on nothing but which patients there are. If one is unknown, none is drawn.

    Raises:
        ValueError: no film is left to be measured, or the share is out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"local is {share}; expected a share of the patients, from 0 to below 1")
    some = examples.at(examples.split == "test")
    if not len(some.row):
        raise ValueError("no film with a known label is in the split that is to be measured")
    if (unknown := some.patient_id == "").any():
        what = "films of unknown patients: nothing is recalibrated, lest a patient be in both parts"
        return dataclasses.replace(some, notes=some.notes + note(what, some.image_id[unknown]))
    if not share:
        return some
    halves = random_splits(some.patient_id, (share / 2, share / 2, 1 - share), seed)
    if not (halves == "test").any():
        raise ValueError(f"local is {share}, which leaves no patient to be measured: lower it")
    return dataclasses.replace(some, split=np.where(halves == "test", "test", "local"))


def run(
    embedding: Float[np.ndarray, "table dim"],
    examples: Examples,
    head: Fitted,
    past: Past,
    config: EvaluateConfig,
) -> Experiment:
    """Measures a head on the test films; those of the split "local" recalibrate it.

    Raises:
        ValueError: no finding has both classes in test.
    """
    splits = [split for split in ("local", "test") if (examples.split == split).any()]
    scored = {one: experiment.score(head.trained, embedding, examples, one) for one in splits}
    label, mask = scored["test"].label > 0, scored["test"].mask
    if not ((mask & label).any(0) & (mask & ~label).any(0)).any():
        raise ValueError(
            f"no finding of {', '.join(examples.findings)} has both classes among the {len(label)} "
            "films that are measured: give more films, or other findings"
        )
    tune = None if past.predicted is None else _tune(past.predicted, examples.findings)
    return experiment.measure(
        embedding, examples, head, scored, "test", tune, config.resamples, config.seed
    )


def as_other(
    name: str, saved: Saved, embedding: Float[np.ndarray, "table dim"], examples: Examples
) -> predictions.Other:
    """Another head's predictions for the test films, to be compared with."""
    findings = tuple(name for name in examples.findings if name in saved.card["findings"])
    at = [examples.findings.index(name) for name in findings]
    of_other = dataclasses.replace(
        examples, findings=findings, label=examples.label[:, at], mask=examples.mask[:, at]
    )
    scored = experiment.score(fitted(saved, findings).trained, embedding, of_other, "test")
    ids = {one: getattr(examples, one)[examples.split == "test"] for one in predictions.IDS}
    table = predictions.table(
        ids, findings, scored.logit, saved.card["temperatures"], scored.label, scored.mask
    )
    return predictions.Other(name, table.set_index("image_id"))


def _tune(predicted: pd.DataFrame, findings: tuple[str, ...]) -> Scored | None:
    """The films that a head was chosen on, of its predictions; None where they are not there."""
    films = predicted[predicted["split"] == "tune"]
    columns = {what: [f"{name}_{what}" for name in findings] for what in ("label", "logit")}
    if not len(films) or not {*columns["label"], *columns["logit"]} <= {*films}:
        return None
    label, logit = (films[columns[what]].to_numpy(np.float64, na_value=np.nan) for what in columns)
    mask = np.isfinite(label)
    return Scored(logit, np.where(mask, label, 0.0), mask, films["patient_id"].to_numpy(object))
