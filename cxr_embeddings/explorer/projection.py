"""Where films lie on the map: PCA at once, UMAP after it, and how far each is from its nearest."""

import contextlib
import importlib.util
import os
import threading
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from cxr_embeddings.common import workers
from cxr_embeddings.errors import translated
from cxr_embeddings.explorer import standard
from cxr_embeddings.heads import features

FITTED_ON = 20_000  # films that the axes are fitted on, at most
BEFORE_UMAP, NEIGHBOURS = 50, 15  # principal axes, and UMAP's default
REFERENCES = 4000  # films to which the nearest one is looked for, at most


class Projection(NamedTuple):
    """Films along the principal axes of the embeddings."""

    coordinates: Float32[np.ndarray, "film axis"]
    explained: Float64[np.ndarray, " axis"]  # share of the variance
    fitted_on: int  # films; fewer than all where these were drawn at random


def pca(embedding: Float[np.ndarray, "film dim"], axes: int = 2, seed: int = 0) -> Projection:
    """Projects all films on the first principal axes; 0 along those that few films do not have.

    The axes are those of at most `FITTED_ON` films, by randomised SVD. The largest entry of each is
    positive.
    """
    from sklearn.utils.extmath import randomized_svd

    sample = embedding[_drawn(len(embedding), FITTED_ON, seed)].astype(np.float32)
    mean = sample.mean(0, dtype=np.float64).astype(np.float32)
    sample -= mean
    found = max(1, min(axes, len(sample) - 1, sample.shape[1]))
    _, lengths, vectors = randomized_svd(sample, found, n_iter=7, random_state=seed)
    largest = np.abs(vectors).argmax(axis=1)
    vectors *= np.where(vectors[np.arange(found), largest] < 0, -1, 1)[:, None]
    about = standard.Standard(mean, np.ones_like(mean))
    coordinates = np.zeros((len(embedding), axes), np.float32)
    coordinates[:, :found] = standard.products(embedding, about, vectors.T)
    explained = np.zeros(axes)
    explained[:found] = np.square(lengths, dtype=np.float64) / max(np.square(sample).sum(), 1e-30)
    return Projection(coordinates, explained, len(sample))


@translated
def umap(embedding: Float[np.ndarray, "film dim"], seed: int = 0) -> Float32[np.ndarray, "film 2"]:
    """UMAP of the first principal axes, which starts from the map of `pca`. It takes minutes.

    It runs in a process of its own, for it holds Python's lock. Fewer than five films stay where
    `pca` has them.

    Raises:
        MissingPackage: umap-learn is not installed.
        FileError: the process ended without a result.
    """
    described = pca(embedding, BEFORE_UMAP, seed).coordinates
    if len(embedding) < 5:
        return described[:, :2]
    if importlib.util.find_spec("umap") is None:
        raise ModuleNotFoundError("umap-learn is not installed", name="umap")
    process, connection = workers.start(__name__, str(seed))
    try:
        connection.send_bytes(described.tobytes())
        found = connection.recv_bytes()
    except (EOFError, OSError):
        raise OSError("UMAP ended without a map: memory may have run out") from None
    finally:
        connection.close()
        process.kill()
        process.wait()
    return np.frombuffer(found, np.float32).reshape(-1, 2)


def serve(connection: Connection, seed: str) -> None:
    """The process of `umap`: principal axes in, coordinates out."""
    described = np.frombuffer(connection.recv_bytes(), np.float32).reshape(-1, BEFORE_UMAP)
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    from umap import UMAP

    near = min(NEIGHBOURS, len(described) - 1)
    start = described[:, :2].copy()
    learner = UMAP(n_neighbors=near, init=start, random_state=int(seed), n_jobs=1)
    found = np.asarray(learner.fit_transform(described), np.float32)
    connection.send_bytes(found.tobytes())


def _end_with_parent(connection: Connection) -> None:
    """Waits for the end of the parent, which sends no more."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv_bytes()
    os._exit(1)


def outlyingness(
    embedding: Float[np.ndarray, "film dim"], patient: Int64[np.ndarray, " film"], seed: int = 0
) -> Float32[np.ndarray, " film"]:
    """The distance from each film to the nearest of other patients, of at most `REFERENCES` films.

    Embeddings are scaled to length 1, as in `heads.distance`; so it is 0 to 2. It is 0 where there
    is no other patient. `patient` numbers the patients, as `bootstrap.patients` does.
    """

    def unit(some: np.ndarray) -> np.ndarray:
        some = some.astype(np.float32)
        return some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-30)

    drawn = _drawn(len(embedding), REFERENCES, seed)
    references = unit(embedding[drawn]).T
    nearest = np.empty(len(embedding), np.float32)
    for start in range(0, len(embedding), features.BLOCK):
        block = slice(start, start + features.BLOCK)
        cosine = unit(embedding[block]) @ references
        cosine[patient[block, None] == patient[drawn]] = -np.inf
        nearest[block] = cosine.max(axis=1)
    nearest[np.isinf(nearest)] = 1
    return np.sqrt(np.maximum(2 - 2 * nearest, 0))


def _drawn(films: int, most: int, seed: int) -> Int64[np.ndarray, " drawn"]:
    return np.sort(np.random.default_rng(seed).permutation(films)[:most])
