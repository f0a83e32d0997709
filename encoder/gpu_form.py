"""The network's form for inference on NVIDIA GPUs: fewer passes over the expanded maps."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
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


def depthwise_bn_swish(
    images: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw 1 c"],
    scale: Float32[Array, " c"],
    bias: Float32[Array, " c"],
    strides: int,
) -> tuple[Float[Array, "b h2 w2 c"], Float32[Array, "b c"]]:
    """swish(scale * convolution + bias), and its average over height and width.

    `scale` is BatchNorm's, divided by the standard deviation; `bias` is less the mean times that.
    """
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


def for_gpu(model: EfficientNet) -> EfficientNet:
    """The same network in the form for inference on NVIDIA GPUs.

    It was chosen by the bytes that XLA's programs for an H200 read and write, not by time. L2 at
    475 px, batch 8, in bfloat16 moves 61 GB in the usual form, and 48 in this one. Lite, which has
    neither swish nor gates, keeps its usual blocks.
    """
    block = model.block if VARIANTS[model.variant].lite else FusedMBConv
    return model.clone(block=block, conv_general_dilated=depthwise.by_products)


class FusedMBConv(MBConv):
    """`MBConv` for inference, with its variables; the gate scales the projection's kernel."""

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
        return depthwise_bn_swish(x, kernel, scale, bias, self.strides)
