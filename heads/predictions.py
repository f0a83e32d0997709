"""Predictions as a table, one row a film, and another head's on the same films beside ours."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Shaped

from heads.statistics import discrimination

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


def compare(
    path: str | os.PathLike,
    image_id: Shaped[np.ndarray, " n"],
    findings: Sequence[str],
    probability: Float[np.ndarray, "n finding"],
    label: Float32[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
) -> dict[str, Any]:
    """DeLong's paired test between this head and the one that wrote `path`, on films of both.

    Args:
        path: folder of the other head.
        image_id: of this head's tested films.
        findings, probability, label, mask: of them.

    Returns:
        Plain JSON values: `other`, `n` films in both, and for each finding auroc, other_auroc,
        difference (this head's less the other's), low, high, z, p, p_holm, or why not (undefined).

    Raises:
        FileNotFoundError: there are no predictions.
        ValueError: they are of no common finding or film, or have other labels.
    """
    file = os.path.join(path, "predictions.csv")
    other = pd.read_csv(file, dtype=dict.fromkeys(IDS, str), keep_default_na=False, na_values=[""])
    common = [name for name in findings if f"{name}_probability" in other]
    if not common or "image_id" not in other:
        raise ValueError(f"found no prediction of {', '.join(findings)} in {file}")
    other = other.drop_duplicates("image_id").set_index("image_id").reindex(image_id)
    both = other[f"{common[0]}_probability"].notna().to_numpy()
    if not both.any():
        raise ValueError(
            f"{file} has none of the {len(image_id)} films this head is tested on, such as "
            f"{image_id[0]}: compare heads that share a test split"
        )
    other, at = other[both], [findings.index(name) for name in common]
    theirs = other[[f"{name}_label" for name in common]].to_numpy(np.float64)
    label, mask = label[both][:, at], mask[both][:, at] & np.isfinite(theirs)
    if differing := int((mask & (label != theirs)).sum()):
        raise ValueError(
            f"{differing} labels in {file} differ from this head's: compare heads with one table "
            "of labels and the same policies"
        )
    scores = other[[f"{name}_probability" for name in common]].to_numpy(np.float64)
    found = discrimination.compare(
        common, label, mask, scores, probability[both][:, at].astype(np.float64)
    )
    for result in found.values():
        if result["undefined"] is None:
            result["auroc"], result["other_auroc"] = result.pop("auroc_b"), result.pop("auroc_a")
    return {"other": os.path.basename(os.path.abspath(path)), "n": len(other), "findings": found}
