"""The one file-system layer: list the films of an input, read them, write files whole or not.

Addresses with a scheme (`gs://`, `s3://`, `memory://`) go through fsspec, as do local paths where
it does them well.
"""

import collections
import contextlib
import csv
import dataclasses
import gzip
import io
import itertools
import os
import posixpath
import random
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TypeVar

import fsspec

from configs import untrusted

Result = TypeVar("Result")

IMAGE_SUFFIXES = frozenset({".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg"})
LIST_SUFFIXES = (".txt", ".csv", ".csv.gz")
RETRY_SECONDS = (1.0, 4.0, 16.0)  # pauses after a read that failed; about those of cloud stores
PERMANENT = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError),
    gzip.BadGzipFile,  # an OSError of what the bytes say
)
PATH_COLUMNS = ("path", "file", "filename", "file_path", "filepath", "image_path", "dicom_path")


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One film to be read.

    Attributes:
        path: absolute path or address; also the `image/id` of the film's embedding.
        key: its place below the input's root, with `/` and without suffix; names its output.
    """

    path: str
    key: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """The films of an input, sorted by key.

    Attributes:
        files: the films.
        ignored: suffix -> number of files in a searched folder that are no film by their name.
        repeated: entries of a list that named a film once more.
    """

    files: list[InputFile]
    ignored: dict[str, int]
    repeated: int


def is_remote(path: str) -> bool:
    """Whether `path` is an address with a scheme rather than a local path."""
    return re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


def absolute(path: str, folder: str | None = None) -> str:
    """`path` as an absolute path or address; a relative one starts at `folder` (default: here)."""
    path = path.removeprefix("file://")
    if is_remote(path):
        return path.rstrip("/")
    scheme, mark, inner = (folder or os.getcwd()).rpartition("://")
    if path.startswith("/"):
        scheme = mark = ""
    return scheme + mark + posixpath.normpath(posixpath.join(inner, os.path.expanduser(path)))


def open_input(path: str) -> io.IOBase:
    """Opens a local or remote file for reading; the caller closes it. Raises OSError."""
    if not is_remote(path):
        return open(path, "rb")
    with _as_os_error("opening"):
        return fsspec.open(path, "rb").open()


@contextlib.contextmanager
def _as_os_error(doing: str) -> Iterator[None]:
    """Makes OSErrors of what a cloud store's own library raises; that might quote credentials."""
    try:
        yield
    except (OSError, ImportError, ValueError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__} when {doing} it") from error


def retry(read: Callable[[], Result]) -> Result:
    """Reads, and again after each of `RETRY_SECONDS` while that fails.

    Raises:
        OSError: one of `PERMANENT` at once; else what the last attempt raised.
    """
    for seconds in RETRY_SECONDS:
        try:
            return read()
        except PERMANENT:
            raise
        except OSError:
            time.sleep(seconds * random.uniform(0.5, 1.5))  # so that many do not come back at once
    return read()


def read_bytes(path: str) -> bytes:
    """The whole of a local or remote file. Raises OSError."""

    def read() -> bytes:
        with open_input(path) as stream:
            return stream.read()

    return retry(read)


def read_table(path: str) -> bytes:
    """A table, unpacked if it ends in .gz; see `untrusted.read_table`. Raises OSError, too."""

    def read() -> bytes:
        with open_input(path) as stream:
            return untrusted.read_table(stream, path.lower().endswith(".gz"), path)

    return retry(read)


def read_json(path: str, schema: type[Result], advice: str) -> Result:
    """The content of a JSON file; see `untrusted.read_json`. Raises OSError, too."""

    def read() -> bytes:
        with open_input(path) as stream:
            return stream.read(untrusted.MAX_JSON_BYTES + 1)

    return untrusted.read_json(retry(read), schema, path, advice)


def read_range(path: str, start: int, length: int) -> bytes:
    """Some bytes of a local or remote file, fewer where it ends. Raises OSError."""

    def read() -> bytes:
        if is_remote(path):
            fs, inner = fsspec.core.url_to_fs(path)
            with _as_os_error("reading"):
                return fs.cat_file(inner, start, start + length)
        with open(path, "rb") as stream:
            stream.seek(start)
            return stream.read(length)

    return retry(read)


def bill(project: str | None) -> None:
    """Has Google Cloud charge a project for what is read from requester-pays buckets.

    Holds for this process and those that it starts. Who reads is settled by Google's default
    credentials, which are never looked at here.
    """
    if project:
        os.environ["FSSPEC_GS_REQUESTER_PAYS"] = project
        fsspec.config.set_conf_env(fsspec.config.conf)


