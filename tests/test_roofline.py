"""The floor of a network on a machine, against layers counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import roofline
from cxr_embeddings.encoder.efficientnet import EfficientNet


def dense(x, w):
    return jax.nn.relu(x @ w)


def convolution(images, kernel, stride=1, groups=1):
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        "SAME",
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def test_layers_are_counted():
    (found,) = roofline.layers(dense, jnp.ones((3, 5)), jnp.ones((5, 7)))
    assert found == (2 * 3 * 5 * 7, 3 * 5 + 5 * 7 + 3 * 7)
    images = jnp.ones((2, 8, 8, 6))
    (found,) = roofline.layers(lambda x, k: convolution(x, k, 2), images, jnp.ones((3, 3, 6, 4)))
    assert found == (2 * (2 * 4 * 4 * 4) * 9 * 6, 2 * 64 * 6 + 9 * 6 * 4 + 2 * 16 * 4)
    (found,) = roofline.layers(
        lambda x, k: convolution(x, k, groups=6), images, jnp.ones((5, 5, 1, 6))
    )
    assert found == (2 * (2 * 64 * 6) * 25, 2 * 64 * 6 + 25 * 6 + 2 * 64 * 6)


def test_layers_inside_of_others_are_counted():
    def program(x, w):
        return jax.jit(lambda y: jax.lax.cond(y.sum() > 0, dense, dense, y, w))(x @ w)

    x = jnp.ones((4, 4))
    assert len(roofline.layers(program, x, x)) == 3


def test_the_network_has_the_published_multiply_adds():
    """B0 at 224 px: 0.39 G multiply-adds (arXiv 1905.11946, table 2), the classifier left out."""
    model = EfficientNet("b0", 1280, conv_general_dilated=jax.lax.conv_general_dilated)
    images = jnp.zeros((1, 224, 224, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    found = roofline.layers(lambda v, x: model.apply(v, x)[0], variables, images)
    assert sum(one.flops for one in found) / 2 == pytest.approx(0.39e9, rel=0.02)


def test_the_floor_is_the_sum_of_what_each_layer_waits_for():
    ceilings = roofline.Ceilings(flops=100.0, bytes=10.0)
    arithmetic, memory = roofline.Layer(1000, 1), roofline.Layer(10, 100)
    assert roofline.floor_seconds([arithmetic, memory], ceilings, 2) == 10 + 20


def test_ceilings_are_measured_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "MATRIX", 128)
    monkeypatch.setattr(roofline, "COPIED", 2**16)
    ceilings = roofline.measure_ceilings("float32")
    assert ceilings.flops > 1e6 and ceilings.bytes > 1e6
    roofline.draw(tmp_path / "a.png", ceilings, {"one": [(10, 1e9)], "two": [(1, 1e8), (2, 2e8)]})
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
