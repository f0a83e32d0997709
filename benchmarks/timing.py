"""Interleaved timing: candidates take turns, so that a drifting machine slows all of them alike."""

import random
import time
from collections.abc import Callable, Mapping


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    repeats: int = 10,
    warmup: int = 1,
    settle: int = 0,
) -> dict[str, list[float]]:
    """Runs every candidate once a round, in a new order, and returns its seconds by round.

    Orders are drawn, by a fixed seed: what ran before leaves caches and memory behind, and if the
    order only rotated, most candidates would always follow the same other one.

    Args:
        candidates: name -> function to time; it must return only when its work is done.
        repeats: counted rounds.
        warmup: rounds run first and not counted.
        settle: calls of a turn run first and not counted: they pay for what another candidate has
            left in caches, and in threads that are still on the cores.
    """
    names, order = list(candidates), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(-warmup, repeats):
        for name in order.sample(names, len(names)):
            for _ in range(settle):
                candidates[name]()
            start = time.perf_counter()
            candidates[name]()
            if round_ >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds
