"""The folder of a run, of embeddings or of a store: held by one process, named by a manifest.

A manifest says what made a folder (`identity`), so that nothing else is mixed in.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, NotRequired, Protocol, overload

from annotated_types import Interval, Len
from typing_extensions import TypedDict

from cxr_embeddings.common import csv_tables, files, paths, untrusted, writing
from cxr_embeddings.common.identities import Facts, differences

REJECTED = ("image_id", "reason", "detail", "tries")  # columns of rejected.csv
MANIFEST, CHECKSUMS = "manifest.json", "SHA256SUMS.txt"
MANIFEST_VERSION = 1
SCRATCH, LOCK = ".partial", ".lock"  # folder of what is being written; who holds the run's folder
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems without locks
_NO_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)
PASSING = ("unreadable", "crashed", "timed_out", "failed")  # reasons that another run may not meet
TRIES = 3  # runs that end with such a reason, after which the film counts as rejected for good
OUTAGE = 1000  # films: where more fail so in a run, not they are to blame, and it is no try

Count = Annotated[int, Interval(ge=0, lt=2**63)]


@untrusted.may_have_more
class Identity(TypedDict, total=False):
    """What made a folder: the fields that something is read from. There are more."""

    input: str | None
    views: list[str] | None
    preset: str
    preset_version: int
    shape: Annotated[list[Annotated[int, Interval(ge=1, le=2**31)]], Len(1, 4)]
    size: Annotated[int, Interval(ge=1, le=8192)]
    storage: str
    chest_only: bool


@untrusted.may_have_more
class ShardFacts(TypedDict):
    films: Count
    bytes: Count


@untrusted.may_have_more
class Manifest(TypedDict):
    """A manifest, and what those of embeddings or stores have besides."""

    manifest_version: NotRequired[int]
    complete: bool
    identity: Identity
    runs: list[Facts]
    embedded: NotRequired[Count]
    retryable: NotRequired[Count]
    given_up: NotRequired[dict[str, Count]]
    shards: NotRequired[dict[str, ShardFacts]]


class Bar(contextlib.AbstractContextManager["Bar"], Protocol):
    """What a progress bar is told."""

    def update(self, films: int) -> object: ...


Progress = Callable[[int, int], Bar]  # (films in all, those done before) -> a progress bar


@contextlib.contextmanager
def claim(folder: str) -> Iterator[str]:
    """Makes a run's folder and holds it for this process alone; gives its empty scratch folder.

    The claim ends with the process, however that ends. Remote folders cannot be claimed.

    Raises:
        OSError: the folder cannot be made or written; BlockingIOError: another run writes to it.
        ValueError: a link in it leads out of it.
    """
    scratch = os.path.join(folder, SCRATCH)
    if paths.is_remote(folder):
        yield scratch
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        why = "a file has this name" if os.path.isfile(folder) else error.strerror
        said = f"the folder {folder} cannot be made ({why}): choose another one for the output"
        raise OSError(error.errno, said) from error
    refuse_links(folder)
    busy = f"another run is writing to {folder}: wait for it or choose another folder"
    with hold(os.path.join(folder, LOCK), busy):
        if os.path.lexists(scratch):
            shutil.rmtree(scratch)  # which follows no link
        os.mkdir(scratch)
        yield scratch
        shutil.rmtree(scratch)


@contextlib.contextmanager
def hold(path: str, busy: str, wait: bool = False) -> Iterator[None]:
    """Holds a lock file for this process alone, and removes it in the end.

    Where another process holds it, `busy` is raised as BlockingIOError; or, to `wait`, printed.

    Between opening and locking, its last owner may have removed the file. A lock on that would
    exclude nobody, so the locked file must still be the one that stands under the name.
    """
    while True:
        # For writing, because NFS grants exclusive locks on such files only
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in _NO_RIGHTS:
                raise
            said = f"{path} cannot be made ({error.strerror}): choose a folder that can be written"
            raise OSError(error.errno, said) from error
        try:
            _lock(lock, path, busy, wait)
            if _is_at(lock, path):
                try:
                    yield
                finally:
                    with contextlib.suppress(FileNotFoundError):  # it went with its folder
                        os.unlink(path)
                return
        finally:
            os.close(lock)


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False


def _lock(lock: int, path: str, busy: str, wait: bool) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise BlockingIOError(error.errno, busy) from None
        print(busy, file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(
            f"warning: the file system of {path} has no locks ({error.strerror}): make sure that "
            "no other run writes there",
            file=sys.stderr,
        )


def refuse_links(folder: str) -> None:
    """Raises ValueError where a link in a local folder, or below it, leads out of that folder.

    A run deletes and writes below its folder, and must not do so elsewhere. The folder itself may
    be a link: whoever names it means the place to which it leads.
    """
    root = os.path.realpath(folder)
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if os.path.commonpath([root, target]) != root or entry.name.startswith("."):
                        raise ValueError(
                            f"{entry.path} is a link to {target}, and a run writes and deletes in "
                            f"{folder} alone: remove the link, or choose another folder"
                        )
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def read_manifest(folder: str) -> Manifest | None:
    """The manifest of a run's folder; None where there is none. Raises ValueError if it is odd."""
    advice = "this is not a manifest of this program: restore it, or choose another folder"
    try:
        return files.read_json(f"{folder}/{MANIFEST}", Manifest, advice)
    except (FileNotFoundError, NotADirectoryError):
        return None


