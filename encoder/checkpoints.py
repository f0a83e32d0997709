"""Checkpoints of a training that can be stopped and goes on as if it had not been."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

KEEP = 2  # the last ones; an older one is there if the last is damaged


@contextlib.contextmanager
def open_checkpoints(folder: str | os.PathLike) -> Iterator[Any]:
    """The checkpoints in a folder, which is made; what is being written is waited for at the end.

    Raises:
        OSError: the folder cannot be made or written.
    """
    from orbax import checkpoint as ocp  # 0.7 s that only those who need it pay

    options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, create=True)
    with ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options) as manager:
        yield manager


def save(manager: Any, step: int, state: Any, identity: Mapping[str, Any]) -> None:
    """Copies the state and writes it while training goes on. The data position is the step."""
    from orbax import checkpoint as ocp

    arguments = {"state": ocp.args.StandardSave(state), "run": ocp.args.JsonSave(dict(identity))}
    manager.save(step, args=ocp.args.Composite(**arguments), force=True)


def restore(
    manager: Any, step: int, state: Any, shardings: Any, identity: Mapping[str, Any]
) -> Any:
    """The state of a checkpoint; all hosts have to ask for the same one.

    Args:
        manager: from `open_checkpoints`; its `latest_step()` is the last one's.
        step: of the checkpoint.
        state: the state, or its shapes.
        shardings: where its leaves shall lie.
        identity: what makes this run the one that was stopped; plain JSON values.

    Raises:
        ValueError: it belongs to a run of another identity, or cannot be read.
        PermissionError: it may not be read.
        JaxRuntimeError: the devices' memory is too small.
    """
    from orbax import checkpoint as ocp

    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        state,
        shardings,
    )
    with _explained(manager, step):
        found = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
    _check_identity(found, identity, f"the checkpoint in {manager.directory}")
    with _explained(manager, step):
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return manager.restore(step, args=arguments)["state"]


def _check_identity(found: Any, expected: Mapping[str, Any], what: str) -> None:
    """Raises ValueError that names every setting in which a run differs from what was found."""
    found = found if isinstance(found, dict) else {}
    names = sorted({*found, *expected})
    differ = [name for name in names if found.get(name) != expected.get(name)]
    if differ:
        raise ValueError(
            f"{what} is of another run:\n"
            + "".join(f"  {n}: there {found.get(n)!r}, now {expected.get(n)!r}\n" for n in differ)
            + "say the same again to go on with it, or choose another output.path"
        )


@contextlib.contextmanager
def _explained(manager: Any, step: int) -> Iterator[None]:
    """Says what to do where Orbax, of a damaged checkpoint, raises this or that."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError, PermissionError):
        raise
    except Exception as error:
        raise ValueError(
            f"the checkpoint {manager.directory / str(step)} cannot be read ({str(error)[:200]}): "
            "if its files are damaged, move that folder away, and the run goes on from the one "
            "before; else see with which versions it was written"
        ) from error
