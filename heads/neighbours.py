"""Nearest neighbours in embedding space: how often they share a film's findings, against chance."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Real

_BLOCK = 1024  # films whose similarities to all others are held at once


class Sharing(NamedTuple):
    """How often the neighbours of films with a finding have it, too.

    Attributes:
        films: that have the finding, and a neighbour of which it is known.
        share: of their neighbours of which it is known, those that have it; the mean over films.
        chance: what films of other patients drawn at random would give.
        low, high: between them lie 95 % of the shares that permuted labels give.
        p: probability of a share this high under permuted labels.
    """

    films: int
    share: float
    chance: float
    low: float
    high: float
    p: float


def nearest(
    embedding: Float[np.ndarray, "n dim"], patient: Int64[np.ndarray, " n"], k: int
) -> tuple[Int64[np.ndarray, "n k"], Float64[np.ndarray, "n k"]]:
    """The films of other patients whose embeddings have the largest cosine with each film's.

    Args:
        embedding: finite, none of them 0.
        patient: number of each film's patient.
        k: neighbours of each film.

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
    size = np.linalg.norm(embedding, axis=1, keepdims=True)
    if not size.all():
        raise ValueError(f"{np.sum(size == 0)} embeddings are 0, and have no direction to compare")
    unit, found, cosines = embedding / size, [], []
    for start in range(0, len(unit), _BLOCK):
        block = slice(start, start + _BLOCK)
        cosine = (unit[block] @ unit.T).astype(np.float64)
        cosine[patient[block, None] == patient] = -np.inf
        some = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        of_some = np.take_along_axis(cosine, some, axis=1)
        order = np.argsort(-of_some, axis=1, kind="stable")
        found.append(np.take_along_axis(some, order, axis=1))
        cosines.append(np.take_along_axis(of_some, order, axis=1))
    return np.concatenate(found), np.concatenate(cosines)


def sharing(
    neighbour: Int64[np.ndarray, "n k"],
    patient: Int64[np.ndarray, " n"],
    findings: Sequence[str],
    label: Real[np.ndarray, "n finding"],
    mask: Bool[np.ndarray, "n finding"],
    permutations: int,
    seed: int,
) -> tuple[dict[str, Sharing], Sharing]:
    """Measures every finding that some film has, and all findings as one.

    A permutation lays the labels down patient after patient, and the films patient after patient
    in another order, so that the labels of one patient stay together but where they are cut: films
    of one patient are alike, and labels dealt out film by film would differ too little.

    Args:
        neighbour: as `nearest` gives them.
        patient: number of each film's patient.
        findings: names of the columns of `label`.
        label: 0 or 1.
        mask: whether the label is known.
        permutations: number of them.
        seed: of them.

    Returns:
        Each finding, and the mean over all pairs of a film and a finding that it has, where `films`
        counts these pairs.
    """
    positive = (label > 0) & mask
    found = _shares(neighbour, positive, mask)
    random = np.random.default_rng(seed)
    permuted = np.empty((permutations, len(findings) + 1))
    for row in permuted:
        rank = [random.permutation(patient.max() + 1)[patient] for _ in range(2)]
        films, labels = (np.argsort(one, kind="stable") for one in rank)
        order = np.empty_like(films)
        order[films] = labels
        row[:] = _means(_shares(neighbour, positive[order], mask[order]))
    chance = np.where(np.isnan(found), np.nan, _prevalence_elsewhere(patient, positive, mask))
    pairs = np.isfinite(found)
    columns = zip(
        [*pairs.sum(0), pairs.sum()], _means(found), _means(chance), permuted.T, strict=True
    )
    measured = []
    for films, share, expected, others in columns:
        low, high = (np.nan, np.nan) if not films else np.nanpercentile(others, [2.5, 97.5])
        p = (1 + np.sum(others >= share - 1e-12)) / (1 + permutations)
        measured.append(Sharing(int(films), *map(float, (share, expected, low, high)), p=float(p)))
    of_findings = dict(zip(findings, measured[:-1], strict=True))
    return {name: one for name, one in of_findings.items() if one.films}, measured[-1]


def _shares(neighbour: np.ndarray, positive: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Of the neighbours of a film with a finding: the share that has it; else NaN [n finding]."""
    share = np.full(positive.shape, np.nan)
    of_known = known[neighbour].sum(1)
    judged = positive & (of_known > 0)
    return np.divide(positive[neighbour].sum(1), of_known, out=share, where=judged)


def _means(shares: np.ndarray) -> np.ndarray:
    """Of each finding, and of everything; NaN where there is nothing."""
    number, total = np.isfinite(shares).sum(0), np.nansum(shares, axis=0)
    number, total = np.append(number, number.sum()), np.append(total, total.sum())
    return np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)


def _prevalence_elsewhere(
    patient: np.ndarray, positive: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Of the films of other patients: the share that has a finding [n finding]."""
    left = []
    for column in (positive, known):
        own = np.zeros((patient.max() + 1, column.shape[1]))
        np.add.at(own, patient, column)
        left.append(column.sum(0) - own[patient])
    return np.divide(*left, out=np.full(positive.shape, np.nan), where=left[1] > 0)
