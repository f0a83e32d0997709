"""The network's programs in two forms, ours and plain Flax's, compiled for benchmarks.

Needs no more than JAX and Flax.
"""

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import flax.linen as nn
import jax

from cxr_embeddings.encoder import depthwise, efficientnet

OURS, PLAIN = "this project", "plain Flax"


class PlainBatchNorm(nn.Module):
    """Flax's own, then the activation."""

    activation: Callable[[jax.Array], jax.Array]
    dtype: Any

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
    name: str, program: Callable[[Callable[..., Any]], Callable[..., Any]], *arguments: Any
) -> Callable[..., Any]:
    """Compiles a program of the network in one of the forms.

    Args:
        name: `OURS` or `PLAIN`.
        program: a convolution -> the program, a function of the arguments.
        arguments: such as it will be called with.
    """
    if name == OURS:
        return compile_program(name, program(depthwise.conv_general_dilated), *arguments)
    with (
        mock.patch.object(efficientnet, "swish", jax.nn.swish),
        mock.patch.object(efficientnet, "BatchNorm", PlainBatchNorm),
    ):
        return compile_program(name, program(jax.lax.conv_general_dilated), *arguments)


def compile_program(name: str, program: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The compiled program, after a line on what its compilation took."""
    start = time.perf_counter()
    lowered = jax.jit(program).lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - traced
    again = ""
    if jax.config.jax_compilation_cache_dir:
        jax.clear_caches()
        start_again = time.perf_counter()
        jax.jit(program).lower(*arguments).compile()
        again = f", both from the cache in {time.perf_counter() - start_again:.1f} s"
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    print(
        f"{name}: traced in {traced - start:.1f} s, compiled in {seconds:.1f} s{again}, "
        f"temporary memory {memory:.0f} MiB"
    )
    return compiled
