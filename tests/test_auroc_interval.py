"""The interval of the AUROC: its model against simulation, its ends, and how often it covers."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from cxr_embeddings.heads.statistics import auprc_interval, auroc_interval, bootstrap


def slow(*values):
    """One more setting of a simulation, of which another one is quick enough to run always."""
    return pytest.param(*values, marks=pytest.mark.slow)


def films(random, auroc, patients, most, prevalence, alike=0.5):
    """Normal scores of patients with 1 to `most` films, which share a label and a part."""
    patient = np.repeat(np.arange(patients), random.integers(1, most + 1, patients))
    label = (random.random(patients) < prevalence).astype(int)[patient]
    shift = np.sqrt(2) * stats.norm.ppf(auroc) * label
    own, shared = random.normal(size=len(patient)), random.normal(size=patients)[patient]
    return np.sqrt(alike) * shared + np.sqrt(1 - alike) * own + shift, label, patient


@pytest.mark.parametrize(("auroc", "alike"), [(0.75, 0.5), slow(0.95, 0.8), slow(0.95, 0.0)])
def test_the_modelled_variance_is_the_simulated_one(auroc, alike):
    random = np.random.default_rng(1)
    _, label, patient = films(random, auroc, 60, 5, 0.3)
    numbers = [np.unique(patient[label == y], return_counts=True)[1] for y in (1, 0)]
    groups = [(float(films.sum()), float(np.square(films).sum())) for films in numbers]
    measured = []
    for _ in range(1500):
        shared, own = random.normal(size=60)[patient], random.normal(size=len(patient))
        score = np.sqrt(alike) * shared + np.sqrt(1 - alike) * own
        score += np.sqrt(2) * stats.norm.ppf(auroc) * label
        measured.append(auroc_interval.rank(score, label).value)
    expected = auroc_interval.model_variance(auroc, alike, groups)
    assert np.var(measured) == pytest.approx(expected, rel=0.12)


def test_films_of_a_patient_are_found_alike():
    random = np.random.default_rng(2)
    for alike in (0.0, 0.5, 0.9):
        score, label, patient = films(random, 0.9, 400, 6, 0.3, alike)
        found = auroc_interval.correlation(score, label > 0, patient)
        assert found == pytest.approx(alike, abs=0.1)
    assert auroc_interval.correlation(score[:9], label[:9] > 0, np.arange(9)) == 1


def test_the_interval_has_width_at_both_ends_and_mirrors():
    random = np.random.default_rng(3)
    for score, label, patient in (
        (np.arange(12.0), np.arange(12) // 6, np.arange(12)),  # separated
        (np.zeros(12), np.arange(12) % 2, np.arange(12)),
        (np.arange(4.0), np.arange(4) // 2, np.arange(4)),
        films(random, 0.8, 40, 4, 0.3),
        films(random, 0.9999, 400, 4, 0.3),
    ):
        value = auroc_interval.rank(score, label).value
        low, high = auroc_interval.interval(score, label, patient)
        assert 0 <= low <= value <= high <= 1 and high - low > 1e-4
        assert auroc_interval.interval(-score, label, patient) == pytest.approx((1 - high, 1 - low))
        wider = auroc_interval.interval(score, label, patient, confidence=0.99)
        assert wider[0] < low and wider[1] >= high


@pytest.mark.parametrize(("patients", "most"), [(40, 1), slow(100, 8)])
def test_the_interval_covers_where_others_do_not(patients, most):
    """AUROC 0.98: DeLong's limits covered 0.7 to 0.86; docs/statistics.md has all settings."""
    random, held = np.random.default_rng(4), []
    while len(held) < 250:
        score, label, patient = films(random, 0.98, patients, most, 0.3)
        if not auroc_interval.why_none(label, patient):
            low, high = auroc_interval.interval(score, label, patient)
            held.append(low <= 0.98 <= high)
    assert 0.92 <= np.mean(held) <= 0.995


def test_the_interval_of_the_auprc_has_width_at_1_and_covers():
    score, label, patient = np.arange(12.0), np.arange(12) // 6, np.arange(12)
    low, high = auprc_interval.measure(score, label, patient, np.ones(50)).limits
    assert 0.5 < low < 0.9 and high == 1
    few = np.array([0] * 11 + [1])
    assert auprc_interval.measure(score, few, patient, np.ones(50)).limits == (None, None)
    every_score, every_label, _ = films(np.random.default_rng(0), 0.92, 500_000, 1, 0.1)
    truth = average_precision_score(every_label, every_score)
    random, held = np.random.default_rng(6), []
    for seed in range(200):
        score, label, patient = films(random, 0.92, 100, 4, 0.1)
        draws, rows = bootstrap.draw(patient.astype(str), 60, seed), np.arange(len(label))
        nothing = {"": np.zeros((len(label), 1))}
        resamples = bootstrap.replicates(draws, rows, score, label, nothing)["auprc"]
        found = bootstrap.interval(auprc_interval.measure(score, label, patient, resamples))
        held.append(found["low"] <= truth <= found["high"])
    assert np.mean(held) >= 0.91
