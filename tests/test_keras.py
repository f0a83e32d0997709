"""Keras' EfficientNet, saved by Keras, read, and compared stage by stage."""

import json
import pathlib
import re
import sys
from typing import Any
from unittest import mock

import h5py
import jax
import numpy as np
import parity
import pytest
from flax.traverse_util import flatten_dict
from parity import TOLERANCE, compiled, difference, random_images

from benchmarks import peers
from cxr_embeddings.encoder import convert, weights
from cxr_embeddings.encoder.card import Card
from cxr_embeddings.encoder.efficientnet import VARIANTS, EfficientNet
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.sources import archive
from cxr_embeddings.encoder.sources import keras as keras_source
from cxr_embeddings.encoder.sources.checkpoint import IMAGENET_MEAN, IMAGENET_STD

# Keras' own, while it saves.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KERAS_LAYERS = {  # ours -> Keras', where they differ
    "head_conv": "top_conv",
    "head_bn": "top_bn",
    "depthwise_conv": "dwconv",
    "depthwise_bn": "bn",
    "squeeze_excite/reduce": "se_reduce",
    "squeeze_excite/expand": "se_expand",
}
KERAS_LEAVES = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}


def keras_network(variant, **options):
    """Keras' network without weights of its own."""
    sys.setrecursionlimit(10_000)  # Keras walks through L2's 88 blocks so
    from keras.src.applications import efficientnet as reference

    zeros = {f"{name}_KERNEL_INITIALIZER": "zeros" for name in ("CONV", "DENSE")}
    with mock.patch.multiple(reference, **zeros):  # they are replaced: be quick
        scale = VARIANTS[variant]
        options = {"include_top": False, "weights": None, "input_shape": (None, None, 3)} | options
        return reference.EfficientNet(scale.width, scale.depth, scale.resolution, **options)


def assign_keras(network, variables):
    """Puts our variables into the layers of Keras' network, every one of them."""
    kept = r"normalization|predictions"
    theirs = {w.path: w for w in network.weights if not re.match(kept, w.path)}
    for path, leaf in flatten_dict(variables, sep="/").items():
        *layer, name = path.split("/")[1:]
        layer = "/".join(layer)
        prefix = ""
        if match := re.fullmatch(r"stage(\d)_block(\d+)/(.*)", layer):
            prefix, layer = f"block{match[1]}{chr(96 + int(match[2]))}_", match[3]
        name = "beta" if layer.endswith("_bn") and name == "bias" else KERAS_LEAVES.get(name, name)
        values = np.asarray(leaf)
        if layer == "depthwise_conv":
            values = values.swapaxes(2, 3)  # Keras: [h w channel 1]
        weight = theirs.pop(f"{prefix}{KERAS_LAYERS.get(layer, layer)}/{name}")
        if weight.shape != values.shape:
            raise ValueError(f"{path} is {values.shape}, and Keras has {weight.shape} for it")
        weight.assign(values)
    if theirs:
        raise ValueError(f"Keras has more: {', '.join(theirs)}")


