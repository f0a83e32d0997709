"""Curves of embeddings that are compared: their means, and what their intervals hold."""

import numpy as np
import pytest

from heads import candidates, data_efficiency, learning_curves, train
from heads.candidates import Films
from heads.statistics import bootstrap
from heads.statistics.bootstrap import Measured

RECIPE = train.Recipe("lbfgs", 1e-3, (0.1,), (0,), 32, 1, 0, True)
PATIENTS = np.array([f"p{i // 2}" for i in range(120)])


@pytest.fixture(scope="module")
def data():
    """Ten numbers a film, three findings, of which the last is rare; labels are missing, too."""
    generator = np.random.default_rng(0)
    embedding = generator.standard_normal((300, 10)).astype(np.float32)
    odds = embedding[:, :3] * 3 - np.array([0, 0, 4])
    label = np.float32(generator.random((300, 3)) < 1 / (1 + np.exp(-odds)))
    mask = generator.random((300, 3)) < 0.9
    parts = (np.arange(120), np.arange(120, 180), np.arange(180, 300))
    return embedding, [Films(row, label[row], mask[row]) for row in parts]


def resamples(number=200):
    """Of 40 patients with three films each."""
    return bootstrap.draw(np.repeat(np.arange(40), 3).astype(str), number, 0)


def measure(data, draws_of, tested=None, **more):
    embedding, (films, tune, test) = data
    arguments = dict(draws_of=draws_of, tested=tested or resamples(), seed=0) | more
    return learning_curves.measure(
        embedding, films, PATIENTS, tune, test, RECIPE, arguments.pop("draws_of"), **arguments
    )


def test_means_are_those_of_data_efficiency(data):
    embedding, (films, tune, test) = data
    calls = []
    found = measure(data, {8: 5, 32: 5, 120: 5}, after_draw=lambda: calls.append(1))
    assert len(calls) == 5 + 5 + 1, "of all films there is one draw"
    expected = data_efficiency.measure(
        embedding, films, PATIENTS, tune, test, "abc", RECIPE, [8, 32, 120], 5, 0
    )
    for j, finding in enumerate("abc"):
        for point in expected["findings"][finding]:
            one = found[point["size"]][j]
            assert one.value == pytest.approx(point["auroc"]["value"], abs=1e-9)
            assert len(one.of_resamples) == 200


def test_with_all_films_the_interval_is_the_bootstrap_s(data):
    embedding, (films, tune, test) = data
    tested = resamples()
    trained = candidates.fit(embedding, films, tune, RECIPE)
    logit = candidates.score(trained, embedding, test.row)
    for j, one in enumerate(measure(data, {120: 1}, tested)[120]):
        rows = np.flatnonzero(test.mask[:, j])
        expected = bootstrap.replicates(
            tested, rows, logit[rows, j], test.label[rows, j], {"": np.zeros((len(rows), 1))}
        )
        np.testing.assert_allclose(one.of_resamples, expected["auroc"], rtol=1e-12)


def test_draws_are_drawn_anew_around_the_mean(data):
    everyone = bootstrap.Draws(np.ones((4000, 40), np.uint8), resamples().patient)
    embedding, (films, tune, test) = data
    one = measure(data, {32: 4}, everyone)[32][0]
    single = []
    for i in range(4):
        at = data_efficiency.draw(PATIENTS, 32, (0, 32, i))
        some = Films(*(array[at] for array in films))
        trained = candidates.fit(embedding, some, tune, RECIPE)
        logit = candidates.score(trained, embedding, test.row)[:, 0]
        known = test.mask[:, 0]
        single.append(
            data_efficiency.discrimination.auroc(logit[known], test.label[known, 0]).item()
        )
    assert one.value == pytest.approx(np.mean(single), abs=1e-9)
    spread = np.std(single, ddof=1)
    assert one.of_resamples.mean() == pytest.approx(one.value, abs=0.1 * spread)
    assert one.of_resamples.std() == pytest.approx(spread / 2, rel=0.05)


def test_equal_embeddings_do_not_differ_and_better_ones_do(data):
    embedding, films = data
    noisy = embedding + np.random.default_rng(1).standard_normal(embedding.shape).astype(np.float32)
    first, again, worse = (measure(one, {32: 4})[32][0] for one in (data, data, (noisy, films)))
    none = learning_curves.difference(first, again)
    assert none.value == 0 and not none.of_resamples.any()
    better = bootstrap.interval(learning_curves.difference(first, worse))
    assert 0 < better["low"] < better["value"] < better["high"]
    apart = first.of_resamples - np.random.default_rng(0).permutation(worse.of_resamples)
    assert learning_curves.difference(first, worse).of_resamples.std() < apart.std(), "paired"


def test_what_no_draw_or_no_test_film_can_tell_is_undefined(data):
    embedding, (films, tune, test) = data
    never = films._replace(label=films.label * np.array([1, 0, 1], np.float32))
    untested = test._replace(label=test.label * np.array([0, 1, 1], np.float32))
    found = measure((embedding, (never, tune, untested)), {32: 3})[32]
    assert [one.value is None for one in found] == [True, True, False]
    undefined = learning_curves.difference(found[2], found[0])
    assert undefined == Measured(None, undefined.of_resamples) and not len(undefined.of_resamples)
