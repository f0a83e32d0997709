"""Convolutions in the form that is fastest on each backend, to be injected into `flax.linen.Conv`.

XLA:CPU runs a grouped convolution at 0.5 to 1.5 GFLOP/s. The same depthwise convolution written as
a sum of shifted products runs 12 to 37 times faster, and a 1x1 convolution is a matrix product.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def shifted_sum(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw 1 c"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution: pads once, then adds one strided slice times its weights per tap.

    Args:
        x: images.
        kernel: one filter a channel.
        strides: vertical and horizontal step.
        padding: zeros before and after, vertically and horizontally.

    Returns:
        What `lax.conv_general_dilated` with `feature_group_count=c` gives, up to rounding.
    """
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    batch, height, width, channels = x.shape
    rows, columns = kernel.shape[:2]
    stop = height - rows + 1, width - columns + 1  # of the slice that starts at 0
    total = None
    for i, j in itertools.product(range(rows), range(columns)):
        corner, end = (0, i, j, 0), (batch, stop[0] + i, stop[1] + j, channels)
        term = lax.slice(x, corner, end, (1, *strides, 1)) * kernel[i, j][None, None]
        total = term if total is None else total + term
    return total


def conv_general_dilated(
    lhs, rhs, window_strides, padding, *, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, precision
):
    def standard(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, precision=precision)
    kh, kw, cin, cout = rhs.shape
    if feature_group_count == lhs.shape[-1] and cin == 1 and cout == feature_group_count:
        pads = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
        fast = lambda x, k: shifted_sum(x, k, window_strides, pads)
    elif (kh, kw) == (1, 1) and tuple(window_strides) == (1, 1):
        fast = lambda x, k: lax.dot_general(x, k[0, 0], (((3,), (0,)), ((), ())), precision=precision)
    else:
        return standard(lhs, rhs)
    return lax.platform_dependent(lhs, rhs, cpu=fast, default=standard)
