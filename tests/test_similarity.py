"""Neighbours in embedding space, and how often they share findings."""

import numpy as np
import pytest

from cxr_embeddings.heads import similarity


def random(films, dim=6, seed=0):
    return np.random.default_rng(seed).standard_normal((films, dim)).astype(np.float32)


def test_neighbours_are_the_largest_cosines_of_other_patients(monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK_BYTES", 7 * 30 * 4)  # blocks of 7, and one of 2
    embedding, patient = random(30), np.arange(30) // 3
    embedding[1] += 50 * embedding[0]  # the nearest of all, and of the same patient
    found, cosine = similarity.nearest(embedding, patient, 4)
    for i in range(30):
        own = embedding / np.linalg.norm(embedding, axis=1, keepdims=True) @ embedding[i]
        own = own / np.linalg.norm(embedding[i])
        others = np.flatnonzero(patient != patient[i])
        expected = others[np.argsort(-own[others])][:4]
        np.testing.assert_array_equal(found[i], expected)
        np.testing.assert_allclose(cosine[i], own[expected], atol=1e-6)
    assert 1 not in found[0] and 0 not in found[1]


def share(neighbour, patient, label, mask=None, alone=()):
    """`sharing` of findings f0, f1, ..."""
    label = np.asarray(label, np.float32)
    mask = np.ones(label.shape, bool) if mask is None else np.asarray(mask)
    names = [f"f{j}" for j in range(label.shape[1])]
    return similarity.sharing(np.asarray(neighbour), patient, names, label, mask, alone)


def test_shares_and_chance_by_hand():
    neighbour = [[1, 2], [2, 3], [3, 4], [4, 0], [0, 1]]
    patient = np.array([0, 1, 2, 3, 3])
    label = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [1, 1]])
    found, whole = share(neighbour, patient, label)
    # of f0: films 0, 1, 3, 4 have it; of their neighbours 1/2, 1/2, 2/2, 2/2 do
    assert found["f0"].films == 4 and found["f0"].share == pytest.approx(3 / 4)
    # among others: 3 of 4 for films 0 and 1; 2 of 3 for 3 and 4, who are one patient
    assert found["f0"].chance == pytest.approx((3 / 4 + 3 / 4 + 2 / 3 + 2 / 3) / 4)
    assert found["f1"].films == 1 and found["f1"].share == found["f1"].chance == 0
    assert whole.films == 5 and whole.share == pytest.approx(3 / 5)
    again, whole = share(neighbour, patient, label, alone=["f1"])
    assert again == found and whole == found["f0"]
    assert share(neighbour, patient, label[:, 1:], alone=["f0"])[1].films == 1, "there is no other"


def test_films_of_which_a_finding_is_unknown_are_passed_over():
    neighbour = [[1, 2], [0, 2], [0, 1], [1, 2]]
    label = np.array([[1, 1], [0, 1], [1, 1], [1, 0]])
    mask = np.array([[True, True], [False, False], [True, False], [True, True]])
    found, _ = share(neighbour, np.arange(4), label, mask)
    assert found["f0"].films == 3 and found["f0"].share == 1 and found["f0"].chance == 1
    assert "f1" not in found, "neither neighbour of the only film that has it is known"


def test_clusters_are_told_from_chance_and_chance_is_not():
    patient = np.arange(120) // 2
    label = np.zeros((120, 2), np.float32)
    label[::3, 0], label[:, 1] = 1, np.random.default_rng(1).random(120) < 0.3
    embedding = random(120)
    embedding[::3] += 8
    neighbour, _ = similarity.nearest(embedding, patient, 5)
    found, _ = share(neighbour, patient, label)
    clustered, scattered = found.values()
    assert clustered.share == 1 and clustered.chance == pytest.approx(1 / 3, abs=0.01)
    assert abs(scattered.share - scattered.chance) < 0.1
