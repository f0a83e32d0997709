"""Films of a folder to embeddings in a folder: the job of `scripts/embed.py` and of `cxr.embed`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cxr_embeddings import __version__
from cxr_embeddings.common import paths, progress
from cxr_embeddings.configs.schema import EmbedConfig, EncoderConfig, InputConfig, OutputConfig
from cxr_embeddings.errors import translated
from cxr_embeddings.film_sources import FilmSource, check_store, open_source
from cxr_embeddings.loading import Encoder, open_encoder

if TYPE_CHECKING:
    from cxr_embeddings.input_pipeline.embeddings.output_plan import Output
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings
    from cxr_embeddings.input_pipeline.embeddings.writer import Run
    from cxr_embeddings.input_pipeline.films.film import InputFile, Rejected, Skipped
    from cxr_embeddings.input_pipeline.hosts import Hosts

    # What is embedded and how (the manifest's identity), and the files of the run -> their folder
    Place = Callable[[Mapping[str, object], Sequence[Output]], str]

LIBRARIES = ("jax", "flax", "numpy", "pydicom", "imagecodecs", "pillow")
MAX_FILE_BYTES = 2_000_000_000  # a file is gathered in memory before it is written


class Done(NamedTuple):
    """A run that has ended."""

    folder: str  # of the embeddings; absolute, or an address
    counts: Mapping[str, int]  # films by what became of them; see `Run.finish`

    @property
    def is_success(self) -> bool:
        """Whether some film is embedded, and none failed that another run may read."""
        return bool(self.counts["embedded"]) and not self.counts["retryable"]


@translated
def embed(
    input: str | os.PathLike,
    encoder: Encoder,
    output: str | os.PathLike,
    *,
    views: Sequence[str] | None = None,
    chest_only: bool = False,
    limit: int | None = None,
    layout: str | None = None,
    format: str = "tfrecord",
    shards: int = 32,
    workers: int = 0,
    user_project: str | None = None,
    data_set: str | os.PathLike = "",
    metadata_path: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> Embeddings:
    """Embeds the films of a folder into files, as `scripts/embed.py` does.

    Called again with the same arguments, it goes on where it ended.

    Args:
        input: folder of films (searched recursively), a glob, a list of files, or a store.
        encoder: from `load_encoder`.
        output: folder of the embeddings.
        views: keep films whose ViewPosition is one of these, such as ["AP", "PA"], or absent;
            None keeps all.
        chest_only: skip films whose header names another body part or modality, such as HIP or
            CT; else they are only counted, and listed in not_chest.csv.
        limit: embed only the first so many films of the sorted listing.
        layout: "per_image" or "sharded"; None: per_image for films, sharded for a store.
        format: "tfrecord", "npz" or, of sharded files, "parquet".
        shards: number of files of the sharded layout.
        workers: processes that decode films; 0: one for each processor.
        user_project: Google Cloud project that pays for reading requester-pays buckets.
        data_set: whose films these are, such as "padchest", or a TOML file that describes another:
            its table tells the views.
        metadata_path: that table; None: those that the data set has, in the folder of films.
        cache: local folder for the table of the embeddings; None: in their own.
        progress: print what is done; None: in a terminal or a notebook.

    Returns:
        The embeddings, mapped from the disk: `image_id`, `embedding` float32 [film dim], and in
        `rejected` the films that could not be read.

    Raises:
        InputError: the options contradict one another, or the folder was made by another run.
        FileError: the films are not there, or the folder cannot be written.
    """
    config = EmbedConfig(
        InputConfig(
            os.fspath(input),
            tuple(views or ()),
            chest_only,
            limit,
            user_project,
            os.fspath(data_set),
            os.fspath(metadata_path) if metadata_path else None,
            workers=workers,
        ),
        encoder.settings,
        OutputConfig(os.fspath(output), layout, format, shards),
        encoder.batch_size,
    )
    done = run_job(config, encoder=encoder, shown=progress)
    if done.counts["embedded"]:
        return read_embeddings(done.folder, cache=cache, progress=progress)
    return _nothing(done, encoder)


@translated
def read_embeddings(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    cache: str | os.PathLike | None = None,
    dtype: str = "float32",
    progress: bool | None = None,
) -> Embeddings:
    """Reads folders of embeddings, of any layout and format, as one table.

    Args:
        path: folder, file or address of embeddings; several of them; or a .txt file that lists
            them.
        cache: local folder for the table, which is made once; None: .table in the first folder.
        dtype: "float32", or "float16" for half the size.
        progress: show a progress bar; None: in a terminal or a notebook.

    Returns:
        The embeddings, mapped from the disk: `image_id`, `embedding` [film dim].

    Raises:
        InputError: the folders are of different encoders, or a film is there twice.
        FileError: no embeddings are there, or the table cannot be written.
    """
    from cxr_embeddings.input_pipeline.embeddings.table import read_table

    places = [path] if isinstance(path, str | os.PathLike) else path
    folder = None if cache is None else os.fspath(cache)
    return read_table([os.fspath(place) for place in places], folder, dtype, progress)


def run_job(
    config: EmbedConfig,
    hosts: Hosts | None = None,
    *,
    encoder: Encoder | None = None,
    place: Place | None = None,
    shown: bool | None = True,
) -> Done:
    """Runs the whole job, or this host's part of it.

    Args:
        config: of the job.
        hosts: the processes that share it; None: this one alone.
        encoder: None: the one that the config asks for.
        place: chooses the folder when it is known what goes there, or raises ValueError; None is
            `config.output.path`, which the user looks at.
        shown: print what is done; None: in a terminal or a notebook.
    """
    from cxr_embeddings.input_pipeline.embeddings import writer
    from cxr_embeddings.input_pipeline.films.film import kept_views
    from cxr_embeddings.input_pipeline.hosts import ALONE

    hosts = hosts or ALONE
    shown = progress.wanted(shown) and not hosts.index
    say = functools.partial(print, flush=True) if shown else lambda _: None
    if config.input.workers < 0:
        raise ValueError(f"input.workers is {config.input.workers}; expected 0 or more")
    views = kept_views(config.input.views)
    config = dataclasses.replace(config, input=dataclasses.replace(config.input, views=views))
    paths.bill(config.input.user_project)
    folder = paths.typed(config.output.path)
    source = open_source(config, say)
    if encoder is None:
        encoder = open_encoder(_for_source(config, source), config.batch_size, say)
    say(f"encoder: {encoder.description}")
    config = dataclasses.replace(config, encoder=encoder.settings)
    check_store(source, encoder.card)
    batch_size = _agree_on_batch(encoder, source, hosts)
    check_memory(encoder.shape, source.planned)
    identity = {
        **source.identity,
        **encoder.identity,
        "layout": source.layout,
        "format": config.output.format,
    }
    folder = place(identity, source.planned) if place else folder
    libraries = LIBRARIES + ("openvino",) * (config.encoder.engine == "openvino")
    details = {
        "config": dataclasses.asdict(config),
        "versions": {
            "cxr-embeddings": __version__,  # also where it is not installed
            **{name: importlib.metadata.version(name) for name in libraries},
        },
        "hosts": hosts.count,
        "devices": [device.device_kind for device in encoder.mesh.devices.flat],
        "batch_size": batch_size,
    }
    planned = source.planned
    with writer.open_run(folder, planned, identity, details, hosts, source.refused) as run:
        start = time.monotonic()
        if hosts.count > 1:
            say(f"  host 0 of {hosts.count} has {run.done + len(run.todo)} of them")
        embed_run(run, source, encoder, batch_size // hosts.count, hosts, shown=shown)
        counts = run.finish(source.missing, source.given_up)
    if shown:
        report_run(run, counts, time.monotonic() - start)
        if not place:
            say(f"in {folder}, with manifest.json, skipped.csv, rejected.csv and SHA256SUMS.txt")
    return Done(folder, counts)


def _for_source(config: EmbedConfig, source: FilmSource) -> EncoderConfig:
    """What is asked of the encoder; random weights are as a store needs them."""
    asked = config.encoder
    if asked.weights != "random" or source.prepared_for is None:
        return asked
    preset, size = source.prepared_for
    return dataclasses.replace(
        asked, preset=asked.preset or preset, resolution=asked.resolution or size
    )


def _agree_on_batch(encoder: Encoder, source: FilmSource, hosts: Hosts) -> int:
    """Films a step, over all hosts. Raises ValueError where these were asked for different ones."""
    import numpy as np

    asked = hosts.gather(np.array([encoder.batch_size])).ravel().tolist()
    if len({*asked}) > 1:
        raise ValueError(f"batch_size differs between the hosts, {asked}; expected one for all")
    films = encoder.films_a_step(sum(len(output.films) for output in source.planned))
    return int(hosts.gather(np.array([films])).min())


def check_memory(shape: Sequence[int], planned: Sequence[Output]) -> None:
    """Raises ValueError where an output would be too large to be gathered in memory."""
    films = max((len(output.films) for output in planned), default=0)
    size = 4 * math.prod(shape)
    if films > 1 and films * size > MAX_FILE_BYTES:
        raise ValueError(
            f"each shard would hold {films} embeddings of {size / 1e6:.2f} MB; expected at most "
            f"{MAX_FILE_BYTES / 1e9:.0f} GB a shard: raise output.shards or choose layout per_image"
        )


def embed_run(
    run: Run, source: FilmSource, encoder: Encoder, films: int, hosts: Hosts, *, shown: bool
) -> None:
    """Takes every film of `run.todo` from its file to its embedding, with a progress bar.

    `films` is the number that this host takes a step. All hosts take the same number of steps,
    those that have less to do with padding.
    """
    import numpy as np

    from cxr_embeddings.in_memory import check_finite
    from cxr_embeddings.input_pipeline.films.decode import Batch

    card = encoder.card
    bar = progress.bar(run.done + len(run.todo), run.done, shown=shown)

    def drop(film: InputFile, why: Skipped | Rejected) -> None:
        run.add(film, why)
        bar.update()

    batches = source.batches(run, card, films, drop)
    steps: Iterator[tuple[Batch, np.ndarray]]
    steps = ((batch, batch.image) for batch in batches)
    if hosts.count > 1:  # then it is a store, whose films all give an image
        here = math.ceil(len(run.todo) / films)
        empty = np.zeros((films, card.resolution, card.resolution, 1), np.float32)
        padding = (Batch(empty, [], []), empty)
        most = int(hosts.gather(np.array([here])).max())
        steps = itertools.chain(steps, itertools.repeat(padding, most - here))
    with bar, contextlib.closing(batches):
        for batch, embeddings in encoder.compiled(films, encoder.layer)(steps):
            rows = check_finite(embeddings[: len(batch.films)], batch.films)  # no padded row
            for film, embedding in zip(batch.films, rows, strict=True):
                run.add(film, embedding)
            bar.update(len(rows))


def report_run(run: Run, counts: Mapping[str, int], seconds: float) -> None:
    """Prints what became of the films."""
    from cxr_embeddings.input_pipeline import run_folder

    dropped = [(type(w).__name__.lower(), w.reason, w.detail) for w in run.dropped.values()]
    dropped += [("not_chest", *why) for why in run.not_chest.values()]
    new = counts["embedded"] - counts["before"]
    progress.summary("embedded", new, counts["before"], seconds, dropped)
    if run.damaged:
        print(f"{run.damaged} files were damaged: they were removed, and made again")
    if counts["retryable"]:
        print(
            f"warning: {counts['retryable']} films failed temporarily: the same command tries them "
            "again (for a store, run preprocess.py again first)"
        )
    if counts["given_up"]:
        print(
            f"warning: {counts['given_up']} films were given up: they failed in "
            f"{run_folder.TRIES} runs, and the run counts as complete without them"
        )


def _nothing(done: Done, encoder: Encoder) -> Embeddings:
    """The table of a run in which no film gave an embedding."""
    import numpy as np

    from cxr_embeddings.input_pipeline import run_folder
    from cxr_embeddings.input_pipeline.embeddings.table import of_arrays, rejected_films

    empty = np.empty((0, math.prod(encoder.shape)), np.float32)
    rejected = rejected_films([done.folder])
    manifest = run_folder.read_manifest(done.folder)
    if manifest is None:
        raise OSError(f"{done.folder}/{run_folder.MANIFEST} has gone")
    return of_arrays([], empty, {**manifest["identity"]}, manifest["complete"], rejected)
