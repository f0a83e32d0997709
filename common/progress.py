"""A progress bar, in a terminal, a notebook or a log; and what is said of films at the end."""

from __future__ import annotations

import collections
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def wanted(asked: bool | None) -> bool:
    """Whether to show progress; where nothing is asked, if somebody is likely to look."""
    return ("ipykernel" in sys.modules or sys.stderr.isatty()) if asked is None else asked


def bar(total: int, done: int = 0, *, what: str = "films", shown: bool | None = True) -> tqdm:
    """A bar of `total` things to do called `what`, of which some were `done` before."""
    with warnings.catch_warnings():  # without ipywidgets a notebook gets the bar as text
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm(
        total=total,
        initial=done,
        unit=f" {what}",
        bar_format="{percentage:3.0f}% {bar} {n}/{total}{unit}, {rate_noinv_fmt}, {remaining} left"
        "{postfix}",
        mininterval=0.1 if wanted(None) else 10,
        disable=not wanted(shown),
    )


def summary(
    done: str, new: int, before: int, seconds: float, dropped: Iterable[tuple[str, str, str]]
) -> None:
    """Prints what became of the films of a run.

    Args:
        done: what it made of films, such as "embedded".
        new: films that it did.
        before: those that were done before.
        seconds: that it took.
        dropped: of each film that is not done: skipped or rejected, reason, detail; of each that is
            done, though its header says that it is no chest film: not_chest, and what it names.
    """
    print(f"{done:13}{new:8}   {new / seconds:.1f} films a second")
    print(f"{'already done':13}{before:8}   ")
    kinds = ("skipped", "rejected", "not_chest")
    reasons: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    for kind, reason, detail in dropped:
        reasons[kind][reason if kind == "rejected" else f"{reason} {detail}"] += 1
    for kind, counts in reasons.items():
        note = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
        if kind != "not_chest":
            print(f"{kind:13}{counts.total():8}   {note}")
        elif counts:
            print(
                f"warning: {counts.total()} headers name another body part or modality: {note}. "
                "These films are kept: see not_chest.csv. input.chest_only=true skips such films"
            )
