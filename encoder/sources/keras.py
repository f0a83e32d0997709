"""Keras' EfficientNet, B0 to B7 and the generic constructor: `.weights.h5` and `.keras` files.

Read with h5py alone, for what Keras saves is plain HDF5. Keras prepares images inside the network:
Rescaling(1/255), Normalization and, with weights="imagenet", another Rescaling. The card's mean and
std say the same of images in [0, 1].
"""

import functools
import pathlib
import re
from typing import Any, TypeVar

import h5py
import numpy as np

from cxr_embeddings.common import files, untrusted

from ..batch_norm import EPSILON
from ..damaged import explained
from .checkpoint import IMAGENET_STD, Checkpoint, Leaf, Names

NAMES = Names(  # those of a block follow "block<stage><letter>_"; arrays have numbers
    ends="stem_conv stem_bn top_conv top_bn",
    block="expand_conv expand_bn dwconv bn se_reduce se_expand project_conv project_bn",
    plain="dwconv bn se_reduce se_expand project_conv project_bn",
    conv="0 1",
    batch_norm="0 1 2 3",
)
SWISH = ("silu", "swish")
FIRST_LAYERS = ("rescaling", "normalization", "stem_conv")
RESCALINGS = {  # layer -> scale, as Keras builds them
    "rescaling": [1 / 255] * 3,
    "rescaling_1": [std**-0.5 for std in IMAGENET_STD],  # weights="imagenet" only
}
UNNAMED = (*RESCALINGS, "normalization")  # layers known by their kind and number in the file
Member = TypeVar("Member", h5py.Group, h5py.Dataset)
Three = tuple[float, float, float]  # a number for each channel
Config = dict[str, Any]  # config.json of a .keras file: whatever JSON Keras writes there


def read(path: pathlib.Path) -> Checkpoint:
    """Reads a `.weights.h5` file, or the folder of an unpacked `.keras` file, and no other file."""
    packed = path.is_dir()
    file = path / "model.weights.h5" if packed else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} not found: expected a file .weights.h5 or .keras of Keras")
    advice = (
        "expected one of keras.applications.EfficientNetB0 to B7, whole, and saved by Keras 3 with "
        "save_weights('x.weights.h5')"
    )
    with explained(f"{file} cannot be read as an EfficientNet of Keras 3", advice):
        layers = _layers(h5py.File(file))
        config = None
        if packed:
            config = files.read_json(path / "config.json", dict, "fetch it again")
        mean, std = _normalisation(layers, config)
    found, dropped = {}, []
    for layer, arrays in layers.items():
        if layer == "predictions":
            dropped.append(f"{layer} (the classifier, {len(arrays)} arrays)")
        elif layer not in UNNAMED:
            for number, array in enumerate(arrays):
                ours = _path(layer, str(number))
                values = functools.partial(np.asarray, array, np.float32)
                leaf = Leaf(f"{layer}/{ours.rpartition('/')[2]}", array.shape, values)
                depthwise = layer.endswith("dwconv") and array.ndim == 4
                found[ours] = leaf.swapped() if depthwise else leaf
    return Checkpoint(
        origin=f"keras {path.name}",
        leaves=found,
        dropped=dropped,
        mean=mean,
        std=std,
        training_data="As its maker says; Keras' own weights: photographs of ImageNet-1k.",
        licence="Apache-2.0 as published by Keras; of others' weights, theirs",
    )


def _layers(file: h5py.File) -> dict[str, list[h5py.Dataset]]:
    """Name -> arrays of all layers that have any, or are there to rescale."""
    if file.keys() and "layers" not in file:  # of old, or of a model that is a class of its own
        raise ValueError(f"at its top are {untrusted.some(file)}, and no layers")
    layers = {}
    groups = _own(file, "layers", h5py.Group)
    for kind in groups:
        group = _own(groups, kind, h5py.Group)
        if "vars" not in group:
            continue
        arrays = _own(group, "vars", h5py.Group)
        if kind in RESCALINGS or len(arrays):
            name = kind if kind in UNNAMED else str(arrays.attrs["name"])
            layers[name] = [_own(arrays, str(i), h5py.Dataset) for i in range(len(arrays))]
    return layers


def _own(group: h5py.Group, name: str, kind: type[Member]) -> Member:
    """A group, or an array of numbers, that lies in this file; HDF5 can refer to any other file."""
    member = None
    if isinstance(group.get(name, getlink=True), h5py.HardLink):
        member = group[name]
    if isinstance(member, h5py.Dataset):
        elsewhere = member.external or member.is_virtual
        if elsewhere or member.shape is None or member.dtype.kind not in "fiu":
            member = None
    if not isinstance(member, kind):
        what = f"{kind.__name__.lower()} of numbers" if kind is h5py.Dataset else "group"
        raise KeyError(f"{group.name}/{name} is missing, or no {what} of this file itself")
    return member


def _path(layer: str, number: str) -> str:
    """Our path of a layer's array; its own where we have none."""
    match = re.fullmatch(r"block([1-7])([a-z])_(\w+)", layer)
    place = (int(match[1]), ord(match[2]) - ord("a") + 1) if match else None
    return NAMES.ours(match[3] if match else layer, number, place) or f"{layer}/{number}"


def _normalisation(
    layers: dict[str, list[h5py.Dataset]], config: Config | None
) -> tuple[Three, Three]:
    """Mean and standard deviation, of images in [0, 1], that the first layers amount to.

    (x - mean) / sqrt(variance), then times the second scale if there is one.
    """
    if missing := [name for name in FIRST_LAYERS if name not in layers]:
        raise ValueError(
            f"it has the layers {untrusted.some(layers)}, and no {' or '.join(missing)}"
        )
    found = [name for name in RESCALINGS if name in layers]
    if config is not None:
        _demand_efficientnet(config)
        scales = [
            np.broadcast_to(layer["config"]["scale"], 3)
            for layer in config["config"]["layers"]
            if layer["class_name"] == "Rescaling"
        ]
        expected = [RESCALINGS[name] for name in found]
        if len(scales) != len(expected) or not np.allclose(scales, expected):
            raise ValueError(f"its Rescaling layers have scales {scales}, expected {expected}")
    statistics = layers["normalization"][:2]
    if [array.shape for array in statistics] != [(3,), (3,)]:
        raise KeyError(f"its Normalization holds {statistics}, expected mean and variance of 3")
    mean, variance = (np.asarray(array, np.float64) for array in statistics)
    std = np.sqrt(variance) / (RESCALINGS["rescaling_1"] if "rescaling_1" in layers else 1)
    return _three(mean), _three(std)


def _three(values: np.ndarray) -> Three:
    red, green, blue = (float(f"{value:.7g}") for value in values)
    return red, green, blue


def _demand_efficientnet(config: Config) -> None:
    """What the arrays do not show: swish and epsilon, which Keras lets anybody choose."""
    for layer in config["config"]["layers"]:
        settings = layer["config"]
        is_swish = layer["class_name"] == "Activation" or settings["name"].endswith("_se_reduce")
        if is_swish and settings["activation"] not in SWISH:
            raise ValueError(f"layer {settings['name']!r} is {settings['activation']!r}, no swish")
        if settings.get("epsilon", EPSILON) != EPSILON:
            raise ValueError(
                f"layer {settings['name']!r} has epsilon {settings['epsilon']}, expected {EPSILON}"
            )
