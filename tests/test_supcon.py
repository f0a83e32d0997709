"""The contrastive loss against a double loop, hand-worked cases and its extremes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_embeddings.encoder import recipe, sharding, supcon

RNG = np.random.default_rng(0)


def double_loop(projection, label, temperature):
    """The formula of the paper, term by term, in float64."""
    z = projection / np.linalg.norm(projection, axis=1, keepdims=True)
    of_anchor = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if label[p] == label[i]]
        if not positives:
            continue
        denominator = sum(math.exp(z[i] @ z[a] / temperature) for a in others)
        terms = [math.log(math.exp(z[i] @ z[p] / temperature) / denominator) for p in positives]
        of_anchor.append(-sum(terms) / len(positives))
    return temperature * sum(of_anchor) / len(of_anchor)


def one_finding(label):
    """Of two classes."""
    return jnp.asarray(label, jnp.int32)[:, None]


LOSS = jax.jit(supcon.supervised_contrastive_loss, static_argnums=2)


def loss(projection, label, temperature):
    return float(LOSS(jnp.float32(projection), jnp.int32(label), temperature))


def both(**constants):
    """The program for the loss and its gradient."""
    loss = functools.partial(supcon.supervised_contrastive_loss, **constants)
    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_for_one_finding_it_is_the_paper_s_double_loop(temperature):
    projection, label = RNG.normal(size=(24, 16)), RNG.integers(0, 2, 24)
    assert loss(projection, one_finding(label), temperature) == pytest.approx(
        double_loop(projection, label, temperature), rel=2e-5
    )


def test_classes_are_findings_of_which_each_film_has_one():
    projection, label = RNG.normal(size=(24, 16)), RNG.integers(0, 5, 24)
    assert loss(projection, np.eye(5)[label], 0.07) == pytest.approx(
        double_loop(projection, label, 0.07), rel=2e-5
    )


def test_films_agree_by_their_known_findings():
    label = np.array(
        [
            [1, 1, 0],
            [1, 0, 0],  # one of the two that either has
            [0, 0, 0],  # nothing in common, but known
            [0, -1, -1],  # as little, where both are known; as normal as the one above
            [-1, 1, -1],  # what both know, both have
            [-1, -1, -1],  # nothing is known
        ]
    )
    expected = [
        [1, 1 / 2, 0, 0, 1, 0],
        [1 / 2, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    weight, comparable = supcon.agreement(jnp.asarray(label, jnp.int32))
    np.testing.assert_array_equal(weight, np.float32(expected))
    unknown = [(3, 4), (4, 3), *((i, 5) for i in range(6)), *((5, i) for i in range(5))]
    assert {*zip(*np.nonzero(~np.asarray(comparable)), strict=True)} == {*unknown}


def test_partial_agreement_by_hand():
    """Orthogonal films, but for the first two, which are the same; the last knows nothing."""
    projection = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    label = [[1, 1], [1, 0], [0, 1], [-1, -1]]
    e = math.exp(1 / 0.5)
    # agreements: 1/2 of the first with each of the next two, which have nothing in common
    shares = [
        (math.log(e / (e + 1)) + math.log(1 / (e + 1))) / 2,
        math.log(e / (e + 1)),
        math.log(1 / 2),
    ]
    assert loss(projection, label, 0.5) == pytest.approx(-0.5 * sum(shares) / 3, rel=1e-6)
    gradient = both(label=jnp.asarray(label, jnp.int32), temperature=0.5)
    _, slope = gradient(jnp.asarray(projection, jnp.float32))
    assert np.isfinite(slope).all() and not np.asarray(slope)[3].any() and np.abs(slope[0]).max()


def test_an_anchor_without_positives_is_none():
    """One view a film and one film of a class: elsewhere 0 / 0."""
    projection, label = RNG.normal(size=(5, 8)), np.array([0, 0, 1, 1, 2])
    assert loss(projection, np.eye(3)[label], 0.1) == pytest.approx(
        double_loop(projection, label, 0.1), rel=1e-5
    )
    assert loss(projection, np.eye(5), 0.1) == 0


def test_cross_entropy_is_the_mean_over_what_is_known():
    logits = RNG.normal(size=(12, 3)).astype(np.float32)
    label = RNG.integers(-1, 2, (12, 3)).astype(np.int32)
    chance = 1 / (1 + np.exp(-np.float64(logits)))
    of_label = np.where(label == 1, chance, 1 - chance)
    entropy = jax.jit(recipe.cross_entropy, static_argnums=2)
    found = float(entropy(jnp.asarray(logits), jnp.asarray(label), 0.1))
    assert found == pytest.approx(-np.log(of_label[label >= 0]).mean(), rel=1e-5)
    # of one finding: the softmax of two classes, whose logits differ by this one
    logits, label = jnp.asarray(logits[:, :1]), jnp.asarray(np.arange(12) % 2, jnp.int32)
    softmax = optax.softmax_cross_entropy_with_integer_labels(
        jnp.concatenate([jnp.zeros_like(logits), logits], 1), label
    )
    found = float(entropy(logits, label[:, None], 0.1))
    assert found == pytest.approx(float(softmax.mean()), rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_cold_temperatures_are_safe(dtype):
    """exp(1 / 0.01) overflows float32, and exp(-1 / 0.01) is none."""
    label = np.arange(16) // 2 % 2
    program = both(label=one_finding(label), temperature=0.01)
    for case, made in {
        "random": RNG.normal(size=(16, 8)),
        "all alike": np.ones((16, 8)),
        "opposite": np.repeat([[1.0], [-1.0]], 8, 0) * np.ones(8),
        "zeros": np.zeros((16, 8)),
    }.items():
        value, gradient = program(jnp.asarray(made, dtype))
        assert np.isfinite(value) and np.isfinite(np.asarray(gradient, np.float32)).all()
        assert value.dtype == jnp.float32 and gradient.dtype == dtype
        if dtype == jnp.float32 and case == "random":
            expected = double_loop(made, label, 0.01)
            assert float(value) == pytest.approx(expected, rel=1e-4)


def test_negatives_come_from_all_devices():
    projection = RNG.normal(size=(32, 16)).astype(np.float32)
    label = RNG.integers(0, 2, (32, 1)).astype(np.int32)
    rows = sharding.batch_sharding(sharding.make_mesh())
    assert len(jax.devices()) == 8
    value = LOSS(jax.device_put(projection, rows), jax.device_put(label, rows), 0.05)
    expected = loss(projection, label, 0.05)
    assert float(value) == pytest.approx(expected, rel=1e-6)
    # each device alone would have found something else
    alone = np.mean([loss(projection[i : i + 4], label[i : i + 4], 0.05) for i in range(0, 32, 4)])
    assert abs(alone - expected) > 0.01


def test_alignment_and_uniformity():
    z = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    alignment, uniformity = jax.jit(supcon.alignment), jax.jit(supcon.uniformity)
    assert float(alignment(z, z)) == 0
    assert float(alignment(z, -z)) == pytest.approx(4)
    # each point: two neighbours at squared distance 2, one opposite at 4
    expected = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)
    assert float(uniformity(z)) == pytest.approx(expected, rel=1e-5)
    one = np.full((4, 2), math.sqrt(0.5), np.float32)
    assert float(uniformity(one)) == pytest.approx(0, abs=1e-6)
