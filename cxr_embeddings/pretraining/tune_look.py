"""What a training looks at on the tune split: how well its embeddings tell the classes apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32, Int64
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from cxr_embeddings.encoder import inference, sharding, supcon, weights
from cxr_embeddings.encoder.weights import Variables
from cxr_embeddings.heads import features, logistic
from cxr_embeddings.input_pipeline.store import random_access

if TYPE_CHECKING:
    from cxr_embeddings.pretraining.job import Training

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the linear probe
NEIGHBOURS = 20


def sample(rows: Int64[np.ndarray, " n"], size: int) -> Int64[np.ndarray, " row"]:
    """Some of the rows, always the same."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:size])


def measure(
    train: Float32[np.ndarray, "n dim"],
    train_label: Int32[np.ndarray, " n"],
    tune: Float32[np.ndarray, "m dim"],
    tune_label: Int32[np.ndarray, " m"],
) -> dict[str, float]:
    """AUROC on tune of a linear probe and of the nearest neighbours among films of train.

    Returns:
        probe_auroc (the best penalty on tune: a little too good), knn_auroc (20 neighbours by
        cosine, each weighing by its nearness), tune_uniformity. Empty if one class is missing.
    """
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


def make_look(training: Training, most: int) -> Callable[[Variables], dict[str, float]]:
    """Gives a function from the encoder's variables to the numbers of `measure`, on every host.

    It looks at `most` films of train, and of tune.
    """
    films, mesh, hosts = training.films, training.mesh, training.hosts
    card, batch_size = training.card, training.recipe.micro_batch
    shapes = weights.abstract_variables(training.model)
    forward = inference.make_forward(training.model, shapes, mesh, "head", card.mean, card.std)
    move = sharding.mover(sharding.variable_shardings(mesh, shapes))
    each = batch_size // hosts.count
    label = films.label[:, 0]  # the first finding is probed
    rows = (films.rows(name) for name in ("train", "tune"))
    train, tune = (sample(some[label[some] >= 0], most) for some in rows)

    def embed_rows(
        variables: Variables, rows: Int64[np.ndarray, " row"]
    ) -> Float32[np.ndarray, "row dim"]:
        steps = math.ceil(len(rows) / batch_size)
        padded = np.resize(rows, steps * batch_size).reshape(steps, hosts.count, each)
        batches = random_access.batches(
            films.stores, films.places, lambda i: padded[i, hosts.index], 0, steps, training.workers
        )
        embeddings = inference.embed(forward, move(variables), mesh, batches)
        mine = np.stack([some for _, some in embeddings])
        every = hosts.gather(mine.ravel()).reshape(hosts.count, *mine.shape).swapaxes(0, 1)
        return every.reshape(-1, mine.shape[-1])[: len(rows)]

    def look(variables: Variables) -> dict[str, float]:
        if not len(tune):
            return {}
        embeddings = embed_rows(variables, train), embed_rows(variables, tune)
        return measure(embeddings[0], label[train], embeddings[1], label[tune])

    return look
