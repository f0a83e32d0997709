import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_embeddings.configs.schema import TrainingConfig
from cxr_embeddings.heads import features, sgd
from cxr_embeddings.heads.network import HeadNetwork, logits

FILMS, DIM, FINDINGS = 90, 12, 2
# Where the epochs and the number of runs are equal, nothing is compiled anew.
ADAMW = TrainingConfig(
    optimizer="adamw", learning_rate=0.01, weight_decays=(0.0,), batch_size=30, epochs=4, patience=0
)
TWO_LONG = dataclasses.replace(ADAMW, seeds=(0, 1), epochs=30)
TOOLKIT = TrainingConfig(
    optimizer="lars",
    learning_rate=0.1,
    weight_decays=(0.0,),
    batch_size=32,
    epochs=4,
    patience=0,
    shuffle=False,
)


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    embedding = generator.standard_normal((FILMS, DIM)).astype(np.float32)
    odds = embedding @ generator.standard_normal((DIM, FINDINGS)) * 2
    label = np.float32(generator.random((FILMS, FINDINGS)) < 1 / (1 + np.exp(-odds)))
    zero = np.zeros(DIM, np.float32)
    return features.select(embedding, np.arange(FILMS), zero, zero + 1), label


def fit(data, settings, head=None, weight=None, **more):
    films, label = data
    head = head or HeadNetwork(label.shape[1], (8,))
    weight = np.ones_like(label) if weight is None else weight
    mask = weight > 0

    def tune_auroc(variables):
        return sgd.mean_auroc(np.asarray(logits(head, variables, films)), label, mask)

    return sgd.fit(head, films, label, weight, settings, more.pop("score", tune_auroc), **more)


def run(variables, i):
    return jax.tree.map(lambda leaf: np.asarray(leaf[i]), variables)


def test_heads_learn(data):
    runs = fit(data, dataclasses.replace(TWO_LONG, patience=30))
    assert (runs.history[0] < 0.8).all() and (runs.tune_auroc > 0.9).all()


def start(head, rate):
    keys = jax.vmap(jax.random.key)(jnp.array([0]))
    return sgd.start(head, DIM, rate, jnp.zeros(1), keys).variables


def test_adamw_moves_in_the_only_step_there_is(data):
    moved = fit(data, dataclasses.replace(ADAMW, epochs=1, batch_size=FILMS)).variables
    before = start(HeadNetwork(FINDINGS, (8,)), sgd.Rate("adamw", 0.01, 1))
    both = (jax.tree.leaves(variables["params"]) for variables in (before, moved))
    assert all(np.abs(one - other).max() > 1e-3 for one, other in zip(*both, strict=True))


def test_many_runs_at_once_equal_each_alone(data):
    together = fit(data, dataclasses.replace(ADAMW, seeds=(3, 4), weight_decays=(0.0, 0.5)))
    for i, decay, seed in [(1, 0.0, 4), (2, 0.5, 3)]:
        alone = fit(data, dataclasses.replace(ADAMW, seeds=(seed,), weight_decays=(decay,)))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
            run(together.variables, i),
            run(alone.variables, 0),
        )
    kernels = together.variables["params"]["dense_0"]["kernel"]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1 and np.abs(kernels[0] - kernels[2]).max() > 0


def test_a_seed_gives_the_same_head_again(data):
    head = HeadNetwork(FINDINGS, (8,), dropout=0.5)
    one, other = (fit(data, ADAMW, head).variables for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    kernel = fit(data, ADAMW).variables["params"]["dense_0"]["kernel"]
    assert np.abs(one["params"]["dense_0"]["kernel"] - kernel).max() > 0, "dropout did nothing"


def test_unknown_labels_never_matter(data):
    films, label = data
    weight = np.float32(np.random.default_rng(1).random(label.shape) < 0.6)
    flipped = np.where(weight > 0, label, 1 - label).astype(np.float32)
    one, other = (fit((films, y), ADAMW, weight=weight) for y in (label, flipped))
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


def test_films_that_fill_the_last_batch_never_matter(data):
    """90 films in batches of 32: the batch statistics are those of 26 in the last one."""
    films, _ = data
    head = HeadNetwork(FINDINGS, (8,))
    variables = jax.jit(head.init)(jax.random.key(0), jnp.zeros((1, DIM)))
    batch = np.asarray(films.embedding[:32])
    real = np.arange(32) < 26
    apply = jax.jit(functools.partial(head.apply, train=True, mutable=["batch_stats"]))
    _, padded = apply(variables, batch, real=real)
    _, alone = apply(variables, batch[:26], real=real[:26])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), padded, alone)
    _, wrong = apply(variables, batch, real=real | True)
    means = (one["batch_stats"]["norm_0"]["mean"] for one in (wrong, alone))
    assert np.abs(np.subtract(*means)).max() > 1e-4


