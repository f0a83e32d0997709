"""A load test of the whole chain: speed, memory, open files, and going on where a run ended.

Many tiny films, fewer of real size, and lists as long as MIMIC-CXR's. CXR_SCALE_FILMS=500 tries it;
as it is, it takes some ten minutes of two cores, and 6 GB of disk.
"""

import csv
import dataclasses
import functools
import gzip
import hashlib
import importlib
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.heads_memory import peak_gigabytes
from benchmarks.watching import watch
from cxr_embeddings import cli
from cxr_embeddings.input_pipeline import tfrecord
from cxr_embeddings.input_pipeline.embeddings import output_plan
from cxr_embeddings.input_pipeline.embeddings import writer as outputs
from cxr_embeddings.input_pipeline.mimic import selection
from cxr_embeddings.input_pipeline.store import dataset, shards
from cxr_embeddings.input_pipeline.synthetic.dicom_files import Technique, dicom_bytes

TINY = int(os.environ.get("CXR_SCALE_FILMS", 20_000))
LARGE = TINY // 40, TINY // 10  # films of real size, for memory that might grow with their number
LISTED = 377_110 * TINY // 20_000  # as many as MIMIC-CXR has
TECHNIQUE = Technique(
    "explicit", "CR", 12, False, "MONOCHROME2", "IDENTITY", "window", 1, 0, "US", "PA"
)
UID = b"1.2.826.0.1.3680043.10000000"  # of the film that all others are made from
TABLES = {  # name -> columns besides the ids
    "cxr-record-list": ("path",),
    "mimic-cxr-2.0.0-metadata": ("ViewPosition", "Rows", "Columns"),
    "mimic-cxr-2.0.0-split": ("split",),
}


