"""The step of pretraining: its gradient, on how many devices it runs, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from cxr_embeddings.configs.schema_pretraining import AugmentationConfig
from cxr_embeddings.encoder import sharding, training_step
from cxr_embeddings.encoder.efficientnet import EfficientNet
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.recipe import OPTIMIZERS, Projection, Recipe
from cxr_embeddings.encoder.supcon import supervised_contrastive_loss
from cxr_embeddings.encoder.weights import abstract_variables

SIZE, FILMS = 32, 16
VIEWS_OF = jax.jit(training_step.views, static_argnums=0)
PLAIN = {"mean": (0.4,) * 3, "std": (0.3,) * 3}


@pytest.fixture(scope="module", autouse=True)
def _one_stage():
    with pytest.MonkeyPatch.context() as patch:
        tiny.one_stage(patch)
        yield


def recipe(**changes):
    given = {"batch_size": FILMS, "micro_batch": FILMS, "steps": 40, "warmup_steps": 4}
    given |= {"learning_rate": 3e-3, "weight_decay": 1e-2, "average_decay": 0.9}
    given["augmentation"] = AugmentationConfig(blur=0.0, noise=0.0)  # quicker to compile
    return Recipe(**given | changes)


def films(seed=0):
    """Films of two classes, of which one has a bright patch somewhere."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(0, 0.5, (FILMS, SIZE, SIZE, 1)).astype(np.float32)
    label = np.arange(FILMS, dtype=np.int32) % 2
    for i in np.flatnonzero(label):
        y, x = generator.integers(4, SIZE - 16, 2)
        images[i, y : y + 12, x : x + 12] += 0.5
    return images, label[:, None]


@functools.cache
def first_variables():
    """Of the network, which are not consumed by a step."""
    return jax.tree.map(np.asarray, random_variables(EfficientNet("tiny", head_width=32)))


def started(how, **setting):
    variables = jax.tree.map(jnp.array, first_variables())
    return EfficientNet("tiny", 32, **setting), training_step.start(how, variables, 32)


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def run(how, mesh, steps, rules=sharding.MODEL_PARALLEL, **setting):
    """The numbers of each step, the first and the last state, and the program."""
    model, state = started(how, **setting)
    step = training_step.make_step(model, how, mesh, state, **PLAIN, rules=rules)
    state = jax.device_put(state, sharding.variable_shardings(mesh, state, rules))
    found, first = [], None
    for i in range(steps):
        images, label = films(i % 3)
        rows = (sharding.put_rows(mesh, array) for array in (images, label))
        state, metrics = step(state, *rows)
        first = first or jax.tree.map(np.array, state)
        found.append({name: float(value) for name, value in metrics.items()})
    return found, first, state, step


@functools.cache
def on_one_device(micro_batch=FILMS):
    return run(recipe(micro_batch=micro_batch), one_device(), 40 if micro_batch == FILMS else 4)


def largest_difference(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


@pytest.mark.slow
def test_frozen_layers_and_all_statistics_stay():
    how = recipe(first_stage=8)  # the head alone
    _, first, last, _ = run(how, one_device(), 3)
    began = first_variables()
    for name, layer in last.params["encoder"].items():
        moved = largest_difference(layer, began["params"][name])
        assert (moved > 1e-4) == name.startswith("head_"), (name, moved)
    assert largest_difference(last.batch_stats, began["batch_stats"]) == 0
    assert largest_difference(first.params["head"], last.params["head"]) > 1e-4


@pytest.mark.slow
def test_what_is_left_holds_the_first_weights_share():
    _, _, last, _ = on_one_device()
    how, began = recipe(first_share=0.25), first_variables()
    placed = sharding.variable_shardings(one_device(), last.average)
    left = training_step.make_result(how, began, placed)(last.average)
    kernel = ("params", "head_conv", "kernel")
    old, new, found = (
        np.asarray(tree[a][b][c]) for a, b, c in [kernel] for tree in (began, last.average, left)
    )
    np.testing.assert_allclose(found, 0.25 * old + 0.75 * new, rtol=1e-6)
    assert training_step.make_result(recipe(), began, placed)(last.average) is last.average


@pytest.mark.slow
def test_micro_batches_give_the_gradient_of_the_whole_batch():
    """Against one program that holds all of it: groups for BatchNorm, one loss over all views."""
    how = recipe(micro_batch=4)
    model, state = started(how)
    images, label = map(jnp.asarray, films())
    views = VIEWS_OF(how, jnp.int32(0), images, jnp.arange(FILMS))
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
            return embedding, Projection().apply({"params": params["head"]}, embedding)

        both = jax.lax.map(outputs, jnp.asarray(groups))
        embedding, z = (
            one.reshape(4, 4, 2, -1).swapaxes(0, 1).reshape(2 * FILMS, -1) for one in both
        )
        return supervised_contrastive_loss(z, jnp.repeat(label, 2, 0), how.temperature), embedding

    (expected, embedding), slope = jax.jit(jax.value_and_grad(whole, has_aux=True))(state.params)
    gradient = jax.jit(training_step.make_gradient(model, how, one_device(), **PLAIN))
    value, gradients, _, found = gradient(
        state.params, state.batch_stats, jnp.int32(0), images, label
    )
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(found, embedding, atol=1e-5)  # in the order of the films
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope))
    assert largest_difference(gradients, slope) < 1e-5 * scale
    # BatchNorm's groups matter: the whole batch as one micro-batch is something else
    assert on_one_device()[0][0]["loss"] != pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("micro_batch", "model_parallel", "rules"),
    [(FILMS, 2, sharding.MODEL_PARALLEL), (8, 1, sharding.FULLY_SHARDED)],
)
def test_eight_devices_train_as_one(micro_batch, model_parallel, rules):
    how = recipe(micro_batch=micro_batch)
    expected = on_one_device(micro_batch)[0][:4]
    found, _, state, _ = run(how, sharding.make_mesh(model_parallel), 4, rules)
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, rel=2e-4)
    assert expected[0]["loss"] != pytest.approx(expected[3]["loss"], rel=1e-2)
    split = any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.optimizer))
    assert split == (model_parallel > 1 or rules is sharding.FULLY_SHARDED)


