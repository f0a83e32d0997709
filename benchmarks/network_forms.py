"""The network's programs in two forms, ours and plain Flax's, compiled for benchmarks.

Needs no more than JAX and Flax.
"""

import contextlib
import time
from collections.abc import Callable
from unittest import mock

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from cxr_embeddings.encoder import efficientnet

OURS, PLAIN = "this project", "plain Flax"


class PlainBatchNorm(nn.Module):
    """Flax's own, then the activation."""

    activation: Callable[[jax.Array], jax.Array]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layer = nn.BatchNorm(
            use_running_average=not train,
            momentum=efficientnet.BATCH_NORM_MOMENTUM,
            epsilon=efficientnet.BATCH_NORM_EPSILON,
            dtype=self.dtype,
        )
        nn.share_scope(self, layer)
        return self.activation(layer(x))


def compile_form(
    name: str, program: Callable[..., object], *arguments: object
) -> jax.stages.Compiled:
    """Compiles a program of the network, after a line on what its compilation took.

    Args:
        name: `PLAIN` is traced with Flax's own BatchNorm and swish; all others as they are.
        program: a function of the arguments.
        arguments: such as it will be called with.
    """
    with contextlib.ExitStack() as stack:
        if name == PLAIN:
            stack.enter_context(mock.patch.object(efficientnet, "swish", jax.nn.swish))
            stack.enter_context(mock.patch.object(efficientnet, "BatchNorm", PlainBatchNorm))
        start = time.perf_counter()
        lowered = jax.jit(program).lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    print(
        f"{name}: traced in {traced - start:.1f} s, compiled in "
        f"{time.perf_counter() - traced:.1f} s, temporary memory {memory:.0f} MiB"
    )
    return compiled
