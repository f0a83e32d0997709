"""Intervals of the area under the precision-recall curve, by patient."""

import numpy as np
from jaxtyping import Float, Float64, Int64, Real
from scipy import stats
from sklearn.metrics import average_precision_score

from . import auroc_interval, bootstrap, proportion

_LEAST = 0.5  # of the binomial variance: resamples of nearly separated films show almost none


def measure(
    score: Float[np.ndarray, " n"],
    label: Real[np.ndarray, " n"],
    patient: Int64[np.ndarray, " n"],
    of_resamples: Float64[np.ndarray, " resample"],
) -> bootstrap.Measured:
    """The AUPRC, as scikit-learn has it, and Wilson's limits of it (see Boyd et al., ECML 2013).

    The AUPRC is the mean precision at the positive films, and its variance at most that of a share.
    How many independent films it is worth follows from the films of each patient, the correlation
    of their scores, and the variance of the resamples, moderated as in `auroc_interval`. With few
    positive films it is too large on average: half a film with the precision of chance is added.

    The limits are None with fewer than two patients of a class, as for the AUROC.
    """
    value = float(average_precision_score(label, score))
    defined = of_resamples[np.isfinite(of_resamples)]
    if auroc_interval.why_none(label, patient) or not len(defined):
        return bootstrap.Measured(value, of_resamples, (None, None))
    positive = label > 0
    films = np.unique(patient[positive], return_counts=True)[1]
    total, patients, chance = int(films.sum()), len(films), float(positive.mean())
    pairs = float(np.square(films).sum() - total)
    worth = total**2 / (total + pairs * auroc_interval.correlation(score, positive, patient))
    inner = min(max(value, 0.5 / (total + 1)), 1 - 0.5 / (total + 1))
    ratio = float(defined.var()) / (inner * (1 - inner) / worth)
    worth /= max(_LEAST, auroc_interval.moderated(ratio, patients))
    middle = (value * worth + chance / 2) / (worth + 0.5)
    low, high = proportion.wilson(middle, worth + 0.5, float(stats.t.ppf(0.975, patients)))
    return bootstrap.Measured(value, of_resamples, (min(low, value), max(high, value)))
