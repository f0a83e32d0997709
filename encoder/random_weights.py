"""Untrained weights through which a signal survives: for demos, benchmarks and tests.

Their card and every manifest say that they are untrained.
"""

import concurrent.futures
import math
import zlib

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from .card import Card
from .efficientnet import EMBEDDING_WIDTH, VARIANTS, EfficientNet
from .embedding_layers import embedding_widths
from .weights import Variables, abstract_variables

# What multiplies 1 / fan_in in the variance of random kernels, by layer; `random_variables` has the
# reasons. For z ~ N(0, 1), E[swish(z)^2] is 0.3557 and E[relu6(z)^2] 0.5, to many digits; 0.25 is
# the square of a half-open gate.
LINEAR = dict.fromkeys(("stem_conv", "expand_conv", "reduce", "expand", "head_conv"), 1.0)
GAINS = LINEAR | {"depthwise_conv": 1 / 0.3557, "project_conv": 1 / (0.3557 * 0.25)}
LITE_GAINS = LINEAR | {"depthwise_conv": 1 / 0.5, "project_conv": 1 / 0.5}


def random_variables(model: EfficientNet, seed: int = 0) -> Variables:
    """Untrained float32 NumPy leaves (L2: 1.9 GB, in about 5 s on two cores).

    BatchNorm gets its identity statistics, so the kernels alone must hold the variance. A kernel of
    variance gain / fan_in turns inputs of mean square q into outputs of variance gain * q, hence:
    gain 1 after a linear layer, 1 / E[swish(z)^2] after a swish, and 1 / (0.25 E[swish(z)^2]) after
    a swish and a half-open squeeze-and-excite gate. Lite has ReLU6 for swish, and no gate. The
    projections of residual blocks are divided by the number of blocks, so that all of them together
    add the variance of about one more signal.

    The numbers are uniform (no transcendental functions) and each leaf is seeded by its own name:
    every machine gets the same ones, in any order.
    """
    expected = flatten_dict(abstract_variables(model), sep="/")
    gains = LITE_GAINS if VARIANTS[model.variant].lite else GAINS
    blocks = len({path.split("/")[1] for path in expected if "_block" in path})

    def fill(path: str) -> np.ndarray:
        shape = expected[path].shape
        layer, leaf = path.split("/")[-2:]
        if leaf != "kernel":
            return np.full(shape, leaf in ("scale", "var"), np.float32)
        variance = gains[layer] / math.prod(shape[:-1])
        if layer == "project_conv" and "_block1/" not in path:
            variance /= blocks
        bits = np.random.SFC64([seed, zlib.crc32(path.encode())])
        values = np.random.Generator(bits).random(shape, np.float32)
        values -= np.float32(0.5)
        values *= np.float32(math.sqrt(12 * variance))
        return values

    with concurrent.futures.ThreadPoolExecutor() as pool:
        leaves = pool.map(fill, expected)
        return unflatten_dict(dict(zip(expected, leaves, strict=True)), sep="/")


def random_card(
    variant: str | None,
    resolution: int | None,
    preset: str,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    preset_version: int = 1,
) -> Card:
    """The card of `random_variables`, whose only use is to try things out.

    Raises:
        ValueError: the variant is unknown or missing.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"random weights of variant {variant!r}; expected one of {', '.join(VARIANTS)}"
        )
    return Card(
        variant=variant,
        head_width=EMBEDDING_WIDTH,
        projection=None,
        embeddings=embedding_widths(variant, EMBEDDING_WIDTH),
        resolution=resolution or VARIANTS[variant].resolution,
        preset=preset,
        mean=mean,
        std=std,
        dtype="float32",
        source="random",
        licence="none: random numbers",
        terms_of_use="",
        training_data="None: the network is untrained.",
        dropped=[],
        trained=False,
        preset_version=preset_version,
    )
