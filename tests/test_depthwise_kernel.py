"""The kernel for NVIDIA GPUs, interpreted on this CPU, against the layers it stands for.

That Triton compiles it, and how fast it is, only a GPU can tell.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from parity import TOLERANCE, calibrate, compiled, difference, random_images

from cxr_embeddings.encoder import depthwise_kernel, inference, sharding
from cxr_embeddings.encoder.efficientnet import EfficientNet, MBConv
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.weights import abstract_variables

# kernel, stride, height, width, channels, dtype: odd and even sizes, channels that fill no block
CASES = [(3, 1, 5, 6, 104, "bfloat16"), (5, 2, 5, 6, 8, "float32")]
ROUNDING = {"float32": 1e-6, "bfloat16": 2**-8}


@pytest.fixture(scope="module", autouse=True)
def _small_tile():
    """With its 4 x 4 outputs a thread the interpreter's program takes 10 s to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise_kernel, "TILE", 2)
        yield


@pytest.mark.parametrize(("size", "strides", "height", "width", "channels", "dtype"), CASES)
def test_it_gives_what_the_layers_give(size, strides, height, width, channels, dtype):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, height, width, channels)), dtype)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, channels)), dtype)
    scale, bias = jnp.asarray(rng.normal(size=(2, channels)), jnp.float32)
    wide = (one.astype(jnp.float32) for one in (images, kernel))
    expected, expected_means = depthwise_kernel.by_xla(*wide, scale, bias, strides)
    found, means = depthwise_kernel.depthwise_bn_swish(images, kernel, scale, bias, strides, True)
    tolerance = ROUNDING[dtype]
    assert found.dtype == dtype and found.shape == expected.shape
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance * np.abs(expected).max()
    )
    np.testing.assert_allclose(means, expected_means, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def live():
    """A network with weights through which a signal passes, and its form for GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.two_stages(patch)
        model = EfficientNet("tiny")
        variables = calibrate(model, random_variables(model), random_images(32, 4, 1))
        yield model, depthwise_kernel.for_gpu(model, depthwise_kernel.by_xla), variables


@pytest.mark.parametrize("size", [33, 8])
def test_the_network_in_its_form_for_gpus_gives_the_same(live, size):
    """Of 8 px the last maps have fewer pixels than channels: there the gate scales the images."""
    model, fast, variables = live
    contrasts = jnp.asarray([0.3, 2.0]).reshape(2, 1, 1, 1)
    images = contrasts * random_images(size, 2, 2)
    expected = compiled(model)(variables, images)
    found = compiled(fast)(variables, images)
    assert found.keys() == expected.keys()
    for name in expected:
        assert difference(found[name], expected[name]) < TOLERANCE, name
    assert difference(expected["head"][0], expected["head"][1]) > 0.1


def test_each_device_computes_its_own_films(live):
    _, fast, variables = live
    grey = np.random.default_rng(3).uniform(size=(8, 32, 32, 1)).astype(np.float32)

    def run(mesh):
        forward = inference.make_forward(fast, variables, mesh, "stage2", (0.5,) * 3, (0.25,) * 3)
        program = forward.lower(variables, grey).compile()
        assert "all-gather" not in program.as_text()
        return np.asarray(program(variables, sharding.put_rows(mesh, grey)))

    alone = run(sharding.make_mesh(devices=jax.devices()[:1]))
    assert difference(run(sharding.make_mesh()), alone) < TOLERANCE


def test_a_lite_network_keeps_its_blocks():
    """They have neither the swish nor the gate that the kernel computes."""
    model = depthwise_kernel.for_gpu(EfficientNet("lite0"), depthwise_kernel.by_xla)
    assert model.block is MBConv


def test_training_by_it_is_refused(live):
    model, fast, variables = live
    assert abstract_variables(fast) == abstract_variables(model)
    train = functools.partial(fast.apply, train=True, mutable="batch_stats")
    with pytest.raises(ValueError, match="for inference only"):
        jax.eval_shape(train, variables, jnp.zeros((2, 32, 32, 3)))
