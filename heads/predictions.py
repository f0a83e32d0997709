"""Predictions as a table, one row a film, and another head's on the same films beside ours."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Shaped
from scipy import special

from cxr_embeddings.common import csv_tables, writing

from . import changes, distance, select
from .saved import Saved
from .statistics import discrimination
from .statistics.metrics import Scored
from .statistics.results import Comparison

IDS = ("image_id", "patient_id", "study_id", "split")


class Other(NamedTuple):
    """Another head: its name, and its predictions by image_id."""

    name: str
    predicted: pd.DataFrame


def table(
    ids: Mapping[str, object],
    findings: Sequence[str],
    logit: Float32[np.ndarray, "n finding"],
    temperatures: Mapping[str, float],
    label: Float32[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
) -> pd.DataFrame:
    """Columns of `ids` as given, then of every finding NAME_label (1, 0, NA) and its `scores`."""
    columns: dict[str, object] = dict(ids)
    for j, name in enumerate(findings):
        known = pd.array(np.where(mask[:, j], label[:, j], np.nan), "Float32")
        columns[f"{name}_label"] = known.astype("Int64")
        columns |= scores(name, logit[:, j], temperatures[name])
    return pd.DataFrame(columns)


def scores(
    finding: str, logit: Float32[np.ndarray, " n"], temperature: float
) -> dict[str, Float[np.ndarray, " n"]]:
    """NAME_logit, by which films are ranked, and NAME_probability, after temperature scaling.

    Probabilities round to 1 beyond a logit of 37, and films that differ are then alike.
    """
    probability = special.expit(logit.astype(np.float64) / temperature)
    return {f"{finding}_logit": logit, f"{finding}_probability": probability}


def predict(
    saved: Saved, matrix: Float[np.ndarray, "n wide"], names: Shaped[np.ndarray, " n"]
) -> pd.DataFrame:
    """What a head says of films, or of studies; `matrix` is of `inputs.widen`, or the embeddings.

    Returns:
        image_id; ood_distance (float32) and out_of_distribution (0 or 1), of `distance.columns`;
        and for each finding NAME_logit (float32), NAME_probability (float64) and NAME_positive: 1
        where that reaches the head's threshold, else 0; NA without a threshold. Columns of changes
        have what `changes.scores` adds.
    """
    if not len(matrix):  # the columns of some film, without it
        return predict(saved, np.zeros_like(matrix, shape=(1, matrix.shape[1])), np.array([""]))[:0]
    row, film = np.arange(len(matrix)), matrix[:, : saved.card["width"]]
    logit = select.score(saved.trained, matrix, row)
    far = distance.columns(distance.measure(saved.spread, film, row))
    columns: dict[str, Any] = {"image_id": names, **far}
    limits = {}
    for j, finding in enumerate(saved.card["findings"]):
        found = scores(finding, logit[:, j], saved.card["temperatures"][finding])
        threshold = limits[finding] = next(iter(saved.card["thresholds"][finding].values()))
        called = pd.array([pd.NA] * len(logit), "Int64")
        if threshold is not None:
            reached = found[f"{finding}_probability"] >= threshold
            called = pd.array(reached.astype(int), "Int64")
        columns |= {**found, f"{finding}_positive": called}
    probability = {name: columns[f"{name}_probability"] for name in limits}
    return pd.DataFrame(columns | changes.scores([*limits], probability, limits))


def encode(predicted: pd.DataFrame, unknown: str = "") -> bytes:
    """Predictions as CSV; a number is the shortest text that gives it back in its own precision."""
    columns = [
        [unknown if gone else one for gone, one in zip(column.isna(), column.array, strict=True)]
        for _, column in predicted.items()
    ]
    return writing.encode_table([*predicted.columns], zip(*columns, strict=True))


def read(folder: str | os.PathLike) -> Other:
    """The predictions of a head that was trained and tested before.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are damaged, or name a film twice.
    """
    file = os.path.join(folder, "predictions.csv")
    if not os.path.isfile(file):
        raise FileNotFoundError(f"no predictions.csv in {folder}; expected a folder of train_head")
    found = pd.DataFrame(csv_tables.read_records(file))
    if not {*IDS} <= {*found} or found["image_id"].duplicated().any():
        raise ValueError(f"{file} lacks one of {', '.join(IDS)}, or names a film twice")
    numbers = found.columns.difference([*IDS])
    found[numbers] = found[numbers].where(found[numbers] != "").astype(np.float64)
    return Other(os.path.basename(os.path.abspath(folder)), found.set_index("image_id"))


def compare(
    against: Other,
    split: str,
    image_id: Shaped[np.ndarray, " n"],
    findings: Sequence[str],
    scored: Scored,
) -> Comparison:
    """A paired test between this head and another on the films that both are tested on.

    DeLong's, with films of one patient added up (`discrimination.compare`). `image_id`, `findings`
    and `scored` are of this head's films of the split.

    Raises:
        ValueError: the other head is tested on no film or finding of these, trained or chosen on
            some, or has other labels.
    """
    name, other = against
    common = [finding for finding in findings if f"{finding}_logit" in other]
    if not common:
        raise ValueError(f"{name} has no logits of {', '.join(findings)}")
    other = other.reindex(image_id)
    both = other["split"].notna().to_numpy()
    if not both.any():
        raise ValueError(
            f"{name} has none of the {len(image_id)} films this head is tested on, such as "
            f"{image_id[0]}: compare heads that share a test split"
        )
    if elsewhere := int((both & (other["split"] != split).to_numpy()).sum()):
        raise ValueError(
            f"{elsewhere} of the films this head is tested on are not in the split {split} of "
            f"{name}, which was chosen on them: compare heads that share their splits"
        )
    other, at = other[both], [findings.index(finding) for finding in common]
    theirs = other[[f"{finding}_label" for finding in common]].to_numpy(np.float64)
    label, mask = scored.label[both][:, at], scored.mask[both][:, at] & np.isfinite(theirs)
    if differing := int((mask & (label != theirs)).sum()):
        raise ValueError(
            f"{differing} labels of {name} differ from this head's: compare heads with one table "
            "of labels and the same policies"
        )
    theirs = other[[f"{finding}_logit" for finding in common]].to_numpy(np.float64)
    mine, patients = scored.logit[both][:, at].astype(np.float64), scored.patient_id[both]
    return discrimination.comparison(name, common, label, mask, mine, theirs, patients)
