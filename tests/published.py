"""Folders of embeddings to be published, and what tests ask of their copies."""

import contextlib
import hashlib
import types

import numpy as np

from cxr_embeddings.input_pipeline.embeddings import output_plan, writer
from cxr_embeddings.input_pipeline.embeddings.formats import FORMATS, EmbeddingRecord
from cxr_embeddings.input_pipeline.embeddings.table import read_table
from cxr_embeddings.input_pipeline.films.film import InputFile, Rejected, film_key

IDS = [f"files/p1{i % 3}/p1{i % 3}00000{i}/s5{i}/{i:04x}-{7 * i:04x}.dcm" for i in range(10)]
IDENTITY = {
    "input": "/data/mimic", "views": ["AP", "PA"], "weights_digest": "abc", "projection": None,
    "variant": "b0", "embedding": "head", "shape": [2, 3], "resolution": 64, "preset": "native",
    "mean": [0.0], "std": [1.0], "layout": "sharded", "format": "tfrecord",
}  # fmt: skip


def make_source(
    folder, ids=IDS, format="tfrecord", layout="sharded", shards=3, failing="", **identity
):
    """Writes a folder as `scripts/embed.py` does of a store; the film `failing` cannot be read."""
    films = [InputFile(i, film_key(i).lstrip("/")) for i in ids]
    pieces = {f"train-{j:05d}-of-{shards:05d}": films[j::shards] for j in range(shards)}
    planned = output_plan.plan_pieces(pieces, layout, format)
    made = IDENTITY | {"layout": layout, "format": format} | identity
    with writer.open_run(str(folder), planned, made, {"batch_size": 8}) as run:
        for film in run.todo:
            bad = film.path == failing
            run.add(film, Rejected("unreadable", "No such file") if bad else vector(film.path))
        run.finish()
    return folder


def vector(image_id):
    seed = [*image_id.encode("utf-8", "surrogateescape")]
    return np.random.default_rng(seed).normal(size=6).astype(np.float32)


def put(folder, name, *records):
    """Writes a file of a source by hand, given as (image id, vector), with its right checksum."""
    data = FORMATS[name.rpartition(".")[2]].encode([EmbeddingRecord(*r) for r in records])
    put_bytes(folder, name, data)


def put_bytes(folder, name, data):
    (folder / name).write_bytes(data)
    sums = folder / "SHA256SUMS.txt"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith("  " + name)]
    lines.append(f"{hashlib.sha256(data).hexdigest()}  {name}")
    sums.write_text("\n".join(lines) + "\n")


def rows(folder, cache):
    """(ids, rows) of a folder, as its readers have them, sorted by id."""
    table = read_table(str(folder), str(cache))
    assert table.complete and not table.damaged
    order = np.argsort(table.image_id.astype(str))
    return table.image_id[order].tolist(), np.array(table.embedding)[order]


class Stopped(Exception):
    """Stands in for a crash."""


def progress(stop_after=None):
    """A progress bar that is not seen; raises `Stopped` once it is told of so many films."""
    seen = 0

    def update(films):
        nonlocal seen
        seen += films
        if stop_after is not None and seen >= stop_after:
            raise Stopped

    return lambda total, done: contextlib.nullcontext(types.SimpleNamespace(update=update))
