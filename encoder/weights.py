"""The weights bundle: a directory with an Orbax checkpoint of the variables and `card.json`.

Whatever reads weights ends in `merge`, which names every leaf that does not fit.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import PyTree

from cxr_embeddings.common.writing import by_orbax, whole_folder

from . import sharding
from .card import CARD, CHECKPOINT, Card
from .damaged import explained
from .efficientnet import EfficientNet, MBConv

Variables = dict[str, PyTree]  # {"params": ..., "batch_stats": ...}, nested dicts of arrays


@runtime_checkable
class HasShape(Protocol):
    """An array, its metadata, or one of a checkpoint that is still to be read."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def model_for(card: Card, dtype: DTypeLike = jnp.float32) -> EfficientNet:
    """The network that the card's weights belong to, computing in `dtype`."""
    return EfficientNet(card.variant, card.head_width, card.projection is not None, dtype)


def abstract_variables(model: EfficientNet) -> Variables:
    """Shapes and dtypes of the network's variables, without computing any (L2: 1 to 2 s)."""
    # In its plain form: the one for GPUs makes no variables, XLA's convolution is traced sooner.
    model = model.clone(block=MBConv, conv_general_dilated=lax.conv_general_dilated)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def cast_kernels(variables: Variables, dtype: DTypeLike) -> Variables:
    """Convolutions' kernels in the dtype of the computation: half the memory in bfloat16.

    BatchNorm's leaves and the biases stay as they are: they are 0.5 % of the bytes, and the network
    computes BatchNorm in float32. So does the projection, which is to keep inner products.
    """

    def cast(leaf: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
        if not isinstance(leaf, jax.Array) or not leaf.is_fully_addressable:
            return leaf.astype(dtype)
        # By the host: on the devices each shape is a program, and B0's take 3 s to compile.
        return jax.device_put(np.asarray(leaf).astype(dtype), leaf.sharding)

    leaves = flatten_dict(variables)
    for keys, leaf in leaves.items():
        if keys[-1] == "kernel" and keys[-2] != "projection" and leaf.dtype != jnp.dtype(dtype):
            leaves[keys] = cast(leaf)
    return unflatten_dict(leaves)


def digest(variables: Variables) -> str:
    """SHA-256 over every leaf's path, dtype, shape and values, in sorted order (L2: about 1 s).

    It depends on the values only, not on the devices that hold them nor on how they are sharded.
    """
    total = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(variables, sep="/").items()):
        if isinstance(leaf, jax.Array):
            replicated = leaf.is_fully_replicated
            leaf = leaf.addressable_data(0) if replicated else sharding.whole(leaf)
        leaf = np.ascontiguousarray(leaf)
        total.update(f"{path} {leaf.dtype} {leaf.shape}\n".encode())
        total.update(leaf.view(np.uint8).data)
    return total.hexdigest()


def merge(found: Mapping[str, HasShape], expected: Variables, origin: str) -> Variables:
    """Arranges leaves into the network's tree; nothing is skipped and nothing made up.

    Args:
        found: "params/stem_conv/kernel" and so on -> leaf.
        expected: `abstract_variables` of the network.
        origin: where the leaves were found, for the error.

    Raises:
        ValueError: names every missing, extra and misshapen leaf.
    """
    wanted = flatten_dict(expected, sep="/")
    problems = [f"missing: {path} {wanted[path].shape}" for path in wanted if path not in found]
    for path, leaf in found.items():
        name = getattr(leaf, "name", None)  # what a checkpoint called it
        called = f" (there: {name})" if name not in (None, path) else ""
        if path not in wanted:
            problems.append(f"not expected: {path} {tuple(leaf.shape)}{called}")
        elif tuple(leaf.shape) != wanted[path].shape:
            shapes = f"{tuple(leaf.shape)}, expected {wanted[path].shape}"
            problems.append(f"shape: {path} is {shapes}{called}")
    if problems:
        raise ValueError(
            f"{origin}: {len(problems)} of {len(wanted)} leaves do not fit the network; is the "
            "variant or the head_width another one?\n  " + "\n  ".join(problems)
        )
    return unflatten_dict({path: found[path] for path in wanted}, sep="/")


