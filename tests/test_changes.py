"""Labels of change: three classes in order."""

import numpy as np
import pytest
from label_tables import ids, join, read_labels
from sklearn.metrics import cohen_kappa_score

from cxr_embeddings.heads import changes
from cxr_embeddings.heads.labels.changes import columns
from cxr_embeddings.heads.statistics import ordered
from cxr_embeddings.heads.statistics.metrics import Chosen, Scored

ROWS = "image_id,split,Edema_change,Mass; 1,train,-1,-1; 2,tune,0,1; 3,test,1,; 4,test,,0"


def test_a_column_of_changes_becomes_two_findings_and_minus_one_is_known(table):
    found = read_labels(table(ROWS), not_mentioned="negative")
    assert found.findings == ("Edema_change_not_improved", "Edema_change_worse", "Mass")
    np.testing.assert_array_equal(found.mask[:, :2].T, [[True] * 3 + [False]] * 2)
    np.testing.assert_array_equal(found.label[:3, :2], [[0, 0], [1, 0], [1, 1]])
    np.testing.assert_array_equal(found.mask[:, 2], [False, True, True, True])
    assert any("-1 is improved" in sentence for sentence in found.definitions)
    examples = join(ids("1.png", "2.png", "3.png"), found)
    assert examples.mask[:, :2].all()
    (place,) = columns(found.findings).items()
    assert place == ("Edema_change", (0, 1))
    one = read_labels(table(ROWS), ("Edema_change_worse",))
    assert one.findings == ("Edema_change_worse",) and not columns(one.findings)


def test_probabilities_are_in_order_and_sum_to_one():
    not_improved, worse = np.array([0.9, 0.3, 0.2]), np.array([0.4, 0.3, 0.5])
    found = changes.probabilities(not_improved, worse)
    np.testing.assert_allclose(found, [[0.1, 0.5, 0.4], [0.7, 0, 0.3], [0.5, 0, 0.5]])
    assert changes.called(not_improved, worse, [0.3, 0.5]).tolist() == [0, 0, 1]
    assert changes.called(not_improved, worse, [0.95, 0.5]).tolist() == [-1, -1, 1]
    assert changes.called(not_improved, worse, [None, 0.5]) is None


def test_kappa_is_scikit_learns():
    random = np.random.default_rng(0)
    true, called = random.integers(0, 3, (2, 80))
    table = np.zeros((3, 3))
    np.add.at(table, (true, called), 1)
    theirs = cohen_kappa_score(true, called, weights="quadratic")
    assert ordered.weighted_kappa(table) == pytest.approx(theirs)
    assert ordered.weighted_kappa(np.diag([5, 2, 9])) == 1
    assert np.isnan(ordered.weighted_kappa(np.diag([5, 0, 0])))


@pytest.mark.slow
def test_kappas_interval_covers():
    """Films of one patient are copies: an interval by film would cover far less."""
    random, inside = np.random.default_rng(0), 0
    truth = random.integers(0, 3, 200_000)
    kappa = cohen_kappa_score(truth, _noisy(truth, random), weights="quadratic")
    for seed in range(100):
        true = random.integers(0, 3, 60)
        called, patients = _noisy(true, random), np.repeat(np.arange(60).astype(str), 4)
        found = ordered.measure(
            "abc", np.repeat(true, 4), np.repeat(called, 4), np.zeros((240, 3)), patients,
            resamples=200, seed=seed,
        )  # fmt: skip
        inside += found["kappa"]["low"] <= kappa <= found["kappa"]["high"]
    assert 88 <= inside <= 99


def _noisy(true, random):
    return np.clip(np.round(true + random.normal(0, 0.8, len(true))), 0, 2).astype(int)


def test_measures_of_a_head():
    random = np.random.default_rng(1)
    change = random.integers(-1, 2, 300)
    label = np.stack([change >= 0, change >= 1], axis=1).astype(np.float32)
    logit = 4 * (label - 0.5) + random.standard_normal((300, 2))
    mask = np.ones((300, 2), bool)
    mask[:50, 0] = False
    names = ("Edema_change_not_improved", "Edema_change_worse")
    chosen = {name: Chosen(1.0, {"rule": 0.5}, None) for name in names}
    scored = Scored(logit, label, mask, np.repeat(np.arange(100), 3).astype(str).astype(object))
    found = changes.measure(names, scored, chosen, resamples=50, seed=0)["Edema_change"]
    assert found["n"] == 250 == np.sum(found["table"])
    assert found["classes"] == [np.sum(change[50:] == kind) for kind in (-1, 0, 1)]
    assert found["kappa"]["low"] < found["kappa"]["value"] < found["kappa"]["high"]
    assert min(one["value"] for one in found["auroc"].values()) > 0.9
    without = {name: Chosen(1.0, {"rule": None}, None) for name in names}
    found = changes.measure(names, scored, without, resamples=50, seed=0)["Edema_change"]
    assert found["kappa"] is None and found["auroc"]["worse"]["value"] > 0.9
