"""The step of pretraining: its gradient, on how many devices it runs, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_embeddings.encoder import efficientnet, pretrain, sharding
from cxr_embeddings.encoder.augment import Augmentation
from cxr_embeddings.encoder.efficientnet import VARIANTS, EfficientNet, Variant
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.recipe import OPTIMIZERS, Projection, Recipe, check
from cxr_embeddings.encoder.supcon import supervised_contrastive_loss

SIZE, FILMS = 32, 16
VIEWS_OF = jax.jit(pretrain.views, static_argnums=0)
PLAIN = {"mean": (0.4,) * 3, "std": (0.3,) * 3}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", Variant(0.25, 0.1, 32))
    monkeypatch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])  # quick to compile


def recipe(**changes):
    given = {
        "objective": "supcon",
        "temperature": 0.1,
        "batch_size": FILMS,
        "micro_batch": FILMS,
        "steps": 40,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
        "warmup_steps": 4,
        "weight_decay": 1e-2,
        "average_decay": 0.9,
        "seed": 0,
        "augmentation": Augmentation(),
    }
    return Recipe(**given | changes)


def films(seed=0):
    """Films of two classes, of which one has a bright patch somewhere."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(0, 0.5, (FILMS, SIZE, SIZE, 1)).astype(np.float32)
    label = np.arange(FILMS, dtype=np.int32) % 2
    for i in np.flatnonzero(label):
        y, x = generator.integers(4, SIZE - 16, 2)
        images[i, y : y + 12, x : x + 12] += 0.5
    return images, label


def started(how, **setting):
    model = EfficientNet("tiny", head_width=32, **setting)
    return model, pretrain.start(how, random_variables(model), 32)


def run(how, mesh, steps, rules=sharding.MODEL_PARALLEL, **setting):
    """The numbers of each step, and the last state."""
    model, state = started(how, **setting)
    step = pretrain.make_step(model, how, mesh, state, **PLAIN, rules=rules)
    state = jax.device_put(state, sharding.variable_shardings(mesh, state, rules))
    found = []
    for i in range(steps):
        images, label = films(i % 3)
        rows = (sharding.put_rows(mesh, array) for array in (images, label))
        state, metrics = step(state, *rows)
        found.append({name: float(value) for name, value in metrics.items()})
    return found, state


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


@functools.cache
def on_one_device(micro_batch):
    return run(recipe(micro_batch=micro_batch), one_device(), 4)[0]


def largest_difference(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


def gradient_of(how, mesh=None):
    model, state = started(how)
    gradient = pretrain.make_gradient(model, how, mesh or one_device(), **PLAIN)
    images, label = films()
    return jax.jit(gradient)(
        state.params, state.batch_stats, jnp.int32(3), jnp.asarray(images), jnp.asarray(label)
    )


@pytest.mark.slow
def test_micro_batches_give_the_gradient_of_the_whole_batch():
    """Against one program that holds all of it: groups for BatchNorm, one loss over all views."""
    how = recipe(micro_batch=4)
    model, state = started(how)
    images, label = films()
    views = VIEWS_OF(how, jnp.int32(3), images, jnp.arange(FILMS))
    # micro-batch j has the films j, j + 4, ...
    groups = np.asarray(views).reshape(4, 4, 2, SIZE, SIZE, 1).swapaxes(0, 1)
    groups = (groups.reshape(4, 8, SIZE, SIZE, 1) - np.float32(0.4)) / np.float32(0.3)

    def whole(params):
        def outputs(group):
            (embedding, _), _ = model.apply(
                {"params": params["encoder"], "batch_stats": state.batch_stats},
                jnp.broadcast_to(group, (*group.shape[:-1], 3)),
                train=True,
                mutable=["batch_stats"],
            )
            return Projection().apply({"params": params["head"]}, embedding)

        z = jax.lax.map(outputs, jnp.asarray(groups)).reshape(4, 4, 2, -1).swapaxes(0, 1)
        return supervised_contrastive_loss(
            z.reshape(2 * FILMS, -1), jnp.repeat(jnp.asarray(label), 2), how.temperature
        )

    expected, slope = jax.jit(jax.value_and_grad(whole))(state.params)
    value, gradients, _, _ = gradient_of(how)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope))
    assert largest_difference(gradients, slope) < 1e-5 * scale
    # BatchNorm's groups matter: the whole batch as one micro-batch is something else
    _, alone, _, _ = gradient_of(recipe())
    assert largest_difference(alone, slope) > 1e-3 * scale


