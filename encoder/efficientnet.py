"""EfficientNet B0 to B7, L2 and Lite on one page (Tan and Le, arXiv 1905.11946; L2: 1911.04252).

The tree of variables is flat (`stem_conv`, `stem_bn`, `stage<i>_block<j>/...`, `head_conv`,
`head_bn`), with the leaves of Flax's `nn.Conv` and `nn.BatchNorm`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from . import depthwise
from .batch_norm import Activation, BatchNorm, swish

EMBEDDING_WIDTH = 4096  # of this project's own `head`; of a `projection`, too
POOLED_MAP_PATCH = 5
SQUEEZE_RATIO = 0.25  # of the block's input channels, not of the expanded ones

Convolution = Callable[..., Array]  # as `jax.lax.conv_general_dilated`
Setting = dict[str, Any]  # keywords of layers


class Variant(NamedTuple):
    """How one member of the family scales the base network; resolution is that of its training.

    The lite ones have ReLU6 for swish and no squeeze-and-excite; stem, head and the numbers of
    blocks in the first and the last stage are not scaled (tensorflow/tpu, efficientnet/lite).
    """

    width: float
    depth: float
    resolution: int
    lite: bool = False


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
    "lite0": Variant(1.0, 1.0, 224, lite=True),
    "lite1": Variant(1.0, 1.1, 240, lite=True),
    "lite2": Variant(1.1, 1.2, 260, lite=True),
    "lite3": Variant(1.2, 1.4, 300, lite=True),
    "lite4": Variant(1.4, 1.8, 380, lite=True),
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
    scale = VARIANTS[variant]
    fixed = (STAGES[0], STAGES[-1]) if scale.lite else ()
    return [s[-1] if s in fixed else math.ceil(s[-1] * scale.depth) for s in STAGES]


def stage_widths(variant: str) -> list[int]:
    """Channels that each of the seven stages puts out."""
    return [scale_width(stage[-2], VARIANTS[variant].width) for stage in STAGES]


def activation_of(lite: bool) -> Activation:
    """What stands behind every BatchNorm but the projections'."""
    return jax.nn.relu6 if lite else swish


def head_name(head_width: int) -> str:
    """`head` is 4,096 wide, as in this project; a checkpoint's head of another width `own_head`."""
    return "head" if head_width == EMBEDDING_WIDTH else "own_head"


def patch_means(x: Float[Array, "b h w c"], size: int) -> Float32[Array, "b h2 w2 c"]:
    """Averages over patches of size x size, beside one another; what is left over is left out."""
    b, h, w, c = x.shape
    rows, columns = h // size, w // size
    patches = x[:, : rows * size, : columns * size].reshape(b, rows, size, columns, size, c)
    return jnp.mean(patches, axis=(2, 4), dtype=jnp.float32)


def conv_bn(
    x: Float[Array, "b h w c"],
    name: str,
    features: int,
    kernel_size: int = 1,
    strides: int = 1,
    groups: int = 1,
    *,
    activation: Activation = swish,
    train: bool,
    dtype: DTypeLike,
    conv_general_dilated: Convolution,
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
    conv_general_dilated: Convolution

    @nn.compact
    def __call__(self, averages: Float32[Array, "b 1 1 c"]) -> Float32[Array, "b 1 1 c"]:
        setting: Setting = {"dtype": jnp.float32, "conv_general_dilated": self.conv_general_dilated}
        gate = swish(nn.Conv(self.reduced, (1, 1), **setting, name="reduce")(averages))
        return nn.sigmoid(nn.Conv(averages.shape[-1], (1, 1), **setting, name="expand")(gate))


class MBConv(nn.Module):
    """Inverted residual block: expand, depthwise, squeeze and excite (not lite), project, add."""

    features: int
    kernel_size: int
    strides: int
    expansion: int
    lite: bool
    dtype: DTypeLike
    conv_general_dilated: Convolution

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "b h w c"], train: bool = False
    ) -> Float[Array, "b h2 w2 features"]:
        setting: Setting = {"dtype": self.dtype, "conv_general_dilated": self.conv_general_dilated}
        activation = activation_of(self.lite)
        convolve: Convolution = functools.partial(
            conv_bn, activation=activation, train=train, **setting
        )
        width = inputs.shape[-1]
        expanded = width * self.expansion

        x = inputs if self.expansion == 1 else convolve(inputs, "expand", expanded)
        x = convolve(x, "depthwise", expanded, self.kernel_size, self.strides, groups=expanded)
        if not self.lite:
            reduced = int(width * SQUEEZE_RATIO)
            excite = SqueezeExcite(reduced, self.conv_general_dilated, name="squeeze_excite")
            gate = excite(jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32))
            x = (x.astype(jnp.float32) * gate).astype(x.dtype)
        x = convolve(x, "project", self.features, activation=jax.nn.identity)
        return x + inputs if self.strides == 1 and width == self.features else x


class EfficientNet(nn.Module):
    """Images to embeddings.

    Attributes:
        variant: a key of `VARIANTS`.
        head_width: channels of the head convolution; None leaves it out, as in ELIXR-C.
        projection: map the widest vector to `EMBEDDING_WIDTH` channels, without bias.
        dtype: of the computation; variables and embeddings are float32, whatever it is.
        conv_general_dilated: the convolution, by default the fastest form for each backend.
        block: `MBConv`, or what computes the same: `gpu_form.for_gpu` has another form.
        remat: recompute each block in the backward pass: less memory (not on CPU), more time.
    """

    variant: str
    head_width: int | None = EMBEDDING_WIDTH
    projection: bool = False
    dtype: DTypeLike = jnp.float32
    conv_general_dilated: Convolution = depthwise.conv_general_dilated
    block: Callable[..., nn.Module] = MBConv
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
            The default embedding, and all intermediates by name: `stem`, `stage1` to `stage7`,
            `feature_map`, `pooled_map` (from 160 px), `pooled`, `head_map`, `head` or `own_head`,
            `projection`. Under `jit`, what the caller does not return is not computed.
        """
        setting: Setting = {"dtype": self.dtype, "conv_general_dilated": self.conv_general_dilated}
        scale = VARIANTS[self.variant]
        convolve: Convolution = functools.partial(
            conv_bn, activation=activation_of(scale.lite), train=train, **setting
        )
        block = nn.remat(MBConv, static_argnums=2) if self.remat else self.block
        out = {}
        width = STEM_WIDTH if scale.lite else scale_width(STEM_WIDTH, scale.width)
        x = out["stem"] = convolve(images.astype(self.dtype), "stem", width, 3, strides=2)
        sizes = zip(STAGES, stage_widths(self.variant), stage_blocks(self.variant), strict=True)
        for i, ((kernel_size, strides, expansion, *_), width, blocks) in enumerate(sizes, start=1):
            for j in range(1, blocks + 1):
                shape = width, kernel_size, strides if j == 1 else 1, expansion, scale.lite
                x = block(*shape, **setting, name=f"stage{i}_block{j}")(x, train)
            out[f"stage{i}"] = x
        out["feature_map"] = x
        if min(x.shape[1:3]) >= POOLED_MAP_PATCH:
            out["pooled_map"] = patch_means(x, POOLED_MAP_PATCH)
        embedding = out["pooled"] = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        if self.head_width is not None:
            x = out["head_map"] = convolve(x, "head", self.head_width)
            embedding = out[head_name(self.head_width)] = jnp.mean(x, (1, 2), jnp.float32)
        if self.projection:
            linear = nn.Dense(EMBEDDING_WIDTH, False, precision="highest", name="projection")
            embedding = out["projection"] = linear(embedding)
        return embedding, out
