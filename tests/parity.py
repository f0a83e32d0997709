"""What the tests of parity share: live weights, the measure of difference, and mistakes to find.

Plain random weights would make a test of parity pass vacuously: the signal dies in depth and right
and wrong networks agree on nothing. So the weights are calibrated on data first, different images
must give different embeddings, and deliberate mistakes must be found.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from cxr_embeddings.encoder import batch_norm, depthwise
from cxr_embeddings.encoder.efficientnet import EfficientNet

TOLERANCE = 2e-5  # of the largest value of each stage, float32
STAGES = ["stem", *(f"stage{i}" for i in range(1, 8)), "head_map"]


def random_images(size: int, batch: int, seed: int) -> jax.Array:
    shape = (batch, size, size, 3)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def with_statistics(variables: dict, seed: int = 0) -> dict:
    """Random numbers in every leaf, so that a mix-up of any two shows.

    No reader takes the BatchNorm statistics of a new network.
    """
    rng = np.random.default_rng(seed)
    leaves = flatten_dict(variables)
    for path, leaf in leaves.items():
        if path[-1] != "kernel":  # kernels are random already
            low, high = (0.9, 1.1) if path[-1] in ("scale", "var") else (-0.1, 0.1)
            leaves[path] = rng.uniform(low, high, leaf.shape).astype(np.float32)
    return unflatten_dict(leaves)


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
        patch.setattr(batch_norm, "MOMENTUM", 0.0)
        step = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable="batch_stats")[1])
        return {**variables, **step(variables, images)}


def compiled(model: EfficientNet) -> Callable[[dict, jax.Array], dict[str, jax.Array]]:
    """(variables, images) -> all intermediates; traced anew, so that a patched constant is seen."""
    return jax.jit(lambda variables, images: model.apply(variables, images)[1])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest expected value."""
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def assert_close(found, expected, tolerance):
    """Arrays in turn: dtypes, shapes, and values within a share of the largest."""
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert difference(*(np.asarray(one, np.float64) for one in (a, b))) < tolerance


def assert_same_leaves(found: dict, expected: dict) -> None:
    """The very same numbers under the very same names."""
    found, expected = (flatten_dict(tree, sep="/") for tree in (found, expected))
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert found[path].dtype == leaf.dtype and np.array_equal(found[path], leaf), path


def assert_stages_agree(ours: dict, theirs: dict) -> None:
    """Every stage is the same, and the signal is alive."""
    differences = {name: difference(ours[name], theirs[name]) for name in STAGES}
    assert max(differences.values()) < TOLERANCE, differences
    for name in ("pooled", "own_head"):
        assert difference(ours[name][0], ours[name][1]) > 0.1


def swap_two_leaves(variables: dict) -> dict:
    """Exchanges leaves of equal shape: the mistake that no check of shapes can find."""
    leaves = flatten_dict(variables, sep="/")
    first, second = (f"params/stage2_block1/{name}_bn/scale" for name in ("expand", "depthwise"))
    leaves[first], leaves[second] = leaves[second], leaves[first]
    return unflatten_dict(leaves, sep="/")


def symmetric_conv(lhs, rhs, window_strides, padding, **options):
    """PyTorch's padding, which differs from TensorFlow's at stride 2 and even sizes."""
    if tuple(window_strides) == (2, 2):
        padding = [(side // 2, side // 2) for side in rhs.shape[:2]]
    return depthwise.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def mistakes(
    model: EfficientNet, forward: Callable, variables: dict, images: jax.Array
) -> Iterator[tuple[str, dict[str, jax.Array]]]:
    """What a wrong port would say: name of the mistake and all intermediates."""
    yield "one leaf swapped", forward(swap_two_leaves(variables), images)
    symmetric = model.clone(conv_general_dilated=symmetric_conv)
    yield "symmetric padding", compiled(symmetric)(variables, images)
    plain = model.clone(conv_general_dilated=jax.lax.conv_general_dilated)  # compiles sooner
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_norm, "EPSILON", 1e-5)
        yield "epsilon 1e-5", compiled(plain)(variables, images)
