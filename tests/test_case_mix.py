"""AUROC with a common case mix, and probes for traces of a site: by simulation of known truth."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from cxr_embeddings.heads import site_probe
from cxr_embeddings.heads.statistics import bootstrap, case_mix

EASY, HARD = 2.0, 0.5  # distance between the classes, in a stratum each


def films(seed, hard, n=400):
    """A site with that share of hard films, two a patient: strata, labels, scores, patients."""
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n // 2), 2)
    is_hard = (generator.random(n // 2) < hard)[patient]
    label = (generator.random(n) < 0.4).astype(np.int64)
    score = generator.standard_normal(n) + label * np.where(is_hard, HARD, EASY) + 1.5 * is_hard
    return np.where(is_hard, "hard", "easy").astype(object), label, score, patient


def measured(seed, hard, mix, resamples=1, n=400):
    stratum, label, score, patient = films(seed, hard, n)
    draws = bootstrap.draw(patient.astype(str), resamples, seed)
    weight = case_mix.weights(stratum, mix)
    return case_mix.standardised(draws, np.arange(n), score, label, weight)


def truth(hard):
    """The AUROC of a site with that share, from very many films."""
    _, label, score, _ = films(99, hard, 200_000)
    return roc_auc_score(label, score)


def test_the_common_mix_is_the_mean_of_strata_that_all_sites_have():
    sites = [np.array(["x"] * 30 + ["y"] * 10 + [""] * 5), np.array(["x"] * 20 + ["y"] * 60)]
    assert case_mix.common_mix(sites) == pytest.approx({"x": (0.75 + 0.25) / 2, "y": 0.5})
    few = np.array(["x"] * 20 + ["y"] * (case_mix.FEWEST - 1) + ["z"] * 50)
    assert case_mix.common_mix([sites[0], few]) == {"x": 1.0}
    groups = {"view": np.array(["PA", "", "AP"], object), "sex": np.array(["F", "M", "M"], object)}
    assert case_mix.strata(groups, ("view", "sex"), 3).tolist() == ["PA, F", "", "AP, M"]
    weight = case_mix.weights(sites[0].astype(object), {"x": 0.5, "y": 0.5})
    np.testing.assert_allclose(weight, [2 / 3] * 30 + [2.0] * 10 + [0.0] * 5)
    assert not case_mix.weights(sites[0][:30], {"x": 0.5, "y": 0.5}).any()  # no y is known


def test_the_standardised_auroc_is_that_of_the_common_mix():
    mix = {"easy": 0.3, "hard": 0.7}
    there, wanted = truth(0.1), truth(0.7)
    assert there > wanted + 0.1  # so that standardisation has something to do
    found = [measured(seed, 0.1, mix, n=2000)["value"] for seed in range(12)]
    assert np.mean(found) == pytest.approx(wanted, abs=0.01)
    own = measured(0, 0.1, {"easy": 0.9, "hard": 0.1})["value"]
    _, label, score, _ = films(0, 0.1)
    assert own == pytest.approx(roc_auc_score(label, score), abs=0.02)


@pytest.mark.slow
def test_its_interval_covers():
    mix, wanted = {"easy": 0.5, "hard": 0.5}, truth(0.5)
    found = [measured(seed, 0.25, mix, resamples=200) for seed in range(200)]
    covered = np.mean([one["low"] <= wanted <= one["high"] for one in found])
    assert stats.binom.ppf(0.001, 200, 0.95) / 200 <= covered < 1


def told(seed, shift, patients=120, films=2):
    generator = np.random.default_rng(seed)
    label = np.repeat(generator.permutation(patients) < patients // 2, films)
    own = np.repeat(generator.standard_normal((patients, 40)), films, axis=0)  # of the patient
    embedding = (own + 0.3 * generator.standard_normal(own.shape)).astype(np.float32)
    embedding[:, 0] += shift * label
    ids = np.repeat([f"p{i}" for i in range(patients)], films).astype(object)
    return site_probe.tell(embedding, np.arange(len(label)), label, ids, "a against b", seed)


@pytest.mark.slow
def test_a_probe_tells_a_planted_shift_and_nothing_else():
    none = [told(seed, 0.0)["auroc"] for seed in range(40)]
    # Folds that split patients would give 1: films of a patient are nearly copies.
    assert np.mean([one["value"] for one in none]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([one["low"] <= 0.5 <= one["high"] for one in none]) >= 0.8
    # Along one number, the best possible AUROC of a shift d of deviation s is Phi(d / s / sqrt 2)
    best = stats.norm.cdf(3 / np.sqrt(1 + 0.3**2) / np.sqrt(2))
    shifted = told(0, 3.0)["auroc"]
    assert best - 0.12 < shifted["value"] <= best + 0.03 and shifted["low"] > 0.7
    assert told(0, 3.0, patients=2 * site_probe.FEWEST - 2)["auroc"] is None