def earlier_runs(folder: str, identity: Facts) -> list[Facts] | None:
    """Details of the runs that wrote to a folder; None if none did.

    Raises ValueError if they had another identity, and says what differs.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    differing = [
        "  films, or their splits and views: the input, a table or the limit has changed"
        if line.startswith("  films: ")
        else line
        for line in differences(manifest["identity"], plain(identity), ("there", "asked for"))
    ]
    if differing:
        raise ValueError(
            f"{folder} was made by another run, and the two would be mixed up:\n"
            + "\n".join(differing)
            + "\nChoose another output folder or the same settings."
        )
    return manifest["runs"]


def earlier_outputs(
    folder: str, identity: Facts, planned: Collection[str], is_output: Callable[[str], bool]
) -> tuple[list[Facts] | None, set[str]]:
    """As `earlier_runs`; and the names of the outputs in the folder.

    Raises ValueError if one of them is not `planned`, or no manifest says what made them.
    """
    runs = earlier_runs(folder, identity)
    there = {name for name in paths.files_below(folder) if is_output(name)}
    if strangers := sorted(there if runs is None else there - {*planned}):
        why = f"no {MANIFEST} says what made them"
        if runs is not None:
            why = "the input, its limit or the number of shards has changed"
        raise ValueError(
            f"{folder} holds {len(strangers)} files that this run would not make, such as "
            f"{strangers[0]}: {why}. Choose an empty folder, or the same settings"
        )
    return runs, there


def write(folder: str, name: str, data: bytes) -> str:
    """Writes a file of a claimed folder, whole or not at all. Returns its SHA-256 in hex."""
    files.write_whole(paths.inside(folder, name), data, f"{folder}/{SCRATCH}")
    return hashlib.sha256(data).hexdigest()


def encode_manifest(
    identity: Facts, runs: Sequence[Facts], complete: bool, **facts: object
) -> bytes:
    """A manifest: what the folder holds, and the details of the runs that made it."""
    if "given_up" in facts:
        facts["given_up"] = {"films": facts["given_up"], "after_tries": TRIES}
    content = {
        "manifest_version": MANIFEST_VERSION,
        "complete": complete,
        **facts,
        "identity": identity,
        "runs": runs,
    }
    return (json.dumps(plain(content), indent=2) + "\n").encode()


@overload
def plain(value: Facts) -> dict[str, object]: ...
@overload
def plain(value: object) -> object: ...
def plain(value: object) -> object:
    """JSON values whose texts are UTF-8: names of folders may hold bytes that no JSON reads."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [*map(plain, value)] if isinstance(value, list | tuple) else value


