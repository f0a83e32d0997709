"""A trained head on the disk: an Orbax checkpoint beside a card that says what it is."""

import itertools
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
from annotated_types import Gt, Interval, Len
from typing_extensions import TypedDict

from cxr_embeddings.common import files, untrusted, writing
from cxr_embeddings.common.identities import Facts, differences

from .head import HeadNetwork
from .select import Trained

CARD, CHECKPOINT = "card.json", "head"
CARD_VERSION = 1

# What must be equal for two embeddings to come from one encoder: keys of a run's identity, and what
# a run means that was made before there was the key
ENCODER = (
    *("weights_digest", "projection", "variant", "embedding", "resolution", "preset"),
    *("preset_version", "mean", "std"),
)
MAX_NUMBERS = 1 << 28  # of a head, by the shapes that its card says: 1 GB


class EncoderIdentity(TypedDict, total=False):
    """The identity of the run that made the embeddings: the fields that something is read from."""

    __pydantic_config__ = untrusted.OPEN

    weights_digest: str
    projection: str | None
    variant: str
    embedding: str
    resolution: int
    preset: str
    preset_version: int
    mean: list[float]
    std: list[float]
    views: list[str] | None
    dtype: str


class HeadCard(TypedDict):
    """What something is read from, of a head's card; it says more."""

    __pydantic_config__ = untrusted.OPEN

    card_version: Annotated[int, Interval(ge=0, le=1000)]
    findings: Annotated[list[Annotated[str, Len(1, 1000)]], Len(1)]
    hidden: Annotated[list[Annotated[int, Interval(ge=1, le=2**20)]], Len(0, 16)]
    width: Annotated[int, Interval(ge=1, le=2**28)]
    temperatures: dict[str, Annotated[float, Gt(0)]]
    thresholds: dict[str, Annotated[dict[str, float | None], Len(1)]]
    encoder: EncoderIdentity | None
    embeddings_dtype: Literal["float32", "float16"]
    per_study: str
    studies_from_paths: bool


class Saved(NamedTuple):
    """A head that was read: what it computes with, and its card."""

    trained: Trained
    card: HeadCard


def save(folder: str | os.PathLike, trained: Trained, card: Mapping[str, Any]) -> None:
    """Writes a head into a folder that exists.

    Args:
        folder: gets `head/` and `card.json`.
        trained: the head.
        card: what else to say of it: plain JSON values.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    from orbax import checkpoint as ocp  # 0.7 s that only those who need it pay

    path = pathlib.Path(folder).absolute()
    numbers = {**trained.variables, "embedding": {"mean": trained.mean, "scale": trained.scale}}
    with writing.by_orbax(path), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / CHECKPOINT, numbers)
    network = {"hidden": list(trained.head.hidden), "width": len(trained.mean)}
    content = {"card_version": CARD_VERSION, **network, **card}
    (path / CARD).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_card(folder: str | os.PathLike) -> HeadCard:
    """Reads a head's card.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, contradicts itself, or is of another version.
    """
    path = pathlib.Path(folder).absolute() / CARD
    if not path.is_file():
        raise FileNotFoundError(f"no {CARD} in {folder}; expected a folder of train_head.py")
    advice = "this is no card of a head: train it again, or fetch it again"
    card = files.read_json(path, HeadCard, advice)
    version, findings = card["card_version"], card["findings"]
    if version != CARD_VERSION:
        raise ValueError(
            f"{path} has version {version}, expected {CARD_VERSION}: it is of another version of "
            "this program"
        )
    for name in ("temperatures", "thresholds"):
        if lacking := {*findings} - card[name].keys():
            raise ValueError(f"{path} has no {name} of {min(lacking)[:80]!r}: {advice}")
    sizes = [card["width"], *card["hidden"], len(findings)]
    if (numbers := sum(math.prod(pair) for pair in itertools.pairwise(sizes))) > MAX_NUMBERS:
        raise ValueError(
            f"{path} says a head of {numbers:,} numbers; expected at most {MAX_NUMBERS:,}: {advice}"
        )
    return card


def load(folder: str | os.PathLike) -> Saved:
    """Reads a head.

    Raises:
        FileNotFoundError: there is none.
        ValueError: its card or its numbers are damaged, or of another version.
    """
    from orbax import checkpoint as ocp

    path, card = pathlib.Path(folder).absolute(), read_card(folder)
    findings, hidden, width = card["findings"], tuple(card["hidden"]), card["width"]
    head = HeadNetwork(len(findings), hidden)
    shapes = jax.eval_shape(head.init, jax.random.key(0), np.zeros((1, width), np.float32))
    vector = jax.ShapeDtypeStruct((width,), np.float32)
    expected = {**shapes, "embedding": {"mean": vector, "scale": vector}}
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), expected
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            numbers = checkpointer.restore(path / CHECKPOINT, target)
    except Exception as error:  # Orbax, of a damaged checkpoint, raises this or that
        raise ValueError(
            f"{path / CHECKPOINT} cannot be read ({str(error)[:200]}): train the head again"
        ) from error
    numbers = jax.tree.map(np.asarray, numbers)
    standard = numbers.pop("embedding")
    trained = Trained(head, numbers, standard["mean"], standard["scale"], [], 0, "")
    return Saved(trained, card)


def check_encoder(card: Mapping[str, Any], encoder: Facts | None, width: int) -> None:
    """Raises ValueError unless embeddings are from the encoder that the head was trained on.

    Args:
        card: the head's.
        encoder: identity in the manifest of the embeddings; None where they have none.
        width: numbers in each of them.
    """
    if width != card["width"]:
        raise ValueError(
            f"the embeddings have {width:,} numbers, the head was trained on {card['width']:,}: "
            "embed the films with the encoder of the head's card"
        )
    trained_on = card["encoder"]
    if (encoder is None) != (trained_on is None):
        raise ValueError(
            f"the head was trained on embeddings {_with(trained_on)} manifest.json, these are "
            f"{_with(encoder)}: whether one encoder made both cannot be told; expected both with "
            "or both without"
        )
    places = ("of the head", "of the embeddings")
    differing = differences(trained_on or {}, encoder or {}, places, ENCODER)
    if differing:
        raise ValueError(
            "the embeddings are of another encoder than the head was trained on:\n"
            + "\n".join(differing)
            + "\nEmbed the films with the head's encoder, or train a head on these embeddings."
        )


def _with(encoder: Any) -> str:
    return "without a" if encoder is None else "with a"
