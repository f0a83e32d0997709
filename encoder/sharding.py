"""Devices: the mesh and where every array lies on it. Nothing else knows about devices.

Batches are split over the axis `data`. Weights are whole on every device (0.95 GB for L2 in
bfloat16), or split over the axis `model` by the table `MODEL_PARALLEL`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# leaf's path -> which of its dimensions lies on `model`; the first pattern found decides
MODEL_PARALLEL: Mapping[str, PartitionSpec] = {
    r"(expand|depthwise|stem|head)_conv/kernel": PartitionSpec(None, None, None, "model"),
    r"project_conv/kernel": PartitionSpec(None, None, "model", None),
    r"": PartitionSpec(),
}


def make_mesh(model_parallel: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices as a mesh of `data` x `model`.

    Args:
        model_parallel: devices that share one copy of the weights.
        devices: those to use; None: all.

    Raises:
        ValueError: the number of devices is no multiple of `model_parallel`.
    """
    devices = np.array(jax.devices() if devices is None else devices)
    if model_parallel < 1 or devices.size % model_parallel:
        raise ValueError(
            f"model_parallel is {model_parallel}; expected a divisor of the {devices.size} devices"
        )
    # Flax layers carry no sharding in their types, so the axes are said to be automatic.
    return Mesh(
        devices.reshape(-1, model_parallel), ("data", "model"), axis_types=(AxisType.Auto,) * 2
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data`; the same on every device of `model`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def variable_shardings(mesh: Mesh, variables: Any) -> Any:
    """The sharding of every leaf of a tree of arrays or of their shapes.

    A dimension that the number of devices does not divide stays whole.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = "/".join(str(key.key) for key in path)
        spec = next(spec for pattern, spec in MODEL_PARALLEL.items() if re.search(pattern, name))
        fits = all(
            axis is None or size % mesh.shape[axis] == 0
            for axis, size in zip(spec, leaf.shape, strict=False)
        )
        return NamedSharding(mesh, spec if fits else PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, variables)
