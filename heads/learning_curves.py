"""AUROC against the number of labels, for embeddings that are compared with one another.

`data_efficiency` shows how far single draws of labels scatter. What is estimated here is the mean
over the draws, and its intervals hold both sources of chance: which patients are tested, and which
were drawn to train on. With the same films and seed all embeddings meet the same draws and the same
resamples, so that the differences between them are paired.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Shaped

from heads.candidates import Films
from heads.data_efficiency import draw, score_draw
from heads.statistics import bootstrap
from heads.statistics.bootstrap import Measured
from heads.train import Recipe


def measure(
    embedding: Float[np.ndarray, "table dim"],
    films: Films,
    patient_id: Shaped[np.ndarray, " film"],
    tune: Films,
    test: Films,
    recipe: Recipe,
    draws_of: dict[int, int],
    tested: bootstrap.Draws,
    seed: int,
    after_draw: Callable[[], Any] = lambda: None,
) -> dict[int, list[Measured]]:
    """Mean AUROC on test over draws of so many films to train on.

    Every draw is of patients, and trained as `data_efficiency.score_draw` does.

    Args:
        embedding: of which `films`, `tune` and `test` are rows.
        films: to draw from.
        patient_id: of each of them.
        tune: to choose by.
        test: to measure.
        recipe: of the heads.
        draws_of: number of films to train on -> draws of them; of all films one is made.
        tested: resamples of the patients of `test`.
        seed: of the draws.
        after_draw: is called after each.

    Returns:
        For each number of films and each finding the mean AUROC. A resample's deviation from it is
        that of its test patients with all draws, plus that of draws drawn anew with all patients.
        The mean of n values drawn anew has (n - 1) / n of the variance that it should have
        (Hesterberg, The American Statistician 2015;69:371-386): deviations of draws are scaled up
        by the root. Of one draw the interval holds the patients of test alone.
    """
    curve = {}
    for size, number in draws_of.items():
        number = 1 if size == len(films.row) else number
        auroc = np.full((number, test.label.shape[1]), np.nan)
        wins: list[Any] = [0.0] * test.label.shape[1]
        for i in range(number):
            chosen = draw(patient_id, size, (seed, size, i))
            logit, known = score_draw(embedding, films, chosen, tune, test, recipe)
            for j in known:
                won = _wins(logit[:, j], test.label[:, j], test.mask[:, j])
                auroc[i, j] = won.mean()
                wins[j] += won
            after_draw()
        again = np.random.default_rng((seed, size)).integers(
            number, size=(len(tested.count), number)
        )
        curve[size] = [
            _measured(auroc[:, j], wins[j], test.label[:, j], test.mask[:, j], tested, again)
            for j in range(len(wins))
        ]
    return curve


def difference(one: Measured, other: Measured) -> Measured:
    """One less the other, of the same resamples; undefined where one of them is."""
    if one.value is None or other.value is None:
        return Measured(None, np.empty(0))
    return Measured(one.value - other.value, one.of_resamples - other.of_resamples)


def _wins(logit: np.ndarray, label: np.ndarray, mask: np.ndarray) -> Float64[np.ndarray, "p n"]:
    """Whether each positive film is above each negative one: 1, or 0, or a half where they tie."""
    positive, negative = logit[mask & (label > 0)], logit[mask & (label == 0)]
    above = positive[:, None] > negative
    return above + 0.5 * (positive[:, None] == negative)


def _measured(
    auroc: Float64[np.ndarray, " draw"],
    wins: Any,
    label: np.ndarray,
    mask: np.ndarray,
    tested: bootstrap.Draws,
    again: np.ndarray,
) -> Measured:
    """The mean of the draws that count. `wins`: their sum."""
    known = np.isfinite(auroc)
    if not known.any():
        return Measured(None, np.empty(0))
    value, mean_wins = auroc[known].mean(), wins / known.sum()
    rows = np.flatnonzero(mask)
    positive, of_test = label[rows] > 0, []
    for weight in bootstrap.weights(tested, rows):
        of_positive, of_negative = weight[:, positive], weight[:, ~positive]
        won = ((of_positive @ mean_wins) * of_negative).sum(1)
        of_test.append(bootstrap.ratio(won, of_positive.sum(1) * of_negative.sum(1)))
    drawn = bootstrap.ratio(np.nansum(auroc[again], axis=1), known[again].sum(1).astype(np.float64))
    deviation = (drawn - value) * np.sqrt(known.sum() / max(1, known.sum() - 1))
    return Measured(float(value), np.concatenate(of_test) + deviation)