def list_inputs(path: str, limit: int | None = None) -> Listing:
    """Lists the films of a folder, a glob, a list of files, or a single file.

    A folder is searched recursively; in it a film is known by its suffix (`IMAGE_SUFFIXES`), or by
    having none, or only a number, as DICOM files often do; a glob or a list is taken as it is.
    Names that begin with a dot are left out, and entries of a list start at the list's folder.

    Args:
        path: local path or address.
        limit: keep only the first so many films; None keeps all.

    Raises:
        FileNotFoundError: nothing is there, or no film is among what is there.
        OSError: a folder cannot be read.
        ValueError: a list is damaged or has no column of paths, `limit` is below 1, or two films
            have one key, so that their outputs would overwrite each other.
    """
    path = absolute(path)
    fs, inner = fsspec.core.url_to_fs(path)
    if limit is not None and limit < 1:
        raise ValueError(f"input.limit is {limit}; expected at least 1")
    path = fs.unstrip_protocol(inner) if is_remote(path) else inner
    ignored: collections.Counter[str] = collections.Counter()
    repeated = 0
    if fs.isdir(inner):
        found, root = [], path
        for file in walk(path):
            suffix = posixpath.splitext(file)[1].lower()
            if suffix in IMAGE_SUFFIXES or not suffix or suffix[1:].isdigit():
                found.append(file)
            else:
                ignored[suffix] += 1
    elif fs.exists(inner) and path.lower().endswith(LIST_SUFFIXES):
        folder = posixpath.dirname(path)
        entries = [absolute(entry, folder) for entry in _read_list(path)]
        found = list(dict.fromkeys(entries))
        repeated = len(entries) - len(found)
        root = folder if all(f.startswith(folder + "/") for f in found) else _common_folder(found)
    elif fs.exists(inner):
        found, root = [path], posixpath.dirname(path)
    elif re.search(r"[*?\[]", path):
        matches = [f for f in fs.glob(inner) if not fs.isdir(f)]
        found = [fs.unstrip_protocol(f) for f in matches] if is_remote(path) else matches
        root = posixpath.dirname(re.split(r"[*?\[]", path)[0])
        found = [f for f in found if "/." not in f.removeprefix(root)]
    else:
        raise FileNotFoundError(
            f"input {path} does not exist; expected a folder, a glob, a film, or a list of files "
            f"({', '.join(LIST_SUFFIXES)})"
        )
    if not found:
        others = ", ".join(f"{n} {suffix}" for suffix, n in ignored.most_common(5))
        raise FileNotFoundError(
            f"no film in {path}: expected DICOM, PNG or JPEG files, found {others or 'nothing'}"
        )
    files = sorted(
        (InputFile(f, key(f.removeprefix(root).lstrip("/"))) for f in found),
        key=lambda f: (f.key, f.path),
    )
    for first, second in itertools.pairwise(files):
        if first.key == second.key:
            raise ValueError(
                f"{first.path} and {second.path} would write one output, {first.key}: "
                "rename or leave out one of them"
            )
    return Listing(files[:limit], dict(ignored), repeated)


def walk(folder: str) -> Iterator[str]:
    """Files below `folder`, hidden ones left out; links are followed, each folder entered once."""
    if is_remote(folder):
        fs, inner = fsspec.core.url_to_fs(folder)
        for parent, _, names in fs.walk(inner, on_error="raise"):
            shown = (fs.unstrip_protocol(f"{parent}/{n}") for n in names if not n.startswith("."))
            yield from shown
        return

    def fail(error: OSError) -> None:
        raise error

    entered = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        chosen = []
        for name in folders:
            target = os.path.realpath(os.path.join(parent, name))
            if not name.startswith(".") and target not in entered:
                entered.add(target)
                chosen.append(name)
        folders[:] = chosen
        yield from (f"{parent}/{n}" for n in names if not n.startswith("."))


def _read_list(path: str) -> list[str]:
    """The entries of a list: the lines of a .txt, or the one column of paths of a table."""
    try:
        text = read_table(path).decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"list {path} is damaged or no UTF-8 text: {error}") from error
    if path.lower().endswith(".txt"):
        entries = text.splitlines()
    else:
        table = csv.DictReader(io.StringIO(text))
        columns = table.fieldnames or []
        named = [c for c in columns if c.strip().lower() in PATH_COLUMNS]
        if len(named) != 1:
            raise ValueError(
                f"{path} has the columns {', '.join(columns) or '(none)'}; expected exactly one of "
                f"{', '.join(PATH_COLUMNS)} to say where the films are"
            )
        entries = [row[named[0]] or "" for row in table]
    return [entry.strip() for entry in entries if entry.strip()]


def _common_folder(paths: Sequence[str]) -> str:
    # By character, then cut at the last slash: `commonpath` would break the `//` of addresses.
    folders = [posixpath.dirname(p) + "/" for p in paths]
    folder = os.path.commonprefix(folders).rpartition("/")[0]  # noqa: RUF071
    if len({is_remote(p) for p in paths}) > 1 or (is_remote(paths[0]) and "://" not in folder):
        raise ValueError(f"a list mixes {paths[0]} with files of other schemes: split it")
    return folder


def key(relative: str) -> str:
    """A film's path below its root without the suffix, if that is one of films."""
    stem, suffix = posixpath.splitext(relative)
    return stem if suffix.lower() in IMAGE_SUFFIXES else relative


@contextlib.contextmanager
def writing(path: str, scratch: str) -> Iterator[IO[bytes]]:
    """Opens a file that stands under its name when the block ends, whole, or not at all.

    A local file is written to a temporary name in the folder `scratch` (on the same file system),
    flushed to the disk and renamed; a remote object appears when its upload is complete.

    Raises:
        OSError: the folder is not writable, the disk is full, ...
    """
    if is_remote(path):
        with tempfile.NamedTemporaryFile() as stream:
            yield stream
            stream.flush()
            fs, inner = fsspec.core.url_to_fs(path)
            fs.put_file(stream.name, inner)
        return
    stream = tempfile.NamedTemporaryFile(dir=scratch, delete=False)
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.chmod(stream.name, 0o644)
        os.replace(stream.name, path)
    except BaseException as error:
        os.unlink(stream.name)
        if isinstance(error, OSError) and error.errno and not error.filename:  # of the stream
            raise OSError(error.errno, f"{error.strerror} when writing", path) from error
        raise


def write_whole(path: str, data: bytes, scratch: str) -> None:
    """Writes a file as `writing` does."""
    with writing(path, scratch) as stream:
        stream.write(data)
