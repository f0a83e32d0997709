"""The embeddings that a network offers: their names, widths, shapes, and the memory needed."""

import math

import numpy as np
from jaxtyping import Int

from .efficientnet import EMBEDDING_WIDTH, POOLED_MAP_PATCH, STAGES, head_name, stage_widths


def largest_map(variant: str, resolution: int) -> int:
    """Numbers in an image's largest tensor, to which the second stage's first block expands."""
    channels = STAGES[1][2] * stage_widths(variant)[0]
    return channels * math.ceil(resolution / 2) ** 2


def embedding_widths(
    variant: str, head_width: int | None, projection: bool = False
) -> dict[str, int]:
    """Channels of each embedding that a network offers, the default one first.

    For L2 with a head of 4096 `{"head": 4096, "pooled": 1376, "feature_map": 1376, "pooled_map":
    1376}`. `projection`, `head` or `own_head`, and `pooled` are vectors; `feature_map` is the last
    stage before its average, [h w channel]; `pooled_map` averages it over patches of 5 x 5, as
    ELIXR-C does. `head_width` is None for a network without head convolution.
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


def map_centres(resolution: int) -> Int[np.ndarray, " side"]:
    """The pixel of the image, along each side, in the middle of what a number of a map sees.

    For `feature_map` and `head_map`. Output i of a convolution of stride 2, with TensorFlow's SAME
    padding, has its middle at pixel 2 i of an odd side and at 2 i + 1 of an even one. So the maps
    of images of 224 px begin at pixel 31 and end at 223, those of 225 px begin at 0 and end at 224.
    """
    sides = [resolution]
    for _ in range(1 + sum(stage[1] == 2 for stage in STAGES)):  # the stem, and those stages
        sides.append(math.ceil(sides[-1] / 2))
    centres = np.arange(sides[-1])
    for side in sides[-2::-1]:
        centres = 2 * centres + (side % 2 == 0)
    return centres
