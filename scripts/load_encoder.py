"""The encoder that a command line asks for, on the devices."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

from configs.schema import EncoderConfig


def load_encoder(
    config: EncoderConfig, mesh: Any, say: Callable[..., object] = print
) -> tuple[Any, Any, Any]:
    """The weights' card, the network and its variables on the devices.

    Raises:
        ValueError: the config contradicts the card, or asks for what the weights cannot give.
    """
    import jax

    from encoder import random_weights, sharding, weights
    from encoder.card import load_card
    from input_pipeline.preprocessing import PRESETS

    if config.dtype is None:
        config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if config.dtype not in ("bfloat16", "float32"):
        raise ValueError(f"encoder.dtype is {config.dtype!r}; expected bfloat16 or float32")
    random, bundle = config.weights == "random", os.path.expanduser(config.weights)
    if random:
        say("warning: weights=random: these will be the embeddings of an untrained network")
        name = config.preset or "native"
        preset = PRESETS.get(name, PRESETS["native"])
        card = random_weights.random_card(
            config.variant, config.resolution, name, preset.mean, preset.std
        )
    else:
        card = load_card(bundle)
    if card.preset not in PRESETS:
        raise ValueError(f"encoder.preset is {card.preset!r}; expected one of {', '.join(PRESETS)}")
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
    model = weights.model_for(card, config.dtype)
    place = functools.partial(sharding.variable_shardings, mesh)
    if random:
        variables = random_weights.random_variables(model, config.seed)
        card = dataclasses.replace(card, digest=weights.digest(variables))
        variables = weights.cast_kernels(variables, config.dtype)
        variables = sharding.put_variables(variables, place(variables))
    else:
        variables = weights.load_variables(bundle, card, dtype=config.dtype, place=place)
    return card, model, variables
