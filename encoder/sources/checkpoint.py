"""What every reader of a published checkpoint gives: leaves by the network's names, unread.

A reader raises OSError where a file is missing or cannot be opened, and ValueError where it is
damaged or another network's.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..efficientnet import STAGES, VARIANTS, stage_blocks

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

ENDS = ("stem_conv", "stem_bn", "head_conv", "head_bn")
BLOCK = (
    *("expand_conv", "expand_bn", "depthwise_conv", "depthwise_bn"),
    *("squeeze_excite/reduce", "squeeze_excite/expand", "project_conv", "project_bn"),
)
CONV = ("params/{}/kernel", "params/{}/bias")
BATCH_NORM = ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var")


class Names:
    """What a checkpoint calls layers and leaves; each list in the order of ours above."""

    def __init__(self, ends: str, block: str, plain: str, conv: str, batch_norm: str) -> None:
        """The names of `plain` blocks, which do not expand, begin at the depthwise convolution."""
        theirs = (ends, block, plain, conv, batch_norm)
        ours = (ENDS, BLOCK, BLOCK[2:], CONV, BATCH_NORM)
        pairs = zip(theirs, ours, strict=True)
        self.tables = [dict(zip(a.split(), b, strict=True)) for a, b in pairs]

    def ours(self, layer: str, leaf: str, place: tuple[int, int] | None = None) -> str | None:
        """Our path of a leaf; None where there is none. A place is stage and block, from 1."""
        ends, block, plain, conv, batch_norm = self.tables
        layers, prefix = ends, ""
        if place:
            expansion = STAGES[place[0] - 1][2]
            layers, prefix = plain if expansion == 1 else block, "stage{}_block{}/".format(*place)
        found = layers.get(layer, "")
        path = (batch_norm if found.endswith("_bn") else conv).get(leaf)
        return path.format(prefix + found) if found and path else None


def block_places(count: int, path: pathlib.Path) -> list[tuple[int, int]]:
    """Flat number of a block -> its stage and its place there, both from 1.

    Variants of as many blocks have them in the same stages: b0 and lite0, b1 and b2, and so on.
    """
    for variant in VARIANTS:
        sizes = stage_blocks(variant)
        if sum(sizes) == count:
            return [(i, j) for i, size in enumerate(sizes, 1) for j in range(1, size + 1)]
    raise ValueError(
        f"{path} holds {count} blocks; expected those of an EfficientNet: "
        + ", ".join(f"{variant} {sum(stage_blocks(variant))}" for variant in VARIANTS)
    )


class Leaf(NamedTuple):
    """One array of a checkpoint; shape and values are in the network's layout.

    `read` gives the values as float32. Nothing is read before, so that no checkpoint is ever in
    memory twice.
    """

    name: str  # as the checkpoint calls it
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def swapped(self) -> "Leaf":
        """With the last two axes exchanged: depthwise kernels are [h w channel 1] in TensorFlow."""
        *sides, first, second = self.shape
        return Leaf(self.name, (*sides, second, first), lambda: self.read().swapaxes(-1, -2))


class Checkpoint(NamedTuple):
    """A published checkpoint; fields that `Card` has too are described there.

    Attributes:
        origin: where it was found, for messages and the card.
        leaves: "params/stem_conv/kernel" and so on -> leaf. What a reader does not recognise stands
            under its own name, for `weights.merge` to refuse.
        resolution: in pixels; None: the checkpoint does not say.
    """

    origin: str
    leaves: dict[str, Leaf]
    dropped: list[str]
    training_data: str
    licence: str
    terms_of_use: str = ""
    preset: str = "imagenet"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resolution: int | None = None
