"""How far films lie from those that a head was trained on: are they films of that kind at all?

Embeddings are scaled to length 1 (Mueller and Hein, ICML 2025, arXiv:2505.18032). The distance is
Mahalanobis' with the covariance of probabilistic PCA (Tipping and Bishop, J. R. Stat. Soc. B 1999):
a variance along each of the first principal axes, and one for all directions beside them.
docs/heads.md says which films it flags.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int

from . import features

SHARE = 0.01  # of the films of tune that lie beyond the limit; at least one does
FILMS, AXES = 5000, 64  # that the distance is fitted on, and that it has, at most
NUMBERS = 1 << 22  # in all axes together: 16 MB
FLOOR = 1e-6  # smallest deviation of embeddings of length 1: float32 rounds to 1e-7


class Spread(NamedTuple):
    """The training embeddings as a normal distribution, in units of the limit."""

    centre: Float32[np.ndarray, " dim"]
    axes: Float32[np.ndarray, "axis dim"]  # orthonormal; 0 where films are too few for more
    scale: Float32[np.ndarray, " axis_and_1"]  # distance by length along each axis, and beside all


def axes_of(dim: int) -> int:
    """How many axes a spread of embeddings of that width has."""
    return max(1, min(AXES, dim // 2, NUMBERS // dim))


def fit(
    embedding: Float[np.ndarray, "table dim"],
    train: Int[np.ndarray, " films"],
    tune: Int[np.ndarray, " others"],
    seed: int,
) -> Spread:
    """The spread of the films at rows `train`, with a limit that the share of `tune` lies beyond.

    The limit is the distance of the farthest film of tune after those beyond it.
    """
    from sklearn.utils.extmath import randomized_svd

    dim = embedding.shape[1]
    most = max(2, min(FILMS, features.IN_MEMORY // (4 * dim)))
    drawn = np.random.default_rng(seed).permutation(train)[:most]
    films = np.concatenate([_unit(block) for block in features.blocks(embedding, np.sort(drawn))])
    found = max(1, min(axes_of(dim), len(films) // 2))
    centre = films.mean(0)
    films -= centre
    _, lengths, principal = randomized_svd(films, found, n_iter=7, random_state=0)
    along = np.square(lengths) / len(films)
    beside = (np.square(films).sum() / len(films) - along.sum()) / max(1, dim - found)
    axes, scale = np.zeros((axes_of(dim), dim), np.float32), np.zeros(axes_of(dim) + 1, np.float32)
    axes[:found] = principal
    deviations = np.sqrt(np.maximum([*along, beside], FLOOR**2))
    scale[[*range(found), -1]] = 1 / (deviations * np.sqrt(dim))
    spread = Spread(centre, axes, scale)
    farthest = np.sort(measure(spread, embedding, tune))[::-1]
    limit = farthest[min(len(tune) - 1, max(1, round(SHARE * len(tune))))]
    return spread._replace(scale=scale / np.float32(limit * (1 + 1e-5) or 1))  # 1e-5: of rounding


def measure(
    spread: Spread, embedding: Float[np.ndarray, "table dim"], row: Int[np.ndarray, " films"]
) -> Float32[np.ndarray, " films"]:
    """Distances of films; those above 1 are out of distribution."""
    found = [np.empty(0, np.float32)]
    for block in features.blocks(embedding, row):
        away = _unit(block) - spread.centre
        along = away @ spread.axes.T
        beside = np.linalg.norm(away - along @ spread.axes, axis=1)
        found.append(np.linalg.norm(np.c_[along, beside] * spread.scale, axis=1))
    return np.concatenate(found)


def is_far(distance: Float32[np.ndarray, " films"]) -> Bool[np.ndarray, " films"]:
    """Whether films lie beyond the limit."""
    return distance > 1


def columns(distance: Float32[np.ndarray, " films"]) -> dict[str, object]:
    """The two columns of predictions: the distance in units of the limit, and 1 beyond it."""
    flag = pd.array(is_far(distance).astype(int), "Int64")
    return {"ood_distance": distance, "out_of_distribution": flag}


def _unit(embedding: Float[np.ndarray, "films dim"]) -> Float32[np.ndarray, "films dim"]:
    """Embeddings of length 1."""
    embedding = embedding.astype(np.float32)
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding / np.maximum(length, np.finfo(np.float32).tiny)
