"""Depthwise convolution, BatchNorm, swish and the average in one pass, for NVIDIA GPUs.

A Pallas kernel, compiled by Triton. XLA takes three kernels for the same: cuDNN's convolution, a
pass for BatchNorm and swish, and one for the average that squeeze-and-excitation needs. They read
or write the expanded map five times, this one twice. It computes the forward pass only.
"""

import functools
import itertools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Float32

from . import batch_norm, depthwise
from .batch_norm import swish
from .efficientnet import (
    SQUEEZE_RATIO,
    VARIANTS,
    EfficientNet,
    MBConv,
    Setting,
    SqueezeExcite,
    conv_bn,
)

# images, kernel, scale, bias, strides -> the map, and its averages
Layers = Callable[[Array, Array, Array, Array, int], tuple[Array, Array]]

CHANNELS = 64  # of a program, at most: a warp reads two of each lane, 128 bytes of bfloat16
ELEMENTS = 128  # of a tensor in a program: two for each thread
TILE = 4  # outputs of a thread in each direction: an input that is loaded serves up to 16 of them
WARPS = 2


def by_xla(
    images: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw 1 c"],
    scale: Float32[Array, " c"],
    bias: Float32[Array, " c"],
    strides: int,
) -> tuple[Float[Array, "b h2 w2 c"], Float32[Array, "b c"]]:
    """What `depthwise_bn_swish` gives, by XLA's convolution: on any device."""
    y = lax.conv_general_dilated(
        images,
        kernel,
        (strides, strides),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[-1],
    )
    y = y.astype(jnp.float32) * scale[None, None, None] + bias[None, None, None]
    # Without the barrier XLA writes the map in float32, for the average to read it so.
    y = lax.optimization_barrier(swish(y).astype(images.dtype))
    return y, jnp.mean(y, axis=(1, 2), dtype=jnp.float32)


def for_gpu(model: EfficientNet, layers: Layers) -> EfficientNet:
    """The same network in the form for inference on NVIDIA GPUs.

    It was chosen by the bytes that XLA's programs for an H200 read and write, not by time. L2 at
    475 px, batch 8, in bfloat16 moves 61 GB in the usual form, 48 in this one with `by_xla`, and 36
    with `depthwise_bn_swish`. Lite, which has neither swish nor gates, keeps its usual blocks.
    """
    lite = VARIANTS[model.variant].lite
    block = model.block if lite else functools.partial(FusedMBConv, layers=layers)
    return model.clone(block=block, conv_general_dilated=depthwise.by_products)


