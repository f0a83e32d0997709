"""Chest X-ray films in, one embedding a film out: `python scripts/embed.py --config ...`."""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib.metadata
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cxr_embeddings import cli, film_sources
from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import EmbedConfig
from cxr_embeddings.loading import load_encoder, make_infer, make_mesh

if TYPE_CHECKING:
    import numpy as np

    from cxr_embeddings.encoder.card import Card
    from cxr_embeddings.input_pipeline.embeddings.output_plan import Output
    from cxr_embeddings.input_pipeline.embeddings.writer import Run
    from cxr_embeddings.input_pipeline.films.film import InputFile, Rejected, Skipped
    from cxr_embeddings.input_pipeline.hosts import Hosts

USAGE = """
python scripts/embed.py --config configs/mimic.py \\
    --input /data/mimic-cxr/files --weights /models/cxr-l2 --output /data/embeddings

Reads DICOM, PNG and JPEG films, embeds them and writes files beside a manifest, tables of skipped
and rejected films, and checksums. The same command again goes on where it ended.
"""
SHORT = {
    "input": "config.input.path",
    "weights": "config.encoder.weights",
    "output": "config.output.path",
}
REQUIRED = tuple(SHORT.values())
LIBRARIES = ("cxr-embeddings", "jax", "flax", "numpy", "pydicom", "imagecodecs", "pillow")
MAX_FILE_BYTES = 2_000_000_000  # a file is gathered in memory before it is written


# What is embedded and how (the manifest's identity), and the files of the run -> their folder
Place = Callable[[Mapping[str, Any], Sequence["Output"]], str]


def embed(config: EmbedConfig, place: Place | None = None) -> int:
    """Runs the whole job.

    Args:
        config: of the job.
        place: chooses the folder when it is known what goes there, or raises ValueError; None is
            `config.output.path`, which the user looks at.

    Returns:
        The exit code: 0 if nothing failed that a retry could fix, and some film was embedded.
    """
    config.input.views = cli.kept_views(config.input.views)
    if config.input.workers < 0:
        raise ValueError(f"input.workers is {config.input.workers}; expected 0 or more")
    return cli.on_hosts(functools.partial(embed_with, place=place), config)


def embed_with(hosts: Hosts, config: EmbedConfig, place: Place | None = None) -> int:
    """The part of the job that is this host's; as `embed`."""
    import numpy as np

    from cxr_embeddings.common import files
    from cxr_embeddings.encoder import embedding_layers
    from cxr_embeddings.encoder.embed import films_that_fit
    from cxr_embeddings.input_pipeline.embeddings import writer
    from cxr_embeddings.input_pipeline.films.presets import PRESETS

    say = (lambda *_, **__: None) if hosts.index else print
    files.bill(config.input.user_project)
    folder = paths.typed(config.output.path)
    source = film_sources.open_source(config, paths.typed(config.input.path), say)

    mesh = make_mesh(config.encoder)
    if config.batch_size < 0 or config.batch_size % mesh.shape["data"]:
        raise ValueError(
            f"batch_size is {config.batch_size}; expected a positive multiple of "
            f"{mesh.shape['data']}, the number of devices that share a batch, or 0"
        )
    card, model, variables = load_encoder(config.encoder, mesh, say)
    film_sources.check_store(source.identity, card)
    asked = hosts.gather(np.array([config.batch_size])).ravel().tolist()
    if len({*asked}) > 1:
        raise ValueError(f"batch_size differs between the hosts, {asked}; expected one for all")
    memory = mesh.local_devices[0].memory_stats()
    films = max(1, sum(len(output.films) for output in source.planned))
    wanted = math.ceil(films / mesh.shape["data"])
    fit = min(wanted, films_that_fit(card, config.encoder.dtype, memory)) * mesh.shape["data"]
    batch_size = asked[0] or int(hosts.gather(np.array([fit])).min())
    layer = config.encoder.embedding or next(iter(card.embeddings))
    shape = embedding_layers.embedding_shape(card.embeddings[layer], layer, card.resolution)
    check_memory(shape, source.planned)
    identity = {
        **source.identity,
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
        "preset_version": PRESETS[card.preset].version,
        "mean": card.mean,
        "std": card.std,
        "layout": source.layout,
        "format": config.output.format,
    }
    folder = place(identity, source.planned) if place else folder
    libraries = LIBRARIES + ("openvino",) * (config.encoder.engine == "openvino")
    details = {
        "config": dataclasses.asdict(config),
        "versions": {name: importlib.metadata.version(name) for name in libraries},
        "hosts": hosts.count,
        "devices": [device.device_kind for device in mesh.devices.flat],
        "batch_size": batch_size,
    }
    with writer.open_run(
        folder, source.planned, config.output.format, identity, details, hosts, source.refused
    ) as run:
        start = time.monotonic()
        if hosts.count > 1:
            say(f"  host 0 of {hosts.count} has {run.done + len(run.todo)} of them", flush=True)
        films = batch_size // hosts.count
        infer = make_infer(config.encoder, card, model, variables, mesh, layer, films)
        embed_films(run, films, source, card, infer, hosts)
        counts = run.finish(source.missing, source.given_up)
    if not hosts.index:
        report_run(run, counts, time.monotonic() - start)
        if not place:
            print(f"in {folder}, with manifest.json, skipped.csv, rejected.csv and SHA256SUMS.txt")
    return 1 if counts["retryable"] or not counts["embedded"] else 0


