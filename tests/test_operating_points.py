"""Thresholds by each rule, and rates against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from cxr_embeddings.heads.statistics import bootstrap, operating_points, proportion

YOUDEN, SENSITIVITY, SPECIFICITY = operating_points.RULES


def films(n: int, seed: int = 0, digits: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label = (random.random(n) < 0.3).astype(np.float32)
    return np.round(random.beta(2 + 2 * label, 4), digits), label


def measure(probability, label, chosen, patient_id=None):
    """Films measured at thresholds that were chosen on themselves."""
    names = np.full(len(label), "") if patient_id is None else patient_id
    patient = bootstrap.patients(names)
    return operating_points.measure(chosen, probability, label, probability, label, patient)


@pytest.mark.parametrize("digits", [1, 2, 9])
@pytest.mark.parametrize("seed", range(12))
def test_each_rule_picks_the_best_threshold_of_all(seed, digits):
    probability, label = films(60, seed, digits)
    chosen = operating_points.thresholds(probability, label)
    offered = np.unique(probability)[::-1]  # of equally good ones, the highest
    sensitivity = np.array([(probability[label == 1] >= at).mean() for at in offered])
    specificity = np.array([(probability[label == 0] < at).mean() for at in offered])
    middle = (offered + np.append(offered[1:], 0)) / 2  # no film of tune lies on a threshold
    best = np.argmax(np.round(sensitivity + specificity, 9))
    assert chosen[YOUDEN] == middle[best]
    reached = sensitivity >= 0.9 - 1e-9
    assert chosen[SENSITIVITY] == max(middle[reached])
    reached = specificity >= 0.9 - 1e-9
    if reached.any():
        assert chosen[SPECIFICITY] == max(
            middle[reached & (sensitivity == sensitivity[reached].max())]
        )
    else:
        assert chosen[SPECIFICITY] is None


def test_exactly_ninety_per_cent_is_enough():
    probability = np.concatenate([np.arange(1, 11) / 20, 0.5 + np.arange(1, 11) / 21])
    label = np.repeat([0, 1], 10)
    label[[9, 10]] = 1, 0  # one negative above the lowest of the positives
    chosen = operating_points.thresholds(probability, label)
    points = measure(probability, label, chosen)
    assert points[1]["tune"] == {"sensitivity": 0.9, "specificity": 1.0}
    assert points[2]["tune"] == {"sensitivity": 1.0, "specificity": 0.9}


def test_equal_sums_are_a_tie_whatever_their_last_bit():
    """0.7 + 1.0 is less than 0.8 + 0.9 in floating point; the highest threshold must win."""
    label = np.array([1] * 7 + [0, 1] + [0] * 9 + [1] * 2)
    chosen = operating_points.thresholds(np.linspace(0.9, 0.1, 20), label)
    assert chosen[YOUDEN] == np.linspace(0.9, 0.1, 20)[6:8].mean()
    last_bits = np.array([np.nextafter(0.5, 1), 0.5])  # nothing lies between them
    chosen = operating_points.thresholds(last_bits, np.array([1, 0]))
    assert chosen[YOUDEN] == last_bits[0]


def test_rates_are_scikit_learns():
    probability, label = films(200)
    chosen = operating_points.thresholds(probability, label)
    for point in measure(probability, label, chosen):
        called = probability >= point["threshold"]
        found = point["test"]
        tn, fp, fn, tp = confusion_matrix(label, called).ravel()
        assert [found[cell] for cell in ("tp", "fp", "tn", "fn")] == [tp, fp, tn, fn]
        for rate, of, value in (
            ("sensitivity", label == 1, recall_score(label, called)),
            ("specificity", label == 0, recall_score(1 - label, ~called)),
            ("ppv", called, precision_score(label, called)),
            ("npv", ~called, precision_score(1 - label, ~called)),
        ):
            assert found[rate]["value"] == pytest.approx(value)
            hit = (label == 1) == called
            limits = proportion.interval(hit[of], np.flatnonzero(of))
            assert (found[rate]["low"], found[rate]["high"]) == limits
            if rate in point["tune"]:
                assert point["tune"][rate] == pytest.approx(value)


def test_where_there_is_no_threshold_the_reason_is_given():
    for label in (np.zeros(5), np.ones(5), np.zeros(0)):
        chosen = operating_points.thresholds(np.linspace(0, 1, len(label)), label)
        assert chosen == dict.fromkeys(operating_points.RULES)
        points = measure(np.linspace(0, 1, len(label)), label, chosen)
        assert all(point["undefined"].startswith("tune has") for point in points)
        assert all(point["test"] is None and point["tune"] is None for point in points)
    alike, label = np.full(4, 0.25), np.array([0, 1, 0, 1])
    chosen = operating_points.thresholds(alike, label)
    assert chosen == {YOUDEN: 0.125, SENSITIVITY: 0.125, SPECIFICITY: None}
    points = measure(alike, label, chosen)
    assert points[2]["undefined"] == "no threshold reaches it on tune"
    assert points[0]["undefined"] is None
