"""The network's forward pass against its plain form in Flax, on this machine's default device.

Needs JAX, Flax and NumPy only. On an accelerator: `run(dtype="bfloat16")`.
"""

import functools
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from encoder import efficientnet
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
    model = EfficientNet(variant, dtype=jnp.dtype(dtype))
    plain = model.clone(conv_general_dilated=jax.lax.conv_general_dilated)
    forms = {OURS: _compile(model, variables, images, OURS)}
    with mock.patch.object(efficientnet, "swish", jax.nn.swish):
        forms[PLAIN] = _compile(plain, variables, images, PLAIN)
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
    rates = (f"{name} {len(images) / np.median(values):.3g}" for name, values in seconds.items())
    print("images per second: " + ", ".join(rates))


def _compile(
    model: EfficientNet, variables: Any, images: jax.Array, name: str
) -> Callable[[Any, jax.Array], jax.Array]:
    """The compiled forward pass, after a line on what its compilation took."""
    start = time.perf_counter()
    lowered = jax.jit(lambda variables, images: model.apply(variables, images)[0]).lower(
        variables, images
    )
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
