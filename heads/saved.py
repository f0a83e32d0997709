"""A trained head on the disk: an Orbax checkpoint beside a card that says what it is."""

import itertools
import json
import math
import os
import pathlib
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

import jax
import numpy as np
from annotated_types import Gt, Interval, Len
from typing_extensions import TypedDict

from cxr_embeddings.common import files, untrusted, writing
from cxr_embeddings.common.identities import Facts, differences

from . import distance, inputs
from .distance import Spread
from .inputs import Inputs
from .network import HeadNetwork
from .select import Candidate, Trained
from .statistics.metrics import Chosen
from .statistics.results import Measurements

CARD, CHECKPOINT, METRICS = "card.json", "head", "metrics.json"
CARD_VERSION = 2  # 1 had no distance to the training films
WITH_INPUTS = 3  # of heads that see more than the film, which readers of 2 would give films alone

# What must be equal for two embeddings to come from one encoder: keys of a run's identity
ENCODER = (
    *("weights_digest", "projection", "variant", "embedding", "resolution", "preset"),
    *("preset_version", "mean", "std"),
)
MAX_NUMBERS = 1 << 28  # of a head, by the shapes that its card says: 1 GB


@untrusted.may_have_more
class EncoderIdentity(TypedDict, total=False):
    """The identity of the run that made the embeddings: the fields that something is read from."""

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


@untrusted.may_have_more
class _MetricsFile(TypedDict):
    """What must be in metrics.json; what follows is as the version that wrote it had it."""

    split: Literal["tune", "test"]
    counts: dict[str, dict[str, Any]]
    notes: list[dict[str, Any]]
    results: dict[str, Any]


@untrusted.may_have_more
class HeadCard(TypedDict):
    """What something is read from, of a head's card; it says more."""

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
    inputs: NotRequired[Inputs | None]  # what the head sees beside the embedding


class WholeCard(HeadCard):
    """A card as it is written: also how the head was chosen, and what it was made from."""

    chosen: Candidate
    candidates: list[Candidate]
    out_of_distribution_share_of_tune: float  # of the films that the limit of distance is set on
    note: str
    config: dict[str, Any]


class Saved(NamedTuple):
    """A head that was read: what it computes with, and its card."""

    trained: Trained
    spread: Spread  # of the films that it was trained on
    card: HeadCard


def make_card(
    trained: Trained, chosen: Mapping[str, Chosen], provenance: Mapping[str, object]
) -> WholeCard:
    """The card of a head; `provenance` has plain values, and the other fields of `WholeCard`."""
    card = {
        "card_version": WITH_INPUTS if provenance["inputs"] else CARD_VERSION,
        "hidden": trained.head.hidden,
        "findings": [*chosen],
        "temperatures": {name: one.temperature for name, one in chosen.items()},
        "thresholds": {name: one.thresholds for name, one in chosen.items()},
        "out_of_distribution_share_of_tune": distance.SHARE,
        "chosen": trained.candidates[trained.chosen],
        "candidates": trained.candidates,
        "note": trained.note,
        **provenance,
    }
    return json.loads(json.dumps(card, allow_nan=False))  # with lists for tuples, as on the disk


