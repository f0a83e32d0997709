"""The embeddings that a network offers: their names, widths, shapes, and the memory needed."""

import math

import numpy as np
from jaxtyping import Float

from .efficientnet import EMBEDDING_WIDTH, POOLED_MAP_PATCH, STAGES, head_name, stage_widths

STRIDE = 32  # of a map, in pixels of the image


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
    side = math.ceil(resolution / STRIDE)
    if layer == "pooled_map":
        side //= POOLED_MAP_PATCH
        if not side:
            raise ValueError(f"pooled_map needs images of 160 px or more, these have {resolution}")
    return (side, side, width) if layer.endswith("_map") else (width,)


def map_centres(resolution: int) -> Float[np.ndarray, " side"]:
    """Where in the image, in pixels along each side, the numbers of a map lie: 0 is the first one.

    For `feature_map` and `head_map`. They lie evenly about the middle of the image, a stride apart.
    TensorFlow's SAME padding would have the middle of what each sees lie up to half a stride
    further on, where the image has an even side. But a network that is trained on mirrored images,
    too, learns to see alike from both sides.
    """
    side = math.ceil(resolution / STRIDE)
    return STRIDE * np.arange(side) + (resolution - 1 - STRIDE * (side - 1)) / 2
