"""Nearest neighbours in embedding space: how often they share a film's findings, against chance."""

from collections.abc import Collection, Sequence
from math import lgamma
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Real

from cxr_embeddings.common import progress

BLOCK_BYTES = 64_000_000  # of cosines that are held at once
MANY = 20_000  # films that take so long that progress is shown
MIN_ARRANGEMENTS = 20  # of labels: with fewer no p could be below 0.05


class Sharing(NamedTuple):
    """How often the neighbours of films with a finding have it, too.

    `low`, `high` and `p` are NaN where fewer than `MIN_ARRANGEMENTS` of the labels differ.
    """

    films: int  # that have the finding, and a neighbour of which it is known
    share: float  # of their neighbours of which it is known, those that have it; mean over films
    chance: float  # what films of other patients drawn at random would give
    low: float  # from here to `high` lie 95 % of the shares that permuted labels give
    high: float
    p: float  # of a share this high under permuted labels, among those that define a share


def nearest(
    embedding: Float[np.ndarray, "n dim"], patient: Int64[np.ndarray, " n"], k: int
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """The k films of other patients whose embeddings have the largest cosine with each film's.

    Returns:
        Positions of the neighbours, the nearest first, and the cosines.

    Raises:
        ValueError: some film has fewer than k films of other patients, or an embedding is 0.
    """
    fewest = len(patient) - int(np.bincount(patient).max())
    if fewest < k:
        raise ValueError(
            f"a film has only {fewest} films of other patients to be near to; expected at least "
            f"{k}: embed films of more patients"
        )
    embedding = embedding.astype(np.float32, copy=False)
    size = np.sqrt(np.einsum("nd,nd->n", embedding, embedding))
    if not size.all():
        raise ValueError(f"{np.sum(size == 0)} embeddings are 0, and have no direction to compare")
    found = np.empty((len(size), k), np.int64)
    cosines = np.empty((len(size), k), np.float32)
    films = max(1, BLOCK_BYTES // (4 * len(size)))
    with progress.bar(len(size), shown=len(size) >= MANY) as bar:
        for start in range(0, len(size), films):
            block = slice(start, start + films)
            cosine = embedding[block] @ embedding.T
            cosine /= size
            cosine /= size[block, None]
            cosine[patient[block, None] == patient] = -np.inf
            for i, of_film in enumerate(cosine, start):
                some = np.argpartition(of_film, -k)[-k:]
                found[i] = some[np.argsort(-of_film[some], kind="stable")]
                cosines[i] = of_film[found[i]]
            bar.update(len(cosine))
    return found, cosines


def sharing(
    neighbour: Int64[np.ndarray, "n k"],
    patient: Int64[np.ndarray, " n"],
    findings: Sequence[str],
    label: Real[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
    *,
    permutations: int,
    seed: int,
    alone: Collection[str] = (),
) -> tuple[dict[str, Sharing], Sharing]:
    """Measures every finding that some film has, and the findings as one.

    A permutation exchanges all labels of a patient with those of another who has as many films.
    Films of one patient are alike, so that labels dealt out film by film would differ too little;
    and patients with other numbers of films are not exchangeable: their films weigh differently in
    the share, and a test that cuts and joins labels rejects a true null too often.
    docs/statistics.md has the size of the test.

    Args:
        neighbour: as `nearest` gives them.
        patient: number of each film's patient.
        findings: names of the columns of `label`.
        label: 0 or 1.
        mask: whether the label is known.
        permutations, seed: number and seed of the permutations.
        alone: findings that are left out of the mean, unless there are no others.

    Returns:
        Each finding, and the mean over all pairs of a film and a finding that it has, where `films`
        counts these pairs.
    """
    positive = (label > 0) & mask
    found = _shares(neighbour, positive, mask)
    pairs = np.isfinite(found)
    pooled = pairs & ~np.isin(findings, [*alone])
    pooled = (pooled if pooled.any() else pairs).any(0)
    random = np.random.default_rng(seed)
    permuted = np.empty((permutations, len(findings) + 1))
    strata = _strata(patient)
    shown = len(patient) >= MANY
    with progress.bar(permutations, what="permutations", shown=shown) as bar:
        for row in permuted:
            order = np.empty(len(patient), np.int64)
            for films in strata:
                order[films] = random.permutation(films)  # of rows: whole patients
            row[:] = _means(_shares(neighbour, positive[order], mask[order]), pooled)
            bar.update()
    chance = np.where(np.isnan(found), np.nan, _prevalence_elsewhere(patient, positive, mask))
    films_of = [*pairs.sum(0), pairs[:, pooled].sum()]
    state = np.where(mask, positive, -1)
    told = [_arrangements(state[:, [j]], strata) for j in range(len(findings))]
    told.append(_arrangements(state[:, pooled], strata))
    means = _means(found, pooled), _means(chance, pooled)
    measured = []
    for films, share, expected, others, arrangements in zip(
        films_of, *means, permuted.T, told, strict=True
    ):
        low = high = p = np.nan
        if films and arrangements >= MIN_ARRANGEMENTS:
            low, high = np.nanpercentile(others, [2.5, 97.5])
            p = (1 + np.sum(others >= share - 1e-12)) / (1 + np.isfinite(others).sum())
        measured.append(Sharing(int(films), *map(float, (share, expected, low, high, p))))
    of_findings = dict(zip(findings, measured[:-1], strict=True))
    return {name: one for name, one in of_findings.items() if one.films}, measured[-1]


def _strata(patient: np.ndarray) -> list[np.ndarray]:
    """The films of all patients with as many films, a row a patient, for each such number."""
    order = np.argsort(patient, kind="stable")
    films = np.split(order, np.flatnonzero(np.diff(patient[order])) + 1)
    numbers = np.array([len(some) for some in films])
    return [
        np.stack([some for some in films if len(some) == number]) for number in np.unique(numbers)
    ]


def _arrangements(state: np.ndarray, strata: list[np.ndarray]) -> float:
    """How many different ways there are to give patients each other's labels [film finding]."""
    logarithm = 0.0
    for films in strata:
        labels = state[films].reshape(len(films), -1)
        alike = np.unique(labels, axis=0, return_counts=True)[1]
        logarithm += lgamma(len(films) + 1) - sum(lgamma(count + 1) for count in alike)
    return float(np.exp(min(logarithm, 700.0)))


def _shares(neighbour: np.ndarray, positive: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The share of the neighbours of a film with a finding that have it, else NaN [n finding]."""
    share = np.full(positive.shape, np.nan)
    of_known = known[neighbour].sum(1)
    judged = positive & (of_known > 0)
    return np.divide(positive[neighbour].sum(1), of_known, out=share, where=judged)


def _means(shares: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """The means of each finding, and of those that are pooled; NaN where there is nothing."""
    number, total = np.isfinite(shares).sum(0), np.nansum(shares, axis=0)
    number, total = (np.append(one, one[pooled].sum()) for one in (number, total))
    return np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)


def _prevalence_elsewhere(
    patient: np.ndarray, positive: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """The share of the films of other patients that have a finding [n finding]."""

    def elsewhere(column: np.ndarray) -> np.ndarray:
        own = np.zeros((patient.max() + 1, column.shape[1]))
        np.add.at(own, patient, column)
        return column.sum(0) - own[patient]

    with_it, of_known = elsewhere(positive), elsewhere(known)
    return np.divide(with_it, of_known, out=np.full(positive.shape, np.nan), where=of_known > 0)
