"""Temperature, calibration error and calibration line, against scikit-learn and known truth."""

import numpy as np
import pytest
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from cxr_embeddings.heads.statistics import bootstrap, calibration


def films(n: int, seed: int = 0, confidence: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `confidence` times what they should be, and labels."""
    random = np.random.default_rng(seed)
    true = random.normal(-1, 1.5, n)
    return confidence * true, (random.random(n) < special.expit(true)).astype(np.int64)


def resampled(n: int, resamples: int = 40) -> tuple[bootstrap.Draws, np.ndarray]:
    patient_id = np.random.default_rng(5).integers(n // 2, size=n).astype(str)
    return bootstrap.draw(patient_id, resamples, seed=3), np.arange(n)


def test_temperature_undoes_overconfidence():
    logit, label = films(20_000)
    found, kept = calibration.temperature(logit, label)
    assert found == pytest.approx(2, abs=0.1) and kept is None
    loss = [log_loss(label, special.expit(logit / (found * by))) for by in (0.99, 1, 1.01)]
    assert min(loss) == loss[1]
    draws, rows = resampled(len(logit), resamples=1)
    before, _ = calibration.line(draws, rows, logit, label)
    after, _ = calibration.line(draws, rows, logit / found, label)
    assert before.value == pytest.approx(0.5, abs=0.03)
    assert after.value == pytest.approx(1, abs=0.06)
    assert after.value == pytest.approx(found * before.value)


@pytest.mark.parametrize(
    ("logit", "label", "why"),
    [
        ([-3.0, -2, 2, 3], [0, 0, 1, 1], "one threshold separates"),
        ([-3.0, -2, 2, 3], [1, 1, 0, 0], "one threshold separates"),
        ([-3.0, 1, 0.5, 2], [1, 1, 0, 0], "beyond 20"),  # ranked the wrong way round
        ([-0.003, 0.001, 0.0005, 0.002], [0, 0, 1, 1], "beyond 0.05"),
        ([-3.0, -2, 2, 3], [1, 1, 1, 1], "one class only"),
        ([], [], "one class only"),
    ],
)
def test_temperature_stays_1_where_tune_tells_none(logit, label, why):
    found, kept = calibration.temperature(np.array(logit), np.array(label))
    assert found == 1.0 and why in kept


@pytest.mark.parametrize("digits", [12, 2])
def test_scores_are_scikit_learns_in_every_resample(digits):
    logit, label = films(300)
    probability = np.round(special.expit(logit), digits)
    draws, rows = resampled(300)
    columns = calibration.columns(probability, label)
    sums = draws.count[:, draws.patient[rows]] @ columns
    found = calibration.measure(probability, label, sums, draws.patient[rows])
    plain = calibration.expected_error(columns.sum(axis=0, keepdims=True))[0]
    everyone = np.ones(300, np.int64)
    for r, weight in enumerate([everyone, *draws.count[:, draws.patient[rows]]]):
        y, p = (np.repeat(part, weight) for part in (label, probability))
        observed, predicted = calibration_curve(y, p, n_bins=15)
        films_in = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], p), minlength=15)
        films_in = films_in[films_in > 0] / len(p)
        brier, ece = found["brier"].value, plain
        if r:
            brier, ece = (found[metric].of_resamples[r - 1] for metric in ("brier", "ece"))
        assert brier == pytest.approx(brier_score_loss(y, p), abs=1e-12)
        assert ece == pytest.approx(films_in @ np.abs(observed - predicted), abs=1e-12)


def test_lines_are_scikit_learns_in_every_resample():
    logit, label = films(120)
    draws, rows = resampled(120)
    slope, intercept = calibration.line(draws, rows, logit, label)
    weights = [np.ones(120), *draws.count[:, draws.patient[rows]]]
    for r, weight in enumerate(weights):
        model = LogisticRegression(C=np.inf, tol=1e-9, max_iter=1000)
        model.fit(logit[:, None], label, sample_weight=weight)
        for found, expected in ((slope, model.coef_[0, 0]), (intercept, model.intercept_[0])):
            was = found.of_resamples[r - 1] if r else found.value
            assert was == pytest.approx(expected, abs=2e-5)


def test_separated_resamples_have_no_line():
    logit = np.array([-2.0, -1, 0, 1, 2, 3])
    label = np.array([0, 0, 1, 0, 1, 1])
    count = np.array(
        [
            [1, 1, 1, 1, 1, 1],
            [2, 1, 0, 1, 1, 1],  # separated
            [1, 1, 1, 0, 2, 1],  # separated
            [3, 2, 0, 1, 0, 0],  # one class
            [0, 0, 6, 0, 0, 0],  # one film
            [1, 0, 2, 2, 0, 1],
        ],
        np.uint8,
    )
    for scale in (1e-4, 1.0, 1e4):
        draws = bootstrap.Draws(count, np.arange(6))
        slope, intercept = calibration.line(draws, np.arange(6), scale * logit, label)
        assert np.isfinite(slope.of_resamples).tolist() == [True, False, False, False, False, True]
        assert np.isfinite(intercept.of_resamples).tolist() == [True] + 4 * [False] + [True]
        assert slope.of_resamples[0] == pytest.approx(slope.value)


@pytest.mark.parametrize("logit", [[1.0, 2, 3, 4], [4.0, 3, 2, 1], [1.0, 1, 1, 1], [1.0, 2, 2, 3]])
def test_separated_films_have_no_line(logit):
    draws, rows = resampled(4)
    slope, intercept = calibration.line(draws, rows, np.array(logit), np.array([0, 0, 1, 1]))
    assert slope.value is None and intercept.value is None
    assert np.isnan(slope.of_resamples).all() and slope.of_resamples.shape == (40,)


def test_a_resample_much_less_steep_than_the_whole_still_has_a_line():
    """Newton's method from the line of all films overshoots it; from a level line it arrives."""
    logit = np.repeat([-2.0, -1, 0, 1, 2], 20)
    label = np.repeat([0, 0, 1, 1, 1], 20)
    label[[25, 45]] = 1, 0
    count = np.ones((2, 100), np.uint8)
    count[0, [25, 45]] = 60
    draws = bootstrap.Draws(count, np.arange(100))
    slope, _ = calibration.line(draws, np.arange(100), logit, label)
    model = LogisticRegression(C=np.inf, tol=1e-9)
    model.fit(logit[:, None], label, sample_weight=count[0])
    assert slope.of_resamples == pytest.approx([model.coef_[0, 0], slope.value], abs=1e-4)
    assert slope.value > 3 * model.coef_[0, 0]


@pytest.mark.parametrize("confidence", [1.0, pytest.param(2.0, marks=pytest.mark.slow)])
def test_the_calibration_error_is_not_biased_by_chance_and_covered(confidence):
    """60 films in 15 bins: uncorrected, the mean was 0.15 for 0, and 0.17 for 0.1."""
    every_logit, every_label = films(200_000, 9, confidence)
    every_one = calibration.columns(special.expit(every_logit), every_label)
    truth = calibration.expected_error(every_one.sum(axis=0, keepdims=True))[0]
    found = []
    for seed in range(200):
        logit, label = films(60, seed, confidence)
        columns = calibration.columns(special.expit(logit), label)
        found.append(calibration.debiased(columns, np.arange(60)))
    assert np.mean([one.value for one in found]) == pytest.approx(truth, abs=0.07)
    assert np.mean([one.limits[0] <= truth <= one.limits[1] for one in found]) >= 0.9
    assert all(one.limits[0] <= one.value <= one.limits[1] for one in found)