def keras_forward(variant: str, file: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every stage's output of the network that Keras loads from its own file.

    Keras divides by 255 in front of the stem; its Normalization has mean 0 and variance 1 here.
    """
    import keras

    network = keras_network(variant, input_shape=images.shape[1:])
    network.load_weights(file)
    last = {"stem": "stem_activation", "head_map": "top_activation"}
    for layer in network.layers:
        if match := re.fullmatch(r"block(\d)[a-z]_(add|project_bn)", layer.name):
            last[f"stage{match[1]}"] = layer.name
    outputs = {name: network.get_layer(layer).output for name, layer in last.items()}
    found = keras.Model(network.input, outputs)(np.asarray(255 * images), training=False)
    return {name: value.numpy() for name, value in found.items()}


def read(path: pathlib.Path) -> tuple[Card, weights.Variables]:
    return convert.read(keras_source.read(path))


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "sizes"), [("b0", (96, 97)), ("l2", (64, 65))])
def test_every_leaf_arrives_and_every_stage_agrees_with_keras(variant, sizes, tmp_path):
    """Calibrated weights put into Keras, saved by it, and read."""
    model = EfficientNet(variant, peers.head_width(variant))
    variables = jax.device_put(random_variables(model, seed=0))
    images = random_images(sizes[0], batch=8, seed=1)
    variables = jax.device_get(parity.calibrate(model, variables, images))
    network = keras_network(variant)
    assign_keras(network, variables)
    file = tmp_path / f"{variant}.weights.h5"
    network.save_weights(file)
    card, converted = read(file)
    assert (card.variant, card.head_width) == (variant, peers.head_width(variant))
    parity.assert_same_leaves(converted, variables)

    forward = compiled(model)
    for size in sizes[variant == "l2" :]:
        images = random_images(size, batch=2, seed=2)
        ours, theirs = forward(converted, images), keras_forward(variant, file, images)
        parity.assert_stages_agree(ours, theirs)
        assert difference(ours["pooled"], theirs["stage7"].mean(axis=(1, 2))) < TOLERANCE
        assert difference(ours["own_head"], theirs["head_map"].mean(axis=(1, 2))) < TOLERANCE
        wrong = forward(parity.swap_two_leaves(converted), images)
        assert difference(wrong["head_map"], theirs["head_map"]) > 1000 * TOLERANCE


def as_published(tmp_path: pathlib.Path, monkeypatch) -> tuple[Any, pathlib.Path]:
    """B0 as weights="imagenet" builds it, with ImageNet's normalisation and a second Rescaling."""
    from keras.src.applications import efficientnet as reference

    top = {"include_top": True, "input_shape": (224, 224, 3)}
    plain = keras_network("b0", **top)
    plain.get_layer(index=2).adapt_mean.assign(IMAGENET_MEAN)
    plain.get_layer(index=2).adapt_variance.assign(IMAGENET_STD)  # sic: Keras' files have it so
    assign_keras(plain, parity.with_statistics(random_variables(EfficientNet("b0", 1280))))
    plain.save_weights(tmp_path / "stored.weights.h5")
    stored = str(tmp_path / "stored.weights.h5")
    monkeypatch.setattr(reference.file_utils, "get_file", lambda *_, **__: stored)
    network = keras_network("b0", weights="imagenet", weights_name="b0", **top)
    network.save(tmp_path / "published.keras")
    network.save_weights(tmp_path / "published.weights.h5")
    return network, tmp_path


@pytest.mark.slow
def test_keras_own_normalisation_goes_into_the_card(tmp_path, monkeypatch):
    network, folder = as_published(tmp_path, monkeypatch)
    images = np.random.default_rng(0).random((2, 224, 224, 3), np.float32)
    expected = network.get_layer("block7a_project_bn").output
    import keras

    expected = keras.Model(network.input, expected)(255 * images, training=False).numpy()
    for name in ("published.keras", "published.weights.h5"):
        with archive.unpacked(folder / name, folder) as path:
            card, variables = read(path)
        assert np.allclose(card.mean, IMAGENET_MEAN, 1e-6)
        assert np.allclose(card.std, IMAGENET_STD, 1e-6)
        assert card.dropped == ["predictions (the classifier, 2 arrays)"]
        normalised = (images - np.float32(card.mean)) / np.float32(card.std)
        found = compiled(weights.model_for(card))(variables, normalised)["stage7"]
        assert difference(found, expected) < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("Rescaling", {"scale": 1 / 127.5}, "its Rescaling layers have scales"),
        ("Activation", {"activation": "sigmoid"}, "layer 'Activation' is 'sigmoid', no swish"),
        ("BatchNormalization", {"epsilon": 1e-5}, "has epsilon 1e-05, expected 0.001"),
    ],
)
def test_other_networks_of_the_same_arrays_are_refused(tmp_path, layers, kind, change, message):
    usual = {"scale": 1 / 255, "activation": "silu", "epsilon": 1e-3}
    config = [
        {"class_name": name, "config": {"name": name, key: usual[key]}}
        for name, key in (
            ("Rescaling", "scale"),
            ("Activation", "activation"),
            ("BatchNormalization", "epsilon"),
        )
    ]
    write(tmp_path / "model.weights.h5", layers)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": {"layers": config}}))
    keras_source.read(tmp_path)
    for layer in config:
        if layer["class_name"] == kind:
            layer["config"] |= change
    file.write_text(json.dumps({"config": {"layers": config}}))
    with pytest.raises(ValueError, match=message):
        keras_source.read(tmp_path)
    file.write_text("[]")
    with pytest.raises(ValueError, match="cannot be read as an EfficientNet of Keras 3"):
        keras_source.read(tmp_path)


