"""Checkpoints of a training that can be stopped and goes on as if it had not been."""

import contextlib
import functools
import math
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax
from jaxtyping import PyTree
from orbax import checkpoint as ocp

from cxr_embeddings.common.identities import Facts, differences
from cxr_embeddings.common.writing import by_orbax, silent_orbax

from .damaged import explained

KEEP = 2  # the last ones; an older one is there if the last is damaged


@contextlib.contextmanager
def open_checkpoints(folder: str | os.PathLike) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints in a folder, which is made; what is being written is waited for at the end.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder = pathlib.Path(folder).absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, create=True)
    with silent_orbax():
        manager = ocp.CheckpointManager(folder, options=options)
        try:
            yield manager
        finally:
            with by_orbax(folder):
                manager.close()


def check_space(manager: ocp.CheckpointManager, state: PyTree) -> None:
    """Raises OSError where the disk is too full for the checkpoints of a state, or of its shapes.

    Those are the `KEEP` last ones and the one that is being written.
    """
    needed = (KEEP + 1) * sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(state))
    folder = pathlib.Path(manager.directory)
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if needed > (free := shutil.disk_usage(folder).free + there):
        raise OSError(
            f"{folder} needs {needed / 1e9:.2f} GB for {KEEP + 1} checkpoints, its disk has "
            f"{free / 1e9:.2f} GB for them: make room, or choose another folder for the output"
        )


def save(manager: ocp.CheckpointManager, step: int, state: PyTree, identity: Facts) -> None:
    """Copies the state and writes it while training goes on. The data position is the step.

    Raises OSError where it, or the one before, cannot be written.
    """
    arguments = {"state": ocp.args.StandardSave(state), "run": ocp.args.JsonSave(dict(identity))}
    with by_orbax(manager.directory):
        manager.save(step, args=ocp.args.Composite(**arguments), force=True)


def restore(
    manager: ocp.CheckpointManager, step: int, state: PyTree, shardings: PyTree, identity: Facts
) -> PyTree:
    """The state of a checkpoint; all hosts have to ask for the same one.

    Args:
        manager: from `open_checkpoints`; its `latest_step()` is the last one's.
        step: of the checkpoint.
        state, shardings: shapes of the state, and where its leaves shall lie.
        identity: what makes this run the one that was stopped; plain JSON values.

    Raises:
        ValueError: it belongs to a run of another identity, or cannot be read.
        PermissionError: it may not be read.
        JaxRuntimeError: the devices' memory is too small.
    """
    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        state,
        shardings,
    )
    readable = functools.partial(
        explained,
        f"the checkpoint {manager.directory / str(step)} cannot be read",
        "if its files are damaged, move that folder away, and the run continues from the one "
        "before; otherwise look up with which versions it was written",
        passed_on=(jax.errors.JaxRuntimeError, MemoryError, PermissionError),
    )
    with readable():
        found = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
    found = found if isinstance(found, dict) else {}
    if differing := differences(found, identity, ("there", "asked for")):
        raise ValueError(
            f"the checkpoint in {manager.directory} is of another run:\n"
            + "\n".join(differing)
            + "\nuse the same settings to continue it, or choose another output.path"
        )
    with readable():
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return manager.restore(step, args=arguments)["state"]
