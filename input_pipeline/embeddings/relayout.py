"""A finished folder of embeddings in another layout: one file a film, or one table of all.

The copy holds the same ids and the same float32 numbers as the folder it is made of.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, NamedTuple, cast

from cxr_embeddings.common import files, paths, writing

from .. import run_folder
from ..films.film import InputFile, film_key
from . import output_plan, writer
from .folders import embedding_sums
from .formats import is_embedding_file, parquet_table
from .table import Embeddings

TABLE = "embeddings.parquet"
ROW_GROUP_BYTES = 64_000_000  # held in memory before it is written
_READERS = 8  # which wait for the disk
_WINDOWS = re.compile(r"[A-Za-z]:[/\\]")  # the start of an absolute path


class _Copy(NamedTuple):
    """What is written beside the embeddings."""

    identity: run_folder.Facts
    details: run_folder.Facts
    given_up: int
    rejected: list[list[str | None]]


def publish(
    table: Embeddings,
    folder: str,
    layout: str,
    versions: Mapping[str, str],
    progress: run_folder.Progress,
) -> tuple[int, int]:
    """Writes the embeddings of one finished folder in another layout.

    A film whose name the copy cannot hold (`output_plan.part_out`) is a row of its rejected.csv.

    Args:
        table: float32, of one folder.
        folder: to be written; absolute, or an address. What is there already and whole stays.
        layout: "per_image", one TFRecord a film in the films' tree; or "parquet", one table.
        versions: of the libraries at work, for the manifest.

    Returns:
        How many embeddings were there before, and how many films are left out for their names.

    Raises:
        ValueError: the source is not finished, or damaged; an image id cannot be published as a
            file, two would be one file, or the folder was made of something else.
        OSError: the folder cannot be written, or another run is writing to it.
    """
    if f"{folder}/".startswith(f"{table.folders[0]}/"):
        raise ValueError(f"{folder} lies in the folder of the embeddings: choose another")
    copy = _describe(table, layout, versions)
    if layout == "parquet":
        _write_table(table, folder, copy, progress)
        return 0, 0
    input = str(copy.identity.get("input") or "")
    films = [InputFile(image_id, place(image_id, input)) for image_id in table.image_id]
    row_of = {film.path: row for row, film in enumerate(films)}
    films, refused = output_plan.part_out(films, folder, "per_image", "tfrecord")
    planned = output_plan.plan(films, "per_image", "tfrecord", shards=1)
    rows: list[Sequence[object]] = [*copy.rejected]
    rows += [[film.path, why.reason, why.detail, ""] for film, why in refused.items()]
    rejected = writing.encode_table(run_folder.REJECTED, rows)
    with writer.open_run(folder, planned, copy.identity, copy.details, refused=refused) as run:
        with progress(len(films), run.done) as bar:
            for film in run.todo:
                run.add(film, table.embedding[row_of[film.path]])
                bar.update(1)
        return run.finish(given_up=copy.given_up, rejected=rejected)["before"], len(refused)


def _describe(table: Embeddings, layout: str, versions: Mapping[str, str]) -> _Copy:
    """What stands beside the source, as the copy has it.

    Raises ValueError if the source is not one finished folder, or not as it was written.
    """
    if len(table.folders) != 1:
        raise ValueError(f"found embeddings of {len(table.folders)} folders; expected one")
    (folder,) = table.folders
    manifest, again = run_folder.read_manifest(folder), "run scripts/embed.py on it again"
    if manifest is None or "shape" not in manifest["identity"]:
        raise ValueError(
            f"{folder} holds no {run_folder.MANIFEST} that says what made its embeddings; expected "
            "a folder of scripts/embed.py"
        )
    if not manifest["complete"] or not manifest.get("embedded"):
        raise ValueError(
            f"{folder} is not complete, or holds no embedding: {again}. A film that fails each "
            f"time is given up after {run_folder.TRIES} runs, and the folder is complete without it"
        )
    if table.damaged:
        name, _, why = table.damaged[0]
        raise ValueError(
            f"{len(table.damaged)} records of {folder} are damaged, such as {name}: {why}. Remove "
            f"their files and {again}"
        )
    if len(table.image_id) != manifest["embedded"]:
        raise ValueError(
            f"{folder} holds {len(table.image_id)} embeddings, but its {run_folder.MANIFEST} says "
            f"{manifest['embedded']}: remove the files of other runs, if there are any, and {again}"
        )
    sums = dict(sorted(embedding_sums(folder).items()))

    def digest_of(name: str) -> str:
        return hashlib.sha256(files.read_bytes(f"{folder}/{name}")).hexdigest()

    with ThreadPoolExecutor(_READERS) as threads:
        found = dict(zip(sums, threads.map(digest_of, sums), strict=True))
    if wrong := [name for name in sums if found[name] != sums[name]]:
        raise ValueError(
            f"{folder}/{wrong[0]} is damaged: its SHA-256 is not the one in "
            f"{run_folder.CHECKSUMS}. Remove it and {again}"
        )
    named = ("per_image", "tfrecord") if layout == "per_image" else ("table", "parquet")
    digest = hashlib.sha256(json.dumps(list(sums.items())).encode()).hexdigest()
    identity = {"layout": named[0], "format": named[1], "source_digest": digest}
    kept = ("embedded", "not_chest", "skipped", "rejected", "given_up", "runs")
    said: Mapping[str, object] = manifest
    about = {name: said[name] for name in kept if name in said}
    rows = run_folder.read_dropped(folder, "rejected")
    return _Copy(
        identity={**manifest["identity"]} | identity,
        details={"versions": dict(versions), "source": about},
        given_up=manifest.get("given_up", {}).get("films", 0),
        rejected=[[row.get(column) for column in run_folder.REJECTED] for row in rows],
    )


def place(image_id: str, input: str) -> str:
    """Where a film's embedding is published: its path below the input, without suffix.

    The image id is relative as those of a store, or a path or address as those of films. Raises
    ValueError if the place would lie outside the published folder, or be hidden in it.
    """
    relative = image_id.removeprefix(f"{input.rstrip('/')}/") if input else image_id
    parts = re.split(r"[/\\]", relative)  # the copy may be read on Windows
    hidden = "\0" in relative or any(not part or part.startswith(".") for part in parts)
    if hidden or paths.is_remote(relative) or _WINDOWS.match(relative):
        raise ValueError(
            f"the image id {image_id!r} does not say where to publish it; expected a relative path "
            f"or one below the input {input}, with / between names that do not begin with a dot: "
            "rename the film, or embed the films' folder or a store of it, or publish one table by "
            "--layout parquet"
        )
    return film_key(relative)


def _write_table(
    table: Embeddings, folder: str, copy: _Copy, progress: run_folder.Progress
) -> None:
    """Writes one table, and what stands beside it."""
    with run_folder.claim(folder) as scratch:
        earlier, _ = run_folder.earlier_outputs(folder, copy.identity, [TABLE], is_embedding_file)
        runs = [*(run for run in earlier or [] if run != copy.details), copy.details]
        manifest = run_folder.encode_manifest(copy.identity, runs, complete=False)
        run_folder.write(folder, run_folder.MANIFEST, manifest)
        with writing.whole_file(f"{folder}/{TABLE}", scratch) as stream:
            _write_rows(stream, table, progress)
            stream.seek(0)
            digest = hashlib.file_digest(cast(io.BufferedRandom, stream), "sha256").hexdigest()
        counts = {"embedded": len(table.image_id), "given_up": copy.given_up}
        manifest = run_folder.encode_manifest(copy.identity, runs, complete=True, **counts)
        rejected = writing.encode_table(run_folder.REJECTED, copy.rejected)
        beside = {"rejected.csv": rejected, run_folder.MANIFEST: manifest}
        sums = {name: run_folder.write(folder, name, data) for name, data in beside.items()}
        data = run_folder.encode_checksums(sums | {TABLE: digest})
        run_folder.write(folder, run_folder.CHECKSUMS, data)


def _write_rows(stream: IO[bytes], table: Embeddings, progress: run_folder.Progress) -> None:
    """Writes the table by row groups."""
    import pyarrow.parquet as pq

    count, width = table.embedding.shape
    rows = max(1, ROW_GROUP_BYTES // (4 * width))
    cuts = [slice(start, start + rows) for start in range(0, count, rows)]
    groups = (parquet_table(table.image_id[cut].tolist(), table.embedding[cut]) for cut in cuts)
    schema = parquet_table(table.image_id[:1].tolist(), table.embedding[:1]).schema
    with (
        progress(count, 0) as bar,
        pq.ParquetWriter(stream, schema, use_dictionary=False) as parquet,
    ):
        for group in groups:
            parquet.write_table(group)
            bar.update(len(group))
