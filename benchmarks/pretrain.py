"""The gradient of a pretraining step, views and all, against its plain form in Flax.

Needs JAX, Flax, Optax and NumPy only.
"""

import functools
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from benchmarks.encoder import parse_case
from benchmarks.network_forms import OURS, PLAIN, compile_form
from benchmarks.timing import interleave, report
from cxr_embeddings.encoder import depthwise, pretrain, sharding
from cxr_embeddings.encoder.augment import Augmentation
from cxr_embeddings.encoder.efficientnet import EMBEDDING_WIDTH, EfficientNet
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.recipe import Recipe

PIXELS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def run(repeats: int = 10, dtype: str = "float32", cases: str = "b0:112:16,b0:224:8") -> None:
    """Prints, for each case, both forms' times, throughput, compilation and memory.

    repeats: rounds that count; in each, both forms run once.
    dtype: of the computation, float32 or bfloat16.
    cases: VARIANT:RESOLUTION:FILMS, with commas; each film in two views.
    """
    print(f"GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', '')}")
    for variant, resolution, films in map(parse_case, cases.split(",")):
        print(f"\n{variant} at {resolution} px, {films} films, {dtype}, {jax.devices()[0]}")
        _compare(variant, resolution, films, dtype, repeats)


def _compare(variant: str, resolution: int, films: int, dtype: str, repeats: int) -> None:
    """Compiles both forms, compares their gradients, then lets them take turns."""
    recipe = Recipe(
        objective="supcon",
        temperature=0.5,
        batch_size=films,
        micro_batch=films,
        steps=1,
        optimizer="adamw",
        learning_rate=1e-3,
        warmup_steps=0,
        weight_decay=0.0,
        average_decay=0.0,
        seed=0,
        augmentation=Augmentation(),
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:1])

    def compiled(name: str, convolution: Callable[..., jax.Array]) -> jax.stages.Compiled:
        model = EfficientNet(variant, dtype=jnp.dtype(dtype), conv_general_dilated=convolution)
        gradient = pretrain.make_gradient(model, recipe, mesh, **PIXELS)
        return compile_form(name, lambda *arguments: gradient(*arguments)[:2], *arguments)

    state = pretrain.start(recipe, random_variables(EfficientNet(variant)), EMBEDDING_WIDTH)
    images = np.random.default_rng(0).uniform(0, 1, (films, resolution, resolution, 1))
    label = jnp.arange(films, dtype=jnp.int32) % 2
    arguments = (
        state.params,
        state.batch_stats,
        jnp.int32(0),
        jnp.asarray(images, jnp.float32),
        label,
    )
    convolutions = {OURS: depthwise.conv_general_dilated, PLAIN: jax.lax.conv_general_dilated}
    forms = {name: compiled(name, convolution) for name, convolution in convolutions.items()}
    found, expected = (form(*arguments)[1] for form in forms.values())
    print(f"largest difference of the gradients: {_difference(found, expected):.1e} of the largest")
    seconds = interleave(
        {
            name: functools.partial(lambda f: jax.block_until_ready(f(*arguments)), form)
            for name, form in forms.items()
        },
        repeats,
    )
    print(report(seconds, baseline=PLAIN))
    views = pretrain.VIEWS * films
    speeds = (f"{name} {views / np.median(values):.3g}" for name, values in seconds.items())
    print(f"views per second: {', '.join(speeds)}")


def _difference(found: PyTree[jax.Array], expected: PyTree[jax.Array]) -> float:
    """Of all leaves, over the largest value of any."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    largest = max(float(jnp.abs(b).max()) for _, b in pairs)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs) / largest
