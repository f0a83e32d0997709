"""Checkpoints of a training that can be stopped and goes on as if it had not been."""

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator

import jax
from jaxtyping import PyTree
from orbax import checkpoint as ocp

from cxr_embeddings.common.identities import Facts, differences

from .damaged import explained

KEEP = 2  # the last ones; an older one is there if the last is damaged


@contextlib.contextmanager
def open_checkpoints(folder: str | os.PathLike) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints in a folder, which is made; what is being written is waited for at the end.

    Raises:
        OSError: the folder cannot be made or written.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, create=True)
    with ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options) as manager:
        yield manager


def save(manager: ocp.CheckpointManager, step: int, state: PyTree, identity: Facts) -> None:
    """Copies the state and writes it while training goes on. The data position is the step."""
    arguments = {"state": ocp.args.StandardSave(state), "run": ocp.args.JsonSave(dict(identity))}
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
