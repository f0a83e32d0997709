"""Folders of embedding files, read once into one memory-mapped array with an index.

The table is one file: the rows as they are, an index in JSON, and the length of the index. It
appears by a rename when all of that is on the disk, so it is whole or not there.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from typing import IO, Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Len
from jaxtyping import Float, Shaped
from typing_extensions import TypedDict

from cxr_embeddings.common import files, paths, untrusted, writing

from .. import run_folder
from .folders import Folder, open_folders, shared_manifest
from .formats import is_embedding_file
from .reader import Rows, read_ahead

TABLE_VERSION = 2
DAMAGED = "damaged"  # the reason of what a file holds that is no embedding
DTYPES = ("float32", "float16")
MAX_INDEX_BYTES = 4 << 30  # of 10 million films with long paths
_INDEX_LENGTH = struct.Struct("<Q")


@untrusted.may_have_more
class _Index(TypedDict):
    """What is written behind the rows."""

    key: str
    dtype: Literal["float32", "float16"]
    shape: Annotated[list[run_folder.Count], Len(2, 2)]
    image_id: list[str]
    digest: str
    rejected: list[tuple[str, str]]


class LeftOut(NamedTuple):
    """A film, or a record of a file, that has no embedding."""

    image_id: str  # of a damaged file: its name below the folder
    reason: str  # `DAMAGED`, or one of `films.film.REASONS`
    detail: str


@dataclasses.dataclass(frozen=True, repr=False)
class Embeddings:
    """Embeddings of films; those of folders by the names of their files and the records in them.

    Attributes:
        image_id: str; a record's own, else its file's path below the folder, without suffix.
        embedding: float32 or float16, all finite; of folders read-only and mapped from the disk.
        encoder: the "identity" in the run's manifest, which says what made the embeddings (weights,
            preset, layer, ...); None where no manifest is.
        complete: whether the manifest says that no film is missing; None where no manifest is.
        digest: SHA-256 in hex of the ids and the rows as stored: which embeddings these are.
        rejected: what has no embedding, and why: damaged records, and the films that the runs
            which made the folders rejected.
        folders: absolute, or addresses.
    """

    image_id: Shaped[np.ndarray, " n"]
    embedding: Float[np.ndarray, "n dim"]
    encoder: dict[str, Any] | None
    complete: bool | None
    digest: str
    rejected: list[LeftOut]
    folders: Sequence[str] = ()

    def __repr__(self) -> str:
        films, width = self.embedding.shape
        left_out = f"; {len(self.rejected)} rejected" if self.rejected else ""
        return f"<Embeddings of {films} films, {width:,} numbers each{left_out}>"

    @property
    def damaged(self) -> list[LeftOut]:
        """Those of `rejected` that stand in the files, but hold no embedding that can be used."""
        return [one for one in self.rejected if one.reason == DAMAGED]


def read_table(
    path: str | Sequence[str],
    cache: str | None = None,
    dtype: str = "float32",
    shown: bool | None = True,
) -> Embeddings:
    """Reads embeddings of any layout and format, or maps the table that was made of them before.

    Read are the files `*.tfrecord`, `*.npz` and `*.parquet` of this program, and those of the CXR
    Foundation toolkit. Names that begin with a dot are left out. A table is made anew when a file
    has come, gone or changed. A damaged record is left out, and said to be in `rejected`.

    Args:
        path: as of `folders.open_folders`; a folder is searched with all below it.
        cache: local folder for the table; None is `.table` in the first folder, if it is local.
        dtype: "float32", or "float16" for half the size.
        shown: show a progress bar; see `common.progress.bar`.

    Raises:
        FileNotFoundError: no embedding file is there.
        ValueError: all are damaged, widths or encoders differ, an image id is there twice, a
            number is too large for float16, a manifest is a stranger's, or a remote `path` has no
            `cache`.
        OSError: a file cannot be read, or the table cannot be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    folders = open_folders(path)
    first = folders[0]
    if cache is None and paths.is_remote(first.path):
        raise ValueError(
            f"{first.path} is remote: pass --config.embeddings.cache=FOLDER, a local one"
        )
    if cache is not None and paths.is_remote(paths.typed(cache)):
        raise ValueError(f"the cache {cache} is remote; expected a local folder")
    encoder, complete = shared_manifest(folders)
    cache = _own_cache(first.folder) if cache is None else paths.typed(cache)

    state, sources = hashlib.sha256(), []
    for one in folders:
        # A file that was changed may keep its size and time: its run's checksums tell it, too.
        state.update(repr((TABLE_VERSION, dtype, one.manifest or {}, one.sums)).encode())
        for file in one.files:
            state.update(repr(tuple(file)).encode())
        # One cache may serve several folders, and a folder may move together with its own cache.
        source = one.path if paths.is_remote(one.path) else os.path.relpath(one.path, cache)
        sources.append(source.encode("utf-8", "surrogateescape"))
    key = state.hexdigest()
    name = hashlib.sha256(b"\0".join(sources)).hexdigest()[:16]
    place = os.path.join(cache, f"{name}-{dtype}.table")

    found = _open(place, key)
    if found is None:
        with alone_in(cache):
            found = _open(place, key)  # another reader may have made it meanwhile
            if found is None:
                _make(place, folders, dtype, key, shown)
                found = _open(place, key)
    if found is None:
        raise OSError(errno.EIO, "the table of the embeddings is damaged as soon as written", place)
    index, rows = found
    rejected = rejected_films([one.folder for one in folders])
    there = {*index["image_id"]} if rejected else ()  # a run since then may have read some
    return Embeddings(
        image_id=np.array(index["image_id"], object),
        embedding=rows,
        encoder=encoder,
        complete=complete,
        digest=index["digest"],
        rejected=[
            *(LeftOut(name, DAMAGED, why) for name, why in index["rejected"]),
            *(row for row in rejected if row.image_id not in there),
        ],
        folders=[one.folder for one in folders],
    )


