"""Films in, a store of images that are ready for the network out: `scripts/preprocess.py`."""

import collections
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import logging

from cxr_embeddings import cli
from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import ImageConfig, PreprocessConfig

USAGE = """
python scripts/preprocess.py --config configs/mimic.py \\
    --input /data/mimic-cxr --weights /models/cxr-l2 --output /data/tfds/mimic_cxr/1.0.0 \\
    --config.input.metadata_path=/data/mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz \\
    --config.input.split_path=/data/mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz

Reads every film once and writes shards that TFDS and embed.py read, by Apache Beam on all
processors of this machine. Beam's own options stand beside these: --direct_num_workers=4, or
--runner=DataflowRunner and what belongs to it. The same command again goes on where it ended.
"""
SHOWN = ("--runner", "--direct_num_workers", "--direct_running_mode", "--region", "--machine_type")
SHORT = {
    "input": "config.input.path",
    "weights": "config.image.weights",
    "output": "config.output.path",
}
REQUIRED = ("config.input.path", "config.output.path")


def preprocess(config: PreprocessConfig, beam_options: Sequence[str]) -> int:
    """Runs the whole job. Returns the exit code: 0 if nothing failed that a retry could fix."""
    views = cli.kept_views(config.input.views)
    preset, size = image_rule(config.image)

    from cxr_embeddings.common import files
    from cxr_embeddings.input_pipeline.mimic import selection

    files.bill(config.input.user_project)
    source, folder = paths.typed(config.input.path), paths.typed(config.output.path)
    listed = selection.list_films(
        source,
        metadata_path=config.input.metadata_path,
        split_path=config.input.split_path,
        views=views,
        no_view=config.input.no_view,
        limit=config.input.limit,
    )
    report_list(source, listed)

    if logging.get_verbosity() == logging.WARNING:
        logging.set_verbosity(logging.FATAL)  # Beam is loud; its failures come as exceptions
    from cxr_embeddings.input_pipeline.store import beam_job, build

    options = beam_job.parse_options(beam_job.runner_options(beam_options))
    settings = beam_job.Settings(
        folder,
        preset,
        size,
        config.image.storage,
        views,
        config.input.no_view,
        listed.has_views,
        config.input.user_project,
    )
    details = {
        "config": dataclasses.asdict(config),
        "beam": [shown(option) for option in beam_options],
        "versions": beam_job.versions(),
    }
    start = time.monotonic()
    outcome = build.make_store(
        listed,
        settings,
        config.output.name,
        config.output.films_per_shard,
        source,
        details,
        options,
        cli.progress,
    )
    report_outcome(folder, outcome, time.monotonic() - start)
    return 1 if outcome.retryable or not sum(outcome.written.values()) else 0


def image_rule(config: ImageConfig) -> tuple[str, int]:
    """Preset and size, of the weights' card or as they are said.

    Raises:
        ValueError: they are unknown or contradict the card.
    """
    from cxr_embeddings.input_pipeline.films.presets import PRESETS
    from cxr_embeddings.input_pipeline.store.codecs import STORAGES
    from cxr_embeddings.loading import check_version

    preset, size, card = config.preset, config.size, None
    if config.weights:
        from cxr_embeddings.encoder.card import load_card

        card = load_card(paths.typed_local(config.weights, "image.weights"))
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
    if not 8 <= size <= 8192:
        raise ValueError(f"image.size is {size}; expected 8 to 8192 pixels")
    if config.storage not in STORAGES:
        raise ValueError(
            f"image.storage is {config.storage!r}; expected one of {', '.join(STORAGES)}"
        )
    return preset, size


def report_list(source: str, listed: Any) -> None:
    """Says what was found and chosen, beside what MIMIC-CXR has."""
    from cxr_embeddings.input_pipeline.mimic import counts

    print(f"{len(listed.films)} of {len(listed.films) + len(listed.skipped)} films in {source}")
    for note in listed.notes:
        print(f"  {note}")
    print(counts.counts_table(listed.counts), flush=True)


def report_outcome(folder: str, outcome: Any, seconds: float) -> None:
    """Says what became of the films, and where things lie."""
    total = sum(outcome.written.values())
    by_split = ", ".join(f"{split} {count}" for split, count in outcome.written.items())
    rate = (total - outcome.before) / seconds
    print(f"{'written':13}{total - outcome.before:8}   {rate:.1f} films a second")
    print(f"{'already done':13}{outcome.before:8}")
    for kind in ("skipped", "rejected"):
        reasons = collections.Counter(
            f"{reason} {detail}" if kind == "skipped" else reason
            for _, k, reason, detail in outcome.dropped
            if k == kind
        )
        note = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        print(f"{kind:13}{reasons.total():8}   {note}")
    print(f"{'in the store':13}{total:8}   {by_split}")
    if outcome.differences:
        whats = collections.Counter(what for _, what, *_ in outcome.differences)
        note = ", ".join(f"{what} {count}" for what, count in whats.items())
        print(f"warning: files contradict the tables: {note}; see differences.csv")
    if outcome.retryable:
        print(
            f"warning: {outcome.retryable} films failed for reasons that may pass: the same "
            "command tries them again"
        )
    if outcome.given_up:
        print(
            f"warning: {outcome.given_up} films were given up, for they failed in several runs: "
            "to have them tried again, remove rejected.csv and run the same command"
        )
    print(f"in {folder}, with films.csv, skipped.csv, rejected.csv and SHA256SUMS.txt")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(
        preprocess,
        PreprocessConfig,
        "configs/preprocess.py",
        USAGE,
        "the same command goes on from here",
        required=REQUIRED,
        short=SHORT,
        variant="preprocess",
        others=True,
        argv=argv,
    )


def shown(option: str) -> str:
    """An option of Beam as it may be written down: some hold passwords."""
    name, *_ = option.partition("=")
    return option if name in SHOWN else name


if __name__ == "__main__":
    sys.exit(main())
