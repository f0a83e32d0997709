"""Devices and hosts: the mesh and where every array lies on it. Nothing else knows about them.

Batches are split over the axis `data`. Weights are whole on every device (0.95 GB for L2 in
bfloat16), or split over the axis `model` by the table `MODEL_PARALLEL`. A host is one process; each
prepares and takes back its own rows of a batch.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import KeyPath
from jaxtyping import Array, PyTree, Shaped

Rules = Mapping[str, Sequence[PartitionSpec]]

# leaf's path -> which of its dimensions lies on `model`; the first pattern found decides
MODEL_PARALLEL: Rules = {
    r"(expand|depthwise|stem|head)_conv/kernel": [PartitionSpec(None, None, None, "model")],
    r"project_conv/kernel": [PartitionSpec(None, None, "model", None)],
    r"": [],
}

# likewise for training: weights and what the optimiser keeps of them are split over all devices, or
# over as many as divide them: L2's channels are multiples of 8, but rarely of 16
BOTH = ("data", "model")
FULLY_SHARDED: Rules = {
    r"(_conv|reduce|squeeze_excite/expand)/kernel": [
        PartitionSpec(None, None, None, BOTH),
        PartitionSpec(None, None, "data", "model"),
        PartitionSpec(None, None, BOTH),
        PartitionSpec(None, None, "model", "data"),
        PartitionSpec(None, None, None, "model"),
    ],
    r"(hidden|out)/kernel": [PartitionSpec(BOTH), PartitionSpec("data")],
    r"": [],
}

_HOSTS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join_hosts() -> None:
    """Makes this process one of several that share their devices; to be called before all else.

    Cloud TPU, Slurm, Open MPI and Kubernetes say themselves who is who. Elsewhere the environment
    does: JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID.

    Raises:
        ValueError: neither says it.
    """
    address, count, index = (os.environ.get(name) for name in _HOSTS)
    try:
        if count and index:
            print(f"process {index} of {count}: waiting for the others at {address}", flush=True)
            jax.distributed.initialize(address, int(count), int(index))
        else:
            jax.distributed.initialize()
    except ValueError as error:
        raise ValueError(
            f"the processes of this run do not know one another ({error}): start it on a TPU slice "
            f"or by srun, or set {', '.join(_HOSTS)} for each, or leave config.distributed out"
        ) from error


def gather(row: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, "hosts n"]:
    """The arrays of all hosts, on each of them; waits for the last one.

    Raises:
        OSError: one of them has ended.
    """
    if jax.process_count() == 1:
        return row[None]
    try:
        return np.asarray(multihost_utils.process_allgather(row))
    except RuntimeError as error:
        raise OSError(
            "another process of this run has ended; its log says why. Run the same command on all "
            "hosts again to continue"
        ) from error


def make_mesh(model_parallel: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all hosts as a mesh of `data` x `model`.

    `model_parallel` devices of one host share a copy of the weights.

    Raises:
        ValueError: the number of devices of a host is no multiple of `model_parallel`.
    """
    found = jax.devices() if devices is None else devices
    grid = np.array(sorted(found, key=lambda device: (device.process_index, device.id)))
    here = sum(device.process_index == jax.process_index() for device in grid)
    if model_parallel < 1 or here % model_parallel:
        raise ValueError(
            f"model_parallel is {model_parallel}; expected a divisor of the {here} devices of a "
            "host"
        )
    # Flax layers carry no sharding in their types, so the axes are said to be automatic.
    return Mesh(
        grid.reshape(-1, model_parallel), ("data", "model"), axis_types=(AxisType.Auto,) * 2
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data`; the same on every device of `model`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_rows(mesh: Mesh, rows: Shaped[np.ndarray, "local ..."]) -> Shaped[Array, "b ..."]:
    """A batch on the devices, of which this host gives its own rows: as many as every other."""
    return jax.make_array_from_process_local_data(batch_sharding(mesh), rows)


def local_rows(batch: Shaped[Array, "b ..."]) -> Shaped[np.ndarray, "local ..."]:
    """This host's rows of a batch, in the order in which it gave them."""
    parts = {shard.index[0].start or 0: shard.data for shard in batch.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


def put_variables(variables: PyTree, shardings: PyTree) -> PyTree:
    """A tree of arrays, which every host has, on the devices."""
    if jax.process_count() == 1:
        return jax.device_put(variables, shardings)
    return jax.tree.map(
        lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__),
        variables,
        shardings,
    )


def whole(array: Array) -> np.ndarray:
    """An array on the devices as one in memory, from this host's devices alone."""
    found = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        found[shard.index] = shard.data
    return found


def mover(shardings: PyTree) -> Callable[[PyTree], PyTree]:
    """A program that splits a tree of arrays in another way; all hosts have to run it."""
    return jax.jit(lambda tree: tree, out_shardings=shardings)


def collect(mesh: Mesh, variables: PyTree) -> PyTree:
    """A tree of arrays, split in whatever way, in the memory of every host; all have to ask."""
    return jax.tree.map(whole, mover(NamedSharding(mesh, PartitionSpec()))(variables))


def variable_shardings(mesh: Mesh, variables: PyTree, rules: Rules = MODEL_PARALLEL) -> PyTree:
    """The sharding of every leaf: by the first of its rules that fits, or whole without any.

    A rule fits a leaf whose dimensions its devices divide.
    """

    def fits(spec: PartitionSpec, shape: tuple[int, ...]) -> bool:
        return all(
            axes is None or size % math.prod(mesh.shape[axis] for axis in np.atleast_1d(axes)) == 0
            for axes, size in zip(spec, shape, strict=False)
        )

    def place(path: KeyPath, leaf: Array | np.ndarray | jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        specs = next(specs for pattern, specs in rules.items() if re.search(pattern, name))
        spec = next((spec for spec in specs if fits(spec, leaf.shape)), PartitionSpec())
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, variables)


def bytes_per_device(shapes: PyTree, shardings: PyTree) -> int:
    """What a tree of arrays or of their shapes takes on a device."""
    sizes = jax.tree.map(
        lambda leaf, place: math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        shapes,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))
