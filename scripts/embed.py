"""Chest X-ray films in, one embedding a film out: `python scripts/embed.py --config ...`."""

import collections
import dataclasses
import functools
import importlib.metadata
import os
import sys
import time
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


def embed(config: EmbedConfig) -> int:
    """Runs the whole job and returns the exit code."""
    if unset := [(n, text) for n, value, text in cli.fields(config) if n in REQUIRED and not value]:
        print("error: still to be said:")
        print("\n".join(f"  --{name}: {text}" for name, text in unset))
        print(f"\nFor example:\n{USAGE}")
        return 2

    from input_pipeline import files, outputs

    source, folder = files.absolute(config.input.path), files.absolute(config.output.path)
    listing = files.list_inputs(source, config.input.limit)
    report_listing(source, listing)
    layout, format = config.output.layout, config.output.format
    planned = outputs.plan(listing.files, layout, format, config.output.shards)
    views = config.input.views = kept_views(config.input.views)

    from encoder import embed as encoder
    from encoder import sharding

    mesh = sharding.make_mesh(config.encoder.model_parallel)
    if config.batch_size < 1 or config.batch_size % mesh.shape["data"]:
        raise ValueError(
            f"batch_size is {config.batch_size}; expected a positive multiple of "
            f"{mesh.shape['data']}, the number of devices that share a batch"
        )
    card, model, variables = load_encoder(config.encoder, mesh)
    layer = config.encoder.embedding
    forward = encoder.make_forward(model, variables, mesh, layer, card.mean, card.std)
    identity = {
        "input": source,
        "views": views,
        "weights": card.source,
        "weights_digest": card.digest,
        "trained": card.trained,
        **{name: getattr(card, name) for name in ("variant", "resolution", "preset")},
        **{"embedding": layer, "width": card.embeddings[layer], "dtype": config.encoder.dtype},
        **{"layout": layout, "format": format},
    }
    details = {
        "config": dataclasses.asdict(config),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "devices": [device.device_kind for device in mesh.devices.flat],
    }
    with outputs.open_run(folder, planned, format, identity, details) as run:
        start = time.monotonic()
        if run.todo:
            infer = functools.partial(encoder.embed, forward, variables, mesh)
            work(run, config, card, infer)
        counts = run.finish()
    report_run(folder, run, counts, time.monotonic() - start)
    return 0


def kept_views(views: tuple[str | None, ...] | None) -> tuple[str, ...] | None:
    """`--config.input.views=AP,PA` arrives as ("AP,PA",), and `=None` as (None,)."""
    names = [name.strip().upper() for entry in views or () for name in (entry or "all").split(",")]
    return None if not names or "ALL" in names else tuple(names)


def load_encoder(config: EncoderConfig, mesh: Any) -> tuple[Any, Any, Any]:
    """The weights' card, the network and its variables on the devices.

    Raises:
        ValueError: the config contradicts the card, or asks for what the weights cannot give.
    """
    import jax

    from encoder import sharding, weights
    from input_pipeline.preprocessing import PRESETS

    if config.dtype not in ("bfloat16", "float32"):
        raise ValueError(f"encoder.dtype is {config.dtype!r}; expected bfloat16 or float32")
    if config.weights == "random":
        print("warning: weights=random: these will be the embeddings of an untrained network")
        name = config.preset or "native"
        if name not in PRESETS:
            raise ValueError(f"encoder.preset is {name!r}; expected one of {', '.join(PRESETS)}")
        normalisation = {"mean": PRESETS[name].mean, "std": PRESETS[name].std}
        card = weights.random_card(config.variant, config.resolution, name, **normalisation)
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
        offers = ", ".join(f"{name} ({width})" for name, width in card.embeddings.items())
        raise ValueError(f"encoder.embedding is {config.embedding!r}; the weights offer {offers}")
    model = weights.model_for(card, config.dtype)
    place = sharding.variable_shardings(mesh, weights.abstract_variables(model))
    if config.weights == "random":
        variables = weights.random_variables(model, config.seed)
        card = dataclasses.replace(card, digest=weights.digest(variables))
        return card, model, jax.device_put(weights.cast_kernels(variables, config.dtype), place)
    return (
        card,
        model,
        weights.load_variables(config.weights, card, dtype=config.dtype, shardings=place),
    )


def work(run: Any, config: EmbedConfig, card: Any, infer: Any) -> None:
    """Takes every film of `run.todo` from its file to its embedding, with a progress bar."""
    from tqdm import tqdm

    from input_pipeline import pipeline

    total = run.done + len(run.todo)
    with tqdm(
        total=total,
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
            workers=config.input.workers or os.cpu_count(),
            ahead=2 * config.batch_size,
        )
        batches = pipeline.batches(decoded, config.batch_size, drop)
        for films, embeddings in infer((batch.films, batch.image) for batch in batches):
            for film, embedding in zip(films, embeddings, strict=False):  # no padded row
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
        "already done": f"{run.damaged} more were damaged and made again" if run.damaged else "",
    }
    for kind in ("skipped", "rejected"):
        reasons = collections.Counter(
            f"{why.reason} {why.detail}" if kind == "skipped" else why.reason
            for why in run.dropped.values()
            if type(why).__name__.lower() == kind
        )
        notes[kind] = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    numbers = {"embedded": new, "already done": run.done} | counts | {"embedded": new}
    for name, note in notes.items():
        print(f"{name:13}{numbers[name]:8}   {note}")
    print(f"in {folder}, with manifest.json, skipped.csv, rejected.csv and SHA256SUMS.txt")


def main() -> None:
    cli.run(embed, EmbedConfig, USAGE)


if __name__ == "__main__":
    main()
