"""The files of a folder or an archive, one after the other, with bounded memory."""

import contextlib
import functools
import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Literal

from cxr_embeddings.common import files

from .untrusted import TarMember

Member = tuple[str, Callable[[], bytes]]  # name of a file, and what reads the start of it
Members = Callable[[], Iterator[Member]]  # goes through them from the first; may be called again


@contextlib.contextmanager
def open_members(path: str, most: int) -> Iterator[Members]:
    """Opens a folder or an archive (.zip, .tar, .tgz); at most `most` bytes of a file are read.

    Names in an archive are never used as paths. Its links and devices are ignored.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    name = path.lower()
    try:
        if name.endswith(".zip"):
            with files.open_input(path) as stream, zipfile.ZipFile(stream) as archive:
                yield lambda: _zip_members(archive, most)
        elif name.endswith((".tar", ".tgz", ".tar.gz")):
            with files.open_input(path) as stream:
                yield lambda: _tar_members(stream, most)
        else:
            names = list(files.walk(path))
            yield lambda: ((one, functools.partial(_start, one, most)) for one in names)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole archive ({error}): get it again") from error


def _start(name: str, most: int) -> bytes:
    return files.read_with(name, lambda stream: stream.read(most))


def _zip_members(archive: zipfile.ZipFile, most: int) -> Iterator[Member]:
    for info in archive.infolist():
        if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16):
            yield info.filename, functools.partial(_unzip, archive, info, most)


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError("Python would unpack more of it than it is asked to")
    with archive.open(info) as member:
        return member.read(most)


def _tar_members(stream: io.IOBase, most: int) -> Iterator[Member]:
    """Each plain file, in the order of the archive; to be read before the next one is asked for."""
    stream.seek(0)
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    mode: Literal["r:gz", "r:"] = "r:gz" if packed else "r:"
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=TarMember) as archive:
        while info := archive.next():
            archive.members = []  # type: ignore[attr-defined]  # which would grow with the archive
            if info.isreg() and (file := archive.extractfile(info)):
                yield info.name, functools.partial(file.read, most)
