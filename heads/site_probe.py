"""How well embeddings tell what no head should need: the hospital, the scanner, the view.

A head can take such a trace for the finding where they go together (Zech et al., PLoS Medicine
2018;15:e1002683).
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from sklearn.model_selection import StratifiedGroupKFold

from . import data_efficiency, features, probe
from .statistics import auroc_interval, bootstrap
from .statistics.site_results import Told

FOLDS, MOST, PENALTY = 5, 2000, 0.1  # MOST films of a class are drawn, by patient
FEWEST = 20  # patients of a class


def tell(
    embedding: Float[np.ndarray, "table dim"],
    row: Int[np.ndarray, " film"],
    label: Bool[np.ndarray, " film"],
    patient_id: Shaped[np.ndarray, " film"],
    what: str,
    seed: int,
) -> Told:
    """AUROC of a linear probe for a label, by cross-validation in folds of patients.

    Each film is scored by the probe of the folds without its patient. The interval is by patient,
    and holds the probes fixed. The logits of a fold are centred, since each fold has its own bias.
    """
    drawn = [
        np.flatnonzero(label == one)[data_efficiency.draw(patient_id[label == one], MOST, (seed,))]
        for one in (True, False)
    ]
    chosen = np.sort(np.concatenate(drawn))
    row, label, patient = row[chosen], label[chosen], bootstrap.patients(patient_id[chosen])
    told: Told = {"what": what, "n": len(label), "positives": int(label.sum()), "auroc": None}
    if min(len(np.unique(patient[label == one])) for one in (True, False)) < FEWEST:
        return told
    films = np.concatenate([*features.blocks(embedding, row)]).astype(np.float32)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    tests = np.zeros((len(films), FOLDS), bool)
    for fold, (_, test) in enumerate(splitter.split(films, label, patient)):
        tests[test, fold] = True
    target = np.repeat(label[:, None], FOLDS, axis=1).astype(np.float32)
    probes = probe.fit(films, target, (~tests).astype(np.float32), [PENALTY])  # a question a fold
    found = probe.logits(probes, films)[0]
    centre = np.ma.masked_array(found, tests).mean(axis=0).filled(0.0)
    logit = (found - centre)[tests]
    positive = label.astype(np.int64)
    value = auroc_interval.rank(logit, positive).value
    low, high = auroc_interval.interval(logit, positive, patient) or (None, None)
    return {**told, "auroc": {"value": value, "low": low, "high": high}}
