"""Linear probes on few films of many numbers, fitted in the span of these films.

That changes no solution, and takes a fraction of the time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from . import features, logistic


class Probes(NamedTuple):
    """A probe for each penalty and question."""

    mean: Float32[np.ndarray, " dim"]  # with `scale`, the standardisation of the embeddings
    scale: Float32[np.ndarray, " dim"]
    kernel: Float[np.ndarray, "penalty question dim"]
    bias: Float[np.ndarray, "penalty question"]


def fit(
    embedding: Float32[np.ndarray, "film dim"],
    label: Float32[np.ndarray, "film question"],
    weight: Float32[np.ndarray, "film question"],
    penalties: Sequence[float],
) -> Probes:
    """Fits the probes; `weight` is 1 where a label is known, else 0."""
    rows = np.arange(len(embedding))
    mean, scale = features.standardisation(embedding, rows)
    films, back = (embedding - mean) / scale, None
    if len(films) <= films.shape[1]:
        values, vectors = np.linalg.eigh(films @ films.T)
        large = values > 1e-6 * values[-1]  # the rest is rounding
        length, vectors = np.sqrt(values[large]), vectors[:, large]
        films, back = vectors * length, (vectors / length).T @ films
    whole = np.zeros(films.shape[1], np.float32), np.ones(films.shape[1], np.float32)
    found = logistic.fit(features.select(films, rows, *whole), label, weight, penalties)
    kernel = np.asarray(found.kernel)
    return Probes(mean, scale, kernel if back is None else kernel @ back, np.asarray(found.bias))


def logits(
    probes: Probes, embedding: Float32[np.ndarray, "film dim"]
) -> Float[np.ndarray, "penalty film question"]:
    """What the probes say of films."""
    films = (embedding - probes.mean) / probes.scale
    return films @ probes.kernel.swapaxes(1, 2) + probes.bias[:, None]
