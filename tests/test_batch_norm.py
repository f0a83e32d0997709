"""The hand-written BatchNorm against Flax's: results, gradients, statistics, names."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from parity import assert_close

from cxr_embeddings.encoder import batch_norm
from cxr_embeddings.encoder.batch_norm import BatchNorm, swish

EPSILON = 1e-3
ACTIVATIONS = [(swish, jax.nn.silu), (jax.nn.identity, jax.nn.identity)]


@pytest.fixture
def arguments() -> list[jax.Array]:
    """x, scale and bias; the mean of x is far from 0."""
    x = np.random.default_rng(0).normal(2, 3, size=(8, 9, 7, 5)).astype(np.float32)
    return [jnp.asarray(x), jnp.linspace(0.5, 2, 5), jnp.linspace(-1, 1, 5)]


def flax_norm(x, scale, bias, epsilon, activation, dtype):
    """`nn.BatchNorm`, and the statistics it used: with momentum 0 those are what it keeps."""
    layer = nn.BatchNorm(False, momentum=0.0, epsilon=epsilon)
    params = {"scale": scale, "bias": bias}
    y, new = layer.apply({"params": params}, x.astype(jnp.float32), mutable=["batch_stats"])
    return activation(y.astype(dtype)), new["batch_stats"]["mean"], new["batch_stats"]["var"]


def results(function, activation, dtype, arguments):
    """The three results, and the gradients of all three together for all three arguments."""
    random = np.random.default_rng(1)

    def run(*arguments):
        out, back = jax.vjp(lambda *a: function(*a, EPSILON, activation, dtype), *arguments)
        return *out, *back(tuple(jnp.asarray(random.normal(size=a.shape), a.dtype) for a in out))

    return jax.jit(run)(*arguments)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize(("ours", "plain"), ACTIVATIONS)
def test_it_is_flaxs_with_its_gradients(arguments, ours, plain, dtype, tolerance):
    arguments[0] = arguments[0].astype(dtype)
    found = results(batch_norm.normalise_batch, ours, dtype, arguments)
    assert_close(found, results(flax_norm, plain, dtype, arguments), tolerance)


def test_the_layer_has_flaxs_variables_keeps_its_statistics_and_infers_alike(arguments):
    x = arguments[0]
    flaxs = nn.BatchNorm(momentum=0.99, epsilon=EPSILON, dtype=jnp.float32)
    ours = BatchNorm(jax.nn.identity, jnp.float32)
    variables = ours.init(jax.random.key(0), x, True)
    expected = flaxs.init(jax.random.key(0), x, False)
    assert jax.tree.map(np.array_equal, variables, expected) == jax.tree.map(
        lambda _: True, expected
    )
    found = ours.apply(variables, x, True, mutable=["batch_stats"])[1]
    expected = flaxs.apply(variables, x, False, mutable=["batch_stats"])[1]
    assert_close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-6)
    variables |= found
    assert np.array_equal(ours.apply(variables, x, False), flaxs.apply(variables, x, True))


def test_statistics_and_gradients_are_of_the_whole_sharded_batch(arguments):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

    def run(*arguments):
        return results(batch_norm.normalise_batch, swish, jnp.float32, arguments)

    sharded = jax.jit(run, in_shardings=(rows, whole, whole))
    text = sharded.lower(*arguments).compile().as_text()
    assert "all-gather" not in text and "all-reduce" in text
    assert_close(sharded(*arguments), run(*arguments), 1e-5)