def graft(found: Variables, variables: Variables) -> tuple[Variables, dict[str, int]]:
    """Puts leaves that were found in the place of those of the same path and shape, in float32.

    Where all that differs is the number of channels, and fewer were found, they stand first.

    Returns:
        The variables; and of each layer that keeps numbers of its own, from which channel on.
    """
    leaves, new = flatten_dict(variables), flatten_dict(found)
    kept: dict[str, int] = {}
    for path, leaf in leaves.items():
        theirs = np.asarray(new[path], np.float32) if path in new else np.zeros((0,))
        channels = theirs.shape[-1]
        if theirs.shape[:-1] != leaf.shape[:-1] or channels > leaf.shape[-1]:
            channels = 0
        else:
            leaves[path] = np.concatenate([theirs, leaf[..., channels:]], axis=-1)
        if channels < leaf.shape[-1]:
            kept[path[1]] = channels
    return unflatten_dict(leaves), kept


def save_bundle(path: str | os.PathLike, variables: Variables, card: Card) -> Card:
    """Writes a bundle under a temporary name beside `path`, then renames it.

    Args:
        path: the directory to make, in one that exists. From one process only.
        variables: JAX or NumPy leaves; JAX ones save a copy, which Orbax makes of NumPy's.
        card: returned as written, with dtype, digest and size.

    Raises:
        OSError: `path` exists or cannot be written, or the disk is too full.
        ValueError: the variables are not those of the card's network.
    """
    from orbax import checkpoint as ocp  # 0.7 s that only those who need it pay

    path = pathlib.Path(path).absolute()
    if path.exists():
        raise FileExistsError(f"{path} exists already: remove it or choose another name")
    merge(flatten_dict(variables, sep="/"), abstract_variables(model_for(card)), "the variables")
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if needed > (free := shutil.disk_usage(path.parent).free):
        raise OSError(f"{path} needs {needed / 1e9:.2f} GB, its disk has {free / 1e9:.2f} GB left")
    with whole_folder(path) as partial:
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()},
            barrier_sync_key_prefix="bundle",
        )
        # 1 GB in flight: without a limit L2 takes 0.7 GB more
        with (
            by_orbax(path),
            ocp.StandardCheckpointer(
                save_concurrent_gb=1, multiprocessing_options=alone
            ) as checkpointer,
        ):
            checkpointer.save(partial / CHECKPOINT, variables)
        # Orbax's note that it is done names a folder of this machine; the rename is ours.
        (partial / CHECKPOINT / "commit_success.txt").unlink(missing_ok=True)
        size = _file_bytes(partial / CHECKPOINT)
        kernel = variables["params"]["stem_conv"]["kernel"]
        card = dataclasses.replace(
            card, dtype=str(kernel.dtype), digest=digest(variables), checkpoint_bytes=size
        )
        (partial / CARD).write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n")
    return card


def load_variables(
    path: str | os.PathLike,
    card: Card,
    *,
    dtype: DTypeLike | None = None,
    place: Callable[[Variables], PyTree] | None = None,
    verify: bool = True,
) -> Variables:
    """Reads a bundle's variables straight to their devices.

    Args:
        path: the bundle.
        card: its card, from `load_card`.
        dtype: of the kernels, see `cast_kernels`; None: as they are stored.
        place: shapes of the variables -> their shardings: one, or a tree of them that is a prefix
            of the variables; None for this host's first device.
        verify: compare the digest with the card's.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it cannot be read, is not that of the card's network, or another digest.
    """
    from orbax import checkpoint as ocp

    folder = pathlib.Path(path).absolute() / CHECKPOINT
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found: {path} is not a complete weights bundle")
    if (size := _file_bytes(folder)) != card.checkpoint_bytes:
        raise ValueError(
            f"{folder} holds {size} bytes, but its card says {card.checkpoint_bytes}: files are "
            "missing or cut off; fetch or convert the weights again"
        )
    expected = abstract_variables(model_for(card))
    advice = "it is damaged or incomplete; fetch or convert the weights again"
    with ocp.StandardCheckpointer() as checkpointer:
        with explained(f"{folder} cannot be read", advice):
            stored = flatten_dict(checkpointer.metadata(folder).item_metadata.tree, sep="/")
        stored = merge(stored, expected, str(folder))
        kernels = stored["params"]["stem_conv"]["kernel"].dtype
        if kernels != jnp.dtype(card.dtype):
            raise ValueError(f"{folder} holds {kernels}, but its card says {card.dtype}")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = place(expected) if place else here
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            stored,
            jax.tree.broadcast(shardings, stored),
        )
        with explained(f"{folder} cannot be read", advice):
            variables = checkpointer.restore(folder, target)
    if verify and (found := digest(variables)) != card.digest:
        raise ValueError(
            f"{folder} has digest {found}, but its card says {card.digest}: the weights were "
            "changed or damaged; fetch or convert them again"
        )
    return cast_kernels(variables, dtype) if dtype else variables


def _file_bytes(folder: pathlib.Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
