"""The network against Keras' EfficientNet, with the same weights, stage by stage.

Plain random weights would make this test pass vacuously: the signal dies in depth and right and
wrong networks agree on nothing. So the weights are calibrated on data first, different images must
give different embeddings, and three deliberate mistakes must be found.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from encoder import depthwise, efficientnet
from encoder.efficientnet import VARIANTS, EfficientNet, embedding_widths
from encoder.weights import abstract_variables, random_variables

TOLERANCE = 2e-5  # of the largest value of each stage, float32
SIZES = {"b0": (96, 97), "l2": (64, 65)}  # even and odd, near the size of the calibration
HEAD_WIDTHS = {"b0": 1280, "l2": 5504}  # Keras'
STAGES = ["stem", *(f"stage{i}" for i in range(1, 8)), "head_map"]
LAYERS = {  # ours -> Keras', where they differ
    "stem_conv": "stem_conv",
    "stem_bn": "stem_bn",
    "head_conv": "top_conv",
    "head_bn": "top_bn",
    "depthwise_conv": "dwconv",
    "depthwise_bn": "bn",
    "squeeze_excite/reduce": "se_reduce",
    "squeeze_excite/expand": "se_expand",
}
LEAVES = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}


def random_images(size: int, batch: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def calibrate(model: EfficientNet, variables: dict, images: np.ndarray, seed: int = 0) -> dict:
    """Sets the BatchNorm statistics to those of the images, layer by layer, in one forward pass.

    Scales and biases get random values first, so that a mix-up of any two leaves shows. Those that
    close a residual branch are small: a hotter network is chaotic and amplifies rounding errors.
    """
    rng = np.random.default_rng(seed)
    leaves = flatten_dict(variables, sep="/")
    for path, leaf in leaves.items():
        if "_bn/" in path and path.startswith("params/"):
            low, high = (0.5, 1.5) if path.endswith("scale") else (-0.3, 0.3)
            closes_residual = "project_bn/scale" in path and "_block1/" not in path
            factor = 0.1 if closes_residual else 1.0
            leaves[path] = jnp.asarray(factor * rng.uniform(low, high, leaf.shape), jnp.float32)
    variables = unflatten_dict(leaves, sep="/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "BATCH_NORM_MOMENTUM", 0.0)
        step = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable="batch_stats")[1])
        return {**variables, **step(variables, images)}


def forward(model: EfficientNet, variables: dict, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every intermediate; traced anew, so that a patched constant is seen."""
    out = jax.jit(lambda v, x: model.apply(v, x)[1])(variables, images)
    return jax.tree.map(np.asarray, out)


