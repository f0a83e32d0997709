"""The films of an input: a folder, a glob, a list of files or a single film."""

import collections
import dataclasses
import fnmatch
import itertools
import os
import posixpath
import re
from collections.abc import Iterator, Sequence

from cxr_embeddings.common import csv_tables, dicomweb, files, paths
from cxr_embeddings.common.paths import is_remote

from . import study_list
from .film import IMAGE_SUFFIXES, InputFile, film_key

LIST_SUFFIXES = (".txt", ".csv", ".csv.gz")
PATH_COLUMNS = ("path", "file", "filename", "file_path", "filepath", "image_path", "dicom_path")
_WILD = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True)
class Listing:
    """The films of an input, sorted by key."""

    files: list[InputFile]
    ignored: dict[str, int]  # suffix -> files in a searched folder that are no film by their name
    repeated: int  # entries of a list that named a film once more


def list_inputs(path: str, limit: int | None = None) -> Listing:
    """Lists the films of a folder, a glob, a list of files, or a single file; the first `limit`.

    A folder is searched recursively; in it a film is known by its suffix (`IMAGE_SUFFIXES`), or by
    having none, or only a number, as DICOM files often do; a glob or a list is taken as it is.
    Names that begin with a dot are left out, and entries of a list start at the list's folder.

    Raises:
        OSError: nothing is there, or no film, or a folder cannot be read.
        ValueError: a list is damaged or has no column of paths, or two films have one key, so that
            their outputs would overwrite each other.
    """
    path = paths.typed(path)
    if limit is not None and limit < 1:
        raise ValueError(f"input.limit is {limit}; expected at least 1")
    if dicomweb.is_archive(path):
        return _archived(path, limit)
    fs, inner = paths.file_system(path)
    path = fs.unstrip_protocol(inner) if is_remote(path) else path
    ignored: collections.Counter[str] = collections.Counter()
    repeated = 0
    # an object store has no folders, only names: they are listed once
    below = [*files.walk(path)] if is_remote(path) else []
    if below or fs.isdir(inner):
        found, root = [], path
        for file in below or files.walk(path):
            suffix = posixpath.splitext(file)[1].lower()
            if suffix in IMAGE_SUFFIXES or not suffix or suffix[1:].isdigit():
                found.append(file)
            else:
                ignored[suffix] += 1
    elif fs.exists(inner) and path.lower().endswith(LIST_SUFFIXES):
        folder = posixpath.dirname(path)
        entries = read_list(path)
        found = list(dict.fromkeys(entries))
        repeated = len(entries) - len(found)
        root = folder if all(f.startswith(folder + "/") for f in found) else _common_folder(found)
    elif fs.exists(inner):
        found, root = [path], posixpath.dirname(path)
    elif _WILD.search(path):
        found, root = _match(path)
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
    films = sorted(
        (InputFile(f, film_key(f.removeprefix(root).removeprefix("/"))) for f in found),
        key=lambda f: (f.key, f.path),
    )
    if odd := [(f, why) for f in films if (why := paths.why_outside(f.key))]:
        raise ValueError(
            f"{len(odd)} films have a name that would lie outside {root}, such as "
            f"{odd[0][0].path!r}: {odd[0][1]}; rename them, or name the other films in a list"
        )
    for first, second in itertools.pairwise(films):
        if first.key == second.key:
            raise ValueError(
                f"{first.path} and {second.path} would write one output, {first.key}: "
                "rename or leave out one of them"
            )
    return Listing(films[:limit], dict(ignored), repeated)


def _archived(address: str, limit: int | None) -> Listing:
    """The films of an archive, all or of a table of studies; the key of a film is its UIDs."""
    place, _, table = address.partition("#")
    root = place.partition("?")[0].rstrip("/")
    if table and root != place.rstrip("/"):
        raise ValueError(
            f"{address} has filters and a table of studies; expected ?NAME=VALUE or #studies.csv"
        )
    if table:
        found, repeated = study_list.list_films(root, table)
    else:
        found, repeated = files.retry(lambda: dicomweb.films(place)), 0
    if not found:
        raise FileNotFoundError(f"no film in {address}: no study of the archive fits the filters")
    named = [
        InputFile(one, film_key(one.removeprefix(f"{root}/"))) for one in sorted(found)[:limit]
    ]
    return Listing(named, {}, repeated)


def _match(pattern: str) -> tuple[list[str], str]:
    """The files that a glob means, hidden ones left out; and the folder that holds them all."""
    first = next(_WILD.finditer(pattern)).start()
    root = pattern[:first].rpartition("/")[0]
    rest = pattern.removeprefix(root).removeprefix("/").split("/")
    if is_remote(pattern):
        fs, inner = paths.file_system(pattern)
        matches = fs.glob(inner, detail=True).items()
        found = [fs.unstrip_protocol(f) for f, info in matches if info["type"] != "directory"]
        return [f for f in found if "/." not in f.removeprefix(root)], root
    while os.path.isdir(f"{root}/{rest[0]}"):  # a folder whose name looks like a pattern
        root, rest = f"{root}/{rest[0]}", rest[1:]
    return list(dict.fromkeys(_expand(root, rest))), root


def _expand(folder: str, parts: Sequence[str]) -> Iterator[str]:
    """The files below a folder whose path fits patterns, one a part; `**` is any number of parts.

    `glob` of Python would go round in circles where links do.
    """
    if not parts:
        return
    first, *rest = parts
    if first == "**":
        for parent, _, names in files.walk_local(folder):
            yield from _expand(parent, rest) if rest else (f"{parent}/{name}" for name in names)
        return
    path = f"{folder}/{first}"
    if os.path.exists(path):
        named = [path]
    else:
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        named = [f"{folder}/{n}" for n in names if n[:1] != "." and fnmatch.fnmatchcase(n, first)]
    for path in named:
        if rest:
            yield from _expand(path, rest)
        elif not os.path.isdir(path):
            yield path


def read_list(path: str) -> list[str]:
    """The films of a list: the lines of a .txt, or the one column of paths of a table."""
    if path.lower().endswith(".txt"):
        try:
            text = files.read_table(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"the list {path} is not UTF-8 text: {error}") from error
        entries = re.split(r"\r?\n", text)  # what else str.splitlines cuts at may be of a name
    else:
        rows = csv_tables.read_rows(path, strip=False)
        _, columns = next(rows, (1, []))
        places = [i for i, name in enumerate(columns) if name.lower() in PATH_COLUMNS]
        if len(places) != 1:
            raise ValueError(
                f"{path} has the columns {', '.join(columns) or '(none)'}; expected exactly one of "
                f"{', '.join(PATH_COLUMNS)} to say where the films are"
            )
        entries = [row[places[0]] for _, row in rows]
    folder = posixpath.dirname(path)
    found = []
    for entry in filter(str.strip, entries):
        path = paths.joined(folder, entry)
        # blanks around an entry count where a file has them
        if entry != entry.strip() and (is_remote(path) or not os.path.lexists(path)):
            path = paths.joined(folder, entry.strip())
        found.append(path)
    return found


def _common_folder(paths: Sequence[str]) -> str:
    # By character, then cut at the last slash: `commonpath` would break the `//` of addresses.
    folders = [posixpath.dirname(p) + "/" for p in paths]
    folder = os.path.commonprefix(folders).rpartition("/")[0]  # noqa: RUF071
    if len({is_remote(p) for p in paths}) > 1 or (is_remote(paths[0]) and "://" not in folder):
        raise ValueError(f"a list mixes file systems, such as that of {paths[0]}: split it")
    return folder
