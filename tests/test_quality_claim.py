"""What is said of the claim, from curves made up for it."""

import numpy as np
import pytest

from heads.statistics.bootstrap import Measured
from scripts import quality_claim, quality_page


def curves(*differences, spread=0.01):
    """Contrastive's and cross-entropy's at 8, 16, ... labels, with so large differences."""
    noise = spread * np.random.default_rng(0).standard_normal(500)
    names = {"supcon": {}, "cross_entropy": {}}
    for k, value in enumerate(differences):
        labels = 8 * 2**k
        names["supcon"][labels] = [
            Measured(None, np.empty(0))
            if value is None
            else Measured(0.6 + value, 0.6 + value + noise)
        ]
        names["cross_entropy"][labels] = [Measured(0.6, np.full(500, 0.6))]
    return names


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ((0.1, 0.1, 0, 0), "holds"),
        ((0.1, 0.1, -0.1, 0), "is not shown"),
        ((0.1, 0, 0, 0.1), "is not shown"),
        ((0, 0, 0, 0.1), "is not shown"),
        ((-0.1, -0.1, 0, 0.1), "is contradicted"),
        ((-0.1, -0.1, 0.1, 0), "is not shown"),
        ((0.1, None, None, 0), "is not shown"),
        ((0.1, 0.1, None, 0), "holds"),
    ],
)
def test_the_rule_of_the_claim(differences, expected):
    found = quality_claim.differences(curves(*differences), "cross_entropy")
    assert len(found) == 3, "all labels do not count"
    assert quality_claim.outcome(found) == expected
    wide = quality_claim.differences(curves(*differences, spread=1), "cross_entropy")
    assert quality_claim.outcome(wide) == "is not shown"


def test_what_is_counted_and_said_of_the_claim():
    some = {"a": curves(0.1, 0.1, -0.002, -0.1), "b": curves(-0.1, -0.1, -0.1, 0)}
    names = {name: quality_page.NAMES[name] for name in ("supcon", "cross_entropy")}
    titles = {"a": "A", "b": "B"}
    first, second = quality_claim.rows(some, titles, names)
    assert first == ("A", "cross-entropy", "2 of 3", "2", "0", "holds", "0.600 with 64", "never")
    assert second[2:6] == ("0 of 3", "0", "3", "is contradicted") and second[-1] == "64"
    assert quality_claim.verdict(some, titles, "cross_entropy") == (
        "**The claim holds here (a part of the questions only).** It holds for A. "
        "It is contradicted for B."
    )
    assert quality_claim.verdict({"b": some["b"]}, titles, "cross_entropy") == (
        "**The claim is contradicted here (every question).** It is contradicted for B."
    )
    assert quality_claim.verdict({"a": curves(0, 0)}, titles, "cross_entropy") == (
        "**The claim is not shown here (every question).** It is not shown for A."
    )


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ((0.1, 0, 0.1), "8"),
        ((0.1, -0.1, 0, 0.1), "32"),
        ((0.1, None, 0), "32"),
        ((0.1, -0.1), "never"),
    ],
)
def test_contrastive_stays_where_the_other_is_with_all_labels(differences, expected):
    some = curves(*differences)
    assert quality_claim.since(some, [*some["supcon"]], 0.6) == expected
    assert quality_claim.since(some, [*some["supcon"]], None) == "never"


def test_an_interval_of_auroc_ends_at_1():
    one = quality_claim.auroc_at(curves(0.39, 0), "supcon", 8)
    assert one["value"] == pytest.approx(0.99) and one["high"] == 1
    assert quality_page.signed(one) == f"+0.990 [{one['low']:.3f}, 1.000]"
