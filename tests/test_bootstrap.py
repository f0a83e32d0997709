"""Replicates against scikit-learn's weights, intervals and means against known ones."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_embeddings.heads.statistics import bootstrap


def films(n: int, seed: int = 0, values: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores, with ties if there are few values, and labels."""
    random = np.random.default_rng(seed)
    label = (random.random(n) < 0.3).astype(np.int64)
    score = random.normal(size=n) + label
    return (np.round(score * values) / values if values else score), label


def ids(n: int, patients: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(patients, size=n).astype(str)


@pytest.mark.parametrize("values", [None, 3, 1], ids=["distinct", "ties", "many ties"])
def test_replicates_are_scikit_learns_weighted_metrics(values):
    score, label = films(90, values=values)
    draws = bootstrap.draw(ids(120, 40), 60, seed=1)
    rows = np.sort(np.random.default_rng(2).permutation(120)[:90])
    columns = {"one": score[:, None], "two": np.column_stack([label, score]).astype(float)}
    found = bootstrap.replicates(draws, rows, score, label, columns)
    for r in range(60):
        weight = draws.count[r, draws.patient[rows]]
        expected = roc_auc_score(label, score, sample_weight=weight)
        assert found["auroc"][r] == pytest.approx(expected, abs=1e-12)
        expected = average_precision_score(label, score, sample_weight=weight)
        assert found["auprc"][r] == pytest.approx(expected, abs=1e-12)
        assert found["one"][r] == pytest.approx([weight @ score], abs=1e-12)
        np.testing.assert_allclose(found["two"][r], weight @ columns["two"], atol=1e-12)


def test_blocks_change_nothing(monkeypatch):
    score, label = films(90)
    draws = bootstrap.draw(ids(90, 40), 50, seed=1)

    def run() -> dict[str, np.ndarray]:
        return bootstrap.replicates(draws, np.arange(90), score, label, {"score": score[:, None]})

    whole = run()
    monkeypatch.setattr(bootstrap, "BLOCK_BYTES", 7 * 8 * 90)
    assert [len(block) for block in bootstrap.weights(draws, np.arange(90))] == [7] * 7 + [1]
    for name, found in run().items():
        np.testing.assert_allclose(found, whole[name], rtol=1e-13)


def test_resamples_without_a_class_are_undefined():
    label = np.array([1, 0, 0])
    draws = bootstrap.Draws(np.array([[0, 2, 1], [3, 0, 0], [1, 1, 1]], np.uint8), np.arange(3))
    score = np.array([0.5, 0.2, 0.9])
    found = bootstrap.replicates(draws, np.arange(3), score, label, {"n": np.ones((3, 1))})
    np.testing.assert_array_equal(found["auroc"], [np.nan, np.nan, 0.5])
    np.testing.assert_array_equal(found["auprc"], [np.nan, np.nan, 0.5])
    np.testing.assert_array_equal(found["n"], 3.0)


def test_films_of_a_patient_stay_together_and_unknown_patients_are_alone():
    draws = bootstrap.draw(np.array(["b", "", "a", "b", "", "a"], dtype=object), 200, seed=0)
    assert draws.patient.tolist() == [1, 2, 0, 1, 3, 0]
    assert draws.count.shape == (200, 4)
    assert (draws.count.sum(axis=1) == 4).all()
    assert draws.count.mean(axis=0) == pytest.approx(np.ones(4), abs=0.2)


def test_interval():
    of_resamples = np.arange(101.0) / 100
    found = bootstrap.interval(bootstrap.Measured(0.5, of_resamples))
    low, high = pytest.approx(0.025), pytest.approx(0.975)
    assert found == {"value": 0.5, "low": low, "high": high, "resamples": 101}
    of_resamples[:5] = np.nan
    assert bootstrap.interval(bootstrap.Measured(0.5, of_resamples))["resamples"] == 96
    of_resamples[5] = np.nan  # now more than 5 % are undefined
    found = bootstrap.interval(bootstrap.Measured(0.5, of_resamples))
    assert found == {"value": 0.5, "low": None, "high": None, "resamples": 95}
    assert bootstrap.interval(bootstrap.Measured(None, of_resamples)) is None


def test_mean_uses_the_findings_that_a_resample_defines():
    always = bootstrap.Measured(0.8, np.full(40, 0.7))
    rare = np.full(40, 0.9)
    rare[:4] = np.nan
    found = bootstrap.mean([always, bootstrap.Measured(0.6, rare)])
    assert found.value == pytest.approx(0.7)
    np.testing.assert_allclose(found.of_resamples, [0.7] * 4 + [0.8] * 36)
    rare[:5] = np.nan  # 5 of 80 are more than 5 %
    found = bootstrap.mean([always, bootstrap.Measured(0.6, rare)])
    assert found.value == pytest.approx(0.7) and np.isnan(found.of_resamples).all()
    assert bootstrap.mean([always, bootstrap.Measured(None, rare)]).value is None


def test_limits_of_a_mean_are_those_of_its_parts_added_by_their_correlation():
    low_to_high, one = np.linspace(0, 1, 40), (0.7, 0.9)
    same, opposite = (
        bootstrap.Measured(0.8, r, limits=one) for r in (low_to_high, 1 - low_to_high)
    )
    for parts, limits in (
        ([same], one),
        ([same, same], one),
        ([same, opposite], (0.8, 0.8)),
        ([same, bootstrap.Measured(1.0, np.ones(40), limits=(0.9, 1.0))],  # never another value
         (0.9 - np.hypot(0.1, 0.1) / 2, 0.95)),
        ([same, same._replace(value=0.6, limits=(None, None))], (0.7 - 0.7 / 2, 0.7 + 0.5 / 2)),
    ):  # fmt: skip
        found = bootstrap.interval(bootstrap.mean(parts))
        assert (found["low"], found["high"]) == pytest.approx(limits, abs=1e-9)
    assert bootstrap.mean([]).value is None
