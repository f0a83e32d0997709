"""timm's `tf_efficientnet_{b0...b7,l2,lite0...lite4}`, Google's own: safetensors or PyTorch.

https://huggingface.co/timm; the names are those of timm/models/efficientnet.py and its builder.
"""

import json
import math
import pathlib
import re
from typing import NamedTuple, NotRequired

import ml_dtypes
import numpy as np
from typing_extensions import TypedDict

from cxr_embeddings.common import files, untrusted

from ..damaged import explained
from . import torch_file
from .checkpoint import IMAGENET_MEAN, IMAGENET_STD, Checkpoint, Leaf, Names

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in a Hugging Face snapshot, the best first
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64}
NETWORK = re.compile(r"tf_efficientnet_(b[0-7]|l2|lite[0-4])")
NAMED = re.compile(r"((?:tf_)?efficientnet(?:v2)?_[a-z0-9]+)(?:[._](\w+))?")  # network, tag
TRAINING_DATA = {  # first word of timm's tag -> what its documentation says of it
    "ns": "ImageNet-1k, and unlabelled images of JFT-300M by Noisy Student (arXiv 1911.04252).",
    "ap": "ImageNet-1k, and adversarial examples made of it by AdvProp (arXiv 1911.09665).",
    "aa": "ImageNet-1k, augmented by AutoAugment (arXiv 1805.09501).",
    "ra": "ImageNet-1k, augmented by RandAugment (arXiv 1909.13719).",
    "in1k": "ImageNet-1k.",
}
HALVES = (0.5, 0.5, 0.5)  # mean and std of AdvProp and of Lite

NAMES = Names(
    ends="conv_stem bn1 conv_head bn2",
    block="conv_pw bn1 conv_dw bn2 se.conv_reduce se.conv_expand conv_pwl bn3",
    plain="conv_dw bn1 se.conv_reduce se.conv_expand conv_pw bn2",
    conv="weight bias",
    batch_norm="weight bias running_mean running_var",
)


class Published(NamedTuple):
    """What timm says of a checkpoint, in config.json or by nothing but its name."""

    name: str
    tag: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int | None


def read(path: pathlib.Path) -> Checkpoint:
    """Lists a checkpoint of timm.

    It is a file with timm's config.json beside it or under the name that timm published it by, or a
    folder as the Hugging Face Hub has it, with one of `HUB_FILES`.
    """
    file = _weights_file(path)
    published = _published(file)
    tensors = read_safetensors(file) if file.suffix == ".safetensors" else torch_file.tensors(file)
    leaves, dropped = torch_file.network_leaves(tensors, "classifier.", _path)
    unknown = f"Not known: timm explains no tag {published.tag!r} of these networks."
    return Checkpoint(
        origin=f"timm {published.name}, {file.name}",
        leaves=leaves,
        dropped=dropped,
        mean=published.mean,
        std=published.std,
        resolution=published.resolution,
        training_data=TRAINING_DATA.get(published.tag.split("_")[0], unknown),
        licence="Apache-2.0 as published by timm; of others' weights, theirs",
    )


def _weights_file(path: pathlib.Path) -> pathlib.Path:
    if path.is_dir():
        for name in HUB_FILES:
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path} holds neither {' nor '.join(HUB_FILES)}: name the file")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is not a file of timm's; expected one of {', '.join(SUFFIXES)}")
    return path


def _published(file: pathlib.Path) -> Published:
    """What config.json says, or else the name of the file; the two must not contradict."""
    named = NAMED.search(file.parent.name if file.name in HUB_FILES else file.stem)
    config = file.with_name("config.json")
    described = read_config(config) if config.is_file() else None
    networks = {named[1]} if named else set()
    networks |= {described.name} if described else set()
    if not networks:
        raise ValueError(
            f"nothing says which network {file} is: keep timm's config.json beside it, or the name "
            "it was published by, such as tf_efficientnet_l2_ns_475-bebbd00a.pth"
        )
    network = " and ".join(sorted(networks))
    if not NETWORK.fullmatch(network):
        raise ValueError(
            f"{file} is {network} by its name and config.json, expected one of tf_efficientnet_b0 "
            "to b7, l2 and lite0 to lite4. timm's efficientnets without tf_ have leaves of the "
            "same names and shapes, but another padding and epsilon: they would silently give "
            "wrong results"
        )
    tag = named[2] if named else None
    if described:
        tag = described.tag or tag or ""
        return described._replace(name=f"{network}.{tag}".rstrip("."), tag=tag)
    tag = tag or "in1k"  # of the release on GitHub, named by the network alone
    halves = tag.split("_")[0] == "ap" or "_lite" in network
    mean, std = (HALVES, HALVES) if halves else (IMAGENET_MEAN, IMAGENET_STD)
    resolution = 475 if network.endswith("_l2") and "475" in tag else None
    return Published(named[0] if named else network, tag, mean, std, resolution)


@untrusted.may_have_more
class _Pretrained(TypedDict, total=False):
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: tuple[int, int, int]
    tag: str | None


@untrusted.may_have_more
class _Config(_Pretrained):
    """timm's config.json; older ones have the fields of pretrained_cfg at their top."""

    architecture: str
    pretrained_cfg: NotRequired[_Pretrained]


def read_config(config: pathlib.Path) -> Published:
    advice = (
        "expected architecture and pretrained_cfg with input_size [3, side, side], mean and std; "
        "fetch it again, or move the weights away from it"
    )
    with explained(f"{config} is not timm's", advice, (KeyError, ValueError)):
        fields = files.read_json(config, _Config, "fetch it again")
        given = fields.get("pretrained_cfg", fields)
        _, height, width = given["input_size"]
        if height != width:
            raise ValueError(f"input_size is {given['input_size']}")
        tag = given.get("tag") or ""
        return Published(fields["architecture"], tag, given["mean"], given["std"], height)


def _path(name: str) -> str | None:
    match = re.fullmatch(r"(?:blocks\.([0-6])\.([1-9]?[0-9])\.)?(.+)\.(\w+)", name)
    if not match:
        return None
    stage, block, layer, leaf = match.groups()
    place = (int(stage) + 1, int(block) + 1) if stage else None
    return NAMES.ours(layer, leaf, place)


def read_safetensors(file: pathlib.Path) -> dict[str, Leaf]:
    """The library checks the file; its numbers are read without it, at the offsets in the header.

    Its memory map would keep every page that was read, and opening it anew takes 7 ms a leaf of L2.
    """
    from safetensors import SafetensorError, safe_open

    advice = "expected safetensors; fetch it again from where it was published"
    with (
        explained(f"{file} cannot be read", advice, (SafetensorError,)),
        safe_open(file, framework="numpy"),
    ):
        pass
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)

    def leaf(name: str, dtype: str, shape: list[int], data_offsets: list[int]) -> Leaf:
        if dtype not in DTYPES:
            raise ValueError(f"{file}: {name} is {dtype}, expected one of {', '.join(DTYPES)}")

        def read() -> np.ndarray:
            start = 8 + length + data_offsets[0]
            values = np.fromfile(file, DTYPES[dtype], math.prod(shape), offset=start)
            return values.reshape(shape).astype(np.float32, copy=False)

        return Leaf(name, tuple(shape), read)

    wanted = ("dtype", "shape", "data_offsets")  # the library lets others pass
    return {name: leaf(name, *(one[key] for key in wanted)) for name, one in header.items()}
