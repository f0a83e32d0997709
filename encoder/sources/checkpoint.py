"""What every reader of a published checkpoint gives: leaves by the network's names, unread."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Leaf(NamedTuple):
    """One array of a checkpoint, in the network's layout.

    Attributes:
        name: what the checkpoint calls it.
        shape: as `read` will return it.
        read: fetches the values as float32. Nothing is read before, so that no checkpoint is ever
            in memory twice.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def swapped(self) -> "Leaf":
        """With the last two axes exchanged: depthwise kernels are [h w channel 1] in TensorFlow."""
        *sides, first, second = self.shape
        return Leaf(self.name, (*sides, second, first), lambda: self.read().swapaxes(-1, -2))


class Checkpoint(NamedTuple):
    """A published checkpoint, named as the network names its variables.

    Attributes:
        origin: where it was found, for messages and the card.
        leaves: "params/stem_conv/kernel" and so on -> leaf. What a reader does not recognise stands
            under its own name, for `weights.merge` to refuse.
        dropped: what was left out on purpose, such as the classifier.
        preset: name of the preprocessing that the network was trained with.
        mean, std: of its normalisation, of images in [0, 1].
        resolution: in pixels; None: the checkpoint does not say.
        training_data: one sentence.
    """

    origin: str
    leaves: dict[str, Leaf]
    dropped: list[str]
    preset: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int | None
    training_data: str


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
