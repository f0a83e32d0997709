"""What computes the network, and on which devices: JAX or OpenVINO."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
from typing import TYPE_CHECKING

from cxr_embeddings.configs.schema import EncoderConfig

if TYPE_CHECKING:
    import jax

ENGINES = ("auto", "jax", "openvino")


def choose(config: EncoderConfig) -> tuple[EncoderConfig, jax.sharding.Mesh]:
    """The config with an engine and a dtype, and the devices: for OpenVINO each host's CPU.

    `auto` is OpenVINO on x86 CPUs where it is installed, and else JAX.

    Raises:
        ValueError: there is no such engine or dtype, or not on these devices.
        ImportError: the engine is not installed.
    """
    engine, dtype = config.engine, config.dtype
    if engine not in ENGINES:
        raise ValueError(f"encoder.engine is {engine!r}; expected one of {', '.join(ENGINES)}")
    installed = importlib.util.find_spec("openvino") is not None
    if engine == "openvino" and not installed:
        raise ModuleNotFoundError(name="openvino")  # `common.extras` says what to install
    import jax

    from cxr_embeddings.encoder import sharding

    backend = jax.default_backend()
    if engine == "auto":
        on_x86 = backend == "cpu" and platform.machine().lower() in ("x86_64", "amd64")
        engine = "openvino" if on_x86 and installed and config.model_parallel == 1 else "jax"
    devices = None
    if engine == "openvino":
        hosts = range(jax.process_count())
        devices = [jax.local_devices(process_index=host, backend="cpu")[0] for host in hosts]
    mesh = sharding.make_mesh(config.model_parallel, devices)
    if dtype is None:
        dtype = "float32" if mesh.devices.flat[0].platform == "cpu" else "bfloat16"
    if dtype not in ("bfloat16", "float32"):
        raise ValueError(f"encoder.dtype is {dtype!r}; expected bfloat16 or float32")
    return dataclasses.replace(config, engine=engine, dtype=dtype), mesh
