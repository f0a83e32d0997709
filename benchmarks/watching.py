"""What a command and the processes it starts hold while it runs: memory and open files (Linux)."""

import itertools
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

SECONDS = 0.25  # between two looks
BEAM = "Beam worker"


class Watched(NamedTuple):
    """A command that has ended.

    Attributes:
        seconds: that it took.
        first: seconds until its first result was there; infinite if none was.
        samples: look by look, what `processes` found.
    """

    seconds: float
    first: float
    samples: list[dict[str, list[float]]]


def processes(pid: int, kind: str) -> dict[str, list[float]]:
    """What a process and those below it hold.

    Args:
        pid: of the process.
        kind: what to call it. Others count with it, but Beam's workers, which are a kind of their
            own; their decoders count with them.

    Returns:
        Kind -> MB (VmRSS; pages that processes share count for each) and number of open files, of
        the largest of its kind.
    """
    groups: dict[tuple[str, str], list[float]] = {}

    def visit(pid: str, group: tuple[str, str]) -> None:
        folder = pathlib.Path("/proc", pid)
        try:
            if b"sdk_worker_main" in (folder / "cmdline").read_bytes():
                group = BEAM, pid
            resident = re.search(r"VmRSS:\s+(\d+) kB", (folder / "status").read_text())
            handles = len(os.listdir(folder / "fd"))
            children = [task.read_text().split() for task in folder.glob("task/*/children")]
        except OSError:  # it has ended meanwhile
            return
        held = groups.setdefault(group, [0.0, 0])
        held[0] += int(resident[1]) / 1000 if resident else 0
        held[1] += handles
        for child in itertools.chain(*children):
            visit(child, group)

    visit(str(pid), (kind, ""))
    return {kind: max(h for (k, _), h in groups.items() if k == kind) for kind, _ in groups}


def watch(
    kind: str, command: Sequence[str], is_ready: Callable[[], bool] = lambda: False
) -> Watched:
    """Runs a Python program of this checkout until it ends.

    Args:
        kind: what to call its first process.
        command: the program and its arguments.
        is_ready: whether its first result is there.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    samples, first = [], math.inf
    with tempfile.TemporaryFile("w+") as said:
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=pathlib.Path(__file__).resolve().parents[1],
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None:
            samples.append(processes(process.pid, kind))
            if first == math.inf and is_ready():
                first = time.monotonic() - start
            time.sleep(SECONDS)
        seconds = time.monotonic() - start
        if process.returncode:
            said.seek(0)
            raise RuntimeError(
                f"{' '.join(command)} ended with exit code {process.returncode}, expected 0; it "
                f"said at the end: {said.read()[-2000:]}"
            )
    return Watched(seconds, first, samples)
