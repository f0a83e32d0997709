import numpy as np
import pytest

from cxr_embeddings.configs.schema import TrainingConfig
from cxr_embeddings.heads import data_efficiency
from cxr_embeddings.heads.select import SplitFilms

RECIPE = TrainingConfig(
    optimizer="lbfgs", weight_decays=(0.1,), batch_size=32, epochs=1, patience=0
)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (["8", "16"], [8, 16]),
        (["8", "...", "all"], [8, 16, 32, 64, 100]),
        (["8", "...", "40", "all"], [8, 16, 32, 40, 100]),
        (["8", "..."], [8, 16, 32, 64]),
        (["64", "100", "all"], [64, 100]),
        ([], []),
    ],
)
def test_sizes(sizes, expected):
    assert data_efficiency.parse_sizes(sizes, 100) == expected


def test_draws_take_whole_patients_but_for_the_last():
    patients = np.repeat([f"p{i}" for i in range(20)], 3)
    seen = set()
    for seed in range(30):
        chosen = data_efficiency.draw(patients, 10, (seed,))
        names, counts = np.unique(patients[chosen], return_counts=True)
        assert len(chosen) == len(set(chosen)) == 10 and sorted(counts) == [1, 3, 3, 3]
        seen |= set(names)
    assert len(seen) == 20
    np.testing.assert_array_equal(chosen, data_efficiency.draw(patients, 10, (29,)))


def test_films_of_unknown_patients_are_drawn_one_by_one():
    assert len(data_efficiency.draw(np.array([""] * 9), 4, (0,))) == 4


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    embedding = generator.standard_normal((300, 10)).astype(np.float32)
    odds = embedding[:, :3] * 3 - np.array([0, 0, 4])
    label = np.float32(generator.random((300, 3)) < 1 / (1 + np.exp(-odds)))
    mask = generator.random((300, 3)) < 0.9

    def films(start, stop):
        row = np.arange(start, stop)
        return SplitFilms(row, label[row], mask[row])

    return embedding, films(0, 120), films(120, 180), films(180, 300)


def measure(data, **more):
    embedding, train, tune, test = data
    patients = np.array([f"p{i // 2}" for i in range(120)])
    arguments = dict(sizes=[8, 120], draws=5, seed=0) | more
    return data_efficiency.measure(
        embedding, (train, tune, test), patients, RECIPE, findings=["a", "b", "rare"], **arguments
    )


def test_all_findings_are_measured_at_every_size(data):
    calls = []
    found = measure(data, after_draw=lambda: calls.append(1))
    assert len(calls) == 5 + 1
    for curve in (*found["findings"].values(), found["mean"]):
        assert [point["size"] for point in curve] == [8, 120]
    few, all_films = found["findings"]["a"]
    assert (few["draws"], few["patients"]) == (5, 4)
    assert (all_films["draws"], all_films["patients"]) == (1, 60)
    assert found["findings"]["rare"][0]["draws"] < 5, "draws without a positive do not count"
    few, all_films = few["auroc"], all_films["auroc"]
    assert few["low"] < few["value"] < min(few["high"], all_films["value"])
    assert all_films["low"] is None, "one draw has no interval"
    assert found == measure(data)
    assert found != measure(data, seed=1)


def test_a_finding_without_both_classes_in_test_is_left_out_of_the_mean(data):
    _, _, _, test = data
    test.label[:, 2] = 0
    found = measure(data)
    assert all(point["auroc"] is None for point in found["findings"]["rare"])
    assert found["mean"][1]["auroc"] is not None
