"""What a training looks at on the tune split: how well its embeddings tell the classes apart."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cxr_embeddings.configs.schema import WatchConfig

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the linear probe
NEIGHBOURS = 20


def sample(rows: np.ndarray, size: int) -> np.ndarray:
    """Some of the rows, always the same."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:size])


def make_embedder(
    films: Any, card: Any, model: Any, mesh: Any, hosts: Any, batch_size: int, workers: int
) -> Callable[[Any, np.ndarray], np.ndarray]:
    """Gives `embed(variables, rows)`: embeddings of films, float32 [row dim], on every host."""
    from cxr_embeddings.encoder import embed, sharding, weights
    from cxr_embeddings.input_pipeline.store import random_access

    shapes = weights.abstract_variables(model)
    forward = embed.make_forward(model, shapes, mesh, "head", card.mean, card.std)
    move = sharding.mover(sharding.variable_shardings(mesh, shapes))
    each = batch_size // hosts.count

    def embed_rows(variables: Any, rows: np.ndarray) -> np.ndarray:
        steps = math.ceil(len(rows) / batch_size)
        padded = np.resize(rows, steps * batch_size).reshape(steps, hosts.count, each)
        batches = random_access.batches(
            films.stores, films.places, lambda i: padded[i, hosts.index], 0, steps, workers
        )
        embeddings = embed.embed(forward, move(variables), mesh, batches)
        mine = np.stack([some for _, some in embeddings])
        every = hosts.gather(mine.ravel()).reshape(hosts.count, *mine.shape).swapaxes(0, 1)
        return every.reshape(-1, mine.shape[-1])[: len(rows)]

    return embed_rows


def measure(
    train: np.ndarray, train_label: np.ndarray, tune: np.ndarray, tune_label: np.ndarray
) -> dict[str, float]:
    """AUROC on tune of a linear probe and of the nearest neighbours among films of train.

    Args:
        train, tune: embeddings, float32 [film dim].
        train_label, tune_label: 0 or 1.

    Returns:
        probe_auroc (the best penalty on tune: a little too good), knn_auroc (20 neighbours by
        cosine, each weighing by its nearness), tune_uniformity. Empty if one class is missing.
    """
    import jax.numpy as jnp
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import KNeighborsClassifier

    from cxr_embeddings.encoder import supcon
    from cxr_embeddings.heads import features, logistic

    if len({*train_label.tolist()}) < 2 or len({*tune_label.tolist()}) < 2:
        return {}
    rows = np.arange(len(train))
    mean, scale = features.standardisation(train, rows)
    label = train_label.astype(np.float32)[:, None]
    probe = logistic.fit(
        features.select(train, rows, mean, scale), label, np.ones_like(label), PENALTIES
    )
    logit = ((tune - mean) / scale) @ np.asarray(probe.kernel)[:, 0].T
    neighbours = KNeighborsClassifier(
        min(NEIGHBOURS, len(train)), weights="distance", metric="cosine"
    ).fit(train, train_label)
    nearness = neighbours.predict_proba(tune)[:, 1]
    return {
        "tune_uniformity": float(supcon.uniformity(supcon.normalise(jnp.asarray(tune)))),
        "probe_auroc": max(roc_auc_score(tune_label, one) for one in logit.T),
        "knn_auroc": roc_auc_score(tune_label, nearness),
    }


def make_look(
    config: WatchConfig,
    films: Any,
    card: Any,
    model: Any,
    mesh: Any,
    hosts: Any,
    batch_size: int,
    workers: int,
) -> Callable[[Any], dict[str, float]]:
    """Gives a function from the encoder's variables to the numbers of `measure`."""
    embed_rows = make_embedder(films, card, model, mesh, hosts, batch_size, workers)
    train, tune = (sample(films.rows(name), config.evaluate_films) for name in ("train", "tune"))

    def look(variables: Any) -> dict[str, float]:
        if not len(tune):
            return {}
        embeddings = embed_rows(variables, train), embed_rows(variables, tune)
        return measure(embeddings[0], films.label[train], embeddings[1], films.label[tune])

    return look
