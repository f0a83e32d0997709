"""The one way to write a file, or a folder: whole under its name, or not there at all.

What is being written has a temporary name beside its own or in a scratch folder, and is locked by
its writer. The next writer of the same name removes what a killed one left.
"""

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import logging
import os
import pathlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO

from cxr_embeddings.common import paths


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, scratch: str | None = None) -> Iterator[IO[bytes]]:
    """Opens a file that stands under its name when the block ends, whole, or not at all.

    A remote object appears when its upload is complete. A local file is flushed to the disk before
    it is renamed, and gets the rights that the umask leaves; the folders above it are made. Until
    then it lies in `scratch`, on the same file system, or else in its own folder, where what a
    killed writer left of this file is removed. Raises OSError.
    """
    path = os.fspath(path)
    if paths.is_remote(path):
        from cxr_embeddings.common import files  # which imports this module

        with tempfile.NamedTemporaryFile() as stream:
            yield stream
            stream.flush()
            files.upload(stream.name, path)
        return
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EEXIST, "a folder or a device has this name", path)
    folder = os.path.dirname(path)
    os.makedirs(folder or ".", exist_ok=True)
    if scratch is None:
        _remove_leftovers(folder, path)
    partial, descriptor = _begin(scratch or folder, path, make_file)
    stream = open(descriptor, "w+b")
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        if isinstance(error, OSError) and error.errno and not error.filename:  # of the stream
            raise OSError(error.errno, f"{error.strerror} when writing", path) from error
        raise


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder under a temporary name, which becomes `path` when the block ends without an error.

    The folders above it are made; an empty folder there is replaced. Raises OSError where it cannot
    be made, or where a folder that holds something stands there in the end.
    """
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with scratch_folder(path) as partial:
        yield partial
        os.rename(partial, path)


@contextlib.contextmanager
def scratch_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder beside `path`, with a name like its, which is removed when the block ends.

    What a killed process left of it, the next one with the same `path` removes.
    """
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    _remove_leftovers(folder, path)
    partial, lock = _begin(folder, path, make_folder)
    try:
        yield pathlib.Path(partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def silent_orbax() -> Iterator[None]:
    """Orbax and TensorStore are silent for the time of the block, also in threads of their own.

    Where they cannot write, Orbax logs each failure with its traceback from several threads, and
    TensorStore prints more through `sys.excepthook`. The error that is raised says it all.
    """
    with contextlib.ExitStack() as stack:
        for name in ("excepthook", "unraisablehook"):
            stack.callback(setattr, sys, name, getattr(sys, name))
            setattr(sys, name, lambda *_: None)
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        yield


@contextlib.contextmanager
def by_orbax(path: str | os.PathLike) -> Iterator[None]:
    """Makes one OSError about `path` of whatever Orbax raises when it cannot write."""
    with silent_orbax():
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            if "RESOURCE_EXHAUSTED" in str(error):  # a full disk, or a quota
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path)) from error
            said = str(error).partition("\n")[0][:300]
            raise OSError(errno.EIO, f"it cannot be written: {said}", os.fspath(path)) from error


def make_file(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def make_folder(path: str) -> int:
    os.mkdir(path)
    return os.open(path, os.O_RDONLY)


def _begin(folder: str, path: str, make: Callable[[str], int]) -> tuple[str, int]:
    """Makes what will be `path`, and locks it: its temporary name and its descriptor."""
    while True:
        partial = os.path.join(folder, f"{_stem(path)}{secrets.token_hex(4)}")
        descriptor = make(partial)
        with contextlib.suppress(OSError):  # of a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.lexists(partial):  # else another writer took it for a leftover just before
            return partial, descriptor
        os.close(descriptor)


def _stem(path: str) -> str:
    name = os.path.basename(path)
    if len(os.fsencode(name)) > 200:  # of the 255 that a name may have
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.partial-"


def _remove_leftovers(folder: str, path: str) -> None:
    """Removes what killed writers of this name left; what is locked, or a link, is no leftover."""
    with os.scandir(folder or ".") as entries:
        leftovers = [entry for entry in entries if entry.name.startswith(_stem(path))]
    for entry in leftovers:
        with contextlib.suppress(OSError):
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove = shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.unlink
                remove(entry.path)
            finally:
                os.close(descriptor)


def encode_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file that Python's and pandas' readers give back; names need not be UTF-8."""
    return b"".join(map(encode_row, (columns, *rows)))


def encode_row(row: Sequence[object]) -> bytes:
    """A line of a CSV file, as `encode_table` writes it; what is unknown (None, NaN) is empty."""
    line = io.StringIO()
    # By default it ends lines with CR and LF, and so quotes values that hold either.
    csv.writer(line).writerow("" if value is None or value != value else value for value in row)
    return f"{line.getvalue()[:-2]}\n".encode("utf-8", "surrogateescape")
