"""What the curves of `quality.py` say on the claim: contrastive embeddings need fewer labels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from heads.learning_curves import difference
from heads.report import panels
from heads.statistics import bootstrap
from heads.statistics.bootstrap import Measured

HOLDS, CONTRADICTED, NOT_SHOWN = "holds", "is contradicted", "is not shown"
Curves = Mapping[str, Mapping[int, Sequence[Measured]]]  # representation -> labels -> findings


def mean_at(curves: Curves, name: str, labels: int) -> Measured:
    """Mean AUROC over the findings."""
    return bootstrap.mean(curves[name][labels])


def auroc_at(curves: Curves, name: str, labels: int) -> dict[str, Any] | None:
    """Mean AUROC over the findings with its interval, which ends at 1."""
    one = bootstrap.interval(mean_at(curves, name, labels))
    return one and one | {"high": one["high"] and min(one["high"], 1.0)}


def difference_at(curves: Curves, other: str, labels: int) -> dict[str, Any] | None:
    """Contrastive less another representation, with its interval."""
    both = (mean_at(curves, name, labels) for name in ("supcon", other))
    return bootstrap.interval(difference(*both))


def side(one: Mapping[str, Any] | None) -> int:
    """1 where an interval lies above 0, -1 where below, 0 where it does neither."""
    if one is None or one["low"] is None or one["high"] is None:
        return 0
    return int(one["low"] > 0) - int(one["high"] < 0)


def differences(curves: Curves, other: str) -> list[dict[str, Any] | None]:
    """At every number of labels below all; None where one of the two is undefined."""
    return [difference_at(curves, other, labels) for labels in sorted(curves["supcon"])[:-1]]


def outcome(found: Sequence[Mapping[str, Any] | None]) -> str:
    """The rule that the page states."""
    sides = [side(one) for one in found]
    if 2 * sides.count(1) > len(sides) and -1 not in sides:
        return HOLDS
    if 2 * sides.count(-1) > len(sides) and 1 not in sides:
        return CONTRADICTED
    return NOT_SHOWN


def rows(
    curves: Mapping[str, Curves], titles: Mapping[str, str], names: Mapping[str, str]
) -> Iterator[tuple[str, ...]]:
    """Of every question and other representation: question, other, and what was counted."""
    for task, some in curves.items():
        labels = sorted(some["supcon"])
        for other in names:
            if other == "supcon":
                continue
            found = differences(some, other)
            sides = [side(one) for one in found]
            above = sum(one["value"] > 0 for one in found if one)
            aim = mean_at(some, other, labels[-1]).value
            yield (
                titles[task],
                names[other],
                f"{above} of {len(found)}",
                f"{sides.count(1)}",
                f"{sides.count(-1)}",
                outcome(found),
                f"{panels.number(aim, 3)} with {labels[-1]:,}",
                since(some, labels, aim),
            )


def since(curves: Curves, labels: Sequence[int], aim: float | None) -> str:
    """The number of labels from which on contrastive's AUROC stays at the aim, or above it."""
    values = [mean_at(curves, "supcon", n).value for n in labels]
    below = [i for i, value in enumerate(values) if None in (value, aim) or value < aim]
    first = below[-1] + 1 if below else 0
    return f"{labels[first]:,}" if first < len(labels) else "never"


def verdict(curves: Mapping[str, Curves], titles: Mapping[str, str], other: str) -> str:
    """The claim against one other representation, over all questions."""
    questions: dict[str, list[str]] = {}
    for task, some in curves.items():
        questions.setdefault(outcome(differences(some, other)), []).append(titles[task])
    best = next(one for one in (HOLDS, CONTRADICTED, NOT_SHOWN) if one in questions)
    part = "every question" if len(questions) == 1 else "a part of the questions only"
    listed = (f"It {one} for {', '.join(some)}." for one, some in questions.items())
    return " ".join([f"**The claim {best} here ({part}).**", *listed])
