"""The network against Keras' EfficientNet, with the same weights, stage by stage.

Plain random weights would make this test pass vacuously: the signal dies in depth and right and
wrong networks agree on nothing. So the weights are calibrated on data first, different images must
give different embeddings, and three deliberate mistakes must be found.
"""

import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from encoder import depthwise, efficientnet
from encoder.efficientnet import VARIANTS, EfficientNet, Variant, embedding_widths
from encoder.random_weights import random_variables
from encoder.weights import abstract_variables

TOLERANCE = 2e-5  # of the largest value of each stage, float32
SIZES = {"b0": (96, 97), "l2": (64, 65)}  # even and odd, near the size of the calibration
HEAD_WIDTHS = {"b0": 1280, "l2": 5504}  # Keras'
GOLDEN = pathlib.Path(__file__).parent / "golden" / "efficientnet_l2_leaves.txt"
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


def random_images(size: int, batch: int, seed: int) -> jax.Array:
    shape = (batch, size, size, 3)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def calibrate(model: EfficientNet, variables: dict, images: jax.Array, seed: int = 0) -> dict:
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


def compiled(model: EfficientNet) -> Callable[[dict, jax.Array], dict[str, jax.Array]]:
    """(variables, images) -> all intermediates; traced anew, so that a patched constant is seen."""
    return jax.jit(lambda variables, images: model.apply(variables, images)[1])


def keras_forward(variant: str, variables: dict, images: jax.Array) -> dict[str, np.ndarray]:
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
    found = keras.Model(network.input, outputs)(np.asarray(255 * images), training=False)
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


class Case(NamedTuple):
    variant: str
    model: EfficientNet
    forward: Callable[[dict, jax.Array], dict[str, jax.Array]]
    random: dict
    calibrated: dict


@pytest.fixture(scope="module", params=["b0", "l2"])
def case(request):
    """A network and its variables; L2 (1.9 GB, compiled in 10 s) is made once for all its tests."""
    variant = request.param
    model = EfficientNet(variant, HEAD_WIDTHS[variant])
    variables = jax.device_put(random_variables(model, seed=0))
    images = random_images(SIZES[variant][0], batch=8, seed=1)
    return Case(variant, model, compiled(model), variables, calibrate(model, variables, images))


@pytest.mark.parametrize("parity", [0, 1], ids=["even", "odd"])
def test_every_stage_agrees_with_keras(case, parity, record_property):
    images = random_images(SIZES[case.variant][parity], batch=2, seed=2)
    ours = case.forward(case.calibrated, images)
    theirs = keras_forward(case.variant, case.calibrated, images)
    differences = {name: difference(ours[name], theirs[name]) for name in STAGES}
    numbers = " ".join(f"{name}={value:.1e}" for name, value in differences.items())
    record_property(f"parity {case.variant} {images.shape[1]}", numbers)
    print(f"\nparity with Keras, {case.variant} at {images.shape[1]}: {numbers}")
    assert max(differences.values()) < TOLERANCE, numbers
    assert difference(ours["pooled"], theirs["stage7"].mean(axis=(1, 2))) < TOLERANCE
    assert difference(ours["head"], theirs["head_map"].mean(axis=(1, 2))) < TOLERANCE
    for name in ("pooled", "head"):  # the signal is alive
        assert difference(ours[name][0], ours[name][1]) > 0.1

    wrong = case.forward(swap_two_leaves(case.calibrated), images)
    assert difference(wrong["head_map"], theirs["head_map"]) > 1000 * TOLERANCE


@pytest.mark.parametrize("case", ["b0"], indirect=True)
def test_parity_finds_deliberate_mistakes(case, monkeypatch, record_property):
    images = random_images(SIZES[case.variant][0], batch=2, seed=2)
    right = case.forward(case.calibrated, images)
    symmetric = case.model.clone(conv_general_dilated=symmetric_conv)
    wrong = {
        "one leaf swapped": case.forward(swap_two_leaves(case.calibrated), images),
        "symmetric padding": compiled(symmetric)(case.calibrated, images),
    }
    monkeypatch.setattr(efficientnet, "BATCH_NORM_EPSILON", 1e-5)
    wrong["epsilon 1e-5"] = compiled(case.model)(case.calibrated, images)
    for mistake, out in wrong.items():
        found = difference(out["head_map"], right["head_map"])
        record_property(mistake, found)
        print(f"\n{mistake}: {found:.1e}")
        assert found > 1000 * TOLERANCE, mistake