def read_dropped(folder: str, kind: str) -> list[dict[str, str]]:
    """The rows of a run's table of "skipped" or "rejected" films; none where it has no such table.

    It is written when a run ends: one that is stopped before leaves that of the run before it.
    """
    try:
        rows = csv_tables.read_records(f"{folder}/{kind}.csv")
    except (FileNotFoundError, ValueError):  # the latter where somebody has edited it
        return []
    return [row for row in rows if row.get("image_id") and row.get("reason")]


def tries_before(folder: str) -> dict[str, int]:
    """How many runs into a folder failed on a film for a reason of `PASSING`, by image id."""
    failed = [row for row in read_dropped(folder, "rejected") if row["reason"] in PASSING]
    return {
        row["image_id"]: int(said)
        if re.fullmatch("[0-9]{1,9}", said := row.get("tries") or "")
        else 1
        for row in failed
    }


def dropped_tables(
    dropped: Sequence[Sequence[str]], before: Mapping[str, int], tried: Collection[str]
) -> tuple[dict[str, bytes], dict[str, int]]:
    """The tables of films without an output, or "not_chest", and how many there are of each kind.

    Args:
        dropped: image id, "skipped", "rejected" or "not_chest", reason, detail.
        before: from `tries_before`.
        tried: image ids of the films that this run tried.

    Returns:
        Name of a table -> its content (`not_chest.csv` only where it has rows); films of each kind,
        and of the rejected those that are "retryable", and "given_up" after `TRIES` runs.
    """
    kinds = ("skipped", "not_chest")
    said = {kind: [[row[0], *row[2:]] for row in dropped if row[1] == kind] for kind in kinds}
    rejected: list[list[Any]] = [
        [image_id, *why, before.get(image_id, 0) if why[0] in PASSING else ""]
        for image_id, kind, *why in dropped
        if kind == "rejected"
    ]
    passing = [row for row in rejected if row[1] in PASSING]
    failed = [row for row in passing if row[0] in tried]
    if len(failed) <= OUTAGE:
        for row in failed:
            row[3] += 1
    given_up = sum(row[3] >= TRIES for row in passing)
    encode = writing.encode_table
    tables = {f"{k}.csv": encode(REJECTED[:3], v) for k, v in said.items() if v or k == "skipped"}
    tables |= {"rejected.csv": encode(REJECTED, rejected)}
    counts = {kind: len(rows) for kind, rows in said.items()} | {"rejected": len(rejected)}
    return tables, counts | {"retryable": len(passing) - given_up, "given_up": given_up}


_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r"})


def encode_checksums(sums: Mapping[str, str]) -> bytes:
    """File name -> SHA-256 in hex, as `sha256sum` writes it.

    Where a name holds a line break or a backslash, these are escaped, and the line begins with a
    backslash that says so (GNU coreutils 9.0, "cksum invocation").
    """
    lines = []
    for name, digest in sorted(sums.items()):
        shown = name.translate(_ESCAPES)
        lines.append("\\" * (shown != name) + f"{digest}  {shown}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def read_checksums(folder: str) -> dict[str, str]:
    """What `encode_checksums` was given, of a folder's SHA256SUMS.txt; empty without it."""
    try:
        data = files.read_table(f"{folder}/{CHECKSUMS}")
    except FileNotFoundError:
        return {}
    sums, meant = {}, {"n": "\n", "r": "\r"}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        digest, mark, name = line.removeprefix("\\").partition("  ")
        if line.startswith("\\"):
            name = re.sub(r"\\(.)", lambda found: meant.get(found[1], found[1]), name)
        if mark:
            sums[name] = digest
    return sums
