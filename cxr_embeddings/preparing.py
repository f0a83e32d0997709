"""Films to a store of images that are ready for the network: the job of `scripts/preprocess.py`."""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cxr_embeddings.common import paths, progress
from cxr_embeddings.configs.schema import ImageConfig, PreprocessConfig

if TYPE_CHECKING:
    from cxr_embeddings.input_pipeline.mimic.selection import FilmList
    from cxr_embeddings.input_pipeline.store.build import Outcome

# Beam's options whose values the manifest may hold; others may be passwords
SHOWN = ("--runner", "--direct_num_workers", "--direct_running_mode", "--region", "--machine_type")


def prepare(config: PreprocessConfig, beam_options: Sequence[str] = ()) -> Outcome:
    """Lists the films, and makes the store or what is still missing of it.

    `beam_options` are of Apache Beam, such as --direct_num_workers=4. Returns what became of the
    films.

    Raises:
        ValueError: an option is wrong, or the folder holds another store.
        OSError: a file cannot be read or written, or another run writes to the folder.
        ImportError: Apache Beam is not installed.
    """
    preset, size = image_rule(config.image)

    from cxr_embeddings.input_pipeline.films.film import kept_views
    from cxr_embeddings.input_pipeline.mimic import selection
    from cxr_embeddings.input_pipeline.store import beam_job, build, shards

    views = kept_views(config.input.views)
    paths.bill(config.input.user_project)
    source, folder = paths.typed(config.input.path), paths.typed(config.output.path)
    options = beam_job.parse_options(beam_options)
    settings = shards.Settings(
        folder=folder,
        source=source,
        name=config.output.name,
        films_per_shard=config.output.films_per_shard,
        preset=preset,
        size=size,
        storage=config.image.storage,
        views=views,
        no_view=config.input.no_view,
        user_project=config.input.user_project,
        chest_only=config.input.chest_only,
    )
    listed = selection.list_films(
        source,
        data_set=config.input.data_set,
        metadata_path=config.input.metadata_path,
        split_path=config.input.split_path,
        views=views,
        no_view=config.input.no_view,
        limit=config.input.limit,
    )
    report_list(source, listed)
    details = {
        "config": dataclasses.asdict(config),
        "beam": [shown(option) for option in beam_options],
        "versions": beam_job.versions(),
    }
    start = time.monotonic()
    bar = functools.partial(progress.bar, shown=True)
    write = functools.partial(beam_job.run, options=options)
    outcome = build.make_store(listed, settings, details, write, bar)
    report_outcome(folder, outcome, time.monotonic() - start)
    return outcome


def image_rule(config: ImageConfig) -> tuple[str, int]:
    """Preset and size of the images: those of the weights' card, or those that are given.

    Raises ValueError if they are unknown, or contradict the card.
    """
    from cxr_embeddings.card_check import bundle_of, check_version
    from cxr_embeddings.input_pipeline.films.presets import PRESETS

    preset, size, card = config.preset, config.size, None
    if config.weights:
        from cxr_embeddings.encoder.card import load_card

        card = load_card(bundle_of(config.weights))
        asked, given = (preset, size), (card.preset, card.resolution)
        if any(a not in (None, g) for a, g in zip(asked, given, strict=True)):
            raise ValueError(
                f"image.preset and image.size are {asked}, but the card of {config.weights} says "
                f"{given}: leave them out, or choose other weights"
            )
        preset, size = given
    if preset not in PRESETS or not size:
        raise ValueError(
            f"image.preset is {preset!r} and image.size {size}; expected one of "
            f"{', '.join(PRESETS)} and pixels, or image.weights, a bundle that knows both"
        )
    if card:
        check_version(card, print)
    return preset, size


def report_list(source: str, listed: FilmList) -> None:
    """Says what was found and chosen, beside what MIMIC-CXR has."""
    from cxr_embeddings.input_pipeline.mimic import counts

    print(f"{len(listed.films)} of {len(listed.films) + len(listed.skipped)} films in {source}")
    for note in listed.notes:
        print(f"  {note}")
    print(counts.counts_table(listed.counts, listed.data_set), flush=True)


def report_outcome(folder: str, outcome: Outcome, seconds: float) -> None:
    """Says what became of the films, and where things lie."""
    total = sum(outcome.written.values())
    by_split = ", ".join(f"{split} {count}" for split, count in outcome.written.items())
    new = total - outcome.before
    rows = (*outcome.dropped, *outcome.not_chest)
    dropped = ((kind, reason, detail) for _, kind, reason, detail in rows)
    progress.summary("written", new, outcome.before, seconds, dropped)
    print(f"{'in the store':13}{total:8}   {by_split}")
    if outcome.differences:
        whats = collections.Counter(what for _, what, *_ in outcome.differences)
        note = ", ".join(f"{what} {count}" for what, count in whats.items())
        print(f"warning: files contradict the tables: {note}; see differences.csv")
    if outcome.retryable:
        print(
            f"warning: {outcome.retryable} films failed temporarily: the same command tries them "
            "again"
        )
    if outcome.given_up:
        print(
            f"warning: {outcome.given_up} films failed in several runs and were given up. To have "
            "them tried again, remove rejected.csv and run the same command"
        )
    print(f"in {folder}, with films.csv, skipped.csv, rejected.csv and SHA256SUMS.txt")


def shown(option: str) -> str:
    """An option of Beam as it may be written down."""
    name, *_ = option.partition("=")
    return option if name in SHOWN else name
