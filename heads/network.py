"""The networks on top of an embedding: a linear probe, or one with hidden layers."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from .features import Features, positions, take

Variables = dict[str, Any]


class HeadNetwork(nn.Module):
    """Standardised embedding -> one logit a finding; without hidden layers a linear probe.

    A hidden layer is that of the CXR Foundation toolkit: dense with ReLU and He-uniform kernels,
    then batch normalisation with Keras' constants, then dropout.

    Attributes:
        findings: number of logits.
        hidden: widths of the hidden layers.
        dropout: share of hidden units that a training step leaves out.
    """

    findings: int
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        embedding: Float32[Array, "film dim"],
        train: bool = False,
        real: Bool[Array, " film"] | None = None,
    ) -> Float32[Array, "film finding"]:
        """Films that are not `real` fill a batch up and leave the batch statistics alone."""
        x = embedding
        for i, width in enumerate(self.hidden):
            dense = nn.Dense(width, kernel_init=nn.initializers.he_uniform(), name=f"dense_{i}")
            norm = nn.BatchNorm(
                use_running_average=not train, momentum=0.99, epsilon=1e-3, name=f"norm_{i}"
            )
            x = norm(nn.relu(dense(x)), mask=None if real is None else real[:, None])
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.findings, kernel_init=nn.initializers.he_uniform(), name="logit")(x)


@functools.partial(jax.jit, static_argnums=0)
def logits(
    head: HeadNetwork, variables: Variables, features: Features
) -> Float32[Array, "*runs film finding"]:
    """Logits of all films, block by block; variables of several runs have them in front."""
    index = positions(features.films)
    kernel = variables["params"]["logit"]["kernel"]
    runs = kernel.shape[:-2]
    apply = head.apply
    for _ in runs:
        apply = jax.vmap(apply, in_axes=(0, None))
    with jax.default_matmul_precision("highest"):  # on GPUs, too, as it was trained on CPU
        blocks = jax.lax.map(lambda i: apply(variables, take(features, i)), index)
    blocks = jnp.moveaxis(blocks, 0, len(runs))
    return blocks.reshape(*runs, index.size, head.findings)[..., : features.films, :]
