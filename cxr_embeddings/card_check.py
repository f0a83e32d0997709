"""Where weights lie, and whether their card is what was asked for."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import EncoderConfig

if TYPE_CHECKING:
    from cxr_embeddings.encoder.card import Card

CACHE = "~/.cache/cxr_embeddings"  # of weights that were converted when they were first loaded
DEMO = pathlib.Path(__file__).parent / "weights/demo"  # in any install


def read_card(config: EncoderConfig, say: Callable[[str], object]) -> Card:
    """The card of the weights. Raises ValueError where the config contradicts it."""
    from cxr_embeddings.encoder import random_weights
    from cxr_embeddings.encoder.card import load_card
    from cxr_embeddings.input_pipeline.films.presets import PRESETS

    if config.weights == "random":
        say("warning: weights=random: these will be the embeddings of an untrained network")
        name = config.preset or "native"
        preset = PRESETS.get(name, PRESETS["native"])
        card = random_weights.random_card(
            config.variant, config.resolution, name, preset.mean, preset.std, preset.version
        )
    else:
        card = load_card(bundle_of(config.weights))
    if card.preset not in PRESETS:
        raise ValueError(f"encoder.preset is {card.preset!r}; expected one of {', '.join(PRESETS)}")
    check_version(card, say)
    for name in ("variant", "resolution", "preset"):
        asked, given = getattr(config, name), getattr(card, name)
        if asked not in (None, given):
            raise ValueError(
                f"config.encoder.{name} is {asked!r}, but the card of {config.weights} says "
                f"{given!r}: leave the option out, or choose other weights"
            )
    if config.embedding not in (None, *card.embeddings):
        offers = ", ".join(f"{name} ({width:,})" for name, width in card.embeddings.items())
        raise ValueError(
            f"encoder.embedding is {config.embedding!r}, but the card of {config.weights} offers "
            f"{offers}. head is this project's own, of 4,096 numbers; `convert_weights.py "
            "--projection orthonormal:0` adds an untrained map to 4,096 numbers, named projection"
        )
    return card


def bundle_of(weights: str) -> pathlib.Path:
    """The folder of the weights; those of the Hub are converted once.

    Raises OSError where there is none, and as `conversion.convert`.
    """
    if weights == "demo":
        return DEMO
    if weights.startswith("hf:"):
        parts = weights.split("/")
        bundle = pathlib.Path(CACHE).expanduser() / "--".join(parts)
        if not bundle.exists():
            from cxr_embeddings import conversion

            wanted = conversion.Wanted()
            conversion.convert("/".join(parts[:2]), "/".join(parts[2:]), str(bundle), wanted)
        return bundle
    bundle = paths.typed_local(weights, "weights")
    if not bundle.exists():
        raise FileNotFoundError(
            f"the weights {bundle} do not exist; expected the folder of a weights bundle, as "
            f"convert_weights.py and pretrain.py make them, or demo for those in {DEMO}"
        )
    return bundle


def check_version(card: Card, say: Callable[[str], object]) -> None:
    """Notes that weights were made with films prepared by an older version of their preset.

    Raises:
        ValueError: the version is newer than this program.
    """
    from cxr_embeddings.input_pipeline.films.presets import PRESETS

    made, now = card.preset_version, PRESETS[card.preset].version
    if made > now:
        raise ValueError(
            f"the weights' card has version {made} of the preset {card.preset}, this program has "
            f"{now}: update cxr-embeddings"
        )
    if made < now:
        say(
            f"note: the weights are of version {made} of the preset {card.preset}; films are "
            f"prepared by version {now} (docs/films.md says what differs)"
        )
