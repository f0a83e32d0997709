"""Which patients a site has, and an AUROC as it would be if all sites had the same mix of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64, Real, Shaped

from . import bootstrap, discrimination, proportion
from .results import Interval

FEWEST = 10  # films of a stratum, at every site, for it to count


def shares(
    values: Shaped[np.ndarray, " n"], patient: Int64[np.ndarray, " n"]
) -> dict[str, Interval]:
    """The share of each value among films, by patient (Wilson's); "unknown" for ""."""
    found: dict[str, Interval] = {}
    for value in map(str, np.unique(values.astype(str))):
        inside = values.astype(str) == value
        low, high = proportion.interval(inside, patient)
        found[value or "unknown"] = {"value": float(inside.mean()), "low": low, "high": high}
    return found


def strata(
    groups: Mapping[str, Shaped[np.ndarray, " n"]], factors: Sequence[str], films: int
) -> Shaped[np.ndarray, " n"]:
    """The stratum of each film, such as "PA, F, 40-59"; "" where a factor is unknown."""
    if not factors:
        return np.full(films, "", object)
    rows = zip(*(groups[factor] for factor in factors), strict=True)
    return np.array([", ".join(row) if all(row) else "" for row in rows], object)


def common_mix(sites: Sequence[Shaped[np.ndarray, " _"]]) -> dict[str, float]:
    """The mean over sites of the share of each stratum, of those with `FEWEST` films at every site.

    `sites` are the strata of each site's films. Shares are among the films of these strata.
    """
    counts = [
        dict(zip(*np.unique(one.astype(str), return_counts=True), strict=True)) for one in sites
    ]
    known = [s for s in counts[0] if s and all(one.get(s, 0) >= FEWEST for one in counts)]
    totals = [sum(one[s] for s in known) for one in counts]
    return {
        str(s): float(np.mean([one[s] / n for one, n in zip(counts, totals, strict=True)]))
        for s in known
    }


def weights(
    stratum: Shaped[np.ndarray, " n"], mix: Mapping[str, float]
) -> Float64[np.ndarray, " n"]:
    """The share of a film's stratum in the mix, over its share among these films; 0 outside it.

    The films are those whose label is known. All weights are 0 where they lack a stratum of the
    mix: no weights make it of them.
    """
    names = stratum.astype(str)
    inside = np.isin(names, [*mix])
    found = np.zeros(len(names))
    for name, share in mix.items():
        here = names == name
        if not here.any():
            return np.zeros(len(names))
        found[here] = share * inside.sum() / here.sum()
    return found


def standardised(
    draws: bootstrap.Draws,
    rows: Int64[np.ndarray, " k"],
    score: Real[np.ndarray, " k"],
    label: Real[np.ndarray, " k"],
    weight: Float64[np.ndarray, " k"],
) -> Interval | None:
    """AUROC of films that count as often as their weights say, with percentile limits by patient.

    It is the sum of w w' over pairs of a positive and a negative film that are ranked right (ties
    half), over the sum of w w' over all such pairs (direct standardisation; the weights are held
    fixed). None where the weighted films lack a class.
    """
    inside = weight > 0
    rows, score, label, weight = (one[inside] for one in (rows, score, label, weight))
    if discrimination.why_undefined("", label):
        return None
    once = bootstrap.Draws(np.ones((1, draws.count.shape[1]), np.uint8), draws.patient)
    value, found = (
        bootstrap.replicates(one, rows, score, label, {"films": np.ones((len(rows), 1))}, weight)
        for one in (once, draws)
    )
    return bootstrap.interval(bootstrap.Measured(float(value["auroc"][0]), found["auroc"]))