class FusedMBConv(MBConv):
    """`MBConv` for inference, with its variables; the gate scales the projection's kernel."""

    layers: Layers = by_xla  # depthwise convolution, BatchNorm, swish and the average behind them

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "b h w c"], train: bool = False
    ) -> Float[Array, "b h2 w2 features"]:
        if train:
            raise ValueError("this form is for inference only: train the network in its usual form")
        setting: Setting = {"train": False, "dtype": self.dtype}
        width = inputs.shape[-1]

        x = inputs
        if self.expansion != 1:
            convolution = self.conv_general_dilated
            x = conv_bn(
                x, "expand", width * self.expansion, conv_general_dilated=convolution, **setting
            )
        x, averages = self._depthwise(x)
        reduced = int(width * SQUEEZE_RATIO)
        excite = SqueezeExcite(reduced, self.conv_general_dilated, name="squeeze_excite")
        gated = functools.partial(depthwise.gated_product, excite(averages[:, None, None]))
        setting |= {"activation": jax.nn.identity, "conv_general_dilated": gated}
        x = conv_bn(x, "project", self.features, **setting)
        return x + inputs if self.strides == 1 and width == self.features else x

    def _depthwise(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h2 w2 c"], Float32[Array, "b c"]]:
        """From the variables of the layers in whose place it stands."""
        params, statistics = (self.variables[name] for name in ("params", "batch_stats"))
        scale, bias = batch_norm.as_scale_and_bias(
            **statistics["depthwise_bn"], **params["depthwise_bn"], epsilon=batch_norm.EPSILON
        )
        kernel = params["depthwise_conv"]["kernel"].astype(self.dtype)
        return self.layers(x, kernel, scale, bias, self.strides)


@functools.partial(jax.jit, static_argnames=("strides", "interpret"))  # blocks share traces
def depthwise_bn_swish(
    images: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw 1 c"],
    scale: Float32[Array, " c"],
    bias: Float32[Array, " c"],
    strides: int,
    interpret: bool = False,
) -> tuple[Float[Array, "b h2 w2 c"], Float32[Array, "b c"]]:
    """swish(scale * convolution + bias), and its average over height and width.

    Args:
        scale: BatchNorm's, divided by the standard deviation.
        bias: BatchNorm's, less the mean times `scale`.
        strides: in both directions; the padding is TensorFlow's SAME.
        interpret: run it step by step on any device, for tests.

    Returns:
        The map in the dtype of the images; the averages, of the map before it is rounded. Sums are
        taken in float32.
    """
    batch, *size, channels = images.shape
    pads = lax.padtype_to_pads(size, kernel.shape[:2], (strides, strides), "SAME")
    height, width = (-(-side // strides) for side in size)
    block = min(CHANNELS, pl.next_power_of_2(channels))
    positions = ELEMENTS // block
    tiles = pl.cdiv(height, TILE), pl.cdiv(width, TILE * positions)
    body = functools.partial(
        _program,
        first=(-pads[0][0], -pads[1][0]),
        strides=strides,
        tiles_across=tiles[1],
        shape=(positions, block),
        interpret=interpret,
    )
    out, sums = pl.pallas_call(
        body,
        grid=(pl.cdiv(channels, block), math.prod(tiles), batch),
        out_shape=(
            jax.ShapeDtypeStruct((batch, height, width, channels), images.dtype),
            jax.ShapeDtypeStruct((batch, math.prod(tiles), channels), jnp.float32),
        ),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="depthwise_bn_swish",
    )(images, kernel, scale, bias)
    return out, jnp.sum(sums, axis=1) / (height * width)


def _program(
    image_ref: jax.Ref,
    kernel_ref: jax.Ref,
    scale_ref: jax.Ref,
    bias_ref: jax.Ref,
    out_ref: jax.Ref,
    sum_ref: jax.Ref,
    *,
    first: tuple[int, int],
    strides: int,
    tiles_across: int,
    shape: tuple[int, int],
    interpret: bool,
) -> None:
    """TILE rows of TILE * positions columns, `block` channels; a tensor has every TILEth column."""
    positions, block = shape
    tile, image = pl.program_id(1), pl.program_id(2)
    _, height, width, channels = image_ref.shape
    _, out_height, out_width, _ = out_ref.shape
    size = kernel_ref.shape[:2]
    multiply_add = (lambda a, b, c: a * b + c) if interpret else _multiply_add

    def grid(axis: int) -> Array:
        return lax.broadcasted_iota(jnp.int32, shape, axis)

    channel = pl.program_id(0) * block + grid(1)
    inside = channel < channels
    row = tile // tiles_across * TILE
    column = (tile % tiles_across * positions + grid(0)) * TILE

    def of_channel(ref: jax.Ref, *tap: int) -> Array:
        return plgpu.load(ref.at[(*tap, channel)], mask=inside, other=0.0).astype(jnp.float32)

    taps = list(itertools.product(*map(range, size)))
    weights = {tap: of_channel(kernel_ref, *tap, 0) for tap in taps}
    outputs = list(itertools.product(range(TILE), repeat=2))
    totals = {output: jnp.zeros(shape, jnp.float32) for output in outputs}
    for i, j in itertools.product(*(range((TILE - 1) * strides + side) for side in size)):
        y, x = row * strides + first[0] + i, column * strides + first[1] + j
        mask = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixel = plgpu.load(image_ref.at[image, y, x, channel], mask=mask, other=0.0)
        pixel = pixel.astype(jnp.float32)
        for u, v in outputs:
            tap = i - u * strides, j - v * strides
            if tap in weights:
                totals[u, v] = multiply_add(pixel, weights[tap], totals[u, v])

    scale, bias = of_channel(scale_ref), of_channel(bias_ref)
    total = jnp.zeros(shape, jnp.float32)
    for u, v in outputs:
        y = multiply_add(totals[u, v], scale, bias)
        y = y / (1 + jnp.exp2(y * -math.log2(math.e)))
        mask = inside & (row + u < out_height) & (column + v < out_width)
        plgpu.store(
            out_ref.at[image, row + u, column + v, channel], y.astype(out_ref.dtype), mask=mask
        )
        total += jnp.where(mask, y, 0.0)
    lanes = pl.program_id(0) * block + jnp.arange(block)
    plgpu.store(sum_ref.at[image, tile, lanes], jnp.sum(total, axis=0), mask=lanes < channels)


def _multiply_add(a: Array, b: Array, c: Array) -> Array:
    """One instruction: of the plain formula the compiler, which may not round once, makes two."""
    (out,) = plgpu.elementwise_inline_asm(
        "fma.rn.f32 $0, $1, $2, $3;",
        args=[a, b, c],
        constraints="=f,f,f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(c.shape, c.dtype)],
    )
    return out
