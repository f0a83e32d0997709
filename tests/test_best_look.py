"""Which weights a training keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_embeddings.encoder import sharding
from cxr_embeddings.input_pipeline.hosts import ALONE
from cxr_embeddings.pretraining import best_look


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.7, 0.6, 0.65], 0),  # training made it worse: the first weights
        ([0.5, 0.8, 0.7], 1),
        ([0.5, 0.8, 0.8], 2),  # as good, and trained for longer
        ([None, None, None], 2),  # nothing could be asked
    ],
)
def test_the_weights_of_the_best_look_are_kept(scores, kept):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    best = best_look.begin({"params": jnp.zeros(3)})
    update = best_look.make_update(ALONE, sharding.variable_shardings(mesh, best))
    for step, score in enumerate(scores):
        average = {"params": jnp.full(3, float(step))}
        numbers = {"effective_rank": 50.0 - step} | ({} if score is None else {"score": score})
        best = update(best, step, numbers, average)
        average["params"].delete()  # as the next step does, to which it is given
    assert int(best.step) == kept and best.average["params"].tolist() == [kept] * 3
    expected = best_look.NO_SCORE if scores[kept] is None else scores[kept]
    assert float(best.score) == np.float32(expected) and float(best.first_rank) == 50