def of_arrays(
    image_id: Sequence[str],
    embedding: Float[np.ndarray, "n dim"],
    encoder: dict[str, Any],
    complete: bool,
    rejected: list[LeftOut],
) -> Embeddings:
    """Embeddings that were never written; their digest is as of those read from files."""
    content = hashlib.sha256(np.ascontiguousarray(embedding).tobytes())
    content.update(json.dumps([embedding.dtype.name, [*embedding.shape], [*image_id]]).encode())
    ids = np.array(image_id, object)
    return Embeddings(ids, embedding, encoder, complete, content.hexdigest(), rejected)


def _own_cache(folder: str) -> str:
    """The place of the table in the folder of the embeddings. Raises ValueError if it is a link."""
    cache = f"{folder}/.table"
    if os.path.islink(cache):
        raise ValueError(
            f"{cache} is a link to {os.path.realpath(cache)}, and tables are written to the folder "
            "itself: remove the link, or pass --config.embeddings.cache=FOLDER"
        )
    return cache


def _open(place: str, key: str) -> tuple[_Index, np.memmap] | None:
    """Maps a table that was made with this key; None where there is none that is whole."""
    try:
        with files.open_input(place) as stream:
            end = stream.seek(-_INDEX_LENGTH.size, os.SEEK_END)
            (length,) = _INDEX_LENGTH.unpack(stream.read())
            stream.seek(end - length)
            data = stream.read(min(length, MAX_INDEX_BYTES + 1))
            index = untrusted.read_json(data, _Index, place, "", MAX_INDEX_BYTES)
            if index["key"] != key or len(index["image_id"]) != index["shape"][0]:
                return None
            rows = np.memmap(stream, index["dtype"], "r", shape=tuple(index["shape"]))
            return (index, rows) if rows.nbytes == end - length else None
    except (OSError, ValueError, OverflowError):
        return None


def rejected_films(folders: Sequence[str]) -> list[LeftOut]:
    """The films that the runs which made some folders rejected, when they last ended."""
    return [
        LeftOut(row["image_id"], row["reason"], row.get("detail") or "")
        for folder in folders
        for row in run_folder.read_dropped(folder, "rejected")
    ]