def save(folder: pathlib.Path, head: Saved, measured: Measurements | None) -> None:
    """Writes `head/`, `card.json` and, where something was measured, `metrics.json`.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    from orbax import checkpoint as ocp  # 0.7 s that only those who need it pay

    path, trained = folder.absolute(), head.trained
    standard = {"mean": trained.mean, "scale": trained.scale}
    numbers = {**trained.variables, "embedding": standard, "spread": head.spread._asdict()}
    with writing.by_orbax(path), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / CHECKPOINT, numbers)
    (path / CARD).write_text(json.dumps(head.card, indent=2, allow_nan=False) + "\n")
    if measured is not None:
        write_metrics(path, measured)


def write_metrics(folder: pathlib.Path, measured: Measurements) -> None:
    """Writes metrics.json. Raises OSError."""
    (folder / METRICS).write_text(json.dumps(measured, indent=2, allow_nan=False))


def read_metrics(folder: str | os.PathLike) -> Measurements | None:
    """What was measured of a head when it was trained; None where its folder does not say.

    Raises:
        ValueError: the file is damaged.
    """
    path = pathlib.Path(folder) / METRICS
    if not path.is_file():
        return None
    found = files.read_json(path, _MetricsFile, "train the head again, or fetch it again")
    return typing.cast(Measurements, found)


def read_card(folder: str | os.PathLike) -> HeadCard:
    """Reads a head's card.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, contradicts itself, or is of another version.
    """
    path = pathlib.Path(folder).absolute() / CARD
    if not path.is_file():
        raise FileNotFoundError(f"no {CARD} in {folder}; expected a folder of train_head.py")
    advice = "this is not the card of a head: train the head again, or get it again"
    card = files.read_json(path, HeadCard, advice)
    version, findings = card["card_version"], card["findings"]
    beside = card.get("inputs")
    if version != (WITH_INPUTS if beside else CARD_VERSION):
        raise ValueError(
            f"{path} has version {version}, expected {CARD_VERSION}, or {WITH_INPUTS} with inputs: "
            "another version of this program wrote it; train the head again"
        )
    for name in ("temperatures", "thresholds"):
        if lacking := {*findings} - card[name].keys():
            raise ValueError(f"{path} has no {name} of {min(lacking)[:80]!r}: {advice}")
    width = inputs.width(beside, card["width"])
    sizes = [distance.axes_of(width), width, *card["hidden"], len(findings)]
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
    head, whole = HeadNetwork(len(findings), hidden), inputs.width(card.get("inputs"), width)
    shapes = jax.eval_shape(head.init, jax.random.key(0), np.zeros((1, whole), np.float32))
    axes = distance.axes_of(width)
    seen, vector, matrix, scale = (
        jax.ShapeDtypeStruct(shape, np.float32)
        for shape in ((whole,), (width,), (axes, width), (axes + 1,))
    )
    expected = {
        **shapes,
        "embedding": {"mean": seen, "scale": seen},
        "spread": Spread(vector, matrix, scale)._asdict(),  # type: ignore[arg-type]  # shapes
    }
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
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers)):
        raise ValueError(
            f"{path / CHECKPOINT} has numbers that are not finite: train the head again"
        )
    standard, spread = numbers.pop("embedding"), Spread(**numbers.pop("spread"))
    trained = Trained(head, numbers, standard["mean"], standard["scale"], [], 0, "")
    return Saved(trained, spread, card)


def check_encoder(card: HeadCard, encoder: Facts | None, width: int) -> None:
    """Raises ValueError unless embeddings are from the encoder that the head was trained on.

    `encoder` is the identity in their manifest, None where they have none.
    """
    if width != card["width"]:
        raise ValueError(
            f"the embeddings have {width:,} numbers, the head was trained on {card['width']:,}: "
            "embed the films with the encoder of the head's card"
        )
    trained_on = card["encoder"]
    if trained_on is None or encoder is None:
        if encoder is not trained_on:
            ours, theirs = ("no" if one is None else "a" for one in (trained_on, encoder))
            raise ValueError(
                f"the head was trained on embeddings with {ours} manifest.json, these have "
                f"{theirs} manifest.json: expected both, to tell whether one encoder made them"
            )
        return
    places = ("of the head", "of the embeddings")
    plain = json.loads(json.dumps(encoder))  # with lists for tuples, as cards have them
    differing = differences(trained_on, plain, places, ENCODER)
    if differing:
        raise ValueError(
            "the embeddings are of another encoder than the head was trained on:\n"
            + "\n".join(differing)
            + "\nEmbed the films with the head's encoder, or train a head on these embeddings."
        )
