"""Chest X-ray films in, one embedding a film out: `python scripts/embed.py --config ...`."""

import collections
import dataclasses
import functools
import importlib.metadata
import math
import os
import sys
import time
from collections.abc import Sequence
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
MAX_FILE_BYTES = 2_000_000_000  # a file is gathered in memory before it is written


def embed(config: EmbedConfig) -> int:
    """Runs the whole job. Returns the exit code: 0 if every film got what it deserves."""
    if cli.unset(config, REQUIRED, USAGE):
        return 2
    config.input.views = kept_views(config.input.views)
    if config.input.workers < 0:
        raise ValueError(f"input.workers is {config.input.workers}; expected 0 or more")

    from input_pipeline import files, outputs

    source, folder = files.absolute(config.input.path), files.absolute(config.output.path)
    listing = files.list_inputs(source, config.input.limit)
    report_listing(source, listing)
    layout, format = config.output.layout, config.output.format
    planned = outputs.plan(listing.files, layout, format, config.output.shards)

    from encoder import efficientnet, sharding
    from encoder import embed as encoder

    mesh = sharding.make_mesh(config.encoder.model_parallel)
    if config.batch_size < 1 or config.batch_size % mesh.shape["data"]:
        raise ValueError(
            f"batch_size is {config.batch_size}; expected a positive multiple of "
            f"{mesh.shape['data']}, the number of devices that share a batch"
        )
    card, model, variables = load_encoder(config.encoder, mesh)
    layer = config.encoder.embedding or next(iter(card.embeddings))
    shape = efficientnet.embedding_shape(card.embeddings[layer], layer, card.resolution)
    check_memory(shape, planned)
    identity = {
        "input": source,
        "views": config.input.views,
        "weights": card.source,
        "weights_digest": card.digest,
        "trained": card.trained,
        "projection": card.projection if layer == "projection" else None,
        "variant": card.variant,
        "embedding": layer,
        "shape": shape,
        "dtype": config.encoder.dtype,
        "resolution": card.resolution,
        "preset": card.preset,
        "mean": card.mean,
        "std": card.std,
        "layout": layout,
        "format": format,
    }
    details = {
        "config": dataclasses.asdict(config),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "devices": [device.device_kind for device in mesh.devices.flat],
    }
    with outputs.open_run(folder, planned, format, identity, details) as run:
        start = time.monotonic()
        if run.todo:
            forward = encoder.make_forward(model, variables, mesh, layer, card.mean, card.std)
            infer = functools.partial(encoder.embed, forward, variables, mesh)
            embed_films(run, config, card, infer)
        counts = run.finish()
    report_run(folder, run, counts, time.monotonic() - start)
    return 1 if counts["retryable"] or not counts["embedded"] else 0


def kept_views(views: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The views in capitals; None keeps all."""
    names = {name.upper() for name in views or ()}
    return None if not names or "ALL" in names else tuple(sorted(names))


def load_encoder(config: EncoderConfig, mesh: Any) -> tuple[Any, Any, Any]:
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
        print("warning: weights=random: these will be the embeddings of an untrained network")
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
        variables = jax.device_put(variables, place(variables))
    else:
        variables = weights.load_variables(bundle, card, dtype=config.dtype, place=place)
    return card, model, variables


def check_memory(shape: Sequence[int], planned: Sequence[Any]) -> None:
    """Raises ValueError where an output would be too large to be gathered in memory."""
    films = max(len(output.films) for output in planned)
    size = 4 * math.prod(shape)
    if films > 1 and films * size > MAX_FILE_BYTES:
        raise ValueError(
            f"each shard would hold {films} embeddings of {size / 1e6:.2f} MB; expected at most "
            f"{MAX_FILE_BYTES / 1e9:.0f} GB a shard: raise output.shards or choose layout per_image"
        )


def embed_films(run: Any, config: EmbedConfig, card: Any, infer: Any) -> None:
    """Takes every film of `run.todo` from its file to its embedding, with a progress bar."""
    import numpy as np
    from tqdm import tqdm

    from input_pipeline import pipeline

    workers = config.input.workers or len(os.sched_getaffinity(0))
    with tqdm(
        total=run.done + len(run.todo),
        initial=run.done,
        unit=" films",
        bar_format="{percentage:3.0f}% {bar} {n}/{total} films, {rate_noinv_fmt}, {remaining} left",
        mininterval=0.1 if sys.stderr.isatty() else 10,
    ) as bar:

        def drop(film: Any, why: Any) -> None:
            run.add(film, why)
            bar.update()

        decoded = pipeline.decode(
            run.todo,
            card.preset,
            card.resolution,
            config.input.views,
            workers,
            ahead=2 * max(config.batch_size, workers),
        )
        batches = pipeline.batches(decoded, config.batch_size, drop)
        for films, embeddings in infer((batch.films, batch.image) for batch in batches):
            for film, embedding in zip(films, embeddings, strict=False):  # no padded row
                if not np.isfinite(embedding).all():
                    raise ValueError(
                        f"the embedding of {film.path} is not finite: the weights are damaged, or "
                        f"too large for {config.encoder.dtype}"
                    )
                run.add(film, embedding)
            bar.update(len(films))


def report_listing(source: str, listing: Any) -> None:
    """Says what was found, and what of it is left alone."""
    print(f"{len(listing.files)} films in {source}", flush=True)
    for suffix, count in listing.ignored.items():
        print(f"  {count} files *{suffix} are no films by their name")
    if listing.repeated:
        print(f"  {listing.repeated} entries of the list name a film once more")


def report_run(folder: str, run: Any, counts: dict[str, int], seconds: float) -> None:
    """Says what became of the films, and where things lie."""
    new = counts["embedded"] - run.done
    notes = {
        "embedded": f"{new / seconds:.1f} films a second",
        "already done": f"{run.damaged} more were damaged and removed" if run.damaged else "",
    }
    for kind in ("skipped", "rejected"):
        reasons = collections.Counter(
            f"{why.reason} {why.detail}" if kind == "skipped" else why.reason
            for why in run.dropped.values()
            if type(why).__name__.lower() == kind
        )
        notes[kind] = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    numbers = {**counts, "embedded": new, "already done": run.done}
    for name, note in notes.items():
        print(f"{name:13}{numbers[name]:8}   {note}")
    if counts["retryable"]:
        print(
            f"warning: {counts['retryable']} films failed for reasons that may pass: the same "
            "command tries them again"
        )
    print(f"in {folder}, with manifest.json, skipped.csv, rejected.csv and SHA256SUMS.txt")


def main() -> None:
    cli.run(embed, EmbedConfig, "configs/embed.py", USAGE, "the same command goes on from here")


if __name__ == "__main__":
    main()