def assert_learned(found, rate):
    first, last = (np.mean([one["loss"] for one in part]) for part in (found[:5], found[-5:]))
    assert last < 0.9 * first
    rates = [one["learning_rate"] for one in found]
    assert rates[:4] == pytest.approx([rate * n / 4 for n in (1, 2, 3, 4)])
    assert max(rates) == pytest.approx(rate) and 0 < rates[-1] < 0.01 * rate


def test_it_learns_and_the_average_follows_the_weights():
    found, first, _, _ = on_one_device()
    assert_learned(found, 3e-3)
    _, begun = started(recipe())
    for name, new in (("params", first.params["encoder"]), ("batch_stats", first.batch_stats)):
        # of a young average: min(0.9, 1 / 10)
        expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, begun.average[name], new)
        assert largest_difference(first.average[name], expected) < 1e-6


@pytest.mark.slow
def test_lars_and_cross_entropy_learn():
    how = recipe(optimizer="lars", objective="cross_entropy", learning_rate=1.0)
    assert_learned(run(how, one_device(), 40)[0], 1.0)


@pytest.mark.slow
def test_in_bfloat16_statistics_stay_float32():
    with jax.numpy_dtype_promotion("standard"):  # Flax's own BatchNorm asks for it
        found, _, state, _ = run(recipe(), one_device(), 3, dtype=jnp.bfloat16)
    assert found[2]["loss"] == pytest.approx(on_one_device()[0][2]["loss"], rel=0.05)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.batch_stats)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_kernels_decay(optimizer):
    """With gradients of zero, what changes is what decays."""
    variables = abstract_variables(EfficientNet("tiny", head_width=32))
    start = functools.partial(training_step.start, recipe(), width=32)
    shapes = jax.eval_shape(start, variables).params
    params = jax.tree.map(lambda leaf: jnp.ones((2,) * leaf.ndim), shapes)
    made = OPTIMIZERS[optimizer](lambda step: 0.1, weight_decay=0.5)
    zeros = jax.tree.map(jnp.zeros_like, params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = jax.jit(lambda: made.update(zeros, made.init(params), params))()
    moved = {
        path[-1].key: np.any(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
    }
    assert {name for name, moves in moved.items() if moves} == {"kernel"} and len(moved) > 2


def test_views_depend_on_seed_step_and_film_alone():
    images = jnp.asarray(films()[0])

    def views(how, step, which):
        found = VIEWS_OF(how, jnp.int32(step), images[jnp.array(which)], jnp.array(which))
        return np.asarray(found).reshape(4, 2, -1)

    found = views(recipe(), 7, [1, 2, 5, 9])
    np.testing.assert_array_equal(views(recipe(), 7, [9, 5, 0, 3])[:2], found[[3, 2]])
    assert (found[:, 0] != found[:, 1]).any()
    for how, step in ((recipe(), 8), (recipe(seed=1), 7)):
        assert (views(how, step, [1, 2, 5, 9]) != found).any()


def test_a_loss_that_is_no_number_names_its_step():
    """A film that is none, in the second of three batches."""
    mesh, step = one_device(), on_one_device()[-1]
    state = started(recipe())[1]
    state = jax.device_put(state, sharding.variable_shardings(mesh, state))
    batches = [films(i) for i in range(3)]
    batches[1][0][0] = np.nan
    with pytest.raises(
        ValueError, match=r"loss and gradient_norm of step 12 .*training.learning_rate"
    ):
        list(training_step.train(step, state, mesh, batches, 10))
