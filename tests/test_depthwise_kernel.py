"""The kernel for NVIDIA GPUs, interpreted on this CPU, against the layers it stands for.

That Triton compiles it, and how fast it is, only a GPU can tell.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import lax
from parity import TOLERANCE, calibrate, compiled, difference, random_images

from cxr_embeddings.encoder import batch_norm, depthwise_kernel, embed, sharding
from cxr_embeddings.encoder.batch_norm import swish
from cxr_embeddings.encoder.depthwise_kernel import FusedMBConv
from cxr_embeddings.encoder.efficientnet import BATCH_NORM_EPSILON, EfficientNet, MBConv
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


def random_layer(kernel_size, height, width, channels, dtype):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, height, width, channels)), dtype)
    kernel = jnp.asarray(rng.normal(size=(kernel_size, kernel_size, 1, channels)), dtype)
    norm = {name: rng.normal(size=channels) for name in ("mean", "scale", "bias")}
    norm["var"] = rng.uniform(0.5, 2, size=channels)
    return images, kernel, {name: jnp.asarray(leaf, jnp.float32) for name, leaf in norm.items()}


def by_layers(images, kernel, norm, strides):
    images, kernel = images.astype(jnp.float32), kernel.astype(jnp.float32)
    y = lax.conv_general_dilated(
        images,
        kernel,
        (strides, strides),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[-1],
    )
    y = batch_norm.normalise(
        y, **norm, epsilon=BATCH_NORM_EPSILON, activation=swish, dtype=jnp.float32
    )
    return y, jnp.mean(y, axis=(1, 2))


def by_kernel(images, kernel, norm, strides):
    scale, bias = batch_norm.as_scale_and_bias(**norm, epsilon=BATCH_NORM_EPSILON)
    return depthwise_kernel.depthwise_bn_swish(images, kernel, scale, bias, strides, True)


@pytest.mark.parametrize(("size", "strides", "height", "width", "channels", "dtype"), CASES)
def test_it_gives_what_the_layers_give(size, strides, height, width, channels, dtype):
    layer = random_layer(size, height, width, channels, dtype)
    expected, expected_means = by_layers(*layer, strides)
    found, means = jax.jit(by_kernel, static_argnums=3)(*layer, strides)
    tolerance = ROUNDING[dtype]
    assert found.dtype == dtype and found.shape == expected.shape
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance * np.abs(expected).max()
    )
    np.testing.assert_allclose(means, expected_means, rtol=1e-5, atol=1e-5)


def interpreted(*layer):
    return depthwise_kernel.depthwise_bn_swish(*layer, interpret=True)


@pytest.mark.parametrize(
    ("strides", "features", "side", "kernel"),
    [
        pytest.param(1, 8, 6, interpreted, marks=pytest.mark.slow),
        (1, 80, 4, depthwise_kernel.by_xla),
    ],
)
def test_a_block_gives_the_same(strides, features, side, kernel):
    """The last one has more channels than pixels: there the gate scales the images."""
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, side, side, 8)), jnp.float32)
    shape = features, 3, strides, 6, jnp.float32, lax.conv_general_dilated
    block, fused = MBConv(*shape), FusedMBConv(*shape, layers=kernel)
    variables = jax.jit(block.init)(jax.random.key(0), images)
    expected = jax.jit(block.apply)(variables, images)
    assert difference(jax.jit(fused.apply)(variables, images), expected) < 1e-6


@pytest.fixture(scope="module")
def live():
    """A network with weights through which a signal passes, and its form for GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.two_stages(patch)
        model = EfficientNet("tiny")
        variables = calibrate(model, random_variables(model), random_images(32, 4, 1))
        yield model, depthwise_kernel.for_gpu(model, depthwise_kernel.by_xla), variables


def test_the_network_in_its_form_for_gpus_gives_the_same(live):
    model, fast, variables = live
    contrasts = jnp.asarray([0.3, 2.0]).reshape(2, 1, 1, 1)
    images = contrasts * random_images(33, 2, 2)
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
        forward = embed.make_forward(fast, variables, mesh, "stage2", (0.5,) * 3, (0.25,) * 3)
        program = forward.lower(variables, grey).compile()
        assert "all-gather" not in program.as_text()
        return np.asarray(program(variables, sharding.put_rows(mesh, grey)))

    alone = run(sharding.make_mesh(devices=jax.devices()[:1]))
    assert difference(run(sharding.make_mesh()), alone) < TOLERANCE


def test_training_by_it_is_refused(live):
    model, fast, variables = live
    assert abstract_variables(fast) == abstract_variables(model)
    train = functools.partial(fast.apply, train=True, mutable="batch_stats")
    with pytest.raises(ValueError, match="for inference only"):
        jax.eval_shape(train, variables, jnp.zeros((2, 32, 32, 3)))
