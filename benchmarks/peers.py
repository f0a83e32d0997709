"""Other engines with this project's variables in them: what it is compared with.

Each is imported where it is asked for; none is needed to embed films.
"""

from __future__ import annotations

import functools
import re
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
from flax.traverse_util import flatten_dict

from cxr_embeddings.encoder.efficientnet import VARIANTS, scale_width
from cxr_embeddings.encoder.weights import Variables

if TYPE_CHECKING:
    import torch

Run = Callable[[], np.ndarray]  # returns when the work is done: float32 [b width]
Make = Callable[[str, Variables, np.ndarray, str], Run]  # variant, variables, images, dtype

TIMM_LAYERS = {  # ours -> timm's; in blocks by the number of their convolutions
    "": {"stem_conv": "conv_stem", "stem_bn": "bn1", "head_conv": "conv_head", "head_bn": "bn2"},
    "plain": {
        **{"depthwise_conv": "conv_dw", "depthwise_bn": "bn1"},
        **{"squeeze_excite/reduce": "se.conv_reduce", "squeeze_excite/expand": "se.conv_expand"},
        **{"project_conv": "conv_pw", "project_bn": "bn2"},
    },
    "expanding": {
        **{"expand_conv": "conv_pw", "expand_bn": "bn1"},
        **{"depthwise_conv": "conv_dw", "depthwise_bn": "bn2"},
        **{"squeeze_excite/reduce": "se.conv_reduce", "squeeze_excite/expand": "se.conv_expand"},
        **{"project_conv": "conv_pwl", "project_bn": "bn3"},
    },
}
TIMM_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def head_width(variant: str) -> int:
    """Channels of the head convolution, as timm and Keras have it: 1,280 of B0, 5,504 of L2."""
    scale = VARIANTS[variant]
    return 1280 if scale.lite else scale_width(1280, scale.width)


def timm_tensors(variables: Variables) -> dict[str, np.ndarray]:
    """All that timm's file holds: our variables by its names, its classifier, its counters."""
    found = {}
    for path, leaf in flatten_dict(variables, sep="/").items():
        layer, name = re.fullmatch(r"[a-z_]+/(.+)/(\w+)", path).groups()
        layers, prefix = TIMM_LAYERS[""], ""
        if match := re.fullmatch(r"stage(\d)_block(\d+)/(.+)", layer):
            layers = TIMM_LAYERS["plain" if match[1] == "1" else "expanding"]
            prefix, layer = f"blocks.{int(match[1]) - 1}.{int(match[2]) - 1}.", match[3]
        values = np.asarray(leaf)
        values = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values
        found[f"{prefix}{layers[layer]}.{TIMM_LEAVES.get(name, name)}"] = np.array(
            values, order="C"
        )
        if name == "mean":
            found[f"{prefix}{layers[layer]}.num_batches_tracked"] = np.array(0)
    found["classifier.weight"] = np.zeros((1000, found["bn2.weight"].size), np.float32)
    found["classifier.bias"] = np.zeros(1000, np.float32)
    return found


def import_timm() -> types.ModuleType:
    """timm, which imports torchvision for other networks than these: a stub will do."""
    import torch  # noqa: F401  outside of the patch, which takes away only what it put there

    stub = mock.MagicMock(FrozenBatchNorm2d=type("FrozenBatchNorm2d", (), {}))
    parts = ("", ".datasets", ".ops", ".ops.misc", ".transforms", ".transforms.functional")
    names = [f"torchvision{part}" for part in parts if f"torchvision{part}" not in sys.modules]
    sys.modules.update(dict.fromkeys(names, stub))
    try:
        import timm
    finally:
        for name in names:
            del sys.modules[name]
    return timm


def timm_network(variant: str, variables: Variables) -> torch.nn.Module:
    """timm's own network with our variables in it; made without any, so that it holds them once."""
    import torch

    timm = import_timm()
    with torch.device("meta"):
        network = timm.create_model(f"tf_efficientnet_{variant}", pretrained=False)
    tensors = timm_tensors(variables)
    state = {name: torch.from_numpy(values) for name, values in tensors.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def _fold(network: torch.nn.Module) -> torch.nn.Module:
    """Takes every BatchNorm of a network of timm into the convolution before it."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    ends = {"conv_stem": "bn1", "conv_head": "bn2"}
    plain = {"conv_dw": "bn1", "conv_pw": "bn2"}
    expanding = {"conv_pw": "bn1", "conv_dw": "bn2", "conv_pwl": "bn3"}
    parts = [(network, ends)]
    for stage in network.blocks:
        for block in stage:
            parts.append((block, expanding if hasattr(block, "conv_pwl") else plain))
    for part, names in parts:
        for conv_name, bn_name in names.items():
            conv, bn = getattr(part, conv_name), getattr(part, bn_name)
            statistics = bn.running_mean, bn.running_var, bn.eps
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, *statistics, bn.weight, bn.bias
            )
            setattr(part, bn_name, getattr(bn, "act", torch.nn.Identity()))
    return network


def _by_timm(
    compiled: bool, variant: str, variables: Variables, images: np.ndarray, dtype: str
) -> Run:
    """Without classifier, BatchNorm folded in, channels last, on the GPU where there is one."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = _fold(timm_network(variant, variables))
    network.reset_classifier(0)
    network = network.to(device, getattr(torch, dtype), memory_format=torch.channels_last)
    network.requires_grad_(False)
    call = torch.compile(network, mode="max-autotune") if compiled else network
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, getattr(torch, dtype))

    def run() -> np.ndarray:
        with torch.inference_mode():
            return call(x).float().cpu().numpy()  # waits for the device

    return run


ENGINES: dict[str, Make] = {
    "timm": functools.partial(_by_timm, False),
    "torch.compile": functools.partial(_by_timm, True),
}
