"""Where films lie on the explorer's map, and how far they are from one another."""

import importlib
import multiprocessing
import sys
import threading
from unittest import mock

import numpy as np
import pytest
from sklearn.decomposition import PCA

import cxr_embeddings as cxr
from cxr_embeddings.explorer import projection


@pytest.fixture(scope="module")
def embedding():
    generator = np.random.default_rng(0)
    scale = np.geomspace(5, 0.5, 30)
    mixed = generator.standard_normal((900, 30)) * scale @ generator.standard_normal((30, 30))
    return (mixed + 20).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_map_is_that_of_scikit_learn(embedding, tmp_path, dtype):
    whole = embedding.astype(dtype)
    np.save(tmp_path / "table.npy", whole)
    found = projection.pca(np.load(tmp_path / "table.npy", mmap_mode="r"))
    theirs = PCA(2, svd_solver="full").fit(whole.astype(np.float64))
    expected = theirs.transform(whole.astype(np.float64))
    sign = np.sign((found.coordinates * expected).sum(0))
    assert np.allclose(found.coordinates, expected * sign, atol=0.02 * expected.std())
    assert np.allclose(found.explained, theirs.explained_variance_ratio_, atol=1e-3)
    assert found.coordinates.dtype == np.float32 and found.fitted_on == 900
    assert np.array_equal(found.coordinates, projection.pca(whole).coordinates)


def test_signs_do_not_depend_on_the_order_of_films_or_on_the_number_of_axes(embedding):
    found = projection.pca(embedding).coordinates
    order = np.random.default_rng(1).permutation(len(embedding))
    assert np.allclose(projection.pca(embedding[order]).coordinates, found[order], atol=0.05)
    assert np.allclose(projection.pca(embedding, 10).coordinates[:, :2], found, atol=0.05)


def test_a_sample_of_many_films(embedding, monkeypatch):
    whole = projection.pca(embedding).coordinates
    monkeypatch.setattr(projection, "FITTED_ON", 500)
    found = projection.pca(embedding)
    assert found.fitted_on == 500 and len(found.coordinates) == 900
    for i in range(2):
        assert np.corrcoef(found.coordinates[:, i], whole[:, i])[0, 1] > 0.98
    other = projection.pca(embedding, seed=1).coordinates
    assert not np.array_equal(found.coordinates, other)


@pytest.mark.parametrize("films", [1, 2, 3])
def test_few_films(embedding, films):
    found = projection.pca(embedding[:films], 5)
    rank = films - 1
    assert np.isfinite(found.coordinates).all() and not found.coordinates[:, max(1, rank) :].any()
    lengths = np.linalg.norm(embedding[:films] - embedding[:films].mean(0), axis=1)
    assert np.allclose(np.linalg.norm(found.coordinates, axis=1), lengths, rtol=1e-3)
    assert projection.umap(embedding[:films]).shape == (films, 2)
    away = projection.outlyingness(embedding[:films], np.arange(films))
    assert np.isfinite(away).all() and (away > 0).all() == (films > 1)


def test_films_that_are_all_the_same():
    found = projection.pca(np.ones((4, 3), np.float32))
    assert not found.coordinates.any() and not found.explained.any()


def test_distances_to_the_nearest_of_other_patients(embedding, monkeypatch):
    monkeypatch.setattr(projection.features, "BLOCK", 64)
    whole = embedding - 20
    whole[5] = whole[4]  # a copy, of the same patient
    patient = np.arange(900) // 2
    found = projection.outlyingness(whole, patient)
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    distance = np.linalg.norm(unit[:, None] - unit, axis=2)
    distance[patient[:, None] == patient] = np.inf
    assert np.allclose(found, distance.min(1), atol=1e-3) and found[5] > 0.1
    assert projection.outlyingness(whole, np.arange(900))[5] < 1e-3
    monkeypatch.setattr(projection, "REFERENCES", 100)
    some = projection.outlyingness(whole, patient)
    assert (some >= found - 1e-3).all() and np.corrcoef(some, found)[0, 1] > 0.3
    assert np.array_equal(some, projection.outlyingness(whole, patient))


def start_here(module, *arguments):
    """As `workers.start`, on a thread, whose parent never ends: programs are compiled once."""
    ours, theirs = multiprocessing.Pipe()
    asked = iter([theirs.recv_bytes, threading.Event().wait])
    given = mock.Mock(recv_bytes=lambda: next(asked)(), send_bytes=theirs.send_bytes)
    serve = importlib.import_module(module).serve
    threading.Thread(target=serve, args=(given, *arguments), daemon=True).start()
    return mock.Mock(), ours


@pytest.mark.slow
def test_umap_separates_what_is_far(embedding, monkeypatch):
    monkeypatch.setattr(projection.workers, "start", start_here)
    apart = embedding[:120].copy()
    apart[:60, 0] += 200
    found = projection.umap(apart)
    centres = found[:60].mean(0), found[60:].mean(0)
    spread = max(found[:60].std(0).max(), found[60:].std(0).max())
    assert found.shape == (120, 2) and found.dtype == np.float32
    assert np.linalg.norm(centres[0] - centres[1]) > 4 * spread
    assert np.array_equal(found, projection.umap(apart))


def test_umap_that_is_not_installed(embedding, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(cxr.MissingPackage, match=r"needs umap.*cxr-embeddings\[explore\]"):
        projection.umap(embedding)
