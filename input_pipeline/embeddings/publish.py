"""Embeddings as they are published: one file a film in the films' own tree, or one table of all.

The copy holds the same ids and the same float32 numbers as the folder it is made of. That folder is
read twice, one file at a time: first whole, so that nothing is written of what cannot be published.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from cxr_embeddings.common import files, paths, writing

from .. import run_folder
from ..films.film import InputFile, film_key
from . import output_plan
from . import writer as outputs
from .reader import is_embedding_file
from .verified import Progress, Source, read_checksums, read_file

TABLE = "embeddings.parquet"
_ROW_GROUP_BYTES = 64_000_000  # held in memory before it is written
_WINDOWS = re.compile(r"[A-Za-z]:[/\\]")  # the start of an absolute path


def place(image_id: str, input: str) -> str:
    """Where a film's embedding is published: its path below the input, without suffix.

    Args:
        image_id: relative as those of a store, or a path or address as those of films.
        input: the folder or address that the films were read from.

    Raises:
        ValueError: the place would lie outside the published folder, or be hidden in it.
    """
    relative = image_id.removeprefix(f"{input.rstrip('/')}/") if input else image_id
    if relative.startswith("/") or paths.is_remote(relative) or _WINDOWS.match(relative):
        raise ValueError(
            f"the image id {image_id!r} is no relative path, nor below the input {input}; expected "
            "one or the other, to tell where to publish it: embed the films' folder or a store of "
            "it, or publish a table by --layout parquet"
        )
    parts = re.split(r"[/\\]", relative)  # the copy may be read on Windows
    if "\0" in relative or any(not part or part.startswith(".") for part in parts):
        raise ValueError(
            f"the image id {image_id!r} would be published in a place that is hidden or not in the "
            "folder; expected names that do not begin with a dot, with / between them: rename the "
            "film and embed it again, or publish a table by --layout parquet"
        )
    return film_key(relative)


def write_per_image(
    source: Source,
    ids: Mapping[str, Sequence[str]],
    folder: str,
    versions: Mapping[str, str],
    progress: Progress,
) -> tuple[int, int]:
    """Publishes one TFRecord a film; what is there already stays.

    A film whose name the copy cannot hold (`output_plan.part_out`) is a row of its rejected.csv.

    Args:
        source: from `open_source`.
        ids: from `read_ids`.
        folder: absolute, or an address.
        versions: of the libraries at work, for the manifest.
        progress: shows how far it is.

    Returns:
        How many embeddings were there before, and how many films are left out for their names.

    Raises:
        ValueError: an image id cannot be published as a file, two would be one file, a source file
            has been damaged meanwhile, or the folder was made of something else.
        OSError: the folder cannot be written, or another run is writing to it.
    """
    input = source.manifest["identity"].get("input") or ""
    pieces = {
        name: [InputFile(image_id, place(image_id, input)) for image_id in of_file]
        for name, of_file in ids.items()
    }
    owner: dict[str, str] = {}
    for film in itertools.chain.from_iterable(pieces.values()):
        if owner.setdefault(film.key, film.path) != film.path:
            raise ValueError(
                f"{owner[film.key]} and {film.path} would be one file, {film.key}.tfrecord: rename "
                "one of them and embed it again, or publish a table by --layout parquet"
            )
    parted = {
        name: output_plan.part_out(films, folder, "per_image", "tfrecord")
        for name, films in pieces.items()
    }
    refused = {film: why for _, some in parted.values() for film, why in some.items()}
    kept = {name: films for name, (films, _) in parted.items()}
    planned = output_plan.plan_pieces(kept, "per_image", "tfrecord")
    identity, details = _identity(source, "per_image", "tfrecord"), _details(source, versions)
    with outputs.open_run(folder, planned, "tfrecord", identity, details, refused=refused) as run:
        todo = {film.path: film for film in run.todo}
        parts = {run.output_of[film].part for film in run.todo}
        with progress(source.count, run.done) as bar:
            for name in (name for part, name in enumerate(pieces) if part in parts):
                for record in read_file(source, name):
                    if record.image_id in todo:
                        run.add(todo[record.image_id], record.embedding)
                        bar.update(1)
        rows = [[film.path, *vars(why).values()] for film, why in refused.items()]
        rejected = _rejected(source, rows)
        return run.finish(given_up=source.given_up, rejected=rejected)["before"], len(refused)


def write_parquet(
    source: Source, folder: str, versions: Mapping[str, str], progress: Progress
) -> tuple[int, int]:
    """Publishes one table; one that is there and whole stays. All as of `write_per_image`.

    Raises:
        ValueError: a source file has been damaged meanwhile, or the folder was made of something
            else.
        OSError: the folder cannot be written, or another run is writing to it.
    """
    identity, details = _identity(source, "table", "parquet"), _details(source, versions)
    with run_folder.claim(folder) as scratch:
        earlier = run_folder.earlier_runs(folder, identity)
        _check_strangers(folder, has_manifest=earlier is not None)
        if earlier and _is_whole(folder):
            before = run_folder.read_manifest(folder)["embedded"]
            return before, source.count - before
        sums: dict[str, str] = {}

        def manifest(complete: bool, **counts: Any) -> None:
            runs = [*(run for run in earlier or [] if run != details), details]
            data = run_folder.encode_manifest(identity, runs, complete, **counts)
            files.write_whole(f"{folder}/{run_folder.MANIFEST}", data, scratch)
            sums[run_folder.MANIFEST] = hashlib.sha256(data).hexdigest()

        manifest(complete=False)
        with files.writing(f"{folder}/{TABLE}", scratch) as stream:
            refused = _write_table(stream, source, progress)
            sums[TABLE] = _digest(stream)
        rows = [[i, "name_not_utf8", "rename it, or a folder that it lies in"] for i in refused]
        rejected = _rejected(source, rows)
        files.write_whole(f"{folder}/rejected.csv", rejected, scratch)
        sums["rejected.csv"] = hashlib.sha256(rejected).hexdigest()
        given_up = run_folder.describe_given_up(source.given_up)
        manifest(complete=True, embedded=source.count - len(refused), given_up=given_up)
        checksums = run_folder.encode_checksums(sums)
        files.write_whole(f"{folder}/{run_folder.CHECKSUMS}", checksums, scratch)
    return 0, len(refused)


def _rejected(source: Source, refused: Sequence[Sequence[str]]) -> bytes:
    """The table of films without an embedding: those of the source, and those left out now."""
    rows = [
        [row.get(column) for column in run_folder.REJECTED]
        for row in run_folder.read_dropped(source.folder, "rejected")
    ]
    return writing.encode_table(run_folder.REJECTED, [*rows, *([*row, ""] for row in refused)])


def _write_table(stream: IO[bytes], source: Source, progress: Progress) -> list[str]:
    """Writes the table by row groups; its columns are those of `embeddings.encode_parquet`.

    Returns:
        The image ids that are left out, since they are no UTF-8 and Parquet's texts are.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.list_(pa.float32(), source.width)
    schema = pa.schema({"image_id": pa.string(), "embedding": vector})
    rows = max(1, _ROW_GROUP_BYTES // (4 * source.width))
    refused: list[str] = []
    everyone = (record for name in source.sums for record in read_file(source, name))
    records = (r for r in everyone if paths.is_text(r.image_id) or refused.append(r.image_id))
    with (
        progress(source.count, 0) as bar,
        pq.ParquetWriter(stream, schema, use_dictionary=False) as writer,
    ):
        while group := list(itertools.islice(records, rows)):
            values = pa.array(np.concatenate([record.embedding for record in group]))
            vectors = pa.FixedSizeListArray.from_arrays(values, type=vector)
            image_id = pa.array([record.image_id for record in group])
            writer.write_table(pa.table([image_id, vectors], schema=schema))
            bar.update(len(group))
    return refused


def _check_strangers(folder: str, has_manifest: bool) -> None:
    """Raises ValueError if embeddings lie in a folder that are not the table of this program."""
    names = {name for name in paths.files_below(folder) if is_embedding_file(name)}
    strangers = names - ({TABLE} if has_manifest else set())
    if strangers:
        raise ValueError(
            f"{folder} holds {len(strangers)} embedding files that this run would not make, such "
            f"as {min(strangers)}: choose an empty folder"
        )


def _is_whole(folder: str) -> bool:
    """Whether the table of a finished run is there as it was written."""
    manifest, expected = run_folder.read_manifest(folder), read_checksums(folder).get(TABLE)
    if not expected or not manifest or not manifest["complete"]:
        return False
    try:
        with files.open_input(f"{folder}/{TABLE}") as stream:
            return _digest(stream) == expected
    except FileNotFoundError:
        return False


def _digest(stream: Any) -> str:
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _identity(source: Source, layout: str, format: str) -> dict[str, Any]:
    """The source's own identity in its new shape, and which embeddings it is made of."""
    listed = json.dumps(list(source.sums.items())).encode()
    made_of = {"source_digest": hashlib.sha256(listed).hexdigest()}
    return {**source.manifest["identity"], "layout": layout, "format": format, **made_of}


def _details(source: Source, versions: Mapping[str, str]) -> dict[str, Any]:
    """What the new manifest says of this run, and of those that made the source."""
    kept = ("embedded", "skipped", "rejected", "given_up", "runs")
    about = {name: source.manifest[name] for name in kept if name in source.manifest}
    return {"versions": dict(versions), "source": about}
