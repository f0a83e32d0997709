"""The supervised contrastive loss (Khosla et al., arXiv 2004.11362, L_out), and what watches it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

UNIFORMITY_SCALE = 2.0  # t of Wang and Isola, arXiv 2005.10242


def normalise(x: Float[Array, "n dim"]) -> Float32[Array, "n dim"]:
    """Rows of length 1, in float32; a row of zeros stays one, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))


def agreement(label: Int32[Array, "n finding"]) -> tuple[Float32[Array, "n n"], Bool[Array, "n n"]]:
    """How far the findings of each two rows agree, in [0, 1]; and whether they can be compared.

    Only the findings that are known of both count. The agreement is the Jaccard index of the two
    sets of positive findings: those that both have, divided by those that at least one has. It is 1
    where neither has any (both are normal), so also of a row with itself. Rows without a finding
    that is known of both cannot be compared; their agreement is 0.

    Args:
        label: 1 positive, 0 negative, -1 unknown.
    """
    positive, known = (label == 1).astype(jnp.float32), (label >= 0).astype(jnp.float32)
    both = positive @ positive.T
    either = positive @ known.T + known @ positive.T - both
    comparable = known @ known.T > 0
    both_normal = comparable.astype(jnp.float32)
    return jnp.where(either > 0, both / jnp.maximum(either, 1), both_normal), comparable


def supervised_contrastive_loss(
    projection: Float[Array, "n dim"], label: Int32[Array, "n finding"], temperature: float
) -> Float32[Array, ""]:
    """The paper's L_out, by the conventions of its official code, for films with sets of findings.

    Every view is an anchor. Another view weighs as a positive by `agreement` w, other films' as
    well as its own film's; the denominator runs over all other views A, positives among them; the
    sum over positives stands outside the logarithm; the mean over anchors is multiplied by the
    temperature, which makes gradients comparable between temperatures:

        -temperature * mean_i  sum_j w_ij log( exp(s_ij) / sum_{a in A(i)} exp(s_ia) ) / sum_j w_ij
        with s_ij = z_i . z_j / temperature

    With one finding that is known of every film, w is 1 for views of the same class and else 0:
    this is the paper's loss. Weights between 0 and 1, and films of which something is unknown, are
    ours. Views that cannot be compared stand neither among an anchor's positives nor in its
    denominator: to push them apart would say that they differ, which nobody knows.

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
    weight, comparable = agreement(label)
    weight, others = jnp.where(itself, 0, weight), comparable & ~itself
    others |= ~others.any(-1, keepdims=True)  # a row of which nothing is used, kept finite
    # log-softmax over the others; its maximum is subtracted under stop_gradient
    log_share = jax.nn.log_softmax(jnp.where(others, similarity, -jnp.inf), axis=-1)
    positives = weight.sum(-1)
    total = (weight * jnp.where(weight > 0, log_share, 0)).sum(-1)
    of_anchor = total / jnp.where(positives > 0, positives, 1)
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
