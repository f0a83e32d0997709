"""What a training looks at on the tune split: how rich its embeddings are, and what they tell."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Int64
from scipy.special import entr
from sklearn.metrics import roc_auc_score

from cxr_embeddings.configs.schema_pretraining import AugmentationConfig
from cxr_embeddings.encoder import augment, inference, sharding, supcon, weights
from cxr_embeddings.encoder.weights import Variables
from cxr_embeddings.heads import probe as few_films
from cxr_embeddings.input_pipeline.store import random_access

if TYPE_CHECKING:
    from cxr_embeddings.pretraining.job import Training

PENALTIES = (1e-2, 1e-1, 1.0, 10.0)  # of the linear probes
LEAST = 10  # films with a finding, and films without it, that a question needs in train and in tune
ALIGNED = 256  # films of tune of which two views are compared
LEAST_RANK, LEAST_SHARE = 10.0, 0.25  # of the effective rank; the share is of the first weights'
COLLAPSED = (
    "warning: the embedding has collapsed: its effective rank is {:.1f} (of the first weights "
    "{:.1f}; expected {:.1f} or more), so all its numbers say no more than so many would. Start "
    "from weights of natural images (network.weights), train on several findings (input.findings), "
    "or lower training.learning_rate or training.steps"
)


def effective_rank(embedding: Float32[np.ndarray, "n dim"]) -> float:
    """exp of the entropy of the normalised eigenvalues of the covariance, 1 to min(n - 1, dim).

    Roy and Vetterli, EUSIPCO 2007, of the covariance instead of the embeddings. 1 if they all lie
    on a line, or are one point.
    """
    centred = embedding - embedding.mean(0, dtype=np.float64)
    wide = embedding.shape[1] > len(embedding)
    values = np.linalg.eigvalsh(centred @ centred.T if wide else centred.T @ centred)
    values = np.maximum(values, 0)
    return float(np.exp(entr(values / max(values.sum(), 1e-30)).sum()))


def collapsed(rank: float, first: float, films: int) -> str:
    """The warning where the effective rank of so many films is too low; "" where it is not.

    It is too low below `LEAST_RANK`, of few films below a tenth of their number, and below
    `LEAST_SHARE` of `first`, which is that of the first weights.
    """
    least = max(min(LEAST_RANK, films / 10), LEAST_SHARE * first)
    return COLLAPSED.format(rank, first, least) if rank < least else ""


def sample(rows: Int64[np.ndarray, " n"], size: int) -> Int64[np.ndarray, " row"]:
    """Some of the rows, always the same."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:size])


def asked(*answers: Int32[np.ndarray, "film question"]) -> Int64[np.ndarray, " asked"]:
    """The questions of which there are `LEAST` films of each class in all of the samples."""
    counts = [(some == value).sum(0) for some in answers for value in (0, 1)]
    return np.flatnonzero(np.min(counts, axis=0) >= LEAST)


def probe(
    train: Float32[np.ndarray, "n dim"],
    train_answers: Int32[np.ndarray, "n question"],
    tune: Float32[np.ndarray, "m dim"],
    tune_answers: Int32[np.ndarray, "m question"],
) -> list[float]:
    """AUROC on tune of a linear probe for each question, trained on films of train.

    It is that of the best penalty on tune, and so a little too good.
    """
    known = (train_answers >= 0).astype(np.float32)
    probes = few_films.fit(train, (train_answers == 1).astype(np.float32), known, PENALTIES)
    found = []
    for answer, logits in zip(tune_answers.T, few_films.logits(probes, tune).T, strict=True):
        known = answer >= 0
        found.append(max(float(roc_auc_score(answer[known], one[known])) for one in logits.T))
    return found


