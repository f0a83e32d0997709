"""The network's forward pass against its plain form in Flax, on this machine's default device.

Needs JAX, Flax and NumPy only. On an accelerator: `run(dtype="bfloat16")`.
"""

import functools
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from encoder import depthwise, efficientnet
from encoder.efficientnet import EfficientNet
from encoder.random_weights import random_variables
from encoder.weights import cast_kernels
from scripts.timing import interleave, report

CASES = (("b0", 224, 8), ("l2", 224, 1), ("l2", 475, 1))  # variant, resolution in pixels, batch
OURS, PLAIN = "this project", "plain Flax"


def run(repeats: int = 10, dtype: str = "float32", cases: Sequence[tuple] = CASES) -> None:
    """Prints, for each case, both forms' times, throughput, compilation and memory.

    Args:
        repeats: rounds that count; in each, both forms run once.
        dtype: of the computation, float32 or bfloat16.
        cases: variant, resolution, batch.
    """
    variables: dict[str, Any] = {}
    for variant, resolution, batch in cases:
        if variant not in variables:
            weights = cast_kernels(random_variables(EfficientNet(variant)), dtype)
            variables = {variant: jax.device_put(weights)}  # one L2 at a time is enough
        shape = (batch, resolution, resolution, 3)
        images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        print(f"\n{variant} at {resolution} px, batch {batch}, {dtype}, {jax.devices()[0]}")
        _compare(variant, dtype, variables[variant], images, repeats)
    print(f"\npeak memory of this process: {_peak_gib():.1f} GiB")


def _compare(variant: str, dtype: str, variables: Any, images: jax.Array, repeats: int) -> None:
    """Compiles both forms, compares their embeddings, then lets them take turns."""

    def program(conv_general_dilated: Callable[..., Any]) -> Callable[..., jax.Array]:
        model = EfficientNet(
            variant, dtype=jnp.dtype(dtype), conv_general_dilated=conv_general_dilated
        )
        return lambda variables, images: model.apply(variables, images)[0]

    forms = compile_forms(program, variables, images)
    found, expected = (np.asarray(form(variables, images)) for form in forms.values())
    difference = np.max(np.abs(found - expected)) / np.max(np.abs(expected))
    print(f"largest difference of the embeddings: {difference:.1e} of the largest value")
    seconds = interleave(
        {
            name: functools.partial(lambda f: jax.block_until_ready(f(variables, images)), form)
            for name, form in forms.items()
        },
        repeats,
    )
    print(report(seconds, baseline=PLAIN))
    print(rates(seconds, "images", len(images)))


def rates(seconds: Mapping[str, list[float]], what: str, number: int) -> str:
    """A line on how many of something each form does in a second."""
    parts = (f"{name} {number / np.median(values):.3g}" for name, values in seconds.items())
    return f"{what} per second: " + ", ".join(parts)


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


def compile_forms(
    program: Callable[[Callable[..., Any]], Callable[..., Any]], *arguments: Any
) -> dict[str, Callable[..., Any]]:
    """Compiles a program of the network, made for a convolution, in our form and in Flax's."""
    forms = {OURS: _compile(program(depthwise.conv_general_dilated), arguments, OURS)}
    with (
        mock.patch.object(efficientnet, "swish", jax.nn.swish),
        mock.patch.object(efficientnet, "BatchNorm", PlainBatchNorm),
    ):
        forms[PLAIN] = _compile(program(jax.lax.conv_general_dilated), arguments, PLAIN)
    return forms


def _compile(
    program: Callable[..., Any], arguments: Sequence[Any], name: str
) -> Callable[..., Any]:
    """The compiled program, after a line on what its compilation took."""
    start = time.perf_counter()
    lowered = jax.jit(program).lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - traced
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    print(
        f"{name}: traced in {traced - start:.1f} s, compiled in {seconds:.1f} s, "
        f"temporary memory {memory:.0f} MiB"
    )
    return compiled


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
