"""The supervised contrastive loss (Khosla et al., arXiv 2004.11362, L_out), and what watches it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

UNIFORMITY_SCALE = 2.0  # t of Wang and Isola, arXiv 2005.10242


def normalise(x: Float[Array, "n dim"]) -> Float32[Array, "n dim"]:
    """Rows of length 1, in float32; a row of zeros stays one, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))


def supervised_contrastive_loss(
    projection: Float[Array, "n dim"], label: Int32[Array, " n"], temperature: float
) -> Float32[Array, ""]:
    """The paper's L_out, by the conventions of its official code.

    Every view is an anchor. Its positives P are all other views of its class, other films' as well
    as its own film's; the denominator runs over all other views A, positives among them; the sum
    over positives stands outside the logarithm; the mean over anchors is multiplied by the
    temperature, which makes gradients comparable between temperatures:

        -temperature * mean_i  1/|P(i)| sum_{p in P(i)} log( exp(s_ip) / sum_{a in A(i)} exp(s_ia) )
        with s_ij = z_i . z_j / temperature

    Two departures where that code gives no number. An anchor without positives (one view a film,
    and the only film of its class) has a mean over nothing: it is no anchor then, but stays in the
    others' denominators. And the row maximum that is subtracted is that of the others: the anchor's
    own 1 / temperature lies so far above them at 0.01 that their exponentials would vanish.

    Under `jit` with `projection` split over devices, the others are those of all devices. Rows, one
    a view, are normalised here. The loss is 0 where no anchor has a positive.
    """
    z = normalise(projection)
    similarity = jnp.matmul(z, z.T, precision="highest") / temperature
    itself = jnp.eye(len(label), dtype=bool)
    positive = (label[:, None] == label[None]) & ~itself
    # log-softmax over the others; its maximum is subtracted under stop_gradient
    log_share = jax.nn.log_softmax(jnp.where(itself, -jnp.inf, similarity), axis=-1)
    positives = positive.sum(-1, dtype=jnp.float32)
    total = jnp.where(positive, log_share, 0).sum(-1)
    of_anchor = total / jnp.maximum(positives, 1)
    anchors = (positives > 0).sum(dtype=jnp.float32)
    return -temperature * of_anchor.sum() / jnp.maximum(anchors, 1)


def alignment(
    first: Float32[Array, "n dim"], second: Float32[Array, "n dim"]
) -> Float32[Array, ""]:
    """Mean squared distance between two normalised views of a film (arXiv 2005.10242, alpha = 2).

    0 is best, 2 is unrelated.
    """
    return ((first - second) ** 2).sum(-1).mean()


def uniformity(z: Float32[Array, "n dim"]) -> Float32[Array, ""]:
    """Log of the mean of exp(-2 d^2) over all pairs: 0 is one point, about -4 is spread out."""
    squared = 2 - 2 * jnp.matmul(z, z.T, precision="highest")
    others = ~jnp.eye(len(z), dtype=bool)
    count = len(z) * (len(z) - 1)
    return jax.nn.logsumexp(-UNIFORMITY_SCALE * squared, where=others) - jnp.log(float(count))
