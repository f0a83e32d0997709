"""What a training writes down, and what it looks at."""

import csv

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from cxr_embeddings.heads import probe as few_films
from cxr_embeddings.pretraining import training_log, training_picture, tune_look

QUESTIONS = ("Edema", "female")
ROW = {"films": 640, "loss": 2.34994, "films_per_second": 30.125}


def rows(folder):
    with (folder / training_log.METRICS).open(newline="") as stream:
        return list(csv.DictReader(stream))


def write(folder, first, steps):
    with training_log.open_log(folder, first, QUESTIONS, False) as log:
        for step in steps:
            log({"step": step, **ROW})


def test_rows_after_the_checkpoint_are_written_anew(tmp_path):
    write(tmp_path, 0, (10, 20, 30))
    write(tmp_path, 20, (30, 40))
    assert [row["step"] for row in rows(tmp_path)] == ["10", "20", "30", "40"]


def test_a_row_that_was_cut_short_goes(tmp_path):
    write(tmp_path, 0, (10, 20))
    file = tmp_path / training_log.METRICS
    file.write_text(file.read_text()[:-25])
    write(tmp_path, 20, (30,))
    assert [row["step"] for row in rows(tmp_path)] == ["10", "30"]


def test_a_picture_is_drawn_with_every_look(tmp_path):
    write(tmp_path, 0, (10, 20))
    assert not (tmp_path / training_picture.PICTURE).exists()
    with training_log.open_log(tmp_path, 20, QUESTIONS, False) as log:
        log({"step": 25, **ROW, "effective_rank": 30.5, "score": 0.7, "probe_Edema": 0.8})
    with Image.open(tmp_path / training_picture.PICTURE) as image:
        assert image.width > 900
    kept = training_log.read_metrics(tmp_path)
    figure = training_picture.draw(tmp_path / "again.png", kept, training_log.PROBE)
    drawn = [[[*line.get_xdata()] for line in ax.lines] for ax in figure.axes]
    # loss; score and the one probe that was measured; rank; alignment and uniformity, also of tune
    assert drawn == [[[0.64] * 3], [[0.64], [0.64]], [[0.64]], [[], []], [[], []]]


def test_other_hosts_write_nothing(tmp_path):
    with training_log.open_log(tmp_path, 0, QUESTIONS, True) as log:
        log({"step": 10, **ROW})
    assert not [*tmp_path.iterdir()]


def spread(films, values, seed=0):
    """Embeddings whose covariance has about these eigenvalues."""
    generator = np.random.default_rng(seed)
    return (generator.standard_normal((films, len(values))) * np.sqrt(values)).astype(np.float32)


@pytest.mark.parametrize("films", [4000, 6])
def test_the_effective_rank_is_that_of_the_eigenvalues(films):
    values = [4.0, 2, 1, 1, 0, 0, 0, 0]
    found = spread(films, values)
    shares = np.linalg.svd(found - found.mean(0))[1] ** 2
    shares = shares[shares > 1e-9] / shares.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert tune_look.effective_rank(found) == pytest.approx(expected, rel=1e-5)
    if films == 4000:  # exp of 1.75 bits
        assert expected == pytest.approx(2**1.75, rel=0.02)
    assert tune_look.effective_rank(np.ones((films, 8), np.float32)) == 1


@pytest.mark.parametrize(
    ("rank", "first", "films", "least"),
    [
        (9.9, 20, 1000, 10),
        (10.1, 20, 1000, 0),
        (24, 100, 1000, 25),
        (26, 100, 1000, 0),
        (4, 0, 50, 5),
        (5.1, 0, 50, 0),
    ],
)
def test_a_collapsed_embedding_is_named(rank, first, films, least):
    said = tune_look.collapsed(rank, first, films)
    assert (f"collapsed: its effective rank is {rank:.1f} " in said) == bool(least)
    assert (f"expected {least:.1f} or more" in said) == bool(least)


def films_of(count, seed):
    """Two questions, of which the embedding answers the first; the third has one known film."""
    generator = np.random.default_rng(seed)
    answers = generator.integers(0, 2, (count, 3), dtype=np.int32)
    embedding = generator.standard_normal((count, 60)).astype(np.float32)
    embedding[:, 0] += 4 * answers[:, 0]
    answers[generator.random((count, 3)) < 0.2] = -1
    answers[1:, 2] = -1
    return embedding, answers


def test_probes_answer_what_the_embedding_says():
    (train, train_answers), (tune, tune_answers) = films_of(200, 0), films_of(150, 1)
    found = tune_look.measure((train, tune), (train_answers, tune_answers), ("a", "b", "c"))
    assert found["probe_a"] > 0.95 and 0.35 < found["probe_b"] < 0.65 and "probe_c" not in found
    assert found["score"] == pytest.approx((found["probe_a"] + found["probe_b"]) / 2)
    assert found["tune_uniformity"] < -1 and 30 < found["effective_rank"] < 60
    # scikit-learn's, on all numbers of the embedding
    known, seen = train_answers[:, 0] >= 0, tune_answers[:, 0] >= 0
    scale = StandardScaler().fit(train)
    x, y = scale.transform(train)[known], train_answers[known, 0]
    plain = [
        LogisticRegression(C=1 / (penalty * known.sum()))
        .fit(x, y)
        .decision_function(scale.transform(tune)[seen])
        for penalty in tune_look.PENALTIES
    ]
    best = max(roc_auc_score(tune_answers[seen, 0], one) for one in plain)
    assert found["probe_a"] == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("numbers", [150, 300])
def test_probes_are_logistic_regressions_with_fewer_numbers_than_films_and_with_more(numbers):
    random = np.random.default_rng(0)
    label = random.integers(2, size=(160, 1)).astype(np.float32)
    x = random.normal(size=(160, numbers)).astype(np.float32)
    x[:, :40] += label
    found = few_films.logits(
        few_films.fit(x[:120], label[:120], np.ones((120, 1), np.float32), [0.3]), x
    )
    scaled = StandardScaler().fit(x[:120]).transform(x)
    model = LogisticRegression(C=1 / (0.3 * 120), tol=1e-6).fit(scaled[:120], label[:120, 0])
    expected = model.decision_function(scaled)
    assert np.abs(found[0, :, 0] - expected).max() < 0.01 * expected.std()


def test_a_question_needs_films_of_both_classes_in_both_splits():
    enough = np.int32(np.arange(2 * tune_look.LEAST) % 2)[:, None]
    assert tune_look.asked(enough, enough).tolist() == [0]
    assert tune_look.asked(enough[1:], enough).size == tune_look.asked(enough, -enough).size == 0


def test_a_sample_is_always_the_same_rows():
    many = np.arange(100, 200)
    some = tune_look.sample(many, 10)
    assert len({*some}) == 10 and {*some} <= {*many} and (np.diff(some) > 0).all()
    np.testing.assert_array_equal(some, tune_look.sample(many, 10))
    np.testing.assert_array_equal(tune_look.sample(many, 1000), many)
