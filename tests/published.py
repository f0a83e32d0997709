"""Folders of embeddings, as a run of `scripts/embed.py` leaves them."""

import contextlib
import types

import numpy as np

from cxr_embeddings.input_pipeline.embeddings import output_plan, writer
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


def progress(total, done):
    """A progress bar that is not seen."""
    return contextlib.nullcontext(types.SimpleNamespace(update=lambda films: None))
