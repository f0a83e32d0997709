"""What this machine offers."""

import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_users = 0  # of `one_blas_thread` at this moment
_limit = contextlib.ExitStack()  # what the last of them lifts


def processors() -> int:
    """How many processors this process may use: on Linux those it is bound to, elsewhere all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Has NumPy and SciPy compute without more threads, for the whole process, while it is used.

    For problems so small that threads lose more by waiting for one another: where other programs
    keep the processors busy, a hundred times more. Several threads may be inside at once.
    """
    from threadpoolctl import ThreadpoolController

    global _users
    with _lock:
        if not _users:
            _limit.enter_context(ThreadpoolController().limit(limits=1, user_api="blas"))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _limit.close()
