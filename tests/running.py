"""Commands as their users run them, and what they leave.

The network `tiny` (one block a stage) is there in all tests, and in commands whose options name it.
"""

import contextlib
import importlib
import io
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from conftest import QUICK, REPOSITORY


def command(script, *arguments):
    """The words that start a command of `scripts`, which knows the network `tiny`."""
    program = (sys.executable, "tests/tiny.py") if "tiny" in str(arguments) else (sys.executable,)
    return [*program, f"scripts/{script}.py", *map(str, arguments)]


def run(script, *arguments, **options):
    """Runs a command of `scripts`; `options` are those of `subprocess.run`."""
    options = {"cwd": REPOSITORY, "capture_output": True, "text": True, "timeout": 200} | options
    return subprocess.run(command(script, *arguments), **options)


def call(script, *arguments):
    """Runs a command of `scripts` in this process, and gives what `run` would."""
    command = importlib.import_module(f"cxr_embeddings.scripts.{script}")
    said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
        code = command.main([script, *map(str, arguments)])
    return subprocess.CompletedProcess(arguments, code, *(one.getvalue() for one in said))


def free_port():
    """A port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_hosts(commands, environment, devices):
    """Starts two processes as the two hosts of one run, of so many devices each."""
    environment = environment | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {QUICK}",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
    }
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(command, env=environment | {"JAX_PROCESS_ID": str(i)}, **both)
        for i, command in enumerate(commands)
    ]


def is_intact(folder):
    """Whether the checksums of a folder are those of its files."""
    check = ["sha256sum", "-c", "--strict", "--status", "SHA256SUMS.txt"]
    return subprocess.run(check, cwd=folder).returncode == 0


def tree(folder):
    """Every file below a folder: its name there -> its bytes."""
    paths = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@contextlib.contextmanager
def background(command, log, **options):
    """Keeps a program running while the block does, with what it says in a file; gives the process.

    It is ended with all that it has started: it leads a process group of its own.
    """
    with open(log, "ab") as stream:
        both = {"stdout": stream, "stderr": stream, "start_new_session": True} | options
        process = subprocess.Popen([*map(str, command)], **both)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition, seconds=60, process=None):
    """Waits until `condition()` is true, and gives what it said; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"nothing within {seconds} s"
        assert process is None or process.poll() is None, "the program ended"
        time.sleep(0.02)
    return found
