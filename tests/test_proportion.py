"""Shares with intervals by patient."""

import numpy as np
import pytest
from scipy import stats

from cxr_embeddings.heads.statistics import proportion


@pytest.mark.parametrize(("hits", "films"), [(0, 7), (3, 10), (10, 10)])
def test_wilson_is_scipys(hits, films):
    expected = stats.binomtest(hits, films).proportion_ci(0.95, "wilson")
    found = proportion.wilson(hits / films, float(films), float(stats.norm.ppf(0.975)))
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_copies_of_films_say_nothing_and_a_share_of_one_counts_patients():
    hit = np.arange(40) % 4 > 0
    alone = proportion.interval(hit, np.arange(40))
    assert proportion.interval(np.repeat(hit, 5), np.repeat(np.arange(40), 5)) == pytest.approx(
        alone, abs=0.02
    )
    wilson = stats.binomtest(4, 4).proportion_ci(0.95, "wilson")
    found = proportion.interval(np.ones(12, bool), np.repeat(np.arange(4), 3))
    assert found == pytest.approx((wilson.low, 1)) and found[1] == 1
    assert proportion.interval(np.zeros(12, bool), np.repeat(np.arange(4), 3))[0] == 0


def test_shares_of_patients_are_covered():
    """Films of a patient correlate by 0.5; Wilson's interval of single films covers 0.8."""
    random, held = np.random.default_rng(0), []
    for _ in range(400):
        patient = np.repeat(np.arange(20), random.integers(1, 9, 20))
        score = random.normal(size=20)[patient] + random.normal(size=len(patient))
        low, high = proportion.interval(score < np.sqrt(2) * stats.norm.ppf(0.8), patient)
        held.append(low <= 0.8 <= high)
    assert 0.93 <= np.mean(held) <= 0.995
