"""AUROC, DeLong's limits and his paired test, against slow implementations and known examples."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from cxr_embeddings.heads.statistics import auroc_interval, discrimination


def films(n: int, seed: int = 0, values: float = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label = (random.random(n) < 0.3).astype(np.float32)
    return np.round((random.normal(size=n) + label) * values) / values, label


def components(score: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """AUROC and DeLong's structural components, pair by pair."""
    positive, negative = score[label == 1], score[label == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return wins.mean(), wins.mean(axis=1), wins.mean(axis=0)


def test_auroc_of_many_scores_is_scikit_learns():
    label = films(60)[1]
    score = np.stack([films(60, seed, values)[0] for seed in range(3) for values in (1, 1e6)])
    score = score.reshape(3, 2, 60)
    found = discrimination.auroc(score, label)
    assert found.shape == (3, 2)
    for at in np.ndindex(3, 2):
        assert found[at] == pytest.approx(roc_auc_score(label, score[at]), abs=1e-12)
    assert discrimination.auroc(score[0, 0], label.astype(np.int64)).shape == ()


def test_auroc_is_nan_where_it_is_undefined():
    score = np.zeros((2, 5), np.float32)
    assert np.isnan(discrimination.auroc(score, np.ones(5))).all()
    assert np.isnan(discrimination.auroc(score, np.zeros(5))).all()
    assert np.isnan(discrimination.auroc(np.zeros((2, 0)), np.zeros(0))).all()
    score[1, 2] = np.nan
    assert np.isnan(discrimination.auroc(score, np.arange(5) % 2)).tolist() == [False, True]


def delong(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    ranked = auroc_interval.rank(score, label)
    return discrimination.delong(ranked, label, np.arange(len(label)))


def test_delong_gives_the_known_interval_of_hanley_and_mcneils_films():
    """CT ratings of Hanley and McNeil (Radiology 1982;143:29-36), as in Stata's manual (roctab)."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    score = np.repeat([1.0, 2, 3, 4, 5, 1, 2, 3, 4, 5], normal + abnormal)
    label = np.repeat([0, 1], [sum(normal), sum(abnormal)])
    assert auroc_interval.rank(score, label).value == pytest.approx(0.8932, abs=5e-5)
    assert delong(score, label) == pytest.approx((0.83295, 0.95339), abs=2e-5)


def test_delong_where_there_is_no_variance():
    label = np.array([0, 0, 1, 1])
    for score, value in (([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], 0.0), ([1, 1, 1, 1], 0.5)):
        assert delong(np.array(score, float), label) == (value, value)
    assert delong(np.array([1.0, 3, 2]), np.array([0, 0, 1])) == (None, None)


def compare(label, a, b, mask=None, patient=None):
    mask = np.ones(label.shape, bool) if mask is None else mask
    names = [f"finding {j}" for j in range(label.shape[1])]
    patient = np.arange(len(label)) if patient is None else patient
    return discrimination.compare(names, label, mask, b, a, patient)


def obuchowski(share, positive, patient):
    """Variance of a sum over films of patients, written out, and its degrees of freedom."""
    numbers = [len(np.unique(patient[inside])) for inside in (positive, ~positive)]
    numbers.append(len(np.unique(patient)))
    with_, without, everyone = (n / (n - 1) for n in numbers)
    sums = np.zeros((2, patient.max() + 1))
    for row, inside in enumerate((positive, ~positive)):
        np.add.at(sums[row], patient[inside], share[inside])
    expected = with_ * np.square(sums[0]).sum() + without * np.square(sums[1]).sum()
    expected += 2 * everyone * (sums[0] * sums[1]).sum()
    each = np.square(sums.sum(0))
    return expected, each.sum() ** 2 / np.square(each).sum()


@pytest.mark.parametrize("patients", [90, 40])
def test_compare_is_the_paired_test_of_the_structural_components(patients):
    """With one film a patient it is DeLong's; with several, Obuchowski's."""
    random = np.random.default_rng(0)
    label = (random.random((90, 3)) < 0.4).astype(np.float32)
    a = random.normal(size=(90, 3)) + label
    b = a + random.normal(size=(90, 3)) + [3.0, 0.2, -0.2] * label
    mask = random.random((90, 3)) < 0.9
    patient = np.arange(90) if patients == 90 else random.integers(patients, size=90)
    found = compare(label, a, b, mask, patient)
    for j, result in enumerate(found.values()):
        rows, positive = mask[:, j], label[mask[:, j], j] == 1
        auroc_a, positives_a, negatives_a = components(a[rows, j], label[rows, j])
        auroc_b, positives_b, negatives_b = components(b[rows, j], label[rows, j])
        share = np.empty(rows.sum())
        for inside, more in (
            (positive, positives_b - positives_a),
            (~positive, negatives_b - negatives_a),
        ):
            share[inside] = (more - more.mean()) / len(more)
        variance, freedom = obuchowski(share, positive, patient[rows])
        z = (auroc_b - auroc_a) / np.sqrt(variance)
        half = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
        assert result["n"] == rows.sum() and result["positives"] == positive.sum()
        names = ("other_auroc", "auroc", "difference", "z", "p", "low", "high")
        p, difference = 2 * stats.t.sf(abs(z), freedom), auroc_b - auroc_a
        expected = (auroc_a, auroc_b, difference, z, p, difference - half, difference + half)
        assert [result[name] for name in names] == pytest.approx(expected)
    assert found["finding 0"]["z"] > 3  # b is the better one
    other = compare(label, b, a, mask, patient)
    assert other["finding 0"]["z"] == pytest.approx(-found["finding 0"]["z"])


def test_compare_leaves_masked_films_alone():
    random = np.random.default_rng(0)
    label = (random.random((60, 2)) < 0.4).astype(np.float32)
    a, b = random.normal(size=(2, 60, 2))
    mask = random.random((60, 2)) < 0.7
    changed = [np.where(mask, part, other) for part, other in ((a, 9.0), (b, np.nan))]
    assert compare(label, a, b, mask) == compare(np.where(mask, label, 1 - label), *changed, mask)


def test_compare_of_heads_that_rank_alike():
    score, label = (part[:, None] for part in films(60))
    perfect = label + np.linspace(0, 0.1, 60)[:, None]
    also_perfect = label - np.linspace(0, 0.1, 60)[:, None]
    for a, b in ((score, score), (score, 3 * score + 1), (perfect, also_perfect)):
        result = compare(label, a, b)["finding 0"]
        assert (result["difference"], result["z"], result["p"]) == (0, 0, 1)
        assert result["low"] == pytest.approx(0) == result["high"]


def test_compare_says_why_there_is_no_test():
    label = np.zeros((4, 3))
    label[0, 1] = label[:2, 2] = 1
    perfect, constant = label + 1.0, np.zeros((4, 3))
    found = [*compare(label, perfect, constant).values()]
    assert found[0]["undefined"] == "the comparison has 0 positives among 4 films"
    assert found[1]["undefined"].startswith("1 patient with the finding and 3 without")
    assert found[2]["undefined"].startswith("AUROC 1.000 and 0.500, without variance")
    assert all("p" not in result and "p_holm" not in result for result in found)


def test_compare_adjusts_p_by_holm_which_never_falls_where_p_rises():
    random = np.random.default_rng(1)
    label = (random.random((120, 3)) < 0.4).astype(np.float32)
    a = random.normal(size=(120, 3))
    b = a + random.normal(size=(120, 3)) + [2.0, 0.7, 0.5] * label
    twice = (np.concatenate([part, part], axis=1) for part in (label, a, b))
    found = [*compare(*twice).values()]
    p = np.array([result["p"] for result in found])
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * [6, 5, 4, 3, 2, 1]).clip(max=1)
    assert [found[j]["p_holm"] for j in order] == pytest.approx(stepped)
