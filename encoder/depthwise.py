"""The convolution injected into `flax.linen.Conv`: for each backend the form that is fastest there.

XLA:CPU runs a grouped convolution at 0.5 to 1.5 GFLOP/s. The same depthwise convolution written as
a sum of shifted products runs 12 to 37 times faster, and a 1x1 convolution is a matrix product.
Both have a gradient of their own: the one that JAX derives keeps every shifted slice in memory, and
a training step takes five times as long.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32

Pair = tuple[int, int]  # vertical, horizontal; or before, after
Size = Sequence[int] | np.ndarray  # vertical, horizontal
Padding = str | Sequence[Pair]
Precision = lax.PrecisionLike


def _pad(images: Array, padding: Sequence[Pair]) -> Array:
    """Pads height and width; negative padding crops.

    The barrier keeps the padded images in memory: else XLA sees through the padding, and computes
    the activation in front of it once for the middle tap and once more for the others.
    """
    zero = jnp.zeros((), images.dtype)
    config = ((0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0))
    return lax.optimization_barrier(lax.pad(images, zero, config))


def _shifted(images: Array, first: Size, size: Size, strides: Pair = (1, 1)) -> Array:
    """`size` pixels from `first` on, `strides` apart, each vertical and horizontal."""
    end = np.add(first, np.subtract(size, 1) * strides) + 1
    batch, _, _, channels = images.shape
    return lax.slice(
        images, (0, *map(int, first), 0), (batch, *end.tolist(), channels), (1, *strides, 1)
    )


def _taps(kernel: Array) -> list[Pair]:
    height, width = kernel.shape[:2]
    return list(itertools.product(range(height), range(width)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def shifted_sum(
    images: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw 1 c"],
    strides: Pair,
    padding: tuple[Pair, Pair],
) -> Float[Array, "b h2 w2 c"]:
    """Depthwise convolution: pads once, then adds up one strided slice times its weight per tap.

    The sum is taken in float32; the result has the dtype of the images. The kernel is in each
    direction at least as large as the stride. `lax.conv_general_dilated` with
    `feature_group_count=c` gives the same, up to rounding.
    """
    return _shifted_sum_forward(images, kernel, strides, padding)[0]


def _shifted_sum_forward(
    images: Array, kernel: Array, strides: Pair, padding: tuple[Pair, Pair]
) -> tuple[Array, tuple[Array, Array]]:
    padded = _pad(images, padding)
    size = np.subtract(padded.shape[1:3], kernel.shape[:2]) // strides + 1
    wide = kernel.astype(jnp.float32)
    total: Any = 0
    for tap in _taps(kernel):
        total += _shifted(padded, tap, size, strides).astype(jnp.float32) * wide[tap][None, None]
    return total.astype(images.dtype), (padded, kernel)


def _shifted_sum_backward(
    strides: Pair, padding: tuple[Pair, Pair], saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    padded, kernel = saved
    # The slices of the forward pass are those of the backward pass. The barrier keeps XLA from
    # seeing that: where a slice is used twice, it is written to memory.
    padded, cotangent = lax.optimization_barrier((padded, cotangent))
    return (
        _image_gradient(cotangent, kernel, strides, padding, padded.shape[1:3]),
        _kernel_gradient(padded, cotangent, kernel, strides),
    )


shifted_sum.defvjp(_shifted_sum_forward, _shifted_sum_backward)


def _kernel_gradient(padded: Array, cotangent: Array, kernel: Array, strides: Pair) -> Array:
    """Per tap the sum of the slice times the cotangent.

    One reduction of all taps reads both arrays once: a sum each is ten times slower. It leaves the
    batch, which a second one sums up, for it to run on all cores, and for accuracy.
    """
    padded, cotangent = padded.astype(jnp.float32), cotangent.astype(jnp.float32)
    size = cotangent.shape[1:3]
    products = [_shifted(padded, tap, size, strides) * cotangent for tap in _taps(kernel)]
    zeros = [np.zeros((), np.float32)] * len(products)
    sums = lax.reduce(products, zeros, lambda a, b: list(map(jnp.add, a, b)), (1, 2))
    return jnp.sum(jnp.stack(sums), axis=1).reshape(kernel.shape).astype(kernel.dtype)


def _image_gradient(
    cotangent: Array,
    kernel: Array,
    strides: Pair,
    padding: tuple[Pair, Pair],
    padded_size: Sequence[int],
) -> Array:
    """The pixels at each phase of the strides are a shifted sum of the cotangent; interleaves them.

    Tap t of output o falls on pixel `o * stride + t - before`. So pixel `q * stride + phase` gets
    tap t of output `q + (phase + before - t) / stride`, where that is a whole number.
    """
    before = np.array(padding)[:, 0]
    height, width = np.subtract(padded_size, np.sum(padding, axis=1))
    counts = -(-np.array([height, width]) // strides)
    front = (np.array(kernel.shape[:2]) - 1 - before) // strides
    back = counts + (before + strides - 1) // strides - cotangent.shape[1:3]
    padded = _pad(cotangent, list(zip(front.tolist(), back.tolist(), strict=True)))

    def at(*phase: int) -> Array:
        total: Any = 0
        for tap in _taps(kernel):
            shift, rest = np.divmod(np.add(phase, before) - tap, strides)
            if not rest.any():
                total += _shifted(padded, front + shift, counts) * kernel[tap][None, None]
        return total

    rows = [jnp.stack([at(i, j) for j in range(strides[1])], axis=3) for i in range(strides[0])]
    batch, *_, channels = cotangent.shape
    whole = jnp.stack(rows, axis=2).reshape(batch, *(counts * strides).tolist(), channels)
    return whole[:, :height, :width]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matrix_product(
    images: Float[Array, "b h w i"], kernel: Float[Array, "1 1 i o"], precision: Precision
) -> Float[Array, "b h w o"]:
    """A 1x1 convolution."""
    return jnp.dot(images, kernel[0, 0], precision=precision)


def _matrix_product_forward(
    images: Array, kernel: Array, precision: Precision
) -> tuple[Array, tuple[Array, Array]]:
    return matrix_product(images, kernel, precision), (images, kernel)


def _matrix_product_backward(
    precision: Precision, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    images, kernel = saved
    # Without the barrier XLA computes all that made the cotangent once more for the second product,
    # while transposing it: that alone was half of a training step.
    images, cotangent = lax.optimization_barrier((images, cotangent))
    inner, outer = (x.reshape(-1, x.shape[-1]) for x in (images, cotangent))
    return (
        jnp.dot(cotangent, kernel[0, 0].T, precision=precision),
        jnp.dot(inner.T, outer, precision=precision)[None, None],
    )


matrix_product.defvjp(_matrix_product_forward, _matrix_product_backward)


def conv_general_dilated(
    lhs: Float[Array, "b h w c"],
    rhs: Float[Array, "kh kw i o"],
    window_strides: Sequence[int],
    padding: Padding,
    *,
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    feature_group_count: int = 1,
    platform: str | None = None,
    precision: Precision = None,
    **options: Any,
) -> Float[Array, "b h2 w2 o"]:
    """`jax.lax.conv_general_dilated` as `flax.linen.Conv` calls it, for NHWC images, HWIO kernels.

    On CPU depthwise convolutions become `shifted_sum`s and 1x1 convolutions `matrix_product`s, with
    their own gradients; all others, and all other backends, get XLA's convolution and gradient.
    Which one is decided when the program is lowered, so that one traced function serves every
    backend; with `platform`, where it will run, when it is traced: of L2 a second earlier.
    """
    dense = {*lhs_dilation, *rhs_dilation} == {1}
    if dense and isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    standard: Callable[..., Array] = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        feature_group_count=feature_group_count,
        precision=precision,
        **options,
    )
    if (
        dense
        and rhs.shape[2] == 1
        and feature_group_count == lhs.shape[3] == rhs.shape[3]
        and all(np.less_equal(window_strides, rhs.shape[:2]))
    ):
        strides, pads = tuple(window_strides), tuple(map(tuple, padding))
        fast = functools.partial(shifted_sum, strides=strides, padding=pads)
    elif (
        dense
        and (*rhs.shape[:2], *window_strides, feature_group_count) == (1, 1, 1, 1, 1)
        and not np.any(padding)
    ):
        fast = functools.partial(matrix_product, precision=precision)
    else:
        return standard(lhs, rhs)
    if platform:
        return (fast if platform == "cpu" else standard)(lhs, rhs)
    return lax.platform_dependent(lhs, rhs, cpu=fast, default=standard)


def by_products(
    lhs: Float[Array, "b h w c"],
    rhs: Float[Array, "kh kw i o"],
    window_strides: Sequence[int],
    padding: Padding,
    *,
    precision: Precision = None,
    **options: Any,
) -> Float[Array, "b h2 w2 o"]:
    """`conv_general_dilated`, for the network's 1x1 convolutions a matrix product on every device.

    On NVIDIA GPUs cuDNN's convolution would transpose their kernels in every forward pass: of L2
    1.9 GB that are read and written.
    """
    if rhs.shape[:2] == (1, 1):
        return matrix_product(lhs, rhs, precision)
    options["precision"] = precision
    return conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def gated_product(
    gate: Float32[Array, "b 1 1 i"],
    images: Float[Array, "b h w i"],
    kernel: Float[Array, "1 1 i o"],
    *where: object,
    precision: Precision = None,
    **options: object,
) -> Float[Array, "b h w o"]:
    """The 1x1 convolution of `images * gate`: the gate scales what is smaller, kernel or images.

    XLA on GPU scales a kernel for each image inside of the product, but writes scaled images to
    memory. If kernels are larger than their image, it writes the scaled kernels, too.
    """
    batch, height, width, _ = images.shape
    if height * width < kernel.shape[-1]:
        gated = (images.astype(jnp.float32) * gate).astype(images.dtype)
        return matrix_product(gated, kernel, precision)
    gated = gate[:, 0, 0, :, None] * kernel[0].astype(jnp.float32)
    product = jnp.einsum(
        "bpi,bio->bpo",
        images.reshape(batch, height * width, -1),
        gated.astype(images.dtype),
        precision=precision,
    )
    return product.reshape(batch, height, width, -1)
