"""The fast convolutions against XLA's own."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from parity import assert_close

from cxr_embeddings.encoder import depthwise

NHWC = ("NHWC", "HWIO", "NHWC")


def random(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def both(images, kernel, strides, padding="SAME", groups=1):
    """The convolution and its gradients for images and kernel: ours, and XLA's."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(conv, images, kernel):
        def value(images, kernel):
            options = {"dimension_numbers": NHWC, "feature_group_count": groups}
            return conv(images, kernel, strides, padding, **options)

        out, pull_back = jax.vjp(value, images, kernel)
        return out, *pull_back(random(out.shape, out.dtype, seed=3))

    return [
        run(conv, images, kernel)
        for conv in (depthwise.conv_general_dilated, lax.conv_general_dilated)
    ]


@pytest.mark.parametrize(
    ("side", "stride", "height", "dtype", "tolerance"),
    [
        (3, 1, 12, "float32", 1e-5),
        (3, 2, 13, "bfloat16", 5e-2),
        (5, 1, 13, "bfloat16", 5e-2),
        (5, 2, 12, "float32", 1e-5),
        (5, 2, 13, "float32", 1e-5),
    ],
)
def test_depthwise_is_the_grouped_convolution(side, stride, height, dtype, tolerance):
    images = random((2, height, height - 3, 8), dtype)
    kernel = random((side, side, 1, 8), dtype, seed=1)
    found, expected = both(images, kernel, (stride, stride), groups=8)
    assert_close(found, expected, tolerance)


@pytest.mark.parametrize(
    ("strides", "padding"),
    [((2, 2), [(1, 1), (0, 2)]), ((1, 2), [(0, 0), (4, 3)]), ((3, 1), "VALID")],
)
def test_depthwise_takes_any_padding_and_strides(strides, padding):
    images, kernel = random((1, 9, 8, 4)), random((3, 4, 1, 4), seed=1)
    assert_close(*both(images, kernel, strides, padding, groups=4), 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_pointwise_is_the_1x1_convolution(dtype, tolerance):
    images, kernel = random((2, 5, 6, 16), dtype), random((1, 1, 16, 24), dtype, seed=1)
    assert_close(*both(images, kernel, (1, 1)), tolerance)


@pytest.mark.parametrize(
    ("kernel", "stride", "groups"),
    [
        ((3, 3, 4, 8), 2, 1),
        ((1, 1, 4, 8), 2, 1),
        ((3, 3, 2, 8), 1, 2),
        ((3, 3, 1, 8), 1, 4),
        ((1, 1, 1, 4), 2, 4),  # depthwise, but some pixels are under no tap
    ],
)
def test_all_others_are_xlas_own(kernel, stride, groups):
    found, expected = both(
        random((2, 9, 8, 4)), random(kernel, seed=1), (stride, stride), groups=groups
    )
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)


def test_padded_pointwise_and_dilated_depthwise_are_xlas_own():
    found, expected = both(random((1, 4, 4, 4)), random((1, 1, 4, 8)), (1, 1), [(1, 0), (0, 2)])
    assert_close(found, expected, 1e-6)
    options = {"dimension_numbers": NHWC, "feature_group_count": 4, "rhs_dilation": (2, 2)}
    arguments = random((1, 8, 9, 4)), random((3, 3, 1, 4), seed=1), (1, 1), "SAME"
    found = depthwise.conv_general_dilated(*arguments, **options)
    assert np.array_equal(found, lax.conv_general_dilated(*arguments, **options))


def test_a_cpu_program_has_no_convolution_left_and_others_have():
    layer = nn.Conv(
        8,
        (3, 3),
        feature_group_count=8,
        use_bias=False,
        conv_general_dilated=depthwise.conv_general_dilated,
    )
    images = random((1, 8, 8, 8))
    variables = layer.init(jax.random.key(0), images)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (3, 3, 1, 8)}}

    def count(function: Callable, platform: str) -> int:
        traced = jax.jit(function).trace(variables, images)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return text.count("stablehlo.convolution")

    gradients = jax.grad(lambda *arguments: jnp.sum(layer.apply(*arguments) ** 2), (0, 1))
    for function, convolutions in ((layer.apply, 1), (gradients, 3)):
        assert count(function, "cpu") == 0
        assert count(function, "cuda") == count(function, "tpu") == convolutions