@contextlib.contextmanager
def alone_in(cache: str) -> Iterator[None]:
    """Makes the cache and keeps other readers from making tables in it.

    What the system says when it cannot write becomes a sentence that says what to do.
    """
    busy = f"another program makes a table in {cache}: waiting for it"
    try:
        os.makedirs(cache, exist_ok=True)
        with run_folder.hold(os.path.join(cache, run_folder.LOCK), busy, wait=True):
            yield
    except OSError as error:
        if is_embedding_file(str(error.filename)):  # reading failed
            raise
        raise OSError(
            error.errno,
            f"the table of the embeddings cannot be written to {cache} ({error.strerror}): pass "
            "--config.embeddings.cache=FOLDER, a local folder that can be written and has space",
        ) from error


def _make(place: str, folders: Sequence[Folder], dtype: str, key: str, shown: bool | None) -> None:
    needed = sum(file.size for one in folders for file in one.files) * np.dtype(dtype).itemsize // 4
    free = shutil.disk_usage(os.path.dirname(place)).free
    if needed > free:
        missing = f"about {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        raise OSError(errno.ENOSPC, missing)
    with writing.whole_file(place) as stream:
        index = json.dumps({"key": key} | _write_rows(stream, folders, dtype, shown)).encode()
        stream.write(index + _INDEX_LENGTH.pack(len(index)))


def _write_rows(
    stream: IO[bytes], folders: Sequence[Folder], dtype: str, shown: bool | None
) -> dict[str, Any]:
    """Writes the rows of all files, each block as soon as it is read. Returns their index."""
    ids: list[str] = []
    file_of: list[str] = []
    rejected: list[tuple[str, str]] = []
    widths: dict[int, tuple[str, int]] = {}  # the first file of a width, and its number of rows
    content = hashlib.sha256()
    for groups, faults in _read(folders, dtype, shown):
        rejected += faults
        for rows in groups:
            width = rows.embedding.shape[1]
            first, count = widths.get(width, (rows.file[0], 0))
            widths[width] = first, count + len(rows.file)
            ids += rows.image_id
            file_of += rows.file
            data = rows.embedding.data.cast("B")
            stream.write(data)
            content.update(data)
    folder = ", ".join(one.folder for one in folders)
    if not widths:
        count = sum(len(one.files) for one in folders)
        why = f", such as {rejected[0][0]}: {rejected[0][1]}" if rejected else ""
        raise ValueError(
            f"the {count} embedding files in {folder} hold no embedding that can be used; "
            f"{len(rejected)} files or records are damaged{why}"
        )
    if len(widths) > 1:
        said = ", ".join(f"{n} have {width} numbers ({f})" for width, (f, n) in widths.items())
        raise ValueError(
            f"the embeddings in {folder} differ in width: {said}; expected those of one encoder: "
            "keep them in folders of their own"
        )
    shape = [len(ids), *widths]
    stream.flush()
    _check_ids(ids, file_of, np.memmap(stream, dtype, "r", shape=tuple(shape)))
    content.update(json.dumps([dtype, shape, ids]).encode())
    made = {"dtype": dtype, "shape": shape, "digest": content.hexdigest()}
    return made | {"rejected": rejected, "image_id": ids}


def _read(
    folders: Sequence[Folder], dtype: str, shown: bool | None
) -> Iterator[tuple[list[Rows], list[tuple[str, str]]]]:
    """The blocks of `read_ahead` of all folders; of several, files are named with their folder."""
    for one in folders:
        names = {file.name: f"{one.folder}/{file.name}" for file in one.files}
        with contextlib.closing(read_ahead(one.folder, one.files, dtype, shown)) as blocks:
            for groups, faults in blocks:
                if len(folders) > 1:
                    groups = [g._replace(file=[names[name] for name in g.file]) for g in groups]
                    faults = [(names.get(name, name), fault) for name, fault in faults]
                yield groups, faults


def _check_ids(ids: Sequence[str], file_of: Sequence[str], embedding: np.ndarray) -> None:
    """Raises ValueError if two rows have one image id."""
    first: dict[str, int] = {}
    pairs = ((first.setdefault(image_id, row), row) for row, image_id in enumerate(ids))
    if repeated := [(one, other) for one, other in pairs if one != other]:
        one, other = repeated[0]
        equal = sum(np.array_equal(embedding[a], embedding[b]) for a, b in repeated)
        raise ValueError(
            f"{ids[one]} has an embedding in {file_of[one]} and in {file_of[other]}; in all "
            f"{len(repeated)} records repeat an image id, {equal} of them with the same numbers: "
            "keep one record a film"
        )
