"""The network's shapes, names, dtypes and gradients; tests/test_keras.py has its numbers."""

import hashlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from parity import compiled, difference, random_images

from cxr_embeddings.encoder import efficientnet
from cxr_embeddings.encoder.batch_norm import swish
from cxr_embeddings.encoder.efficientnet import VARIANTS, EfficientNet
from cxr_embeddings.encoder.embedding_layers import embedding_shape, embedding_widths
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.weights import abstract_variables

KERNELS = {  # of L2's stage2_block1
    "expand_conv": (1, 1, 72, 432),
    "depthwise_conv": (3, 3, 1, 432),
    "squeeze_excite/reduce": (1, 1, 432, 18),
    "squeeze_excite/expand": (1, 1, 18, 432),
    "project_conv": (1, 1, 432, 104),
}
LEAVES = {  # stages -> SHA-256 of L2's leaves, a sorted line each: its path, and its shape
    2: "99106f8578c727155043682b119c71040c2b07207aad83bad1d6c9931075df2e",
    7: "ec962a537c14c08e5910b1b65901d6e4db49bdb03c13e19bd7c9ef4f8646671c",
}


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "head_width"), [("b0", 1280), ("b4", 1792), ("lite0", 1280)])
def test_random_weights_keep_the_signal_alive_without_calibration(variant, head_width):
    model = EfficientNet(variant, head_width)
    images = random_images(96, batch=2, seed=2)
    out = compiled(model)(jax.device_put(random_variables(model, seed=0)), images)
    for name, values in out.items():
        assert 0.1 < float(jnp.std(values)) < 10, name
    for name in ("pooled", "own_head"):
        first, second = np.asarray(out[name])
        assert np.linalg.norm(first - second) > 0.1 * np.linalg.norm(first)


@pytest.mark.parametrize("stages", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_l2_has_the_published_leaves_and_number_of_parameters(stages, monkeypatch):
    """The number is with a head of 5504 in place of ours, and ImageNet's classifier."""
    monkeypatch.setattr(efficientnet, "STAGES", tiny.STAGES[:stages])
    model = EfficientNet("l2", 4096 if stages == 7 else None)
    leaves = flatten_dict(abstract_variables(model), sep="/")
    assert {leaf.dtype for leaf in leaves.values()} == {jnp.dtype("float32")}
    for layer, shape in KERNELS.items():
        assert leaves[f"params/stage2_block1/{layer}/kernel"].shape == shape
    lines = (f"{path} {','.join(map(str, leaf.shape))}" for path, leaf in sorted(leaves.items()))
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == LEAVES[stages]
    if stages == 7:
        count = {"params": 1376 * 5504 + 2 * 5504 + 5504 * 1000 + 1000, "batch_stats": 2 * 5504}
        for path, leaf in leaves.items():
            collection, layer = path.split("/")[:2]
            count[collection] += 0 if layer.startswith("head_") else leaf.size
        assert count == {"params": 480_309_308, "batch_stats": 1_090_688}


def test_widths_of_the_embeddings():
    pooled = {variant: embedding_widths(variant, None)["pooled"] for variant in VARIANTS}
    assert pooled.pop("tiny") == 80, "the tests' own"
    assert pooled == {
        **{"b0": 320, "b1": 320, "b2": 352, "b3": 384, "b4": 448, "b5": 512, "b6": 576, "b7": 640},
        **{"l2": 1376, "lite0": 320, "lite1": 320, "lite2": 352, "lite3": 384, "lite4": 448},
    }
    offered = {"head": 4096, "pooled": 1376, "feature_map": 1376, "pooled_map": 1376}
    assert list(embedding_widths("l2", 4096).items()) == list(offered.items())
    del offered["head"]
    assert embedding_widths("l2", None) == offered
    own = {"own_head": 5504, **offered}
    assert list(embedding_widths("l2", 5504).items()) == list(own.items())
    projected = {"projection": 4096, **own}
    assert list(embedding_widths("l2", 5504, True).items()) == list(projected.items())


@pytest.fixture
def two_stages(monkeypatch) -> EfficientNet:
    tiny.two_stages(monkeypatch)
    return EfficientNet("tiny", head_width=64)


@pytest.mark.parametrize(("head_width", "projection"), [(64, True), (None, False)])
def test_every_embedding_is_there_by_its_name_width_and_shape(head_width, projection):
    model = EfficientNet("tiny", head_width, projection)
    images = random_images(320, batch=2, seed=0)
    variables = abstract_variables(model)
    embedding, out = jax.eval_shape(model.apply, variables, images)
    offered = embedding_widths("tiny", head_width, projection)
    assert embedding.shape == (2, next(iter(offered.values())))
    for layer, width in offered.items():
        assert out[layer].shape == (2, *embedding_shape(width, layer, 320))
        assert out[layer].dtype == jnp.float32
    names = {"stem", *(f"stage{i}" for i in range(1, 8)), *offered}
    assert out.keys() == names | ({"head_map"} if head_width else set())


def test_patches_average_to_the_whole_and_bfloat16_computes_in_bfloat16(two_stages):
    variables, images = random_variables(two_stages), random_images(80, batch=4, seed=0)
    embedding, out = jax.jit(two_stages.apply)(variables, images)
    assert np.array_equal(embedding, out["own_head"])
    whole = np.mean(out["pooled_map"], axis=(1, 2))  # patches of equal size
    np.testing.assert_allclose(whole, out["pooled"], rtol=1e-5, atol=1e-6)
    found, out = jax.jit(two_stages.clone(dtype=jnp.bfloat16).apply)(variables, images)
    assert found.dtype == jnp.float32 and out["stage2"].dtype == jnp.bfloat16
    assert difference(found, embedding) < 0.05


def training_step(model: EfficientNet, images: jax.Array) -> Callable:
    """(params, batch_stats) -> gradients and new statistics of a loss that couples two images."""

    def loss(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        (embedding, _), new = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return jnp.sum(embedding[0] * embedding[1]), new["batch_stats"]

    return jax.jit(jax.grad(loss, has_aux=True))


@pytest.mark.slow
def test_training_and_remat(monkeypatch):
    """Every statistic is updated, every parameter gets a gradient; with remat the same ones."""
    tiny.one_stage(monkeypatch)
    model = EfficientNet("tiny", head_width=64)
    variables, images = random_variables(model), random_images(64, batch=4, seed=0)
    again = model.clone(remat=True)
    assert jax.tree.structure(random_variables(again)) == jax.tree.structure(variables)
    arguments = variables["params"], variables["batch_stats"]
    once, twice = (training_step(model, images).lower(*arguments) for model in (model, again))
    assert twice.as_text().count("stablehlo.tanh") > once.as_text().count("stablehlo.tanh")
    expected, found = (step.compile()(*arguments) for step in (once, twice))
    for path, gradient in flatten_dict(expected[0], sep="/").items():
        assert np.all(np.isfinite(gradient)) and np.any(gradient), path
    before = flatten_dict(variables["batch_stats"], sep="/")
    for path, after in flatten_dict(expected[1], sep="/").items():
        assert not np.array_equal(after, before[path]), path
    scale = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(expected[0]))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * scale)


def test_the_gradient_of_swish():
    x = jnp.concatenate([jnp.linspace(-20, 20, 401), jnp.asarray([-1e4, 1e4, 0.0])])
    found, expected = (jax.jit(jax.vmap(jax.grad(f)))(x) for f in (swish, jax.nn.silu))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
