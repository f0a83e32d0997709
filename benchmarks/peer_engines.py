"""Forward passes of the same network by other engines, each as it runs best, for encoder.py."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import peers
from cxr_embeddings.encoder.weights import Variables

if TYPE_CHECKING:
    import torch

Run = Callable[[], np.ndarray]  # returns when the work is done: float32 [b width]
Make = Callable[[str, Variables, np.ndarray, str], Run]  # variant, variables, images, dtype


def _torch_network(
    variant: str, variables: Variables, dtype: str
) -> tuple["torch.nn.Module", "torch.device"]:
    """timm's network without classifier, BatchNorm folded in, channels last, on its device."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = fold(peers.timm_network(variant, variables))
    network.reset_classifier(0)
    network = network.to(device, getattr(torch, dtype), memory_format=torch.channels_last)
    return network.requires_grad_(False), device


def fold(network: "torch.nn.Module") -> "torch.nn.Module":
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


def _timm(
    network: "torch.nn.Module", device: "torch.device", images: np.ndarray, dtype: str
) -> Run:
    import torch

    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, getattr(torch, dtype))

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network(x).float().cpu().numpy()  # waits for the device

    return run


def timm_eager(variant: str, variables: Variables, images: np.ndarray, dtype: str) -> Run:
    return _timm(*_torch_network(variant, variables, dtype), images, dtype)


def timm_compiled(variant: str, variables: Variables, images: np.ndarray, dtype: str) -> Run:
    import torch

    network, device = _torch_network(variant, variables, dtype)
    return _timm(torch.compile(network, mode="max-autotune"), device, images, dtype)


def keras(variant: str, variables: Variables, images: np.ndarray, dtype: str) -> Run:
    import keras
    import tensorflow as tf

    keras.config.set_dtype_policy(dtype)
    network = peers.keras_network(variant, input_shape=images.shape[1:], pooling="avg")
    peers.assign_keras(network, variables)
    call = tf.function(network, jit_compile=False)
    x = tf.constant(255 * images)  # Keras divides by 255 in front of the stem
    return lambda: call(x, training=False).numpy()


def onnxruntime(variant: str, variables: Variables, images: np.ndarray, dtype: str) -> Run:
    import onnxruntime
    import torch

    if dtype != "float32":
        raise ValueError("onnxruntime has no bfloat16 for these layers")
    providers = onnxruntime.get_available_providers()
    network, device = _torch_network(variant, variables, "float32")
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "network.onnx"
        with torch.inference_mode():
            torch.onnx.export(network, (x,), file, dynamo=True, external_data=True, verbose=False)
        session = onnxruntime.InferenceSession(file, providers=providers)
    feed = {session.get_inputs()[0].name: np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
    return lambda: session.run(None, feed)[0]


def openvino(variant: str, variables: Variables, images: np.ndarray, dtype: str) -> Run:
    import torch

    from cxr_embeddings.encoder.openvino_engine import PRECISIONS, openvino

    network, _ = _torch_network(variant, variables, "float32")
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    graph = openvino.convert_model(network, example_input=x, input=list(x.shape))
    setting = {"INFERENCE_PRECISION_HINT": PRECISIONS[dtype], "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(graph, "CPU", setting).create_infer_request()
    feed = {0: np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
    return lambda: request.infer(feed, share_inputs=True)[0]


ENGINES: dict[str, Make] = {
    "timm": timm_eager,
    "torch.compile": timm_compiled,
    "Keras": keras,
    "onnxruntime": onnxruntime,
    "OpenVINO": openvino,
}