def check_memory(shape: Sequence[int], planned: Sequence[Output]) -> None:
    """Raises ValueError where an output would be too large to be gathered in memory."""
    films = max((len(output.films) for output in planned), default=0)
    size = 4 * math.prod(shape)
    if films > 1 and films * size > MAX_FILE_BYTES:
        raise ValueError(
            f"each shard would hold {films} embeddings of {size / 1e6:.2f} MB; expected at most "
            f"{MAX_FILE_BYTES / 1e9:.0f} GB a shard: raise output.shards or choose layout per_image"
        )


def embed_films(
    run: Run,
    batch_size: int,
    source: film_sources.Source,
    card: Card,
    infer: Callable[..., Iterator[tuple[Sequence[InputFile], np.ndarray]]],
    hosts: Hosts,
) -> None:
    """Takes every film of `run.todo` from its file to its embedding, with a progress bar.

    Args:
        run: of the outputs.
        batch_size: films of this host a step.
        source: of the films.
        card: of the weights.
        infer: (films, images) -> (films, embeddings), batch by batch.
        hosts: which all take the same number of steps, those that have less to do with padding.
    """
    import numpy as np

    bar = cli.progress(run.done + len(run.todo), run.done, hidden=bool(hosts.index))

    def drop(film: InputFile, why: Skipped | Rejected) -> None:
        run.add(film, why)
        bar.update()

    batches = source.batches(run, card, batch_size, drop) if run.todo else iter(())
    steps = ((batch.films, batch.image) for batch in batches)
    if hosts.count > 1:  # then it is a store, whose films all give an image
        here = math.ceil(len(run.todo) / batch_size)
        padding = [], np.zeros((batch_size, card.resolution, card.resolution, 1), np.float32)
        most = hosts.gather(np.array([here])).max()
        steps = itertools.chain(steps, itertools.repeat(padding, most - here))
    with bar:
        for films, embeddings in infer(steps):
            for film, embedding in zip(films, embeddings, strict=False):  # no padded row
                if not np.isfinite(embedding).all():
                    raise ValueError(
                        f"the embedding of {film.path} is not finite: the weights are damaged, or "
                        "too large for the dtype"
                    )
                run.add(film, embedding)
            bar.update(len(films))


def report_run(run: Run, counts: dict[str, int], seconds: float) -> None:
    """Says what became of the films."""
    from cxr_embeddings.input_pipeline import run_folder

    new = counts["embedded"] - counts["before"]
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
    numbers = {**counts, "embedded": new, "already done": counts["before"]}
    for name, note in notes.items():
        print(f"{name:13}{numbers[name]:8}   {note}")
    if counts["retryable"]:
        print(
            f"warning: {counts['retryable']} films failed for reasons that may pass: the same "
            "command tries them again, of a store after preprocess.py has"
        )
    if counts["given_up"]:
        print(
            f"warning: {counts['given_up']} films were given up: they failed in "
            f"{run_folder.TRIES} runs, and the run counts as complete without them"
        )


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(
        embed,
        EmbedConfig,
        "configs/embed.py",
        USAGE,
        "the same command goes on from here",
        required=REQUIRED,
        short=SHORT,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
