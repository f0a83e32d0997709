"""Makes a store of prepared films: plans its shards, has them written, and finishes it."""

import contextlib
import dataclasses
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from cxr_embeddings.common import paths, writing

from .. import run_folder
from ..films.presets import PRESETS
from ..mimic import counts as mimic_counts
from ..mimic import selection
from . import dataset, shards
from .shards import Settings, Shard, Summary


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the films of a store."""

    written: Mapping[str, int]  # films in the store, by split
    before: int  # how many of them were there before
    dropped: Sequence[Sequence[str]]  # image_id, "skipped" or "rejected", reason, detail
    not_chest: Sequence[Sequence[str]]  # kept: image_id, "not_chest", see `other_than_chest`
    differences: Sequence[Sequence[str]]  # file and table: image_id, what, table, file
    retryable: int  # films that failed temporarily
    given_up: int  # films that failed in `run_folder.TRIES` runs


def make_store(
    listed: selection.FilmList,
    settings: Settings,
    details: run_folder.Facts,
    write: Callable[[Settings, Sequence[tuple[int, int]]], None],
    progress: run_folder.Progress,
) -> Outcome:
    """Makes a store, or what is still missing of it.

    Args:
        listed: the films.
        settings: how they are prepared, and where to.
        details: what else the manifest should say.
        write: writes the shards at some places in the plan, as `beam_job.run` does.
        progress: shows how far it is.

    Raises:
        ValueError: the folder holds something else.
        OSError: it cannot be written, or another run is writing to it.
    """
    folder = settings.folder
    settings = dataclasses.replace(settings, has_views=listed.has_views)
    films = [film for film in listed.films if paths.is_text(film.image_id)]
    planned = shards.plan(films, settings.name, settings.films_per_shard)
    plan, places = shards.encode_plan(planned)
    identity = {
        "input": settings.source,
        "name": settings.name,
        "preset": settings.preset,
        "preset_version": PRESETS[settings.preset].version,
        "size": settings.size,
        "storage": settings.storage,
        "views": settings.views,
        "chest_only": settings.chest_only,
        "no_view": settings.no_view,
        "films_per_shard": settings.films_per_shard,
        "films": hashlib.sha256(plan).hexdigest(),
    }
    details = run_folder.plain(details)
    with run_folder.claim(folder):
        names = {shard.name for shard in planned}
        earlier, _ = run_folder.earlier_outputs(
            folder, identity, names, lambda name: ".tfrecord" in name and "/" not in name
        )
        runs = earlier or []
        runs = runs if details in runs else [*runs, details]
        run_folder.write(folder, shards.PLAN, plan)
        there = shards.read_summaries(folder, planned)
        tries = run_folder.tries_before(folder)
        done = {name for name, summary in there.items() if not summary.retryable(tries)}
        todo = [i for i, shard in enumerate(planned) if shard.name not in done]
        missing = [planned[i] for i in todo]
        tried = {film.image_id for shard in missing for film in shard.films}
        if todo:
            begun = run_folder.encode_manifest(identity, runs, complete=False)
            run_folder.write(folder, run_folder.MANIFEST, begun)
            dataset.unpublish(folder)
            shards.forget(folder, missing)
            with (
                progress(len(films), len(films) - len(tried)) as bar,
                watched(folder, missing, bar.update),
            ):
                write(settings, [places[i] for i in todo])
            made = shards.read_summaries(folder, missing)
            there = {name: there[name] for name in done} | made
        if lost := [shard.name for shard in planned if shard.name not in there]:
            raise OSError(f"Beam ended, but {len(lost)} shards are missing, such as {lost[0]}")

        summaries = [there[shard.name] for shard in planned]
        before = sum(len(there[name].films) for name in done)
        outcome, tables, counts = _conclude(listed, summaries, tries, tried, before)
        for file, data in dataset.tfds_metadata(settings, summaries).items():
            run_folder.write(folder, file, data)  # no checksums: TFDS may write them anew
        tables[run_folder.MANIFEST] = run_folder.encode_manifest(
            identity,
            runs,
            complete=not outcome.retryable,
            listed=len(listed.films) + len(listed.skipped),
            written=sum(outcome.written.values()),
            **counts,
            shards={s.name: {"films": len(s.films), "bytes": s.bytes} for s in summaries},
        )
        sums = {summary.name: summary.sha256 for summary in summaries}
        sums |= {file: run_folder.write(folder, file, data) for file, data in tables.items()}
        run_folder.write(folder, run_folder.CHECKSUMS, run_folder.encode_checksums(sums))
        return outcome


@contextlib.contextmanager
def watched(folder: str, todo: Sequence[Shard], advance: Callable[[int], object]) -> Iterator[None]:
    """Tells `advance` of shards as their summaries appear, wherever the workers are."""
    ended, seconds = threading.Event(), 10 if paths.is_remote(folder) else 0.5

    def watch() -> None:
        waiting = {shard.name: len(shard.films) for shard in todo}
        last = False
        while waiting and not last:
            last = ended.wait(seconds)
            with contextlib.suppress(OSError):  # it looks again
                for name in shards.summarised(folder) & waiting.keys():
                    advance(waiting.pop(name))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _conclude(
    listed: selection.FilmList,
    summaries: Sequence[Summary],
    tries: Mapping[str, int],
    tried: set[str],
    before: int,
) -> tuple[Outcome, dict[str, bytes], dict[str, int]]:
    """What became of the films, the tables that say it, and the counts for the manifest."""
    by_table = [[image_id, "skipped", why.reason, why.detail] for image_id, why in listed.skipped]
    by_name = [
        [film.image_id, "rejected", "name_not_utf8", "rename it, or a folder that it lies in"]
        for film in listed.films
        if not paths.is_text(film.image_id)
    ]
    dropped = sorted(by_table + by_name + [row for one in summaries for row in one.dropped])
    differences = sorted(row for one in summaries for row in one.differences)
    not_chest = sorted(row for one in summaries for row in one.not_chest)
    written: Counter[str] = Counter()
    for summary in summaries:
        written[summary.split] += len(summary.films)
    tables, counts = run_folder.dropped_tables([*dropped, *not_chest], tries, tried)
    rows = mimic_counts.counts_rows(listed.counts, listed.data_set)
    encode = writing.encode_table
    tables |= {
        dataset.FILMS: dataset.films_table(summaries),
        "differences.csv": encode(["image_id", "what", "table", "file"], differences),
        "counts.csv": encode(rows[0], rows[1:]),
    }
    left = counts["retryable"], counts["given_up"]
    return Outcome(written, before, dropped, not_chest, differences, *left), tables, counts