def write_tables(folder: pathlib.Path, count: int, shape: tuple[int, int]) -> list[str]:
    """MIMIC-CXR's tables of `count` frontal films, three a patient; gives the films' paths."""
    rows = []
    for i in range(count):
        digits = hashlib.sha256(b"%d" % i).hexdigest()
        dicom_id = "-".join(digits[k : k + 8] for k in range(0, 40, 8))
        patient, study = 10_000_000 + i // 3, 50_000_000 + i
        path = f"files/p{patient // 1_000_000}/p{patient}/s{study}/{dicom_id}.dcm"
        split = {0: "validate", 1: "test"}.get(i // 3 % 100, "train")
        ids = {"subject_id": patient, "study_id": study, "dicom_id": dicom_id}
        facts = {"path": path, "ViewPosition": "PA", "Rows": shape[0], "Columns": shape[1]}
        rows.append({**ids, **facts, "split": split})
    folder.mkdir(parents=True)
    for name, columns in TABLES.items():
        with gzip.open(folder / f"{name}.csv.gz", "wt", compresslevel=1, newline="") as stream:
            writer = csv.DictWriter(stream, [*ids, *columns], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    return [row["path"] for row in rows]


def write_films(folder: pathlib.Path, count: int, shape: tuple[int, int], distinct: int) -> None:
    """Films in MIMIC-CXR's layout with its tables; beyond `distinct` ones, links to these."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    film = 0.5 + 0.3 * np.sin(x / 300) * np.cos(y / 400)
    film += np.random.default_rng(0).normal(0, 0.003, shape)
    content = dicom_bytes(np.float32(film.clip(0, 1)), TECHNIQUE, {"SOPInstanceUID": UID.decode()})
    paths = [folder / path for path in write_tables(folder, count, shape)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        if i < distinct:
            path.write_bytes(content.replace(UID, UID[:-8] + b"%d" % (10_000_000 + i)))
        else:
            os.link(paths[i % distinct], path)


def load(what: str, films: int, kind: str, command: Sequence[str]) -> None:
    """Runs a command; prints films a second, and peaks by kind of process and quarter."""
    watched = watch(kind, command)
    rate = films / watched.seconds
    print(f"{what}: {watched.seconds:.1f} s, {rate:.1f} films/s, start and end included")
    for kind in sorted({kind for sample in watched.samples for kind in sample}):
        held = np.array([sample.get(kind, (0, 0)) for sample in watched.samples])
        quarters = np.array([quarter.max(axis=0) for quarter in np.array_split(held, 4)])
        megabytes, handles = (" ".join(f"{n:5.0f}" for n in row) for row in quarters.T)
        peak = held[:, 0].max()
        print(f"  {kind:11} peak {peak:5.0f} MB, by quarter {megabytes}; open files {handles}")


def resume(what: str, kind: str, command: Sequence[str], results: Sequence[pathlib.Path]) -> None:
    """Removes a tenth of the results; prints how soon the same command makes the first anew."""
    removed = results[::10]
    for path in removed:
        path.unlink()
        (path.parent / shards.SUMMARIES / f"{path.name}.json").unlink(missing_ok=True)
    watched = watch(kind, command, lambda: any(path.exists() for path in removed))
    if not all(path.exists() for path in removed):
        raise RuntimeError(f"{what}: it ended, and some of the files removed are still missing")
    print(
        f"{what}, without {len(removed)} of its {len(results)} files: the first of them after "
        f"{watched.first:.1f} s (asked: below 30), all after {watched.seconds:.1f} s"
    )


def preprocess_command(
    films: pathlib.Path, folder: pathlib.Path, preset: str, size: int
) -> list[str]:
    """The command, with two Beam workers."""
    return [
        "scripts/preprocess.py",
        "--config=configs/mimic.py",
        f"--config.input.path={films}",
        f"--config.output.path={folder}",
        f"--config.image.preset={preset}",
        f"--config.image.size={size}",
        "--runner=FnApiRunner",
        "--direct_num_workers=2",
        "--direct_running_mode=multi_processing",
    ]


def embed_command(made: pathlib.Path, folder: pathlib.Path, layout: str) -> list[str]:
    """The command, with an untrained B0 at the size of the store's images."""
    return [
        "scripts/embed.py",
        "--config=configs/embed.py",
        f"--config.input.path={made}",
        "--config.encoder.weights=random",
        "--config.encoder.variant=b0",
        f"--config.output.path={folder}",
        f"--config.output.layout={layout}",
        "--config.batch_size=64",
    ]


def tiny(scratch: pathlib.Path) -> None:
    """The whole chain on tiny films."""
    start = time.monotonic()
    write_films(scratch / "films", TINY, (64, 64), distinct=TINY)
    print(f"{TINY:,} films of 64 x 64, 12 bits, written in {time.monotonic() - start:.1f} s")
    made = scratch / "store"
    command = preprocess_command(scratch / "films", made, "native", 32)
    load("preprocess", TINY, "launcher", command)
    resume("preprocess", "launcher", command, sorted(made.glob("*.tfrecord-*")))
    for layout in ("sharded", "per_image"):
        folder = scratch / layout
        command = embed_command(made, folder, layout)
        load(f"embed, {layout}", TINY, "embed", command)
        resume(f"embed, {layout}", "embed", command, sorted(folder.rglob("*.tfrecord")))


def large(scratch: pathlib.Path) -> None:
    """Memory with films of real size, and reading their store as embed.py does."""
    made = scratch / "store"
    for count in LARGE:
        shutil.rmtree(made, ignore_errors=True)
        films = scratch / str(count)
        write_films(films, count, (3056, 2544), distinct=4)
        command = preprocess_command(films, made, "cxr_foundation", 1280)
        load(f"preprocess, {count:,} films of 3056 x 2544", count, "launcher", command)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    opened = dataset.open_store(str(made))
    names = sorted(opened.shards, key=lambda name: len(opened.shards[name]))[-8:]
    wanted = {film for name in names for film in opened.shards[name]}
    batches = dataset.batches(opened, names, 8, wanted)
    next(batches)  # TensorFlow has started
    clocks = time.monotonic, time.process_time, time.thread_time
    start = [clock() for clock in clocks]
    count = sum(len(batch.films) for batch in batches)
    wall, total, own = ((c() - s) / count for c, s in zip(clocks, start, strict=True))
    print(
        f"{count} of them read from the store: {1 / wall:.0f} films/s, {1e3 * total:.1f} ms of all "
        f"cores a film, of which {1e3 * own:.1f} are of the one thread that packs batches"
    )


def empty_shards(settings: Any, places: Sequence[tuple[int, int]], options: Any) -> None:
    """Stands in for Beam: shards that are holes, of the size as if every film were in them."""
    made = pathlib.Path(settings.folder)
    with (made / shards.PLAN).open("rb") as plan:
        for start, length in places:
            plan.seek(start)
            shard = shards.decode_shard(plan.read(length))
            rows = [[*film[1:4], film.view] for film in shard.films]
            lengths = [2 << 20] * len(rows)
            size = sum(lengths) + tfrecord.FRAME * len(rows)
            summary = shards.Summary(shard.name, shard.split, size, "", rows, lengths, [], [])
            (made / shard.name).touch()
            os.truncate(made / shard.name, size)
            data = json.dumps(dataclasses.asdict(summary))
            (made / shards.SUMMARIES / f"{shard.name}.json").write_text(data)


def lead(films: str, made: str) -> None:
    """What preprocess.py does itself."""
    from cxr_embeddings.input_pipeline.store import beam_job, build

    settings = beam_job.Settings(made, "native", 32, "png16", None, "keep", True, None)
    details = "films", 64, films, {}, beam_job.parse_options([])
    progress = functools.partial(cli.progress, hidden=True)
    with unittest.mock.patch.object(beam_job, "run", empty_shards):
        build.make_store(selection.list_films(films), settings, *details, progress)


def begin(made: str, folder: str) -> None:
    """What embed.py does with a store before its network starts."""
    planned = output_plan.plan_pieces(dataset.open_store(made).shards, "sharded", "tfrecord")
    with outputs.open_run(folder, planned, "tfrecord", {}, {}):
        pass


def measured(function: Callable[..., None], *arguments: str) -> tuple[float, float]:
    """Seconds of a function, and GB that it adds to this process."""
    logging.disable(logging.WARNING)  # Beam warns of what is not installed
    importlib.import_module("cxr_embeddings.input_pipeline.store.build")  # does not count
    before, start = peak_gigabytes(), time.monotonic()
    function(*arguments)
    return time.monotonic() - start, peak_gigabytes() - before


def lists(scratch: pathlib.Path) -> None:
    """Lists, plans and tables of as many films as MIMIC-CXR has, without a film."""
    films, made = scratch / "films", scratch / "store"
    write_tables(films, LISTED, (3056, 2544))
    for what, function, *folders in (
        ("preprocess.py without its workers", lead, films, made),
        ("preprocess.py, everything done", lead, films, made),
        ("embed.py to its network", begin, made, scratch / "embeddings"),
    ):
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            seconds, gigabytes = fresh.apply(measured, (function, *map(str, folders)))
        each = 1e6 * gigabytes / LISTED
        print(f"{LISTED:,} films, {what}: {seconds:.1f} s, {each:.2f} kB of memory a film")
    for name in (shards.PLAN, dataset.FILMS):
        print(f"{name}: {(made / name).stat().st_size / LISTED:.0f} bytes a film")


def run(repeats: int) -> None:
    """Prints each part's figures, in order. Each is done once: it takes minutes."""
    for part in (tiny, large, lists):
        with tempfile.TemporaryDirectory() as scratch:
            part(pathlib.Path(scratch))
        print(flush=True)


if __name__ == "__main__":
    run(repeats=1)