def test_random_weights_keep_the_signal_alive_without_calibration(case):
    images = random_images(SIZES[case.variant][0], batch=2, seed=2)
    out = case.forward(case.random, images)
    for name, values in out.items():
        assert 0.1 < float(jnp.std(values)) < 10, name
    for name in ("pooled", "head"):
        first, second = np.asarray(out[name])
        assert np.linalg.norm(first - second) > 0.1 * np.linalg.norm(first)


def test_leaves_of_l2_are_those_of_the_golden_table():
    leaves = flatten_dict(abstract_variables(EfficientNet("l2")), sep="/")
    found = [f"{path} {','.join(map(str, leaf.shape))}" for path, leaf in sorted(leaves.items())]
    assert found == GOLDEN.read_text().splitlines()
    assert {leaf.dtype for leaf in leaves.values()} == {jnp.dtype("float32")}


def test_l2_has_the_published_number_of_parameters():
    variables = abstract_variables(EfficientNet("l2", head_width=5504))
    count = {name: sum(map(np.size, jax.tree.leaves(tree))) for name, tree in variables.items()}
    assert count["params"] + 5504 * 1000 + 1000 == 480_309_308  # with ImageNet's classifier
    assert count["batch_stats"] == 1_090_688


def test_widths_of_the_embeddings():
    pooled = {variant: embedding_widths(variant, None)["pooled"] for variant in VARIANTS}
    assert pooled == {
        **{"b0": 320, "b1": 320, "b2": 352, "b3": 384, "b4": 448, "b5": 512, "b6": 576, "b7": 640},
        "l2": 1376,
    }
    offered = {"head": 4096, "pooled": 1376, "feature_map": 1376}
    assert list(embedding_widths("l2", 4096).items()) == list(offered.items())
    assert embedding_widths("l2", None) == {"pooled": 1376, "feature_map": 1376}


@pytest.fixture
def tiny(monkeypatch) -> EfficientNet:
    """All seven stages, one block each: for what does not depend on size."""
    monkeypatch.setitem(VARIANTS, "tiny", Variant(0.25, 0.1, 32, 0.0))
    return EfficientNet("tiny", head_width=64)


@pytest.mark.parametrize("head_width", [64, None])
def test_embedding_is_the_last_average_and_intermediates_are_named(tiny, head_width):
    model = tiny.clone(head_width=head_width)
    images = random_images(32, batch=2, seed=0)
    embedding, out = jax.jit(model.apply)(random_variables(model), images)
    last = "head" if head_width else "pooled"
    assert np.array_equal(embedding, out[last])
    assert out[last].shape[1] == embedding_widths("tiny", head_width)[last]
    names = {"stem", *(f"stage{i}" for i in range(1, 8)), "feature_map", "pooled"}
    assert out.keys() == names | ({"head_map", "head"} if head_width else set())


def test_bfloat16_computes_in_bfloat16_and_returns_close_float32_embeddings(tiny):
    variables, images = random_variables(tiny), random_images(64, batch=4, seed=0)
    expected, _ = jax.jit(tiny.apply)(variables, images)
    found, out = jax.jit(tiny.clone(dtype=jnp.bfloat16).apply)(variables, images)
    assert found.dtype == jnp.float32 and out["stage7"].dtype == jnp.bfloat16
    assert difference(found, expected) < 0.05


def test_training_updates_statistics_and_every_parameter_gets_a_gradient(tiny):
    variables, images = random_variables(tiny), random_images(64, batch=4, seed=0)

    @jax.jit
    def step(params, batch_stats):
        def loss(params):
            (embedding, _), updates = tiny.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.sum(embedding[0] * embedding[1]), updates["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    gradients, statistics = step(variables["params"], variables["batch_stats"])
    for path, gradient in flatten_dict(gradients, sep="/").items():
        assert np.all(np.isfinite(gradient)) and np.any(gradient), path
    before = flatten_dict(variables["batch_stats"], sep="/")
    for path, after in flatten_dict(statistics, sep="/").items():
        assert not np.array_equal(after, before[path]), path