def test_the_best_epoch_is_kept_and_a_run_ends_without_a_better_one(data):
    scores = iter([[0.5, 0.6], [0.7, 0.5], [0.6, 0.5], [0.6, 0.9], [0.6, 0.9], [0.8, 0.9]])
    told = []
    runs = fit(
        data,
        dataclasses.replace(TWO_LONG, patience=2),
        score=lambda variables: np.array(next(scores)),
        after_epoch=told.append,
    )
    assert runs.epoch.tolist() == [2, 1] and runs.tune_auroc.tolist() == [0.7, 0.6]
    assert len(told) == len(runs.history) == 4  # the second run's 0.9 came after its end
    patient = fit(data, TWO_LONG, score=lambda variables: np.array([0.5, 0.5]))
    assert patient.epoch.tolist() == [30, 30]


def test_the_kept_parameters_are_those_of_the_best_epoch(data):
    seen = []

    def score(variables):
        seen.append(jax.tree.map(np.array, variables))
        return np.array([[0.1, 0.9, 0.3, 0.2][len(seen) - 1]])

    runs = fit(data, dataclasses.replace(ADAMW, patience=4), score=score)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, runs.variables), seen[1])


def test_weight_decay_shrinks_kernels_only(data):
    runs = fit(data, dataclasses.replace(TWO_LONG, seeds=(0,), weight_decays=(0.0, 3.0)))
    kernels, scales = (
        runs.variables["params"][layer][leaf]
        for layer, leaf in (("dense_0", "kernel"), ("norm_0", "scale"))
    )
    assert np.abs(kernels[1]).sum() < 0.7 * np.abs(kernels[0]).sum()
    assert 0.8 < np.abs(scales[1]).sum() / np.abs(scales[0]).sum() < 1.2


def test_mean_auroc_is_over_findings_with_both_classes():
    label = np.float32([[1, 0], [0, 0], [1, 0], [0, 0]])
    logit = np.array([[4.0, 1], [3, 1], [2, 1], [1, 1]])
    mask = np.ones((4, 2), bool)
    assert sgd.mean_auroc(logit, label, mask) == 0.75
    assert np.isnan(sgd.mean_auroc(logit, label * 0, mask))
    mask[1, 0] = False
    assert sgd.mean_auroc(np.stack([logit, -logit]), label, mask).tolist() == [1.0, 0.0]


def toolkit_in_keras(keras, params, embedding, label, settings):
    """The toolkit's network and optimiser, step by step; returns its weights and logits."""
    network = keras.Sequential([keras.Input((DIM,))])
    for width in (8, 4):
        network.add(keras.layers.Dense(width, activation="relu"))
        network.add(keras.layers.BatchNormalization())
        network.add(keras.layers.Dropout(0.0))
    network.add(keras.layers.Dense(1))
    network.build()
    for i in range(2):
        dense = network.layers[3 * i]
        dense.set_weights([params[f"dense_{i}"]["kernel"], params[f"dense_{i}"]["bias"]])
    network.layers[-1].set_weights([params["logit"]["kernel"], params["logit"]["bias"]])

    import tensorflow as tf

    momenta = [np.zeros(v.shape, np.float32) for v in network.trainable_variables]
    for _ in range(settings.epochs):
        for start in range(0, len(embedding), settings.batch_size):
            batch = slice(start, start + settings.batch_size)
            with tf.GradientTape() as tape:
                logit = network(embedding[batch], training=True)
                loss = tf.reduce_mean(
                    keras.losses.binary_crossentropy(label[batch], logit, from_logits=True)
                )
            variables = network.trainable_variables
            for i, (v, g) in enumerate(zip(variables, tape.gradient(loss, variables), strict=True)):
                v_norm, g_norm = np.linalg.norm(v), np.linalg.norm(g)
                trust = 0.001 * v_norm / g_norm if v_norm > 0 and g_norm > 0 else 1.0
                momenta[i] = 0.9 * momenta[i] + settings.learning_rate * trust * g.numpy()
                v.assign(v - momenta[i])
    return network(embedding, training=False).numpy()


@pytest.mark.slow
def test_the_toolkit_preset_is_the_toolkits_training(data):
    keras = pytest.importorskip("keras")
    films, label = data
    head, label = HeadNetwork(1, (8, 4)), label[:, :1]
    # ten times the preset's rate, so that four epochs move something
    settings = dataclasses.replace(TOOLKIT, learning_rate=1.0)
    first = run(start(head, sgd.Rate("lars", 1.0, 12)), 0)
    before = np.asarray(logits(head, first, films))
    runs = fit((films, label), settings, head)
    ours = np.asarray(logits(head, runs.variables, films))[0]
    theirs = toolkit_in_keras(keras, first["params"], np.asarray(films.embedding), label, settings)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert np.abs(ours - before).max() > 0.1
    damped = fit((films, label), dataclasses.replace(settings, weight_decays=(0.01,)), head)
    other = np.asarray(logits(head, damped.variables, films))[0]
    assert np.abs(other - theirs).max() > 2e-3