def measure(
    embeddings: Sequence[Float32[np.ndarray, "film dim"]],
    answers: Sequence[Int32[np.ndarray, "film question"]],
    questions: Sequence[str],
) -> dict[str, float]:
    """How rich the embeddings of tune are, and what probes read from them.

    Args:
        embeddings, answers: of films of train and of films of tune; 1, 0, -1 unknown.

    Returns:
        effective_rank and tune_uniformity, of tune; probe_NAME, the AUROC of each question with
        enough films; and score, their mean, if there is any.
    """
    train, tune = embeddings
    numbers = {
        "effective_rank": effective_rank(tune),
        "tune_uniformity": float(supcon.uniformity(supcon.normalise(jnp.asarray(tune)))),
    }
    if len(which := asked(*answers)) and np.ptp(train, axis=0).any():
        found = probe(train, answers[0][:, which], tune, answers[1][:, which])
        names = (f"probe_{questions[i]}" for i in which)
        numbers |= {"score": float(np.mean(found)), **dict(zip(names, found, strict=True))}
    return numbers


@functools.partial(jax.jit, static_argnums=3)
def _views(
    films: Float32[Array, "n h w 1"], row: Int32[Array, " n"], seed: int, how: AugmentationConfig
) -> Float32[Array, "n h w 1"]:
    """A random view of each film, by its row and the seed alone."""
    key = jax.random.key(seed)
    return jax.vmap(lambda i, film: augment.view(jax.random.fold_in(key, i), film, how))(row, films)


class Embed(Protocol):
    """Embeds films of a training, or a random view of each."""

    def __call__(
        self, variables: Variables, rows: Int64[np.ndarray, " row"], view: int | None = None
    ) -> Float32[np.ndarray, "row dim"]: ...


def make_embed(training: Training, layer: str) -> Embed:
    """Gives a function from the encoder's variables to the embeddings of films, on every host."""
    films, mesh, hosts = training.films, training.mesh, training.hosts
    card, batch_size = training.card, training.recipe.micro_batch
    shapes = weights.abstract_variables(training.model)
    forward = inference.make_forward(training.model, shapes, mesh, layer, card.mean, card.std)
    each = batch_size // hosts.count

    def embed(
        variables: Variables, rows: Int64[np.ndarray, " row"], view: int | None = None
    ) -> Float32[np.ndarray, "row dim"]:
        steps = math.ceil(len(rows) / batch_size)
        padded = np.resize(rows, steps * batch_size).reshape(steps, hosts.count, each)
        batches = random_access.batches(
            films.stores, films.places, lambda i: padded[i, hosts.index], 0, steps, training.workers
        )
        if view is not None:
            how = training.recipe.augmentation
            mine = padded[:, hosts.index].astype(np.int32)
            batches = ((i, np.asarray(_views(some, mine[i], view, how))) for i, some in batches)
        embeddings = inference.embed(forward, variables, mesh, batches)
        mine = np.stack([some for _, some in embeddings])
        every = hosts.gather(mine.ravel()).reshape(hosts.count, *mine.shape).swapaxes(0, 1)
        return every.reshape(-1, mine.shape[-1])[: len(rows)]

    return embed


def make_look(training: Training, most: int) -> Callable[[Variables], dict[str, float]]:
    """Gives a function from the encoder's variables to numbers, the same on every host.

    They are those of `measure` and `tune_alignment`, of two views of at most `ALIGNED` films. It
    looks at `most` films of train, and of tune. Without films of tune there are none.
    """
    films, embed = training.films, make_embed(training, "head")
    shapes = weights.abstract_variables(training.model)
    move = sharding.mover(sharding.variable_shardings(training.mesh, shapes))
    train, tune = (sample(films.rows(name), most) for name in ("train", "tune"))
    answers = films.answers[train], films.answers[tune]

    def look(variables: Variables) -> dict[str, float]:
        if not len(tune):
            return {}
        variables = move(variables)
        embeddings = embed(variables, train), embed(variables, tune)
        some = tune[:: -(-len(tune) // ALIGNED)]
        views = (supcon.normalise(jnp.asarray(embed(variables, some, i))) for i in (0, 1))
        alignment = {"tune_alignment": float(supcon.alignment(*views))}
        return alignment | measure(embeddings, answers, films.questions)

    return look
