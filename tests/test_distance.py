"""How far films lie from the training films, and which are flagged."""

import numpy as np
import pytest

from cxr_embeddings.heads import distance


def films(count, seed, dim=32):
    """Like embeddings: a mean, and a spectrum that falls."""
    generator = np.random.default_rng(seed)
    return (3 + generator.standard_normal((count, dim)) / np.arange(1, dim + 1)).astype(np.float32)


def fitted(embedding, train, tune):
    return distance.fit(embedding, np.arange(train), np.arange(train, train + tune), seed=0)


@pytest.mark.parametrize(("tune", "beyond"), [(2, 1), (50, 1), (400, 4)])
def test_the_stated_share_of_tune_is_flagged_and_about_that_of_new_films(tune, beyond):
    embedding = films(4000, 0)
    spread = fitted(embedding, 600, tune)
    far = distance.is_far(distance.measure(spread, embedding, np.arange(4000)))
    assert far[600 : 600 + tune].sum() == beyond
    if tune == 400:
        assert 0.003 < far[1000:].mean() < 0.025


@pytest.mark.parametrize("train", [20, 600])
def test_planted_films_are_flagged_whatever_lies_in_tune(train):
    """Also where tune itself has a film that belongs elsewhere, and train few films."""
    embedding = films(1000, 0)
    planted = films(50, 1)
    planted[:, -1] += 1  # along the axis on which training films hardly differ
    embedding[train] = -embedding[train]
    spread = fitted(embedding, train, 100)
    found = distance.measure(spread, planted, np.arange(50))
    assert distance.is_far(found).all()
    loud = distance.measure(spread, 100 * planted, np.arange(50))
    np.testing.assert_allclose(loud, found, rtol=1e-4)  # only directions count
    assert distance.measure(spread, embedding, np.array([train])) > found.max()


def test_it_is_mahalanobis_distance_under_probabilistic_pca():
    from sklearn.decomposition import PCA

    generator = np.random.default_rng(0)
    deviation = np.repeat([1, 0.1], [64, 136])
    embedding = (3 + deviation * generator.standard_normal((300, 200))).astype(np.float32)
    spread = fitted(embedding, 200, 100)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    pca = PCA(64, svd_solver="full").fit(unit[:200])
    assert pca.components_.shape == spread.axes.shape
    beside = np.diagonal(np.cov(unit[:200].T, ddof=0)).sum()
    along = pca.singular_values_**2 / 200
    noise = (beside - along.sum()) / 136
    axes = pca.components_
    covariance = axes.T @ np.diag(along - noise) @ axes + noise * np.eye(200)
    away = unit[200:] - pca.mean_
    expected = np.sqrt(np.einsum("nd,de,ne->n", away, np.linalg.inv(covariance), away))
    found = distance.measure(spread, embedding, np.arange(200, 300))
    ratio = found / expected
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.001)


def test_films_that_are_all_alike_have_a_finite_distance():
    spread = fitted(np.ones((9, 4), np.float32), 5, 4)
    found = distance.measure(spread, np.array([[1, 1, 1, 1], [1, 2, 3, 4]], "f4"), np.arange(2))
    assert found[0] <= 1 < found[1] < np.inf


def test_wide_embeddings_have_fewer_axes():
    assert [distance.axes_of(dim) for dim in (1, 20, 4096, 1 << 20, 1 << 24)] == [1, 10, 64, 4, 1]
