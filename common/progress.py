"""A progress bar: in a terminal, in a notebook, or as a line every ten seconds in a log."""

from __future__ import annotations

import sys
import warnings
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
