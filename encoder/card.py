"""The card of a weights bundle: what the weights are, and how images are prepared for them.

So that nobody has to remember it, or guess.
"""

import dataclasses
import math
import os
import pathlib
import re
from typing import ClassVar, NotRequired

from typing_extensions import TypedDict

from cxr_embeddings.common import files, untrusted

from .efficientnet import VARIANTS
from .embedding_layers import embedding_widths

FORMAT_VERSION = 1
MAX_RESOLUTION, MAX_HEAD_WIDTH = 4096, 1 << 16  # of what memory holds, whatever a card says
CARD, CHECKPOINT = "card.json", "checkpoint"  # what a bundle holds


@dataclasses.dataclass(frozen=True)
class Card:
    """What a bundle holds; `card.json` field by field.

    Attributes:
        variant: a key of `efficientnet.VARIANTS`.
        head_width: channels of the head convolution; None: the network has none.
        projection: how the map to 4,096 numbers was made, such as "orthonormal:0 (untrained)";
            None: there is none.
        embeddings: the layers offered, with their widths: `embedding_layers.embedding_widths`.
        resolution: side of the square images the weights were trained for, in pixels.
        preset: name of the preprocessing that the weights expect.
        mean, std: of its normalisation of images in [0, 1], one a channel.
        dtype: of the kernels, float32 or bfloat16; `save_bundle` fills it in.
        source: where the weights come from.
        terms_of_use: what else is asked of whoever uses the weights; "" for nothing.
        training_data: one sentence.
        dropped: what of the source is not in the bundle, such as its classifier.
        trained: False for random numbers, whatever they are called.
        preset_version: when the weights were made; 1 in cards that do not say.
        settings: of the pretraining by this program, as text; empty where another one did it.
        digest: `weights.digest` of the variables; `save_bundle` fills it in.
        checkpoint_bytes: size of the checkpoint's files, likewise; finds a broken download early.
    """

    __pydantic_config__: ClassVar = untrusted.CLOSED

    variant: str
    head_width: int | None
    projection: str | None
    embeddings: dict[str, int]
    resolution: int
    preset: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: str
    source: str
    licence: str
    terms_of_use: str
    training_data: str
    dropped: list[str]
    trained: bool
    preset_version: int = 1
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    digest: str = ""
    checkpoint_bytes: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError where fields contradict one another."""
        if self.variant not in VARIANTS:
            raise ValueError(f"card: variant is {self.variant!r}, expected one of {[*VARIANTS]}")
        for name, value, most in [
            ("resolution", self.resolution, MAX_RESOLUTION),
            ("head_width", self.head_width or 1, MAX_HEAD_WIDTH),
        ]:
            if not 1 <= value <= most:
                raise ValueError(f"card: {name} is {value}, expected 1 to {most}")
        for name, values, least in [("mean", self.mean, -math.inf), ("std", self.std, 0)]:
            if not all(least < value < math.inf for value in values):
                wanted = "finite" if least else "positive, and finite"
                raise ValueError(f"card: {name} is {values}, expected it {wanted}")
        if not re.fullmatch("([0-9a-f]{64})?", self.digest) or self.checkpoint_bytes < 0:
            raise ValueError(
                f"card: digest is {self.digest[:80]!r} and checkpoint_bytes "
                f"{self.checkpoint_bytes}, expected 64 hexadecimal digits and no negative number"
            )
        offered = embedding_widths(self.variant, self.head_width, self.projection is not None)
        if [*self.embeddings.items()] != [*offered.items()]:  # the first is the default
            raise ValueError(
                f"card: embeddings are {self.embeddings}, but {self.variant} with head_width="
                f"{self.head_width} and projection={self.projection} offers {offered}: correct "
                "whichever is wrong"
            )


@untrusted.may_have_more
class _Versioned(TypedDict):
    """What cards of all versions have."""

    format_version: NotRequired[int]


def load_card(path: str | os.PathLike) -> Card:
    """Reads and checks a bundle's card.

    Raises:
        FileNotFoundError: there is no card.
        ValueError: it is not JSON, its format is newer than this program, or a field is missing,
            unknown, of another type, out of range or contradicts the others.
    """
    file = pathlib.Path(path) / CARD
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} not found: expected a weights bundle, a folder with {CARD} and {CHECKPOINT}/, "
            "as scripts/convert_weights.py makes it of published weights"
        )
    advice = "make or fetch the bundle again"
    version = files.read_json(file, _Versioned, advice).get("format_version", 0)
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{file} has format_version {str(version)[:20]}, this program reads up to "
            f"{FORMAT_VERSION}: update cxr-embeddings"
        )
    return files.read_json(file, Card, advice)
