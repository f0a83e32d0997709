"""What a path is: local or remote, inside a folder or not; one answer for every package."""

from __future__ import annotations

import contextlib
import os
import pathlib
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Info = dict[str, Any]  # what a file system says of a file: name, size, type, and more of its own
_LOCAL_SCHEMES = ("file://", "local://")
_NAME_BYTES, _PATH_BYTES = 255, 4095  # limits of the usual file systems, without the closing zero


def is_remote(path: str) -> bool:
    """Whether `path` is an address, `scheme://...`. All else is a local path as it stands."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def typed(path: str) -> str:
    """A path as somebody typed it, as an absolute path or address.

    `~` and `~name` at its start mean a home folder, and `file://` before it says nothing. Both hold
    for what is typed only: a name in a list or in a table is taken as it stands.
    """
    if path.startswith(_LOCAL_SCHEMES):
        return joined(os.getcwd(), path)
    return path.rstrip("/") if is_remote(path) else joined(os.getcwd(), os.path.expanduser(path))


def typed_local(path: str, option: str) -> pathlib.Path:
    """A local path as somebody typed it. Raises ValueError if it is an address, naming the option.

    Without that, `gs://bucket/x` would become a folder `gs:` here.
    """
    path = typed(path)
    if is_remote(path):
        raise ValueError(f"{option} is {path}; expected a local path")
    return pathlib.Path(path)


def typed_file(path: str, option: str) -> pathlib.Path:
    """As `typed_local`, of a file to be written. Raises ValueError also if it cannot lie there."""
    file = typed_local(path, option)
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"{option} is {file}; expected a file in a folder that exists")
    return file


def joined(folder: str, path: str) -> str:
    """`path` as an absolute path or address, where a relative one starts at `folder`."""
    for scheme in _LOCAL_SCHEMES:
        path = path.removeprefix(scheme)
    if is_remote(path):
        return path.rstrip("/")
    if is_remote(folder) and not path.startswith("/"):
        scheme, mark, inner = folder.partition("://")
        return scheme + mark + posixpath.normpath(posixpath.join(inner, path))
    path = posixpath.join(folder, path)
    plain = "/" + posixpath.normpath(path).lstrip("/")
    # Behind a link, `..` is the folder above its target.
    moved = ".." in path.split("/") and os.path.realpath(path) != os.path.realpath(plain)
    return os.path.realpath(path) if moved else plain


def file_system(path: str) -> tuple[AbstractFileSystem, str]:
    """The file system, as fsspec has it, of an absolute path or address; and the path in it.

    fsspec's own `url_to_fs` takes names that hold `::` apart; here they are names. Raises
    ValueError or ImportError where fsspec, or what is installed, does not know the scheme.
    """
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    if not is_remote(path):
        return LocalFileSystem(), path
    scheme = path.partition("://")[0]
    kind = fsspec.get_filesystem_class(scheme)
    return fsspec.filesystem(scheme, **kind._get_kwargs_from_urls(path)), kind._strip_protocol(path)


@contextlib.contextmanager
def as_os_error(doing: str) -> Iterator[None]:
    """Makes OSErrors of what a cloud store's own library raises; that might quote credentials."""
    try:
        yield
    except (OSError, ImportError, ValueError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__} when {doing} it") from error


def bill(project: str | None) -> None:
    """Has Google Cloud charge a project for what is read from requester-pays buckets.

    That holds for this process and those that it starts.
    """
    if project:
        import fsspec

        os.environ["FSSPEC_GS_REQUESTER_PAYS"] = project
        fsspec.config.set_conf_env(fsspec.config.conf)


def names_in(path: str, beginnings: Sequence[str] = ()) -> set[str]:
    """Names of what lies in a local or remote folder; none where there is no folder.

    Those that begin otherwise than one of `beginnings` need not be among them: in a bucket, where
    there may be a million films beside a table, they are not listed.
    """
    from fsspec.asyn import AsyncFileSystem

    fs, inner = file_system(path)
    if beginnings and isinstance(fs, AsyncFileSystem) and has_flat_names(fs):
        found = [name for one in beginnings for name in fs.find(inner, prefix=one)]
        return {posixpath.basename(name) for name in found if posixpath.dirname(name) == inner}
    if not fs.isdir(inner):
        return set()
    return {posixpath.basename(name.rstrip("/")) for name in fs.ls(inner, detail=False)}


def files_below(folder: str) -> dict[str, Info]:
    """Every file below a folder: its name there -> what its file system says of it, as its `size`.

    Hidden ones are among them; of links to folders, what they lead to is not. fsspec's own `find`
    and `walk` pass over folders that cannot be read.

    Raises:
        OSError: a folder cannot be read. One that is not there has no files.
    """
    fs, root = file_system(folder)
    fs.invalidate_cache()
    try:
        with as_os_error("listing"):
            if is_remote(folder) and has_flat_names(fs):
                found = fs.find(root, detail=True)
            else:
                found = {info["name"]: info for info in _descend(fs, root)}
    except FileNotFoundError:
        return {}
    named = ((path.removeprefix(root).removeprefix("/"), info) for path, info in found.items())
    return {name: info for name, info in named if name and not name.endswith("/")}


def has_flat_names(fs: AbstractFileSystem) -> bool:
    """Whether a file system lists all its names at once, as stores do that know no folders."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    if isinstance(fs, AsyncFileSystem):
        return type(fs)._find is not AsyncFileSystem._find
    return type(fs).find is not AbstractFileSystem.find


def _descend(fs: AbstractFileSystem, folder: str) -> Iterator[Info]:
    for info in fs.ls(folder, detail=True):
        if info["type"] == "directory" and info["name"].rstrip("/") != folder:
            yield from _descend(fs, info["name"].rstrip("/"))
        elif info["type"] != "directory":
            yield info


def why_outside(key: str) -> str:
    """Why a name from a file or a listing would lie outside its folder; "" if it would not."""
    parts = key.split("/")
    if is_remote(key):
        return "it is an address"
    if key.startswith("/"):
        return "it is an absolute path"
    if "\0" in key:
        return "it holds a zero byte"
    odd = next((part for part in parts if part in ("", ".", "..")), None)
    return "" if odd is None else f"it has the part {odd!r}" if odd else "it has an empty part"


def inside(folder: str, key: str) -> str:
    """A name from a file or a listing as a path below a folder. Raises ValueError if it is not."""
    if why := why_outside(key):
        raise ValueError(
            f"{key!r} would lie outside {folder}: {why}; expected names with / between them"
        )
    return f"{folder}/{key}"


def longest_name(folder: str) -> int:
    """How many bytes a name in a folder, which need not be there yet, may have.

    Remote names are held to the usual limit, since what lies there will be copied to disks.
    """
    if is_remote(folder):
        return _NAME_BYTES
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return min(_NAME_BYTES, os.pathconf(folder, "PC_NAME_MAX"))


def why_too_long(path: str, longest: int) -> str:
    """Why a path is too long to be opened, where a name has at most `longest` bytes; "" if not."""
    data = os.fsencode(path)
    name = max(map(len, data.split(b"/")))
    if name > longest:
        return f"a name of {name} bytes, where {longest} are the most"
    if len(data) > _PATH_BYTES:
        return f"a path of {len(data)} bytes, where {_PATH_BYTES} are the most"
    return ""


def is_text(name: str) -> bool:
    """Whether a name is UTF-8; others hold their odd bytes as lone surrogates (PEP 383)."""
    return re.search("[\ud800-\udfff]", name) is None
