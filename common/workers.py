"""Work done side by side: processes of a program of ours, and results in the order of the tasks."""

import collections
import concurrent.futures
import itertools
import multiprocessing
import pathlib
import queue
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

Tag = TypeVar("Tag")
Task = TypeVar("Task")
Result = TypeVar("Result")

_ROOT = str(pathlib.Path(__file__).parents[2])  # of the package, where nothing has installed it
PROGRAM = """
import contextlib, importlib, multiprocessing.connection, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
sys.path.append(sys.argv[1])
connection = multiprocessing.connection.Connection(int(sys.argv[3]))
with contextlib.suppress(EOFError, ConnectionError):  # the parent has ended
    importlib.import_module(sys.argv[2]).serve(connection, *sys.argv[4:])
"""


def start(module: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Starts a process that runs `module.serve(connection, *arguments)` until its parent ends.

    It never imports the user's main module, as the processes of `multiprocessing` do.
    """
    ours, theirs = multiprocessing.Pipe()
    with theirs:
        descriptor = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, _ROOT, module, str(descriptor), *arguments],
            start_new_session=True,  # Ctrl-C while it starts would have it say where it was
            stdin=subprocess.DEVNULL,
            pass_fds=[descriptor],
        )
    return process, ours


def in_order(
    tasks: Iterable[tuple[Tag, Task]], workers: Sequence[Callable[[Task], Result]], ahead: int
) -> Generator[tuple[Tag, Result], None, None]:
    """Has workers do tasks side by side, and gives the results back in order, or what one raised.

    Args:
        tasks: any name of each task, and the task.
        workers: each does one task at a time, on some thread; for one call at a time.
        ahead: tasks done before they are asked for; bounds the memory.
    """
    idle: queue.LifoQueue[Callable[[Task], Result]] = queue.LifoQueue()  # the last used is warm
    for worker in workers:
        idle.put(worker)

    def do(task: Task) -> Result:
        worker = idle.get()
        try:
            return worker(task)
        finally:
            idle.put(worker)

    tasks = iter(tasks)
    pending: collections.deque[tuple[Tag, concurrent.futures.Future[Result]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(len(workers), "worker") as threads:
        try:
            while True:
                for tag, task in itertools.islice(tasks, max(ahead, 1) - len(pending)):
                    pending.append((tag, threads.submit(do, task)))
                if not pending:
                    return
                tag, result = pending.popleft()
                yield tag, result.result()
        finally:
            for _, result in pending:
                result.cancel()
            concurrent.futures.wait(result for _, result in pending)
