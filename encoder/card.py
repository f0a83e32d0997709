"""The card of a weights bundle: what the weights are, and how images are prepared for them.

So that nobody has to remember it, or guess.
"""

import dataclasses
import json
import os
import pathlib
import types
import typing
from typing import Any

from encoder.efficientnet import VARIANTS, embedding_widths

FORMAT_VERSION = 1
CARD, CHECKPOINT = "card.json", "checkpoint"  # what a bundle holds


@dataclasses.dataclass(frozen=True)
class Card:
    """What a bundle holds; `card.json` field by field.

    Attributes:
        variant: a key of `efficientnet.VARIANTS`.
        head_width: channels of the head convolution; None: the network has none.
        projection: how the map to 4,096 numbers was made, such as "orthonormal:0 (untrained)";
            None: there is none.
        embeddings: the layers offered, with their widths: `efficientnet.embedding_widths`.
        resolution: side of the square images the weights were trained for, in pixels.
        preset: name of the preprocessing that the weights expect.
        mean, std: of the normalisation that is part of that preprocessing, one a channel.
        dtype: of the kernels, float32 or bfloat16; `save_bundle` fills it in.
        source: where the weights come from.
        licence: its name.
        terms_of_use: what else is asked of whoever uses the weights; "" for nothing.
        training_data: one sentence.
        dropped: what of the source is not in the bundle, such as its classifier.
        trained: False for random numbers, whatever they are called.
        preset_version: of that preset when the weights were made; 1 in cards that do not say.
        settings: of the pretraining by this program, as text; empty where another one did it.
        format_version: of this card.
        digest: `digest` of the variables; `save_bundle` fills it in.
        checkpoint_bytes: size of the checkpoint's files, likewise; finds a broken download early.
    """

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
        offered = embedding_widths(self.variant, self.head_width, self.projection is not None)
        if [*self.embeddings.items()] != [*offered.items()]:  # the first is the default
            raise ValueError(
                f"card: embeddings are {self.embeddings}, but {self.variant} with head_width="
                f"{self.head_width} and projection={self.projection} offers {offered}: correct "
                "whichever is wrong"
            )
        if self.resolution <= 0 or min(self.std) <= 0:
            raise ValueError(
                f"card: resolution {self.resolution} and std {self.std} must be positive"
            )


def load_card(path: str | os.PathLike) -> Card:
    """Reads and checks a bundle's card.

    Raises:
        FileNotFoundError: there is no card.
        ValueError: it is not JSON, its format is newer than this program, or a field is missing,
            unknown, of another type or contradicts the others.
    """
    file = pathlib.Path(path) / CARD
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} not found: expected a weights bundle, a folder with {CARD} and {CHECKPOINT}/"
        )
    try:
        fields = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}; make the bundle again") from None
    hints = typing.get_type_hints(Card)
    if not isinstance(fields, dict):
        raise ValueError(f"{file} holds a {type(fields).__name__}, expected fields {[*hints]}")
    version = fields.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{file} has format_version {version}, this program reads up to {FORMAT_VERSION}: "
            "update cxr-embeddings"
        )
    fields = {"preset_version": 1, "settings": {}} | fields  # which older cards do not have
    problems = [f"missing: {name}" for name in hints if name not in fields]
    for name, value in fields.items():
        if name not in hints:
            problems.append(f"not expected: {name}")
        elif not _fits(value, hints[name]):
            problems.append(f"{name} is {value!r}, expected {hints[name]}")
    if problems:
        raise ValueError(f"{file} does not fit the format of cards:\n  " + "\n  ".join(problems))
    for name in ("mean", "std"):
        fields[name] = tuple(map(float, fields[name]))
    return Card(**fields)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value out of JSON is of a type; lists stand for tuples and integers for floats."""
    parts = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType:
            return any(_fits(value, part) for part in parts)
        case kind if kind is dict:
            return isinstance(value, dict) and all(_fits(v, parts[1]) for v in value.values())
        case kind if kind is list:
            return isinstance(value, list) and all(_fits(v, parts[0]) for v in value)
        case kind if kind is tuple:
            same_length = isinstance(value, list) and len(value) == len(parts)
            return same_length and all(map(_fits, value, parts))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint
