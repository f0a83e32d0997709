"""The embedding files of a folder: found, read in parallel, and checked record by record."""

import collections
import os
import posixpath
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from cxr_embeddings.common import files, paths, progress

from .. import tfrecord
from . import formats

_THREADS_LOCAL, _THREADS_REMOTE = 8, 32  # to wait for the disk or the store, not to compute
BLOCK_FILES = 64
BLOCK_BYTES = 4_000_000  # a larger file is a block of its own
BYTES_AHEAD = 256_000_000  # of blocks being read or waiting to be written; a larger one goes alone
_LARGEST_FLOAT16 = 65504


class File(NamedTuple):
    """An embedding file: its name below the folder, its size, and what changes when it does."""

    name: str
    size: int
    stamp: str


class Rows(NamedTuple):
    """Embeddings of one width: for each its image id and the name of its file."""

    image_id: Sequence[str]
    file: Sequence[str]
    embedding: np.ndarray


def list_files(path: str) -> tuple[str, list[File]]:
    """The folder of the embedding files, and these, sorted by name."""
    if paths.is_remote(path):
        folder, listed = _list_remote(path)
    elif os.path.isdir(path):
        names = [file.removeprefix(f"{path}/") for file in files.walk(path)]
        chosen = [name for name in names if formats.is_embedding_file(name)]
        folder, listed = path, [_local_file(path, name) for name in chosen]
    elif os.path.exists(path):
        folder, name = posixpath.split(path)
        listed = [_local_file(folder, name)]
    else:
        raise FileNotFoundError(f"embeddings {path} do not exist; expected a folder or a file")
    found = sorted(file for file in listed if formats.is_embedding_file(file.name))
    if not found:
        suffixes = [format.suffix for format in formats.FORMATS.values()]
        raise FileNotFoundError(f"no embeddings in {path}: expected files *{', *'.join(suffixes)}")
    return folder, found


def _local_file(folder: str, name: str) -> File:
    status = os.stat(f"{folder}/{name}")
    return File(name, status.st_size, str(status.st_mtime_ns))


def _list_remote(path: str) -> tuple[str, list[File]]:
    fs, inner = paths.file_system(path)
    fs.invalidate_cache()
    alone = fs.isfile(inner)
    found = {posixpath.basename(inner): fs.info(inner)} if alone else paths.files_below(path)
    # Stores differ in what they call the time of a change, so all that they say is compared.
    return posixpath.dirname(path) if alone else path, [
        File(name, info["size"], str(sorted(info.items())))
        for name, info in found.items()
        if "/." not in f"/{name}"
    ]


def read_ahead(
    folder: str, found: Sequence[File], dtype: str, shown: bool | None = True
) -> Generator[tuple[list[Rows], list[tuple[str, str]]], None, None]:
    """`_read_block` of all files, in order, on threads, with a progress bar if it is `shown`."""
    todo = collections.deque(_blocks(found))
    waiting: collections.deque[tuple[int, int, Future[Any]]] = collections.deque()
    ahead = 0
    count = _THREADS_REMOTE if paths.is_remote(folder) else _THREADS_LOCAL
    threads = ThreadPoolExecutor(count, "reader")
    bar = progress.bar(len(found), what="files", shown=shown)
    try:
        while todo or waiting:
            size = sum(file.size for file in todo[0]) if todo else 0
            has_room = todo and len(waiting) < 2 * count and ahead + size <= BYTES_AHEAD
            if has_room or not waiting:
                block = todo.popleft()
                ahead += size
                future = threads.submit(_read_block, folder, block, dtype)
                waiting.append((len(block), size, future))
            else:
                read, size, future = waiting.popleft()
                yield future.result()
                ahead -= size
                bar.update(read)
    finally:
        threads.shutdown(cancel_futures=True)
        bar.close()


def _blocks(found: Sequence[File]) -> Iterator[Sequence[File]]:
    """Cuts a list of files into pieces that are worth a thread's while, yet small in memory."""
    start = size = 0
    for end, file in enumerate(found):
        if end > start and (end - start == BLOCK_FILES or size + file.size > BLOCK_BYTES):
            yield found[start:end]
            start, size = end, 0
        size += file.size
    yield found[start:]


def _read_block(
    folder: str, block: Sequence[File], dtype: str
) -> tuple[list[Rows], list[tuple[str, str]]]:
    """Reads some files: the usable embeddings by width, and what is left out and why."""
    by_width: dict[int, list[tuple[str, str, np.ndarray]]] = collections.defaultdict(list)
    rejected: list[tuple[str, str]] = []
    for name, _, _ in block:
        path = f"{folder}/{name}"
        try:
            data = files.read_bytes(path)
        except files.NotAFile as error:
            rejected.append((name, error.strerror or str(error)))
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), path) from error
        records, faults = _decode(name, data)
        rejected += [(name, fault) for fault in faults]
        for image_id, embedding in records:
            by_width[embedding.size].append((image_id, name, embedding))
    groups = []
    for rows in by_width.values():
        embedding = np.stack([row[2] for row in rows])
        finite = np.isfinite(embedding).all(axis=1)
        rejected += [(rows[i][0], "holds NaN or infinity") for i in np.flatnonzero(~finite)]
        kept = [rows[i] for i in np.flatnonzero(finite)]
        if kept:
            ids, names, _ = zip(*kept, strict=True)
            embedding = embedding if finite.all() else embedding[finite]
            groups.append(Rows(ids, names, _as_stored(embedding, ids, dtype)))
    return groups, rejected


def _as_stored(embedding: np.ndarray, ids: Sequence[str], dtype: str) -> np.ndarray:
    if dtype == "float16" and (largest := np.abs(embedding).max(axis=1)).max() > _LARGEST_FLOAT16:
        row = largest.argmax()
        raise ValueError(
            f"the embedding of {ids[row]} holds {largest[row]:g}, and float16 ends at "
            f"{_LARGEST_FLOAT16}: choose dtype float32"
        )
    return embedding.astype(dtype, copy=False)


def _decode(name: str, data: bytes) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
    """The image id and embedding of each good record of a file, and what is wrong with others."""
    stem, suffix = posixpath.splitext(name)
    records: list[formats.EmbeddingRecord] = []
    faults: list[str] = []
    try:
        if suffix.lower() != ".tfrecord":
            records = formats.format_of(name).decode(data)
        else:  # the only format of which a damaged file still has good records
            for offset, payload in tfrecord.unframe(data):
                try:
                    records.append(formats.decode_example(payload))
                except ValueError as error:
                    faults.append(f"the record at byte {offset}: {error}")
    except (ImportError, MemoryError):  # not the file's fault
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        faults.append(str(error) or type(error).__name__)
    found = []
    for record in records:
        if not record.embedding.size:
            faults.append(f"an embedding of no numbers {record.image_id}")
        elif not paths.is_text(record.image_id or stem):
            faults.append(f"the image id {record.image_id or stem!r} is not UTF-8: rename the film")
        elif not record.image_id and len(records) + len(faults) > 1:
            faults.append("a record without an image id, in a file of several records")
        else:
            found.append((record.image_id or stem, record.embedding))
    return found, faults
