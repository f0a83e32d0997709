"""Chest X-ray films in, one embedding a film out: `python scripts/embed.py --config ...`."""

import collections
import dataclasses
import importlib.metadata
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from configs.schema import EmbedConfig, EncoderConfig
from scripts import cli

USAGE = """
python scripts/embed.py --config configs/mimic.py \\
    --config.input.path=/data/mimic-cxr/files \\
    --config.encoder.weights=/models/cxr-l2 \\
    --config.output.path=/data/embeddings

Reads DICOM, PNG and JPEG films, embeds them and writes files beside a manifest, tables of skipped
and rejected films, and checksums. The same command again goes on where it ended.
"""
REQUIRED = ("config.input.path", "config.encoder.weights", "config.output.path")
LIBRARIES = ("cxr-embeddings", "jax", "flax", "numpy", "pydicom", "imagecodecs", "pillow")


def choose_weights(config: EncoderConfig) -> Any:
    """The card of the weights that the config asks for. Raises ValueError if the two disagree."""
    from encoder import weights
    from input_pipeline.preprocessing import PRESETS

    if config.weights == "random":
        name = config.preset or "native"
        if name not in PRESETS:
            raise ValueError(f"preset is {name!r}; expected one of {', '.join(PRESETS)}")
        preset = PRESETS[name]
        card = weights.random_card(config.variant, config.resolution, name, preset.mean, preset.std)
        print("WARNING: the weights are random: the embeddings mean nothing", file=sys.stderr)
    else:
        card = weights.load_card(config.weights)
    for name in ("variant", "resolution", "preset"):
        asked, given = getattr(config, name), getattr(card, name)
        if asked not in (None, given):
            raise ValueError(
                f"config.encoder.{name} is {asked!r}, but the card of {config.weights} says "
                f"{given!r}: leave the option out, or choose other weights"
            )
    if config.embedding not in card.embeddings:
        offered = ", ".join(f"{name} ({width})" for name, width in card.embeddings.items())
        raise ValueError(
            f"config.encoder.embedding is {config.embedding!r}; {config.weights} offers {offered}"
        )
    if config.dtype not in ("bfloat16", "float32"):
        raise ValueError(f"config.encoder.dtype is {config.dtype!r}; expected bfloat16 or float32")
    return card


def embed(config: EmbedConfig) -> int:
    """Runs the whole job and returns the exit code."""
    if unset := [(n, text) for n, value, text in cli.fields(config) if n in REQUIRED and not value]:
        print("error: still to be said:")
        print("\n".join(f"  --{name}: {text}" for name, text in unset))
        print(f"\nFor example:\n{USAGE}")
        return 2
    start = time.monotonic()
    views = kept_views(config.input.views)

    from input_pipeline import files, outputs

    folder = files.absolute(config.output.path)
    listing = files.list_inputs(config.input.path, config.input.limit)
    planned = outputs.plan(
        listing.files, config.output.layout, config.output.format, config.output.shards
    )
    describe(listing)

    import jax
    from tqdm import tqdm

    from encoder import embed as encoder
    from encoder import sharding, weights
    from input_pipeline import pipeline

    card = choose_weights(config.encoder)
    mesh = sharding.make_mesh(config.encoder.model_parallel)
    model = weights.model_for(card, config.encoder.dtype)
    variables = ...
    forward = encoder.make_forward(
        model, variables, mesh, config.encoder.embedding, card.mean, card.std
    )
    identity = {}
    with outputs.open_run(folder, planned, config.output.format, identity, details) as run:
        pass
    return 0
