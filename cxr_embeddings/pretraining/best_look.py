"""The weights with the best score on tune so far: what a training leaves."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, PyTree

from cxr_embeddings.encoder.weights import Variables
from cxr_embeddings.input_pipeline.hosts import Hosts

NO_SCORE = -1.0  # of a look that could ask nothing: the last one is then kept


class Best(NamedTuple):
    """The best look; it is saved in every checkpoint."""

    step: Int32[Array, ""]
    score: Float32[Array, ""]  # mean AUROC of the probes, or NO_SCORE
    first_rank: Float32[Array, ""]  # effective rank of the first weights; 0: there is no tune
    average: PyTree  # the encoder's variables


def begin(variables: Variables) -> Best:
    """Before the first look."""
    average = jax.tree.map(jnp.copy, dict(variables))
    return Best(jnp.int32(0), jnp.float32(NO_SCORE), jnp.float32(0), average)


def make_update(
    hosts: Hosts, shardings: Best
) -> Callable[[Best, int, Mapping[str, float], PyTree], Best]:
    """Gives a function from the best look, and the step, numbers and variables of a newer one.

    It returns the newer one if its score is as good, and then takes the memory of the other. All
    hosts call it, and follow the first.
    """

    def copied(_: Best, step: Array, score: Array, first_rank: Array, average: PyTree) -> Best:
        return Best(step, score, first_rank, jax.tree.map(jnp.copy, average))

    renew = jax.jit(copied, out_shardings=shardings, donate_argnums=0, keep_unused=True)

    def update(best: Best, step: int, numbers: Mapping[str, float], average: PyTree) -> Best:
        names = {"score": NO_SCORE, "effective_rank": 0.0}
        mine = np.array([numbers.get(*pair) for pair in names.items()], np.float32)
        score, rank = hosts.gather(mine)[0]
        if score < float(best.score):
            return best
        first_rank = np.float32(best.first_rank) if step else rank
        return renew(best, np.int32(step), score, first_rank, average)

    return update
