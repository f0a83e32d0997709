"""EfficientNet B0 to B7 and L2 on one page (Tan and Le, arXiv 1905.11946; L2: arXiv 1911.04252).

The tree of variables is flat (`stem_conv`, `stem_bn`, `stage<i>_block<j>/...`, `head_conv`,
`head_bn`), with the leaves of Flax's `nn.Conv` and `nn.BatchNorm`: tests/golden lists L2's.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from . import batch_norm, depthwise

BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.99  # TensorFlow's sense: the share of the old value that stays
EMBEDDING_WIDTH = 4096  # of this project's own embeddings
POOLED_MAP_PATCH = 5
SQUEEZE_RATIO = 0.25  # of the block's input channels, not of the expanded ones

DepthwiseKernel = Callable[..., tuple[Array, Array]]  # of `depthwise_kernel.py`


class Variant(NamedTuple):
    """How one member of the family scales the base network; resolution is that of its training."""

    width: float
    depth: float
    resolution: int


VARIANTS = {
    "b0": Variant(1.0, 1.0, 224),
    "b1": Variant(1.0, 1.1, 240),
    "b2": Variant(1.1, 1.2, 260),
    "b3": Variant(1.2, 1.4, 300),
    "b4": Variant(1.4, 1.8, 380),
    "b5": Variant(1.6, 2.2, 456),
    "b6": Variant(1.8, 2.6, 528),
    "b7": Variant(2.0, 3.1, 600),
    "l2": Variant(4.3, 5.3, 800),
}

# kernel size, stride of the first block, expansion, width, repeats: table 1 of the paper
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM_WIDTH = 32


def scale_width(base: int, coefficient: float) -> int:
    """Rounds `base * coefficient` to a multiple of 8, never below 90 % of it (the paper's code)."""
    width = base * coefficient
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


def stage_blocks(variant: str) -> list[int]:
    """Number of blocks in each of the seven stages."""
    return [math.ceil(stage[-1] * VARIANTS[variant].depth) for stage in STAGES]


def stage_widths(variant: str) -> list[int]:
    """Channels that each of the seven stages puts out."""
    return [scale_width(stage[-2], VARIANTS[variant].width) for stage in STAGES]


def largest_map(variant: str, resolution: int) -> int:
    """Numbers in an image's largest tensor, to which the second stage's first block expands."""
    channels = STAGES[1][2] * stage_widths(variant)[0]
    return channels * math.ceil(resolution / 2) ** 2


def head_name(head_width: int) -> str:
    """`head` is 4,096 wide, as this project has it; a checkpoint's of another width `own_head`."""
    return "head" if head_width == EMBEDDING_WIDTH else "own_head"


def embedding_widths(
    variant: str, head_width: int | None, projection: bool = False
) -> dict[str, int]:
    """Channels of each embedding that a network offers, the default one first.

    Args:
        variant: a key of `VARIANTS`.
        head_width: channels of the head convolution; None for a network without one.
        projection: whether the widest vector is also mapped to `EMBEDDING_WIDTH`.

    Returns:
        For L2 with a head of 4096 `{"head": 4096, "pooled": 1376, "feature_map": 1376,
        "pooled_map": 1376}`. `projection`, `head` or `own_head`, and `pooled` are vectors;
        `feature_map` is the last stage before its average, [h w channel]; `pooled_map` averages it
        over patches of 5 x 5, as ELIXR-C does.
    """
    last = stage_widths(variant)[-1]
    vectors = {"projection": EMBEDDING_WIDTH} if projection else {}
    if head_width is not None:
        vectors[head_name(head_width)] = head_width
    return vectors | {"pooled": last, "feature_map": last, "pooled_map": last}


def embedding_shape(width: int, layer: str, resolution: int) -> tuple[int, ...]:
    """Shape of one image's embedding: [width], or [h w width] of a map (stride 32 or 160).

    Raises:
        ValueError: the image is too small for a `pooled_map`.
    """
    side = math.ceil(resolution / 32)
    if layer == "pooled_map":
        side //= POOLED_MAP_PATCH
        if not side:
            raise ValueError(f"pooled_map needs images of 160 px or more, these have {resolution}")
    return (side, side, width) if layer.endswith("_map") else (width,)


@jax.custom_jvp
def swish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * sigmoid(x), as h * tanh(h) + h with h = x / 2: on CPU a fifth faster, having no division.

    Computed in float32, for that sum cancels at negative x; the result has the dtype of x.
    """
    half = x.astype(jnp.float32) / 2
    return (half * jnp.tanh(half) + half).astype(x.dtype)


@swish.defjvp
def _swish_jvp(x: tuple[Array], tangent: tuple[Array]) -> tuple[Array, Array]:
    # A form that XLA on CPU computes in one pass; the derived one writes the tanh to memory.
    wide = x[0].astype(jnp.float32)
    sigmoid = jnp.tanh(wide / 2) / 2 + 0.5
    slope = sigmoid * (1 + wide * (1 - sigmoid))
    return swish(*x), tangent[0] * slope.astype(tangent[0].dtype)


def patch_means(x: Float[Array, "b h w c"], size: int) -> Float32[Array, "b h2 w2 c"]:
    """Averages over patches of size x size, beside one another; what is left over is left out."""
    b, h, w, c = x.shape
    rows, columns = h // size, w // size
    patches = x[:, : rows * size, : columns * size].reshape(b, rows, size, columns, size, c)
    return jnp.mean(patches, axis=(2, 4), dtype=jnp.float32)


class BatchNorm(nn.Module):
    """Variables and results of `nn.BatchNorm`, then the activation; its gradient is fast on CPU."""

    activation: Callable[[Array], Array]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        var = self.variable("batch_stats", "var", jnp.ones, width)
        setting = BATCH_NORM_EPSILON, self.activation, self.dtype
        if not train:
            return batch_norm.normalise(x, mean.value, var.value, scale, bias, *setting)
        y, *found = batch_norm.normalise_batch(x, scale, bias, *setting)
        if not self.is_initializing():
            for kept, new in zip((mean, var), found, strict=True):
                kept.value = BATCH_NORM_MOMENTUM * kept.value + (1 - BATCH_NORM_MOMENTUM) * new
        return y


def conv_bn(
    x: Float[Array, "b h w c"],
    name: str,
    features: int,
    kernel_size: int = 1,
    strides: int = 1,
    groups: int = 1,
    activation: Callable[[Array], Array] = swish,
    *,
    train: bool,
    dtype: Any,
    conv_general_dilated: Callable[..., Array],
) -> Float[Array, "b h2 w2 features"]:
    """Convolution without bias, BatchNorm, activation: submodules `<name>_conv`, `<name>_bn`."""
    x = nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides,
        padding="SAME",  # TensorFlow's: at stride 2 and even sizes, one row more at the far end
        feature_group_count=groups,
        use_bias=False,
        dtype=dtype,
        conv_general_dilated=conv_general_dilated,
        name=f"{name}_conv",
    )(x)
    return BatchNorm(activation, dtype, name=f"{name}_bn")(x, train)


class SqueezeExcite(nn.Module):
    """The gate in (0, 1) of every channel, computed from the averages of all (arXiv 1709.01507).

    In float32 whatever the network's dtype: rounding a gate errs in all pixels alike.
    """

    reduced: int
    conv_general_dilated: Callable[..., Array]

    @nn.compact
    def __call__(self, averages: Float32[Array, "b 1 1 c"]) -> Float32[Array, "b 1 1 c"]:
        conv = functools.partial(
            nn.Conv,
            kernel_size=(1, 1),
            dtype=jnp.float32,
            conv_general_dilated=self.conv_general_dilated,
        )
        gate = swish(conv(self.reduced, name="reduce")(averages))
        return nn.sigmoid(conv(averages.shape[-1], name="expand")(gate))


class MBConv(nn.Module):
    """Inverted residual block: expand, depthwise, squeeze and excite, project, add."""

    features: int
    kernel_size: int
    strides: int
    expansion: int
    dtype: Any
    conv_general_dilated: Callable[..., Array]
    depthwise_kernel: DepthwiseKernel | None = None

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "b h w c"], train: bool = False
    ) -> Float[Array, "b h2 w2 features"]:
        setting = {"dtype": self.dtype, "conv_general_dilated": self.conv_general_dilated}
        convolve = functools.partial(conv_bn, train=train, **setting)
        width = inputs.shape[-1]
        expanded = width * self.expansion

        x = inputs
        if self.expansion != 1:
            x = convolve(x, "expand", expanded)
        excite = SqueezeExcite(
            int(width * SQUEEZE_RATIO), self.conv_general_dilated, name="squeeze_excite"
        )
        if self.depthwise_kernel is None or train or self.is_initializing():
            x = convolve(x, "depthwise", expanded, self.kernel_size, self.strides, groups=expanded)
            gate = excite(jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32))
            x = (x.astype(jnp.float32) * gate).astype(x.dtype)
        else:
            x, averages = self._depthwise(x)
            gate = excite(averages[:, None, None])
            setting["conv_general_dilated"] = functools.partial(depthwise.gated_product, gate)
        setting["activation"] = jax.nn.identity
        x = conv_bn(x, "project", self.features, train=train, **setting)
        return x + inputs if self.strides == 1 and width == self.features else x

    def _depthwise(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h2 w2 c"], Float32[Array, "b c"]]:
        """By the kernel, from the variables of the layers in whose place it stands."""
        params, statistics = (self.variables[name] for name in ("params", "batch_stats"))
        scale, bias = batch_norm.as_scale_and_bias(
            **statistics["depthwise_bn"], **params["depthwise_bn"], epsilon=BATCH_NORM_EPSILON
        )
        kernel = params["depthwise_conv"]["kernel"].astype(self.dtype)
        return self.depthwise_kernel(x, kernel, scale, bias, self.strides)


class EfficientNet(nn.Module):
    """Images to embeddings.

    Attributes:
        variant: a key of `VARIANTS`.
        head_width: channels of the head convolution; None leaves it out, as in ELIXR-C.
        projection: map the widest vector to `EMBEDDING_WIDTH` channels, without bias.
        dtype: of the computation. Parameters and BatchNorm statistics are created in float32, and
            the averages that become embeddings are float32, whatever it is.
        conv_general_dilated: the convolution, with the signature of `jax.lax.conv_general_dilated`.
        depthwise_kernel: `depthwise_kernel.depthwise_bn_swish`, for inference on NVIDIA GPUs: the
            depthwise convolution, BatchNorm, swish and the average behind it in one pass. The
            gate then scales the kernels of the projections instead of the map.
        remat: recompute each block in the backward pass instead of keeping it: memory for time.
            XLA on CPU recomputes, but in an order that saves nothing.
    """

    variant: str
    head_width: int | None = EMBEDDING_WIDTH
    projection: bool = False
    dtype: Any = jnp.float32
    conv_general_dilated: Callable[..., Array] = depthwise.conv_general_dilated
    depthwise_kernel: DepthwiseKernel | None = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], train: bool = False
    ) -> tuple[Float[Array, "b width"], dict[str, Float[Array, "b ..."]]]:
        """Runs the network.

        Args:
            images: normalised as the weights' card says.
            train: normalise by the batch's own statistics and update `batch_stats`.

        Returns:
            The default embedding of `embedding_widths`, and all intermediates by name: `stem`,
            `stage1` to `stage7`, `feature_map`, `pooled_map` (from 160 px), `pooled`, `head_map`,
            `head` or `own_head`, `projection`. Under `jit`, what the caller does not return is not
            computed.
        """
        scale = VARIANTS[self.variant]
        setting = {"dtype": self.dtype, "conv_general_dilated": self.conv_general_dilated}
        convolve = functools.partial(conv_bn, train=train, **setting)
        block_type = nn.remat(MBConv, static_argnums=2) if self.remat else MBConv
        out = {}

        x = images.astype(self.dtype)
        x = convolve(x, "stem", scale_width(STEM_WIDTH, scale.width), 3, strides=2)
        out["stem"] = x
        sizes = zip(STAGES, stage_widths(self.variant), stage_blocks(self.variant), strict=True)
        for i, ((kernel_size, strides, expansion, *_), width, blocks) in enumerate(sizes, start=1):
            for j in range(1, blocks + 1):
                block = block_type(
                    width,
                    kernel_size,
                    strides if j == 1 else 1,
                    expansion,
                    **setting,
                    depthwise_kernel=self.depthwise_kernel,
                    name=f"stage{i}_block{j}",
                )
                x = block(x, train)
            out[f"stage{i}"] = x
        out["feature_map"] = x
        if min(x.shape[1:3]) >= POOLED_MAP_PATCH:
            out["pooled_map"] = patch_means(x, POOLED_MAP_PATCH)
        embedding = out["pooled"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        if self.head_width is not None:
            x = out["head_map"] = convolve(x, "head", self.head_width)
            embedding = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
            out[head_name(self.head_width)] = embedding
        if self.projection:
            linear = nn.Dense(EMBEDDING_WIDTH, False, precision="highest", name="projection")
            embedding = out["projection"] = linear(embedding)
        return embedding, out
