"""Change since an earlier film: columns `NAME_change` of -1 improved, 0 stable, 1 worse.

The three classes are in order, so that two yes-or-no findings say all: not improved, and worse
(cumulative targets: Frank and Hall, ECML 2001, LNCS 2167:145-156).
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from .findings import Findings

SUFFIX = "_change"
TARGETS = ("_not_improved", "_worse")  # that stand for one column
DEFINITION = "{}: -1 is improved, 0 stable, 1 worse since an earlier film; empty is unknown."
CLASSES = ("improved", "stable", "worse")  # -1, 0, 1


def columns_of(findings: Sequence[str]) -> tuple[str, ...]:
    """The columns of a table that hold findings: of targets, those of changes."""
    stems = (re.sub(f"(?i)(?<={SUFFIX})({'|'.join(TARGETS)})$", "", name) for name in findings)
    return tuple(dict.fromkeys(stems))


def split(
    found: Findings, asked: Sequence[str]
) -> tuple[Findings, Bool[np.ndarray, "row finding"]]:
    """Puts two findings, or the one that is asked for, in the place of every column of changes.

    Returns:
        The findings, and where they are empty cells of changes: unknown, whatever the policy.
    """
    names, codes, one_sided, changes = [], [], [], []
    for name, code, sided in zip(found.names, found.code.T, found.one_sided, strict=True):
        is_change = name.casefold().endswith(SUFFIX)
        wanted = [target for target in TARGETS if f"{name}{target}" in asked] or TARGETS
        for target, least in zip(TARGETS if is_change else [""], (0, 1), strict=False):
            if is_change and target not in wanted:
                continue
            reached = np.where(np.isnan(code), np.nan, code >= least)
            names.append(f"{name}{target}")
            codes.append(reached.astype(np.float32) if is_change else code)
            one_sided.append(sided)
            changes.append(is_change)
    code = np.stack(codes, axis=1)
    found = found._replace(names=tuple(names), code=code, one_sided=np.array(one_sided))
    return found, np.isnan(code) & np.array(changes)


def columns(findings: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Columns of changes of which both findings are there, and the places of these."""
    places = {name: place for place, name in enumerate(findings)}
    first, second = TARGETS
    return {
        (stem := name.removesuffix(first)): (place, places[f"{stem}{second}"])
        for name, place in places.items()
        if name.casefold().endswith(f"{SUFFIX}{first}")
        and f"{name.removesuffix(first)}{second}" in places
    }
