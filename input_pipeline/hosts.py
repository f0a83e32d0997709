"""The processes that share a run: which one this is, and what they tell one another."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The processes that share a run, of which this is one."""

    index: int  # of this process; 0 leads
    count: int
    # An array [n] of each process -> [count n] on all of them; waits for the last one
    gather: Callable[[np.ndarray], np.ndarray]


ALONE = Hosts(0, 1, lambda row: row[None])


def together(hosts: Hosts, step: Callable[[], Result]) -> Result:
    """Does a step on every host; where it fails on one, the others raise an OSError."""
    error: Exception | None = None
    try:
        result = step()
    except Exception as caught:
        error = caught
    failed = np.flatnonzero(hosts.gather(np.array([error is not None]))[:, 0])
    if error is not None:
        raise error
    if failed.size:
        raise OSError(f"host {failed[0]} failed; see its log")
    return result
