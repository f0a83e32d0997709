"""The embeddings of all films, standardised, in one pass and without a second copy of them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from cxr_embeddings.heads import features


class Standard(NamedTuple):
    """An embedding less `mean`, divided by `scale`, is standardised."""

    mean: Float32[np.ndarray, " dim"]
    scale: Float32[np.ndarray, " dim"]  # positive


def of_table(embedding: Float[np.ndarray, "film dim"]) -> Standard:
    """By the mean and the deviation of every number over all films."""
    return Standard(*features.standardisation(embedding, np.arange(len(embedding))))


def rows(
    embedding: Float[np.ndarray, "film dim"], standard: Standard, film: Int64[np.ndarray, " some"]
) -> Float64[np.ndarray, "some dim"]:
    """Some films, standardised."""
    return (embedding[film].astype(np.float64) - standard.mean) / standard.scale


def products(
    embedding: Float[np.ndarray, "film dim"],
    standard: Standard,
    vectors: Float[np.ndarray, "dim vector"],
) -> Float32[np.ndarray, "film vector"]:
    """The products of all standardised films with some vectors; embeddings are read once."""
    kernel = (vectors / standard.scale[:, None]).astype(np.float32)
    found = np.empty((len(embedding), kernel.shape[1]), np.float32)
    for start in range(0, len(embedding), features.BLOCK):
        block = embedding[start : start + features.BLOCK].astype(np.float32, copy=False)
        np.matmul(block, kernel, out=found[start : start + features.BLOCK])
    return (found - standard.mean.astype(np.float64) @ kernel).astype(np.float32)


def squares(
    embedding: Float[np.ndarray, "film dim"], standard: Standard
) -> Float32[np.ndarray, " film"]:
    """The squared lengths of all standardised films."""
    found = np.empty(len(embedding), np.float32)
    for start in range(0, len(embedding), features.BLOCK):
        block = (embedding[start : start + features.BLOCK] - standard.mean) / standard.scale
        found[start : start + features.BLOCK] = np.einsum("nd,nd->n", block, block)
    return found
