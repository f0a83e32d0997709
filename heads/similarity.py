"""Nearest neighbours in embedding space: how often they share a film's findings, against chance."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Real

from cxr_embeddings.common import progress

BLOCK_BYTES = 64_000_000  # of cosines that are held at once
MANY = 20_000  # films that take so long that progress is shown


class Sharing(NamedTuple):
    """How often the neighbours of films with a finding have it, too."""

    films: int  # that have the finding, and a neighbour of which it is known
    share: float  # of their neighbours of which it is known, those that have it; mean over films
    chance: float  # what films of other patients drawn at random would give


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
    alone: Collection[str] = (),
) -> tuple[dict[str, Sharing], Sharing]:
    """How often neighbours share a finding, beside what films of other patients would.

    Args:
        neighbour: as `nearest` gives them.
        patient: number of each film's patient.
        findings: names of the columns of `label`.
        label: 0 or 1.
        mask: whether the label is known.
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
    chance = np.where(pairs, _prevalence_elsewhere(patient, positive, mask), np.nan)
    films_of = [*pairs.sum(0), pairs[:, pooled].sum()]
    means = _means(found, pooled), _means(chance, pooled)
    measured = [
        Sharing(int(films), float(share), float(expected))
        for films, share, expected in zip(films_of, *means, strict=True)
    ]
    of_findings = dict(zip(findings, measured[:-1], strict=True))
    return {name: one for name, one in of_findings.items() if one.films}, measured[-1]


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
