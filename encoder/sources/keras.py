"""Keras' EfficientNet, B0 to B7 and the generic constructor: `.weights.h5` and `.keras` files.

Read with h5py alone, for what Keras saves is plain HDF5. Keras prepares images inside the network:
Rescaling(1/255), Normalization and, with weights="imagenet", another Rescaling. The card's mean and
std say the same of images in [0, 1].
"""

import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import h5py
import numpy as np

from cxr_embeddings.common import files, untrusted

from ..efficientnet import BATCH_NORM_EPSILON
from .checkpoint import IMAGENET_STD, Checkpoint, Leaf

LAYERS = {  # Keras -> ours; those of a block follow "block<stage><letter>_"
    "stem_conv": "stem_conv",
    "stem_bn": "stem_bn",
    "expand_conv": "expand_conv",
    "expand_bn": "expand_bn",
    "dwconv": "depthwise_conv",
    "bn": "depthwise_bn",
    "se_reduce": "squeeze_excite/reduce",
    "se_expand": "squeeze_excite/expand",
    "project_conv": "project_conv",
    "project_bn": "project_bn",
    "top_conv": "head_conv",
    "top_bn": "head_bn",
}
LEAVES = ("params/{}/kernel", "params/{}/bias")
BATCH_NORM = ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var")
SWISH = ("silu", "swish")
FIRST_LAYERS = ("rescaling", "normalization", "stem_conv")
RESCALINGS = {  # layer -> scale, as Keras builds them
    "rescaling": [1 / 255] * 3,
    "rescaling_1": [std**-0.5 for std in IMAGENET_STD],  # weights="imagenet" only
}


Member = TypeVar("Member", h5py.Group, h5py.Dataset)
Three = tuple[float, float, float]  # a number for each channel
Config = dict[str, Any]  # config.json of a .keras file: whatever JSON Keras writes there


class _AnotherNetwork(Exception):
    """What shows that a file is of another network than Keras' EfficientNet."""


def read(path: pathlib.Path) -> Checkpoint:
    """Reads a `.weights.h5` file, or the folder of an unpacked `.keras` file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no such file, is damaged, or refers to other files.
    """
    packed = path.is_dir()
    file = path / "model.weights.h5" if packed else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} not found: expected a file .weights.h5 or .keras of Keras")
    try:
        layers = _layers(h5py.File(file))
        config = None
        if packed:
            config = files.read_json(path / "config.json", dict, "fetch it again")
        mean, std = _normalisation(layers, config)
    except _AnotherNetwork as error:
        raise ValueError(
            f"{file} holds another network than EfficientNet of Keras 3 ({error}); expected one of "
            "keras.applications.EfficientNetB0 to B7, saved by save_weights('x.weights.h5')"
        ) from None
    except Exception as error:  # a damaged file can fail anywhere
        raise ValueError(
            f"{file} cannot be read as Keras 3 weights ({error}): it is damaged, cut off or of "
            "another kind. Load it into its model with Keras and call save_weights('x.weights.h5')"
        ) from None
    found, dropped = {}, []
    for layer, arrays in layers.items():
        if layer == "predictions":
            dropped.append(f"{layer} (the classifier, {len(arrays)} arrays)")
        elif layer not in (*RESCALINGS, "normalization"):
            for name, array in zip(_names(layer, arrays), arrays, strict=True):
                found[name] = _leaf(f"{layer}/{name.rpartition('/')[2]}", array)
    return Checkpoint(
        origin=f"keras {path.name}",
        leaves=found,
        dropped=dropped,
        preset="imagenet",
        mean=mean,
        std=std,
        resolution=None,
        training_data="As its maker says; Keras' own weights: photographs of ImageNet-1k.",
    )


def _layers(file: h5py.File) -> dict[str, list[h5py.Dataset]]:
    """Name -> arrays of all layers that have any, or are there to rescale.

    The layers that Keras does not name are known by their kind and number in the file.
    """
    if file.keys() and "layers" not in file:  # of old, or of a model that is a class of its own
        raise _AnotherNetwork(f"at its top are {_some(file)}, and no layers")
    layers = {}
    groups = _own(file, "layers", h5py.Group)
    for kind in groups:
        group = _own(groups, kind, h5py.Group)
        if "vars" not in group:
            continue
        arrays = _own(group, "vars", h5py.Group)
        if kind in RESCALINGS or len(arrays):
            name = kind if kind in (*RESCALINGS, "normalization") else str(arrays.attrs["name"])
            layers[name] = [_own(arrays, str(i), h5py.Dataset) for i in range(len(arrays))]
    return layers


def _some(names: Iterable[str]) -> str:
    names = [untrusted.printable(name) for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


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


def _names(layer: str, arrays: Sequence[h5py.Dataset]) -> list[str]:
    """Our path of each array of a layer; its own where we have none."""
    match = re.fullmatch(r"block([1-7])([a-z])_(\w+)", layer)
    prefix = f"stage{match[1]}_block{ord(match[2]) - ord('a') + 1}/" if match else ""
    ours = LAYERS.get(match[3] if match else layer)
    if ours is None:
        return [f"{layer}/{i}" for i in range(len(arrays))]
    names = BATCH_NORM if ours.endswith("_bn") else LEAVES
    return [
        names[i].format(prefix + ours) if i < len(names) else f"{layer}/{i}"
        for i in range(len(arrays))
    ]


def _leaf(name: str, array: h5py.Dataset) -> Leaf:
    leaf = Leaf(name, tuple(array.shape), lambda: _float32(array))
    return leaf.swapped() if name.endswith("dwconv/kernel") and array.ndim == 4 else leaf


def _float32(array: h5py.Dataset) -> np.ndarray:
    return np.asarray(array, np.float32)


def _normalisation(
    layers: dict[str, list[h5py.Dataset]], config: Config | None
) -> tuple[Three, Three]:
    """Mean and standard deviation, of images in [0, 1], that the first layers amount to.

    (x - mean) / sqrt(variance), then times the second scale if there is one.
    """
    if missing := [name for name in FIRST_LAYERS if name not in layers]:
        raise _AnotherNetwork(f"it has the layers {_some(layers)}, and no {' or '.join(missing)}")
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
            raise _AnotherNetwork(f"its Rescaling layers have scales {scales}, expected {expected}")
    statistics = layers["normalization"][:2]
    if [array.shape for array in statistics] != [(3,), (3,)]:
        raise KeyError(f"its Normalization holds {statistics}, expected mean and variance of 3")
    mean, variance = (_float32(array).astype(np.float64) for array in statistics)
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
            raise _AnotherNetwork(
                f"layer {settings['name']!r} is {settings['activation']!r}, no swish"
            )
        if settings.get("epsilon", BATCH_NORM_EPSILON) != BATCH_NORM_EPSILON:
            raise _AnotherNetwork(
                f"layer {settings['name']!r} has epsilon {settings['epsilon']}, expected "
                f"{BATCH_NORM_EPSILON}"
            )
