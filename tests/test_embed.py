"""The sharded forward pass and the loop around it, on eight CPU devices."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from encoder import embed, random_weights, sharding
from encoder.efficientnet import EfficientNet

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def network():
    model = EfficientNet("b0", head_width=4096)
    return model, random_weights.random_variables(model, seed=1)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((16, 64, 64, 1), np.float32)


def run(network, images, devices, model_parallel=1, layer="head"):
    model, variables = network
    mesh = sharding.make_mesh(model_parallel, jax.devices()[:devices])
    placed = jax.device_put(variables, sharding.variable_shardings(mesh, variables))
    forward = embed.make_forward(model, placed, mesh, layer, MEAN, STD)
    return np.asarray(forward(placed, images))


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def single(network, images):
    return run(network, images, devices=1)


def test_eight_devices_give_what_one_gives(network, images, single, record_property):
    difference = relative(run(network, images, devices=8), single)
    record_property("relative difference of 8 devices to 1", float(difference))
    assert difference < 1e-5
    spread = np.abs(single - single.mean(axis=0)).max() / np.abs(single).max()
    assert spread > 0.05, "equal embeddings of different images would make this test pass vacuously"


def test_weights_over_the_model_axis_give_the_same(network, images, single):
    assert relative(run(network, images, devices=8, model_parallel=2), single) < 1e-5


def test_weights_are_split_by_the_table(network):
    _, variables = network
    mesh = sharding.make_mesh(2)
    placed = sharding.variable_shardings(mesh, variables)["params"]
    block = placed["stage2_block1"]
    assert block["expand_conv"]["kernel"].spec == PartitionSpec(None, None, None, "model")
    assert block["project_conv"]["kernel"].spec == PartitionSpec(None, None, "model", None)
    assert block["project_bn"]["scale"].spec == PartitionSpec()


def test_no_collective_over_data(network):
    model, variables = network
    mesh = sharding.make_mesh()
    forward = embed.make_forward(model, variables, mesh, "head", MEAN, STD)
    program = forward.lower(variables, jax.ShapeDtypeStruct((16, 64, 64, 1), np.float32))
    compiled = program.compile().as_text()
    pattern = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    assert not re.findall(pattern, compiled)
    # The same search finds the collectives where there must be some.
    mesh = sharding.make_mesh(2)
    forward = embed.make_forward(model, variables, mesh, "head", MEAN, STD)
    program = forward.lower(variables, jax.ShapeDtypeStruct((16, 64, 64, 1), np.float32))
    assert re.findall(pattern, program.compile().as_text())


def test_padding_changes_nothing(network, images, single):
    padded = images.copy()
    padded[5:] = 0
    np.testing.assert_array_equal(run(network, padded, devices=1)[:5], single[:5])


def test_channels_are_normalised_on_the_device(network, images, single):
    model, variables = network
    normalised = (np.repeat(images, 3, axis=-1) - np.float32(MEAN)) / np.float32(STD)
    expected, out = jax.jit(model.apply)(variables, normalised)
    assert relative(single, np.asarray(expected)) < 1e-5
    pooled = run(network, images, devices=1, layer="pooled")
    assert relative(pooled, np.asarray(out["pooled"])) < 1e-5


def test_feature_maps_are_flattened_row_by_row(network, images):
    model, variables = network
    normalised = (np.repeat(images, 3, axis=-1) - np.float32(MEAN)) / np.float32(STD)
    _, out = jax.jit(model.apply)(variables, normalised)
    found = run(network, images, devices=1, layer="feature_map")
    assert relative(found, np.asarray(out["feature_map"]).reshape(16, -1)) < 1e-5


def test_the_loop_keeps_order_and_prepares_ahead():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    forward = jax.jit(lambda _, images: images.sum(axis=(1, 2, 3))[:, None])
    seen = []

    def batches():
        for i in range(5):
            seen.append(i)
            yield i, np.full((2, 3, 3, 1), i, np.float32)

    first_out = []
    for tag, embeddings in embed.embed(forward, None, mesh, batches()):
        first_out.append((tag, len(seen)))
        np.testing.assert_array_equal(embeddings, np.full((2, 1), 9 * tag, np.float32))
    assert first_out == [(0, 2), (1, 3), (2, 4), (3, 5), (4, 5)]


def test_a_mesh_that_does_not_divide():
    with pytest.raises(ValueError, match="model_parallel is 3; expected a divisor of the 8"):
        sharding.make_mesh(3)
