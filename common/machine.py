"""What this machine offers."""

import os


def processors() -> int:
    """How many processors this process may use: those it is bound to, where the system says so.

    Linux does; macOS and Windows have no `sched_getaffinity`, and there it is all of them.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
