"""Predictions as a table, one row a film, and another head's on the same films beside ours."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Shaped

from configs import untrusted
from heads.statistics import bootstrap, discrimination

IDS = ("image_id", "patient_id", "study_id", "split")


def table(
    ids: Mapping[str, Shaped[np.ndarray, " n"]],
    findings: Sequence[str],
    probability: Float[np.ndarray, "n finding"],
    label: Float32[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
) -> pd.DataFrame:
    """Columns of ids, then for every finding NAME_label (1, 0 or empty) and NAME_probability."""
    columns: dict[str, Any] = dict(ids)
    for j, name in enumerate(findings):
        known = pd.array(np.where(mask[:, j], label[:, j], np.nan), "Float32")
        columns[f"{name}_label"] = known.astype("Int64")
        columns[f"{name}_probability"] = probability[:, j].astype(np.float64)
    return pd.DataFrame(columns)


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
    found = pd.read_csv(data, dtype=dict.fromkeys(IDS, str), keep_default_na=False, na_values=[""])
    if not {*IDS} <= {*found} or found["image_id"].duplicated().any():
        raise ValueError(f"{file} lacks one of {', '.join(IDS)}, or names a film twice")
    return found.set_index("image_id")


def compare(
    other: pd.DataFrame,
    name: str,
    split: str,
    image_id: Shaped[np.ndarray, " n"],
    patient_id: Shaped[np.ndarray, " n"],
    findings: Sequence[str],
    probability: Float[np.ndarray, "n finding"],
    label: Float32[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
) -> dict[str, Any]:
    """A paired test between this head and another on the films that both are tested on.

    DeLong's, with films of one patient added up (`discrimination.compare`).

    Args:
        other: what `read` gives.
        name: of the other head.
        split: the one that is measured.
        image_id, patient_id: of this head's films of that split.
        findings, probability, label, mask: of them.

    Returns:
        Plain JSON values: `other`, `test` (which), `n` films in both, and for each finding auroc,
        other_auroc, difference (this head's less the other's), low, high, z, p, p_holm, or why not
        (undefined).

    Raises:
        ValueError: the other head is tested on no film or finding of these, trained or chosen on
            some, or has other labels.
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
    label, mask = label[both][:, at], mask[both][:, at] & np.isfinite(theirs)
    if differing := int((mask & (label != theirs)).sum()):
        raise ValueError(
            f"{differing} labels of {name} differ from this head's: compare heads with one table "
            "of labels and the same policies"
        )
    scores = other[[f"{finding}_probability" for finding in common]].to_numpy(np.float64)
    mine, patients = probability[both][:, at].astype(np.float64), patient_id[both]
    number = bootstrap.patients(patients)
    found = discrimination.compare(common, label, mask, scores, mine, number)
    test = "DeLong" if len(np.unique(number)) == len(number) else "DeLong by patient"
    for result in found.values():
        if result["undefined"] is None:
            result["auroc"], result["other_auroc"] = result.pop("auroc_b"), result.pop("auroc_a")
    return {"other": name, "test": test, "n": len(other), "findings": found}
