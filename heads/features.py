"""Standardised embeddings of chosen films, taken block by block where they do not fit in memory."""

import contextlib
import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

IN_MEMORY = 1 << 30  # bytes of float32 up to which embeddings are gathered and standardised once
BLOCK = 4096  # films at a time otherwise


class Features(NamedTuple):
    """Embeddings of some films; `take` gives them, standardised.

    Where row, mean and scale are None, all are meant, in float32 and standardised already.
    """

    embedding: Float[Array, "table dim"]  # may be a memory map that JAX reads in place
    row: Int32[Array, " films"] | None  # those of `embedding` that are meant
    mean: Float32[Array, " dim"] | None  # to be subtracted
    scale: Float32[Array, " dim"] | None  # positive, then to be divided by

    @property
    def films(self) -> int:
        return len(self.embedding if self.row is None else self.row)


def on_cpu() -> AbstractContextManager[object]:
    """Has JAX compute on the CPU: fast enough for heads, and everywhere the same numbers."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to leave CPUs out
        return contextlib.nullcontext()


def standardisation(
    embedding: Float[np.ndarray, "table dim"], row: Int[np.ndarray, " films"]
) -> tuple[Float32[np.ndarray, " dim"], Float32[np.ndarray, " dim"]]:
    """Mean and standard deviation of every dimension over the films; 1 where it never varies."""
    mean = sum(block.sum(0, dtype=np.float64) for block in blocks(embedding, row)) / len(row)
    squares = sum(np.square(block - mean).sum(0) for block in blocks(embedding, row))
    deviation = np.sqrt(squares / len(row))
    varies = deviation > 1e-6 * np.abs(mean)  # float32's rounding alone gives 1e-7
    return mean.astype(np.float32), np.where(varies, deviation, 1).astype(np.float32)


def blocks(
    embedding: Float[np.ndarray, "table dim"], row: Int[np.ndarray, " films"]
) -> Iterator[np.ndarray]:
    """The chosen films, some at a time."""
    return (embedding[row[start : start + BLOCK]] for start in range(0, len(row), BLOCK))


def select(
    embedding: Float[np.ndarray, "table dim"],
    row: Int[np.ndarray, " films"],
    mean: Float32[np.ndarray, " dim"],
    scale: Float32[np.ndarray, " dim"],
) -> Features:
    """The chosen films: gathered and standardised now if they are few, else when they are taken."""
    if 4 * len(row) * embedding.shape[1] > IN_MEMORY:
        whole = jax.device_put(embedding, may_alias=True)
        return Features(whole, jnp.asarray(row, jnp.int32), jnp.asarray(mean), jnp.asarray(scale))
    if 4 * len(row) * embedding.shape[1] > IN_MEMORY // 16:
        gc.collect()  # only then JAX lets go of arrays that it has read in place
    gathered = aligned_array(len(row), embedding.shape[1])
    for i, block in enumerate(blocks(embedding, row)):
        gathered[i * BLOCK : (i + 1) * BLOCK] = (block - mean) / scale
    return Features(jax.device_put(gathered, may_alias=True), None, None, None)


def aligned_array(films: int, dim: int) -> Float32[np.ndarray, "films dim"]:
    """An empty array at an address from which JAX reads in place; others it would copy."""
    buffer = np.empty(4 * films * dim + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + 4 * films * dim].view(np.float32).reshape(films, dim)


def take(features: Features, index: Int[Array, "*batch"]) -> Float32[Array, "*batch dim"]:
    """Standardised embeddings of the films at positions `index`, 0 <= index < films."""
    if features.row is None or features.mean is None or features.scale is None:
        return features.embedding.at[index].get(mode="promise_in_bounds")
    row = features.row.at[index].get(mode="promise_in_bounds")
    chosen = features.embedding.at[row].get(mode="promise_in_bounds").astype(jnp.float32)
    mean, scale = (jnp.broadcast_to(x, chosen.shape) for x in (features.mean, features.scale))
    return (chosen - mean) / scale


def positions(films: int) -> Int32[Array, "blocks block"]:
    """0, 1, ... in rows of equal length; the last film is repeated to fill the last row."""
    block = min(films, BLOCK)
    blocks = -(-films // block)
    return jnp.minimum(jnp.arange(blocks * block, dtype=jnp.int32), films - 1).reshape(-1, block)
