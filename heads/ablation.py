"""What each part of a head's input is worth: a head on that part alone, on the same films."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from cxr_embeddings.configs.schema import TrainingConfig

from . import select
from .select import SplitFilms
from .statistics import bootstrap, discrimination
from .statistics.metrics import Scored
from .statistics.results import Part


def measure(
    name: str,
    part: Float[np.ndarray, "table dim"],
    splits: tuple[SplitFilms, SplitFilms, SplitFilms],
    whole: Scored,
    findings: Sequence[str],
    recipe: TrainingConfig,
    gain: Float32[np.ndarray, " dim"],
) -> Part:
    """Trains and chooses a head on a part as the whole was, and compares both on the same films.

    The splits are train, tune and test, on which `whole` are the scores of the head on all parts.
    The difference is its AUROC less that of the part, which is called `name`.
    """
    films, tune, test = splits
    trained = select.fit(part, films, tune, recipe, gain=gain)
    theirs = select.score(trained, part, test.row)
    patient = bootstrap.patients(whole.patient_id)
    label, mask, ours = test.label, test.mask, whole.logit.astype(np.float64)
    aurocs = {
        finding: discrimination.with_interval(theirs[known, j], label[known, j], patient[known])
        for j, finding in enumerate(findings)
        for known in [mask[:, j]]
    }
    less = discrimination.comparison(name, findings, label, mask, ours, theirs, whole.patient_id)
    return {"auroc": aurocs, "less": less}
