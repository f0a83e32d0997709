"""Predictions as a table, one row a film, and another head's on the same films beside ours."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Float64, Shaped
from scipy import special

from cxr_embeddings.common import untrusted

from .statistics import bootstrap, discrimination
from .statistics.metrics import Scored

IDS = ("image_id", "patient_id", "study_id", "split")


def table(
    ids: Mapping[str, Shaped[np.ndarray, " n"]],
    findings: Sequence[str],
    logit: Float[np.ndarray, "n finding"],
    temperatures: Mapping[str, float],
    label: Float32[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
) -> pd.DataFrame:
    """Columns of ids, then of every finding NAME_label (1, 0 or empty) and its `scores`."""
    columns: dict[str, Any] = dict(ids)
    for j, name in enumerate(findings):
        known = pd.array(np.where(mask[:, j], label[:, j], np.nan), "Float32")
        columns[f"{name}_label"] = known.astype("Int64")
        columns |= scores(name, logit[:, j], temperatures[name])
    return pd.DataFrame(columns)


def scores(
    finding: str, logit: Float[np.ndarray, " n"], temperature: float
) -> dict[str, Float64[np.ndarray, " n"]]:
    """NAME_logit, by which films are ranked, and NAME_probability, after temperature scaling.

    Probabilities round to 1 beyond a logit of 37, and films that differ are then alike.
    """
    exact = logit.astype(np.float64)
    return {f"{finding}_logit": exact, f"{finding}_probability": special.expit(exact / temperature)}


def read(folder: str | os.PathLike) -> pd.DataFrame:
    """The predictions of a head, by image_id.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are damaged, or name a film twice.
    """
    file = os.path.join(folder, "predictions.csv")
    if not os.path.isfile(file):
        raise FileNotFoundError(f"no predictions.csv in {folder}; expected a folder of train_head")
    with open(file, "rb") as stream:
        data = io.BytesIO(untrusted.read_table(stream, packed=False, file=file))
    found = pd.read_csv(
        data,
        dtype=dict.fromkeys(IDS, str),
        keep_default_na=False,
        na_values=[""],
        encoding_errors="surrogateescape",
    )
    if not {*IDS} <= {*found} or found["image_id"].duplicated().any():
        raise ValueError(f"{file} lacks one of {', '.join(IDS)}, or names a film twice")
    return found.set_index("image_id")


def compare(
    other: pd.DataFrame,
    name: str,
    split: str,
    image_id: Shaped[np.ndarray, " n"],
    findings: Sequence[str],
    scored: Scored,
) -> dict[str, Any]:
    """A paired test between this head and another on the films that both are tested on.

    DeLong's, with films of one patient added up (`discrimination.compare`).

    Args:
        other: what `read` gives.
        name: of the other head.
        split: the one that is measured.
        image_id: of this head's films of that split.
        findings, scored: of them.

    Returns:
        Plain JSON values: `other`, `test` (which), `n` films in both, and for each finding auroc,
        other_auroc, difference (this head's less the other's), low, high, z, p, p_holm, or why not
        (undefined).

    Raises:
        ValueError: the other head is tested on no film or finding of these, trained or chosen on
            some, has other labels, or probabilities of 0 or 1 without logits.
    """
    common = [finding for finding in findings if f"{finding}_probability" in other]
    if not common:
        raise ValueError(f"{name} has no prediction of {', '.join(findings)}")
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
    theirs = _ranked(other, common, name)
    mine, patients = scored.logit[both][:, at].astype(np.float64), scored.patient_id[both]
    number = bootstrap.patients(patients)
    found = discrimination.compare(common, label, mask, theirs, mine, number)
    test = "DeLong" if len(np.unique(number)) == len(number) else "DeLong by patient"
    if (patients == "").any():
        test += ", patients unknown" if (patients == "").all() else ", some patients unknown"
    for result in found.values():
        if result["undefined"] is None:
            result["auroc"], result["other_auroc"] = result.pop("auroc_b"), result.pop("auroc_a")
    return {"other": name, "test": test, "n": len(other), "findings": found}


def _ranked(
    other: pd.DataFrame, findings: Sequence[str], name: str
) -> Float64[np.ndarray, "n finding"]:
    """Logits; of heads from before there were any, probabilities, unless they have lost ranks."""
    kinds = ["logit" if f"{f}_logit" in other else "probability" for f in findings]
    columns = [f"{f}_{kind}" for f, kind in zip(findings, kinds, strict=True)]
    found = other[columns].to_numpy(np.float64)
    old = found[:, [kind == "probability" for kind in kinds]]
    if ((old <= 0) | (old >= 1 - 1e-9)).any():
        raise ValueError(
            f"{name} has no logits, and probabilities of 0 or 1, which do not rank films: train "
            "that head again with this version"
        )
    return found