def write(path: pathlib.Path, layers: dict[str, list[np.ndarray]], named: bool = True) -> None:
    """A file as Keras writes it: layer -> arrays."""
    with h5py.File(path, "w") as file:
        for i, (name, arrays) in enumerate(layers.items()):
            kind = name if name.startswith(("rescaling", "normalization")) else f"layer_{i}"
            group = file.create_group(f"layers/{kind}/vars")
            if named:
                group.attrs["name"] = name
            for j, array in enumerate(arrays):
                group[str(j)] = array


@pytest.fixture
def layers() -> dict[str, list[np.ndarray]]:
    """The first layers of some EfficientNet."""
    return {
        "rescaling": [],
        "normalization": [np.zeros(3, "f4"), np.ones(3, "f4"), np.zeros((), "i4")],
        "stem_conv": [np.ones((3, 3, 3, 32), "f4")],
        "block1a_dwconv": [np.arange(9 * 32, dtype="f4").reshape(3, 3, 32, 1)],
    }


def test_layers_are_known_by_their_names(tmp_path, layers):
    layers |= {"block1a_dwconv_odd": [np.zeros(3, "f4")], "stem_bn": [np.zeros(3, "f4")] * 5}
    write(tmp_path / "x.weights.h5", layers)
    found = keras_source.read(tmp_path / "x.weights.h5").leaves
    assert {name: leaf.shape for name, leaf in found.items()} == {
        "params/stem_conv/kernel": (3, 3, 3, 32),
        "params/stage1_block1/depthwise_conv/kernel": (3, 3, 1, 32),
        "block1a_dwconv_odd/0": (3,),
        "params/stem_bn/scale": (3,),
        "params/stem_bn/bias": (3,),
        "batch_stats/stem_bn/mean": (3,),
        "batch_stats/stem_bn/var": (3,),
        "stem_bn/4": (3,),  # too many: merge refuses it
    }
    kernel = found["params/stage1_block1/depthwise_conv/kernel"].read()
    assert np.array_equal(kernel[..., 0, :], layers["block1a_dwconv"][0][..., 0])


NO_NUMBERS = {
    "empty": h5py.Empty("f4"),
    "text": "text",
    "compound": np.zeros(3, [("a", "f4"), ("b", "i4")]),
    "opaque": np.zeros(3, "V9"),
}


@pytest.mark.parametrize("kind", ["link", "group", "storage", "virtual", *NO_NUMBERS])
def test_other_files_and_what_is_no_number_are_not_read(tmp_path, layers, kind):
    secret, path = tmp_path / "secret.h5", tmp_path / "x.weights.h5"
    with h5py.File(secret, "w") as file:
        file["data"] = np.ones((3, 3, 3, 32), "f4")
    del layers["stem_conv"]
    write(path, layers)
    with h5py.File(path, "a") as file:
        if kind == "group":
            file["layers/layer_9"] = h5py.ExternalLink(secret, "/")
            file["layers/layer_9"].create_group("vars").attrs["name"] = "stem_conv"
        group = file.require_group("layers/layer_9/vars")
        group.attrs["name"] = "stem_conv"
        if kind in NO_NUMBERS:
            group.create_dataset("0", data=NO_NUMBERS[kind])
        if kind == "link":
            group["0"] = h5py.ExternalLink(secret, "data")
        if kind == "storage":
            group.create_dataset("0", (3, 3, 3, 32), "f4", external=[(str(secret), 0, 3456)])
        if kind == "virtual":
            layout = h5py.VirtualLayout((3, 3, 3, 32), "f4")
            layout[:] = h5py.VirtualSource(secret, "data", (3, 3, 3, 32))
            group.create_virtual_dataset("0", layout)
    with pytest.raises(ValueError, match="of this file itself"):
        keras_source.read(path)
