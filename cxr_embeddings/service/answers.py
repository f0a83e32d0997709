"""What clients get: an embedding or an error in the form that they sent, and what heads say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cxr_embeddings.service.instances import Form

if TYPE_CHECKING:
    from cxr_embeddings.heads.saved import Saved
    from cxr_embeddings.heat_maps import HeatMap

MOST_TEXT = 1024  # characters of an error, as in the container of CXR Foundation 2


def embedding(form: Form, vector: np.ndarray) -> object:
    """The prediction of an instance, `vector` being float32 [dim]."""
    if form == "toolkit":
        return [vector]  # its client reads predictions[0][0]
    if form == "medsiglip":
        return {"embedding": vector, "input_type": "image"}
    return {"general_img_emb": [vector]}  # its schema has rows of numbers


def error(form: Form, text: str, code: str) -> object:
    """The prediction of an instance that has none."""
    said = {"description": text[:MOST_TEXT]}
    return {"error": {"code": code, **said} if form == "medsiglip" else said}


def scores(
    saved: Saved, vector: np.ndarray, maps: Mapping[str, HeatMap] | None
) -> dict[str, object]:
    """What a head says of a film: probabilities, thresholds, and whether it is a strange film."""
    from cxr_embeddings.heads import features, predictions

    with features.on_cpu():
        row = predictions.predict(saved, vector[None], np.array(["film"], object)).iloc[0]
    findings = {}
    for name in saved.card["findings"]:
        threshold = next(iter(saved.card["thresholds"][name].values()))
        probability = float(row[f"{name}_probability"])
        one: dict[str, object] = {
            "logit": float(row[f"{name}_logit"]),
            "probability": probability,
            "threshold": threshold,
            "positive": None if threshold is None else probability >= threshold,
        }
        if maps is not None:
            one["heat_map_maximum"] = dict(zip("xy", maps[name].maximum, strict=True))
        findings[name] = one
    return {
        "ood_distance": float(row["ood_distance"]),
        "out_of_distribution": bool(row["out_of_distribution"]),
        "findings": findings,
    }