def test_embeddings_come_back_in_the_films_order():
    """A view's row is its film's: else alignment would be that of strangers."""
    how = recipe(micro_batch=4, augmentation=Augmentation(1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    _, state = started(how)
    value, _, _, embedding = gradient_of(how)
    np.testing.assert_allclose(embedding[::2], embedding[1::2], atol=1e-5)
    assert np.abs(np.diff(np.asarray(embedding[::2]), axis=0)).max(1).min() > 1e-2
    # and the loss is that of these embeddings with these films' labels
    outputs = Projection().apply({"params": state.params["head"]}, embedding)
    label = jnp.repeat(jnp.asarray(films()[1]), 2)
    expected = supervised_contrastive_loss(outputs, label, how.temperature)
    assert float(value) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("micro_batch", "model_parallel", "rules"),
    [
        pytest.param(FILMS, 1, sharding.MODEL_PARALLEL, marks=pytest.mark.slow),
        (FILMS, 2, sharding.MODEL_PARALLEL),
        pytest.param(8, 1, sharding.FULLY_SHARDED, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_train_as_one(micro_batch, model_parallel, rules):
    how = recipe(micro_batch=micro_batch)
    expected = on_one_device(micro_batch)
    found, state = run(how, sharding.make_mesh(model_parallel), 4, rules)
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, rel=2e-4)
    assert expected[0]["loss"] != pytest.approx(expected[3]["loss"], rel=1e-2)
    split = any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.optimizer))
    assert split == (model_parallel > 1 or rules is sharding.FULLY_SHARDED)


@pytest.mark.parametrize(
    ("optimizer", "objective"),
    [("adamw", "supcon"), pytest.param("lars", "cross_entropy", marks=pytest.mark.slow)],
)
def test_it_learns(optimizer, objective):
    rate = {"adamw": 3e-3, "lars": 1.0}[optimizer]
    how = recipe(optimizer=optimizer, objective=objective, learning_rate=rate)
    found, _ = run(how, one_device(), 40)
    first, last = (np.mean([one["loss"] for one in part]) for part in (found[:5], found[-5:]))
    assert last < 0.9 * first
    rates = [one["learning_rate"] for one in found]
    assert rates[:4] == pytest.approx([rate * n / 4 for n in (1, 2, 3, 4)])
    assert max(rates) == pytest.approx(rate) and 0 < rates[-1] < 0.01 * rate


@pytest.mark.slow
def test_in_bfloat16_statistics_stay_float32():
    with jax.numpy_dtype_promotion("standard"):  # Flax's own BatchNorm asks for it
        found, state = run(recipe(), one_device(), 3, dtype=jnp.bfloat16)
    assert found[2]["loss"] == pytest.approx(on_one_device(FILMS)[2]["loss"], rel=0.05)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.batch_stats)} == {jnp.dtype("float32")}


def test_the_average_follows_the_weights():
    how = recipe()
    _, begun = started(how)
    begun = jax.tree.map(np.asarray, begun)
    _, state = run(how, one_device(), 1)
    for name, new in (("params", state.params["encoder"]), ("batch_stats", state.batch_stats)):
        # of a young average: min(0.9, 1 / 10)
        expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, begun.average[name], new)
        assert largest_difference(state.average[name], expected) < 1e-6


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_kernels_decay(optimizer):
    """With gradients of zero, what changes is what decays."""
    how = recipe()
    _, state = started(how)
    made = OPTIMIZERS[optimizer](lambda step: 0.1, 0.5)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = made.update(zeros, made.init(state.params), state.params)
    moved = {
        jax.tree_util.keystr(path, simple=True, separator="/").rsplit("/", 1)[-1]
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
        if np.any(np.asarray(leaf))
    }
    assert moved == {"kernel"}


def test_views_depend_on_seed_step_and_film_alone():
    images = jnp.asarray(films()[0])

    def views(how, step, which):
        return np.asarray(VIEWS_OF(how, jnp.int32(step), images[which], jnp.asarray(which)))

    how, some = recipe(), np.array([2, 5])
    every = views(how, 7, np.arange(FILMS)).reshape(FILMS, 2, -1)
    np.testing.assert_array_equal(views(how, 7, some).reshape(2, 2, -1), every[some])
    assert (every[:, 0] != every[:, 1]).any()
    for other in (views(how, 8, some), views(recipe(seed=1), 7, some)):
        assert (other.reshape(2, 2, -1) != every[some]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "triplet"}, "objective is 'triplet'; expected one of supcon, cross_entropy"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; expected one of lars, adamw"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"batch_size": 1, "micro_batch": 1}, "batch_size is 1; expected 2 or more"),
        ({"micro_batch": 5}, "micro_batch is 5; expected a divisor of batch_size, 16"),
        ({"micro_batch": 4}, "micro_batch is 4; expected a multiple of 8"),
        ({"warmup_steps": 40}, "warmup_steps is 40; expected less than steps"),
        ({"average_decay": 1.0}, "average_decay is 1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"augmentation": Augmentation(crop=0.0)}, "training.augmentation.crop is 0.0; expected"),
        ({"seed": -1}, "^seed is -1; expected 0 or more"),
    ],
)
def test_recipes_that_cannot_be_followed(changes, message):
    with pytest.raises(ValueError, match=message):
        check(recipe(**changes), 8)


def test_a_loss_that_is_no_number_names_its_step():
    """A film that is none, in the second of three batches."""
    how = recipe()
    model, state = started(how)
    mesh = one_device()
    step = pretrain.make_step(model, how, mesh, state, **PLAIN, rules=sharding.MODEL_PARALLEL)
    state = jax.device_put(state, sharding.variable_shardings(mesh, state))
    batches = [films(i) for i in range(3)]
    batches[1][0][0] = np.nan
    with pytest.raises(
        ValueError, match=r"loss and gradient_norm of step 12 .*training.learning_rate"
    ):
        list(pretrain.train(step, state, mesh, batches, 10))


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.",  # of GPUs and TPUs
        "INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes.",  # of CPUs
    ],
)
def test_too_little_memory_names_the_settings(message):
    expected = r"halve training.micro_batch, or set network.remat.* 9 bytes"
    with pytest.raises(ValueError, match=expected), pretrain.memory_explained():
        raise jax.errors.JaxRuntimeError(message)


def test_projections_at_one_point_are_noticed():
    label = jnp.arange(2 * FILMS, dtype=jnp.int32) // 2 % 2
    point = jnp.ones((2 * FILMS, 8))
    loss = float(supervised_contrastive_loss(point, label, 0.1))
    assert pretrain.is_stuck(recipe(), loss) and not pretrain.is_stuck(recipe(), 0.999 * loss)
    assert not pretrain.is_stuck(recipe(objective="cross_entropy"), loss)


def test_other_errors_of_devices_stay_what_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), pretrain.memory_explained():
        raise jax.errors.JaxRuntimeError("INTERNAL: of another kind")