def keras_forward(variant: str, variables: dict, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every stage's output of Keras' network with our variables in its layers."""
    import keras
    from keras.src.applications import efficientnet as reference

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "CONV_KERNEL_INITIALIZER", "zeros")  # they are replaced: be quick
        scale = VARIANTS[variant]
        network = reference.EfficientNet(
            scale.width,
            scale.depth,
            scale.resolution,
            include_top=False,
            weights=None,
            input_shape=images.shape[1:],
        )
    theirs = {w.path: w for w in network.weights if not w.path.startswith("normalization")}
    for path, leaf in flatten_dict(variables, sep="/").items():
        *layer, name = path.split("/")[1:]
        layer = "/".join(layer)
        prefix = ""
        if match := re.fullmatch(r"stage(\d)_block(\d+)/(.*)", layer):
            prefix, layer = f"block{match[1]}{chr(96 + int(match[2]))}_", match[3]
        name = "beta" if layer.endswith("_bn") and name == "bias" else LEAVES.get(name, name)
        values = np.asarray(leaf)
        if layer == "depthwise_conv":
            values = values.swapaxes(2, 3)  # Keras: [h w channel 1]
        weight = theirs.pop(f"{prefix}{LAYERS.get(layer, layer)}/{name}")
        assert weight.shape == values.shape, path
        weight.assign(values)
    assert not theirs

    last = {"stem": "stem_activation", "head_map": "top_activation"}
    for layer in network.layers:
        if match := re.fullmatch(r"block(\d)[a-z]_(add|project_bn)", layer.name):
            last[f"stage{match[1]}"] = layer.name
    outputs = {name: network.get_layer(layer).output for name, layer in last.items()}
    # Keras divides by 255 in front of the stem; its Normalization has mean 0 and variance 1 here.
    found = keras.Model(network.input, outputs)(255 * images, training=False)
    return {name: value.numpy() for name, value in found.items()}


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest expected value."""
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def swap_two_leaves(variables: dict) -> dict:
    """Exchanges two kernels of equal shape: the mistake that no check of shapes can find."""
    leaves = flatten_dict(variables, sep="/")
    first, second = (f"params/stage6_block{j}/project_conv/kernel" for j in (2, 3))
    leaves[first], leaves[second] = leaves[second], leaves[first]
    return unflatten_dict(leaves, sep="/")


def symmetric_conv(lhs, rhs, window_strides, padding, **options):
    """PyTorch's padding, which differs from TensorFlow's at stride 2 and even sizes."""
    if tuple(window_strides) == (2, 2):
        padding = [(side // 2, side // 2) for side in rhs.shape[:2]]
    return depthwise.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


@pytest.fixture(scope="module", params=["b0", "l2"])
def calibrated(request):
    """A variant, its network and live variables; L2 (1.9 GB) is made once for all its tests."""
    model = EfficientNet(request.param, HEAD_WIDTHS[request.param])
    variables = jax.device_put(random_variables(model, seed=0))
    images = random_images(SIZES[request.param][0], batch=8, seed=1)
    return request.param, model, calibrate(model, variables, images)


@pytest.mark.parametrize("parity", [0, 1], ids=["even", "odd"])
def test_every_stage_agrees_with_keras(calibrated, parity, record_property):
    variant, model, variables = calibrated
    images = random_images(SIZES[variant][parity], batch=2, seed=2)
    ours = forward(model, variables, images)
    theirs = keras_forward(variant, variables, images)
    differences = {name: difference(ours[name], theirs[name]) for name in STAGES}
    numbers = " ".join(f"{name}={value:.1e}" for name, value in differences.items())
    record_property(f"parity {variant} {images.shape[1]}", numbers)
    print(f"\nparity with Keras, {variant} at {images.shape[1]}: {numbers}")
    assert max(differences.values()) < TOLERANCE, numbers
    assert difference(ours["pooled"], theirs["stage7"].mean(axis=(1, 2))) < TOLERANCE
    assert difference(ours["head"], theirs["head_map"].mean(axis=(1, 2))) < TOLERANCE
    for name in ("pooled", "head"):  # the signal is alive
        assert difference(ours[name][0], ours[name][1]) > 0.1

    wrong = forward(model, swap_two_leaves(variables), images)
    assert difference(wrong["head_map"], theirs["head_map"]) > 1000 * TOLERANCE


def test_parity_finds_deliberate_mistakes(monkeypatch, record_property):
    model = EfficientNet("b0", HEAD_WIDTHS["b0"])
    images = random_images(SIZES["b0"][0], batch=4, seed=1)
    variables = calibrate(model, random_variables(model, seed=0), images)
    right = forward(model, variables, images)

    wrong = {
        "one leaf swapped": forward(model, swap_two_leaves(variables), images),
        "symmetric padding": forward(
            model.clone(conv_general_dilated=symmetric_conv), variables, images
        ),
    }
    monkeypatch.setattr(efficientnet, "BATCH_NORM_EPSILON", 1e-5)
    wrong["epsilon 1e-5"] = forward(model, variables, images)
    for mistake, out in wrong.items():
        found = difference(out["head_map"], right["head_map"])
        record_property(mistake, found)
        print(f"\n{mistake}: {found:.1e}")
        assert found > 1000 * TOLERANCE, mistake
