"""What pretraining starts from: a weights bundle, or random numbers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from cxr_embeddings.card_check import bundle_of
from cxr_embeddings.configs.schema_pretraining import NetworkConfig
from cxr_embeddings.encoder import random_weights, weights
from cxr_embeddings.encoder.card import Card, load_card
from cxr_embeddings.encoder.efficientnet import EfficientNet
from cxr_embeddings.encoder.weights import Variables
from cxr_embeddings.input_pipeline.films.presets import PRESETS


def resolved(config: NetworkConfig) -> NetworkConfig:
    """The settings with the dtype of this machine's devices where none is given."""
    dtype = config.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    if dtype not in ("bfloat16", "float32"):
        raise ValueError(f"network.dtype is {dtype!r}; expected bfloat16 or float32")
    return dataclasses.replace(config, dtype=dtype)


def load(
    config: NetworkConfig, seed: int, store: Mapping[str, Any], say: Callable[[str], object]
) -> tuple[Card, EfficientNet, Variables, dict[str, int]]:
    """The card of what is to be trained, the network, and its first variables in float32.

    Last, of each layer that starts from random numbers, from which channel on it does.

    Digest, source, terms and `trained` of the card are those of the bundle that it starts from. The
    embedding is this project's own, of 4,096 numbers; a bundle's narrower head gives the first of
    them, the others start from random numbers. Preset and size are of the store, by its identity.

    Raises:
        ValueError: the options contradict the bundle.
    """
    preset, size, version = store["preset"], store["size"], store.get("preset_version", 1)
    rule, variant, origin = PRESETS[preset], config.variant or "b0", None
    if config.weights != "random":
        origin = load_card(path := bundle_of(config.weights))
        if config.variant not in (None, origin.variant):
            raise ValueError(
                f"network.variant is {config.variant!r}, but the card of {path} says "
                f"{origin.variant!r}: leave the option out, or choose other weights"
            )
        variant, rule = origin.variant, origin
        if (origin.preset, origin.preset_version) != (preset, version):
            say(
                f"note: films prepared by {preset}, version {version}; weights to start from of "
                f"{origin.preset}, version {origin.preset_version}"
            )
    card = random_weights.random_card(variant, size, preset, rule.mean, rule.std, version)
    model = weights.model_for(card, config.dtype or "float32").clone(remat=config.remat)
    variables = random_weights.random_variables(model, seed)
    random = {layer: 0 for layer in variables["params"]}
    if origin:
        found = weights.load_variables(path, origin)
        variables, random = weights.graft(found, variables)
        parts = (f"{layer} from channel {first} on" for layer, first in sorted(random.items()))
        say(f"starts from {path}; from random numbers: {', '.join(parts) or 'nothing'}")
        kept = ("digest", "source", "licence", "terms_of_use", "training_data", "trained")
        card = dataclasses.replace(card, **{name: getattr(origin, name) for name in kept})
    return card, model, variables, random


def calibrated(
    variables: Variables, first: int, maps: Float32[np.ndarray, "position channel"]
) -> Variables:
    """With the statistics of the head's channels from `first` on that films have.

    Args:
        maps: positions of feature maps of films.
    """
    kernel = np.asarray(variables["params"]["head_conv"]["kernel"])[0, 0, :, first:]
    found = {"mean": (maps @ kernel).mean(0), "var": (maps @ kernel).var(0)}
    kept = variables["batch_stats"]["head_bn"]
    joined = {name: np.concatenate([kept[name][:first], found[name]]) for name in kept}
    return {**variables, "batch_stats": {**variables["batch_stats"], "head_bn": joined}}
