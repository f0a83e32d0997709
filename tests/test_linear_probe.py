import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cxr_embeddings.heads import features, logistic
from cxr_embeddings.heads.statistics.discrimination import auroc

FILMS, DIM, FINDINGS = 300, 40, 3
PENALTIES = [1e-3, 1e-1]  # as many in most tests: where shapes are equal, nothing is compiled anew


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    factors = generator.standard_normal((FILMS, 5))
    embedding = factors @ generator.standard_normal((5, DIM)) + generator.standard_normal(
        (FILMS, DIM)
    )
    odds = factors @ generator.standard_normal((5, FINDINGS)) - 1
    label = generator.random((FILMS, FINDINGS)) < 1 / (1 + np.exp(-odds))
    return embedding.astype(np.float32), label.astype(np.float32)


def select(embedding):
    zero = np.zeros(embedding.shape[1], np.float32)
    return features.select(embedding, np.arange(len(embedding)), zero, zero + 1)


def scikit_learn(embedding, label, weight, penalty):
    """Kernel and bias by another program, to the rounding of float64."""
    known = weight > 0
    strength = 1 / (penalty * weight.sum())
    model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10)
    model.fit(embedding[known].astype(np.float64), label[known], sample_weight=weight[known])
    return model.coef_[0], model.intercept_[0]


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_optimum_is_scikit_learns(data, in_memory, monkeypatch):
    embedding, label = data
    if not in_memory:
        monkeypatch.setattr(features, "IN_MEMORY", 0)
        monkeypatch.setattr(features, "BLOCK", 128)
    generator = np.random.default_rng(1)
    weight = (generator.random(label.shape) < 0.8) * (1 + 2 * label)  # some unknown, some heavy
    probe = logistic.fit(select(embedding), label, np.float32(weight), PENALTIES, tolerance=2e-4)
    assert float(probe.distance.max()) <= 2e-4
    for i, penalty in enumerate(PENALTIES):
        for j in range(FINDINGS):
            kernel, bias = scikit_learn(embedding, label[:, j], weight[:, j], penalty)
            np.testing.assert_allclose(probe.kernel[i, j], kernel, atol=5e-4 * np.abs(kernel).max())
            np.testing.assert_allclose(probe.bias[i, j], bias, atol=1e-3)


def test_unknown_labels_never_matter(data):
    embedding, label = data
    weight = np.float32(np.random.default_rng(1).random(label.shape) < 0.5)
    flipped = np.float32(np.where(weight > 0, label, 1 - label))
    one, other, third = (
        logistic.fit(select(embedding), y, weight, PENALTIES) for y in (label, flipped, 1 - label)
    )
    np.testing.assert_array_equal(one.kernel, other.kernel)
    assert np.abs(third.kernel - one.kernel).max() > 0.01


def test_problems_do_not_disturb_each_other(data):
    embedding, label = data
    weight = np.ones_like(label)
    many = logistic.fit(select(embedding), label, weight, [1e-3, 1.0], 1e-4)
    alone = logistic.fit(select(embedding), label[:, 1:2], weight[:, 1:2], [1.0], 1e-4)
    np.testing.assert_allclose(many.kernel[1, 1], alone.kernel[0, 0], atol=1e-4)


def test_the_sketch_saves_steps(monkeypatch):
    """On embeddings whose dimensions are as correlated as real ones."""
    generator = np.random.default_rng(0)
    embedding = generator.standard_normal((FILMS, DIM)) * 10 / np.arange(1, DIM + 1)
    embedding = np.float32(embedding @ np.linalg.qr(generator.standard_normal((DIM, DIM)))[0])
    label = np.float32(embedding[:, :1] + generator.standard_normal((FILMS, 1)) > 0)
    films, ones, penalty = select(embedding), np.ones_like(label), [1e-4]
    with_sketch = logistic.fit(films, label, ones, penalty, 1e-4)
    flat = logistic.Sketch(jnp.zeros((1, DIM)), jnp.ones(1), jnp.float32(1))
    monkeypatch.setattr(logistic, "sketched", lambda features: flat)
    without = logistic.fit(films, label, ones, penalty, 1e-4)
    assert with_sketch.steps < 0.6 * without.steps
    largest = np.abs(without.kernel).max()
    np.testing.assert_allclose(with_sketch.kernel, without.kernel, atol=3e-3 * largest)


def test_separable_labels_and_few_films_end(data):
    embedding, label = data
    label = np.float32(embedding[:8, :1] > 0)
    probe = logistic.fit(
        select(embedding[:8]), label, np.ones_like(label), [1e-6, 1.0], max_steps=200
    )
    assert np.isfinite(probe.kernel).all()
    logit = embedding[:8] @ np.asarray(probe.kernel[1, 0]) + np.asarray(probe.bias[1, 0])
    np.testing.assert_array_equal(logit > 0, label[:, 0] > 0)


def test_what_has_not_converged_says_so(data):
    embedding, label = data
    probe = logistic.fit(select(embedding), label, np.ones_like(label), [1e-4, 1.0], max_steps=2)
    assert probe.steps == 2 and float(probe.distance.max()) > logistic.TOLERANCE


def test_rare_findings_and_weak_penalties_are_at_scikit_learns_optimum():
    """Five positives in 300 films: their gradients are small long before the optimum."""
    generator = np.random.default_rng(0)
    factors = generator.standard_normal((2300, DIM)) / np.sqrt(np.arange(1, DIM + 1))
    embedding = factors @ generator.standard_normal((DIM, DIM))
    embedding = np.float32(embedding + 0.5 * generator.standard_normal(embedding.shape))
    score = factors @ generator.standard_normal(DIM) + generator.logistic(size=2300)
    label = np.float32(score >= np.sort(score)[-35])[:, None]
    label[:FILMS, 0] = score[:FILMS] >= np.sort(score[:FILMS])[-5]
    films, ones = select(embedding[:FILMS]), np.ones((FILMS, 1), np.float32)
    for penalty in (1e-6, 1e-4, 1e-2, 1.0):
        kernel = np.asarray(logistic.fit(films, label[:FILMS], ones, [penalty]).kernel[0, 0])
        theirs, _ = scikit_learn(embedding[:FILMS], label[:FILMS, 0], ones[:, 0], penalty)
        aurocs = [auroc(embedding[FILMS:] @ k, label[FILMS:, 0]) for k in (kernel, theirs)]
        assert aurocs[0] == pytest.approx(aurocs[1], abs=1e-3)
