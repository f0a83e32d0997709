"""Makes a store of prepared films: plans its shards, has Beam write them, and finishes it."""

import contextlib
import dataclasses
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from apache_beam.options.pipeline_options import PipelineOptions

from cxr_embeddings.common import files, paths, writing

from .. import run_folder
from ..films.presets import PRESETS
from ..mimic import counts as mimic_counts
from ..mimic import selection
from . import beam_job, dataset, shards
from .shards import Settings, Shard, Summary


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the films of a store.

    Attributes:
        written: films in the store, by split.
        before: how many of them were there before.
        dropped: of the others: image_id, "skipped" or "rejected", reason, detail.
        differences: where a file contradicts the tables: image_id, what, table, file.
        retryable: films dropped for reasons that another run may not meet.
        given_up: films dropped for such reasons in `run_folder.TRIES` runs.
    """

    written: Mapping[str, int]
    before: int
    dropped: Sequence[Sequence[str]]
    differences: Sequence[Sequence[str]]
    retryable: int
    given_up: int


class _Made(NamedTuple):
    """A store whose shards are all there.

    Attributes:
        identity: what made it.
        runs: details of the runs that made it.
        summaries: of its shards, in order.
        tries: image id -> how many runs failed on it before this one.
        tried: image ids of the films that this run tried.
        before: number of films that were there before.
        write: writes a file of its folder, by name and content.
    """

    identity: run_folder.Facts
    runs: Sequence[run_folder.Facts]
    summaries: Sequence[Summary]
    tries: Mapping[str, int]
    tried: set[str]
    before: int
    write: Callable[[str, bytes], None]


def make_store(
    listed: selection.FilmList,
    settings: Settings,
    details: run_folder.Facts,
    options: PipelineOptions,
    progress: run_folder.Progress,
) -> Outcome:
    """Makes a store, or what is still missing of it.

    Args:
        listed: the films.
        settings: how they are prepared, and where to.
        details: what else the manifest should say.
        options: from `beam_job.parse_options`.
        progress: (films, those done before) -> a progress bar.

    Raises:
        ValueError: the folder holds something else.
        OSError: it cannot be written, another run is writing to it, or Beam failed.
    """
    folder = settings.folder
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
        "no_view": settings.no_view,
        "films_per_shard": settings.films_per_shard,
        "films": hashlib.sha256(plan).hexdigest(),
    }
    details = run_folder.plain(details)
    with run_folder.claim(folder) as scratch:
        runs = _check_folder(folder, identity, planned)
        runs = runs if details in runs else [*runs, details]

        def write(file: str, data: bytes) -> None:
            files.write_whole(f"{folder}/{file}", data, scratch)

        write(shards.PLAN, plan)
        there = shards.read_summaries(folder, planned)
        tries = run_folder.tries_before(folder)
        done = {name for name, summary in there.items() if not summary.retryable(tries)}
        todo = [i for i, shard in enumerate(planned) if shard.name not in done]
        bar = progress(len(films), sum(len(shard.films) for shard in planned if shard.name in done))
        if todo:
            write(run_folder.MANIFEST, run_folder.encode_manifest(identity, runs, complete=False))
            dataset.unpublish(folder)
            missing = [planned[i] for i in todo]
            shards.forget(folder, missing)
            with bar, watched(folder, missing, bar.update):
                beam_job.run(settings, [places[i] for i in todo], options)
            made = shards.read_summaries(folder, missing)
            there = {name: there[name] for name in done} | made
        if lost := [shard.name for shard in planned if shard.name not in there]:
            raise OSError(f"Beam ended, but {len(lost)} shards are missing, such as {lost[0]}")
        tried = {film.image_id for i in todo for film in planned[i].films}
        summaries = [there[shard.name] for shard in planned]
        before = sum(len(there[name].films) for name in done)
        made = _Made(identity, runs, summaries, tries, tried, before, write)
        return _finish(listed, settings, made)


def _check_folder(
    folder: str, identity: run_folder.Facts, planned: Sequence[Shard]
) -> list[run_folder.Facts]:
    """Details of the earlier runs into a folder. Raises ValueError if it is not this store's."""
    runs = run_folder.earlier_runs(folder, identity)
    fs, root = paths.file_system(folder)
    names = {
        path.rpartition("/")[2] for path in (fs.ls(root, detail=False) if fs.exists(root) else [])
    }
    strangers = {n for n in names if ".tfrecord" in n} - {shard.name for shard in planned}
    if strangers or (runs is None and any(".tfrecord" in n for n in names)):
        raise ValueError(
            f"{folder} holds TFRecord files that this run would not make, such as "
            f"{min(strangers, default='shards without a manifest')}: choose an empty folder"
        )
    return runs or []


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


def _finish(listed: selection.FilmList, settings: Settings, made: _Made) -> Outcome:
    """Writes what goes beside the shards; last of all the checksums."""
    by_table = [[image_id, "skipped", why.reason, why.detail] for image_id, why in listed.skipped]
    by_name = [
        [film.image_id, "rejected", "name_not_utf8", "rename it, or a folder that it lies in"]
        for film in listed.films
        if not paths.is_text(film.image_id)
    ]
    dropped = sorted(by_table + by_name + [row for one in made.summaries for row in one.dropped])
    differences = sorted(row for summary in made.summaries for row in summary.differences)
    written: Counter[str] = Counter()
    for summary in made.summaries:
        written[summary.split] += len(summary.films)
    rows = {
        kind: [[image_id, *why] for image_id, k, *why in dropped if k == kind]
        for kind in ("skipped", "rejected")
    }
    rejected, retryable, given_up = run_folder.rejected_rows(
        rows["rejected"], made.tries, made.tried
    )
    counts = mimic_counts.counts_rows(listed.counts)
    encode = writing.encode_table
    tables = {
        dataset.FILMS: dataset.films_table(made.summaries),
        "imputed.csv": encode(["image_id", "view", "from"], listed.imputed),
        "differences.csv": encode(["image_id", "what", "table", "file"], differences),
        "counts.csv": encode(counts[0], counts[1:]),
        "skipped.csv": encode(["image_id", "reason", "detail"], rows["skipped"]),
        "rejected.csv": encode(run_folder.REJECTED, rejected),
    }
    for file, data in dataset.tfds_metadata(settings, made.summaries).items():
        made.write(file, data)  # not among the checksums: TFDS may write them anew
    tables[run_folder.MANIFEST] = run_folder.encode_manifest(
        made.identity,
        made.runs,
        complete=not retryable,
        listed=len(listed.films) + len(listed.skipped),
        written=written.total(),
        skipped=len(rows["skipped"]),
        rejected=len(rejected),
        retryable=retryable,
        given_up=run_folder.describe_given_up(given_up),
        shards={s.name: {"films": len(s.films), "bytes": s.bytes} for s in made.summaries},
    )
    sums = {summary.name: summary.sha256 for summary in made.summaries}
    for file, data in tables.items():
        made.write(file, data)
        sums[file] = hashlib.sha256(data).hexdigest()
    made.write(run_folder.CHECKSUMS, run_folder.encode_checksums(sums))
    return Outcome(written, made.before, dropped, differences, retryable, given_up)
