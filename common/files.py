"""Reading and writing of local and remote files, with patience for what fails and may not again."""

import errno
import gzip
import io
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from cxr_embeddings.common import dicomweb, paths, untrusted
from cxr_embeddings.common.writing import whole_file

Result = TypeVar("Result")

RETRY_SECONDS = (1.0, 4.0, 16.0)  # pauses after a read that failed; about those of cloud stores
# Limits of an unpacked table. MIMIC-CXR's largest has 377,110 rows of 12 values, in 0.06 GB.
MAX_TABLE_BYTES, MAX_ROWS, MAX_COLUMNS, MAX_CELLS = 1 << 30, 10_000_000, 10_000, 200_000_000


class NotAFile(OSError):
    """A pipe, a socket or a device stands where a file was expected."""


PERMANENT = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotAFile),
    gzip.BadGzipFile,  # an OSError of what the bytes say
)


def open_input(path: str) -> io.IOBase:
    """Opens a local or remote file for reading; the caller closes it.

    Raises NotAFile where a reader might wait for ever, and any other OSError.
    """
    if dicomweb.is_archive(path):
        return io.BytesIO(dicomweb.read(path))
    if paths.is_remote(path):
        with paths.as_os_error("opening"):
            fs, inner = paths.file_system(path)
            return fs.open(inner, "rb")
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise NotAFile(errno.EINVAL, "not a regular file", path)
    # A pipe that took the file's place in the meantime does not keep the reader waiting.
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def retry(read: Callable[[], Result]) -> Result:
    """Reads, and again after each of `RETRY_SECONDS` while that fails and is not `PERMANENT`."""
    for seconds in RETRY_SECONDS:
        try:
            return read()
        except PERMANENT:
            raise
        except OSError:
            time.sleep(seconds * random.uniform(0.5, 1.5))  # so that many do not come back at once
    return read()


def read_with(path: str, reader: Callable[[io.IOBase], Result]) -> Result:
    """What a reader makes of a local or remote file; see `retry`. Raises OSError."""

    def read() -> Result:
        with open_input(path) as stream:
            return reader(stream)

    return retry(read)


def upload(file: str, path: str) -> None:
    """Writes a local file to an address, with the patience of `retry`. Raises OSError."""

    def put() -> None:
        fs, inner = paths.file_system(path)
        with paths.as_os_error("writing"):
            fs.put_file(file, inner)

    try:
        retry(put)
    except OSError as error:  # those of buckets do not name what could not be written
        why = error.strerror or str(error)
        raise OSError(error.errno, f"it cannot be written ({why})", path) from error


def read_bytes(path: str) -> bytes:
    """The whole of a local or remote file. Raises OSError."""
    return read_with(path, lambda stream: stream.read())


def read_table(path: str) -> bytes:
    """A table of text, unpacked if its name ends in .gz, no further than the bounds above.

    Raises ValueError where it is larger; EOFError, zlib.error or an OSError where it is damaged.
    """
    packed = path.lower().endswith(".gz")

    def read(stream: io.IOBase) -> bytes:
        opened = gzip.GzipFile(fileobj=stream) if packed else stream
        return opened.read(MAX_TABLE_BYTES + 1)

    data = read_with(path, read)
    lines = max(data.count(b"\n"), data.count(b"\r"))
    first = data[: data.find(b"\n")].count(b",")
    for number, most, what in [
        (len(data), MAX_TABLE_BYTES, "bytes"),
        (lines, MAX_ROWS, "rows"),
        (first, MAX_COLUMNS, "columns"),
        (lines + data.count(b","), MAX_CELLS, "values"),
    ]:
        if number > most:
            raise ValueError(
                f"{path} has more than {most:,} {what} when unpacked, which is the most that is "
                "read: cut it into several tables, or leave out what is not needed"
            )
    return data


def read_json(path: str | os.PathLike[str], schema: type[Result], advice: str) -> Result:
    """The content of a JSON file; see `untrusted.read_json`. Raises OSError, too."""
    path = os.fspath(path)
    data = read_with(path, lambda stream: stream.read(untrusted.MAX_JSON_BYTES + 1))
    return untrusted.read_json(data, schema, path, advice)


def read_range(path: str, start: int, length: int) -> bytes:
    """Some bytes of a local or remote file, fewer where it ends. Raises OSError.

    Of a remote file they are one request: to open it would be another one, or two.
    """

    def read() -> bytes:
        if paths.is_remote(path):
            fs, inner = paths.file_system(path)
            with paths.as_os_error("reading"):
                try:
                    return fs.cat_file(inner, start=start, end=start + length)
                except Exception:  # an empty object has no range
                    if start or fs.info(inner)["size"]:
                        raise
                    return b""
        with open_input(path) as stream:
            stream.seek(start)
            return stream.read(length)

    return retry(read)


def walk(folder: str) -> Iterator[str]:
    """Files below `folder`, hidden ones left out; links are followed, each folder entered once."""
    if paths.is_remote(folder):
        for name in paths.files_below(folder):
            if not any(p[:1] == "." and p not in (".", "..") for p in name.split("/")):
                yield f"{folder}/{name}"
        return
    for parent, _, names in walk_local(folder):
        yield from (f"{parent}/{name}" for name in names)


def walk_local(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` without hidden names; each folder once, then those that only links lead to."""

    def fail(error: OSError) -> None:
        raise error

    waiting, entered = [folder], set[tuple[int, int]]()
    for start in waiting:  # which grows
        for parent, folders, names in os.walk(start, onerror=fail):
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = [os.path.join(parent, name) for name in folders]
            waiting += [path for path in below if os.path.islink(path)]
            yield parent.rstrip("/"), folders, [name for name in names if not name.startswith(".")]


def write_whole(path: str, data: bytes, scratch: str | None = None) -> None:
    """Writes a file as `whole_file` does."""
    with whole_file(path, scratch) as stream:
        stream.write(data)
