"""The folder of a run: which files it will hold, which are done and whole, what goes beside them.

A run is resumed by what is there: an output counts as done when it stands under its final name, can
be read to the end with its checksums right, and holds records of the films planned for it.
"""

import collections
import concurrent.futures
import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fsspec
import numpy as np

from input_pipeline import files
from input_pipeline.embeddings import FORMATS, EmbeddingRecord
from input_pipeline.film import Rejected, Skipped

LAYOUTS = ("per_image", "sharded")
MANIFEST_VERSION = 1
PASSING = ("unreadable", "crashed", "timed_out", "failed")  # reasons that another run may not meet
_WRITERS = 4  # writing waits for the disk, not for the processor
_WRITES_AHEAD = 64


@dataclasses.dataclass(frozen=True)
class Output:
    """One file to be written.

    Attributes:
        name: relative to the run's folder.
        films: what it is made of.
        even_empty: whether it is written when none of its films has an embedding.
    """

    name: str
    films: Sequence[files.InputFile]
    even_empty: bool


def plan(films: Sequence[files.InputFile], layout: str, format: str, shards: int) -> list[Output]:
    """The outputs of a run; `sharded` cuts the films into pieces of nearly equal length.

    Raises:
        ValueError: an unknown layout or format, or a combination that does not exist.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"output.layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")
    if format not in FORMATS:
        raise ValueError(f"output.format is {format!r}; expected one of {', '.join(FORMATS)}")
    suffix = FORMATS[format].suffix
    if layout == "per_image":
        if format == "parquet":
            raise ValueError("output.format parquet is a table of many films: use layout sharded")
        return [Output(film.key + suffix, [film], even_empty=False) for film in films]
    if not 1 <= shards <= 99_999:
        raise ValueError(f"output.shards is {shards}; expected 1 to 99999")
    shards = min(shards, len(films))
    cuts = [i * len(films) // shards for i in range(shards + 1)]
    return [
        Output(f"embeddings-{i:05d}-of-{shards:05d}{suffix}", films[start:end], even_empty=True)
        for i, (start, end) in enumerate(itertools.pairwise(cuts))
    ]


@contextlib.contextmanager
def claim(folder: str) -> Iterator[str]:
    """Makes a run's folder and holds it for this process alone; gives its scratch folder.

    The claim ends with the process, however that ends. Remote folders cannot be claimed.

    Raises:
        OSError: the folder cannot be made or written.
        BlockingIOError: another run is writing to it.
    """
    scratch = os.path.join(folder, ".partial")
    if files.is_remote(folder):
        yield scratch
        return
    os.makedirs(scratch, exist_ok=True)
    lock = os.open(scratch, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another run is writing to {folder}: wait for it or choose another folder"
            raise BlockingIOError(error.errno, message) from None
        for leftover in os.scandir(scratch):
            os.unlink(leftover.path)
        yield scratch
        shutil.rmtree(scratch)
    finally:
        os.close(lock)


@contextlib.contextmanager
def open_run(
    folder: str,
    outputs: Sequence[Output],
    format: str,
    identity: Mapping[str, Any],
    details: Mapping[str, Any],
) -> Iterator["Run"]:
    """Opens a run's folder; see `Run`. On the way out every embedding it was given is written.

    Args:
        folder: absolute local folder or remote prefix.
        outputs: what `plan` gave.
        format: a key of `FORMATS`.
        identity: what must be equal for two runs to share a folder (weights, preset, ...): plain
            JSON values.
        details: what else the manifest should say: plain JSON values.

    Raises:
        ValueError: the folder was made with another identity or from other films.
        OSError: the folder cannot be written, or another run is writing to it.
    """
    identity, details = json.loads(json.dumps([identity, details]))
    with (
        claim(folder) as scratch,
        concurrent.futures.ThreadPoolExecutor(_WRITERS, "writer") as threads,
    ):
        yield Run(folder, scratch, threads, outputs, format, identity, details)


def _earlier_runs(folder: str, identity: Mapping[str, Any]) -> list[Any] | None:
    """Details of the runs that wrote to a folder; None if none did. Raises ValueError on others."""
    fs, root = fsspec.core.url_to_fs(folder)
    if not fs.exists(f"{root}/manifest.json"):
        return None
    try:
        manifest = json.loads(fs.cat_file(f"{root}/manifest.json"))
        found, runs = manifest["identity"], manifest["runs"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder}/manifest.json is no manifest of this program ({type(error).__name__}): "
            "choose another output folder"
        ) from error
    differing = [
        f"  {key}: {found.get(key)!r} there, {identity.get(key)!r} asked for"
        for key in sorted(found.keys() | identity.keys())
        if found.get(key) != identity.get(key)
    ]
    if differing:
        raise ValueError(
            f"{folder} was made by another run, and the two would be mixed up:\n"
            + "\n".join(differing)
            + "\nChoose another output folder or the same settings."
        )
    return runs


def _names_there(folder: str, outputs: Sequence[Output], has_manifest: bool) -> set[str]:
    """Names of the embedding files in a folder. Raises ValueError if they are not this run's."""
    fs, root = fsspec.core.url_to_fs(folder)
    suffixes = tuple(f.suffix for f in FORMATS.values())
    below = fs.find(root) if fs.exists(root) else []
    names = {f.removeprefix(root).lstrip("/") for f in below if f.endswith(suffixes)}
    if names and not has_manifest:
        raise ValueError(
            f"{folder} holds {len(names)} embedding files but no manifest.json that says what made "
            "them: choose an empty folder"
        )
    foreign = sorted(names - {output.name for output in outputs})
    if foreign:
        raise ValueError(
            f"{folder} holds {len(foreign)} embedding files that this run would not make, such as "
            f"{foreign[0]}: the input, its limit or the number of shards has changed; choose "
            "another output folder or the same settings"
        )
    return names


def _read_whole(
    folder: str, outputs: Sequence[Output], format: str
) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Reads outputs to their ends: name -> ids of the films, and name -> SHA-256, of whole ones."""
    ids: dict[str, set[str]] = {}
    sums: dict[str, str] = {}

    def read(output: Output) -> None:
        data = files.read_bytes(files.absolute(output.name, folder))
        try:
            found = {record.image_id for record in FORMATS[format].decode(data)}
        except (ImportError, MemoryError):  # not the file's fault, and damaged files are removed
            raise
        except Exception:  # whatever a damaged file makes its reader raise
            return
        foreign = found - {film.path for film in output.films}
        if foreign:
            raise ValueError(
                f"{output.name} in {folder} holds {min(foreign) or 'no image id'}, which this run "
                "would not put there: the films have changed; choose another output folder"
            )
        if found or output.even_empty:
            ids[output.name], sums[output.name] = found, hashlib.sha256(data).hexdigest()

    with concurrent.futures.ThreadPoolExecutor(2 * _WRITERS) as threads:
        collections.deque(threads.map(read, outputs), maxlen=0)
    return ids, sums


class Run:
    """The outputs of a run: `add` every film of `todo`, then `finish`.

    Attributes:
        todo: films without an embedding yet, in the order of the plan.
        done: number of films whose embeddings were there before.
        damaged: number of outputs that were there, but cut short or altered, and were removed.
        dropped: film -> why it has no embedding.
    """

    def __init__(
        self,
        folder: str,
        scratch: str,
        threads: concurrent.futures.Executor,
        outputs: Sequence[Output],
        format: str,
        identity: Mapping[str, Any],
        details: Mapping[str, Any],
    ) -> None:
        self._folder, self._scratch, self._threads = folder, scratch, threads
        self._format, self._identity, self._details = FORMATS[format], identity, details
        earlier = _earlier_runs(folder, identity)
        self._earlier = earlier or []
        there = _names_there(folder, outputs, has_manifest=earlier is not None)
        whole, self._sums = _read_whole(folder, [o for o in outputs if o.name in there], format)
        self.damaged = len(there - whole.keys())
        fs, root = fsspec.core.url_to_fs(folder)
        for name in there - whole.keys():
            fs.rm_file(f"{root}/{name}")

        self._output_of = {film: output for output in outputs for film in output.films}
        self.todo = [f for o in outputs for f in o.films if f.path not in whole.get(o.name, ())]
        self.done = len(self._output_of) - len(self.todo)
        self.dropped: dict[files.InputFile, Skipped | Rejected] = {}
        self._waiting = collections.Counter(self._output_of[film].name for film in self.todo)
        self._records: dict[str, list[EmbeddingRecord]] = collections.defaultdict(list)
        self._writes: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        self._write_manifest(complete=False)

    def add(self, film: files.InputFile, outcome: np.ndarray | Skipped | Rejected) -> None:
        """Takes a film's embedding, or the reason why it has none; writes what is complete.

        Writing happens on other threads; the OSError of an earlier write is raised here.
        """
        output = self._output_of[film]
        if isinstance(outcome, np.ndarray):
            self._records[output.name].append(EmbeddingRecord(film.path, outcome))
        else:
            self.dropped[film] = outcome
        self._waiting[output.name] -= 1
        if not self._waiting[output.name]:
            records = self._records.pop(output.name, [])
            self._writes.append(self._threads.submit(self._write_output, output, records))
        while self._writes and (self._writes[0].done() or len(self._writes) > _WRITES_AHEAD):
            self._writes.popleft().result()

    def _write_output(self, output: Output, records: list[EmbeddingRecord]) -> None:
        if records and output.name in self._sums:
            data = files.read_bytes(files.absolute(output.name, self._folder))
            records = records + self._format.decode(data)
        if records or (output.even_empty and output.name not in self._sums):
            order = {film.path: i for i, film in enumerate(output.films)}
            records = sorted(records, key=lambda record: order[record.image_id])
            self._write(output.name, self._format.encode(records))

    def _write(self, name: str, data: bytes) -> None:
        files.write_whole(files.absolute(name, self._folder), data, self._scratch)
        self._sums[name] = hashlib.sha256(data).hexdigest()

    def _write_manifest(self, complete: bool, **counts: int) -> None:
        """Writes what the folder holds and which runs made it, each kind of run once."""
        made_nothing = counts and self.done == counts["embedded"] and self._earlier
        known = made_nothing or self._details in self._earlier
        content = {
            "manifest_version": MANIFEST_VERSION,
            "complete": complete,
            **counts,
            "identity": self._identity,
            "runs": self._earlier if known else [*self._earlier, self._details],
        }
        self._write("manifest.json", (json.dumps(content, indent=2) + "\n").encode())

    def finish(self) -> dict[str, int]:
        """Waits for the last write, then writes the tables, the manifest and the checksums.

        Returns:
            How many films have an embedding now, were skipped and were rejected, and how many of
            the latter are `retryable`: they failed for reasons of `PASSING`. The manifest calls the
            folder complete when there are none.
        """
        while self._writes:
            self._writes.popleft().result()
        counts = {"embedded": len(self._output_of) - len(self.dropped)}
        for name, kind in (("skipped", Skipped), ("rejected", Rejected)):
            table = io.StringIO()
            rows = csv.writer(table, lineterminator="\n")
            rows.writerow(["image_id", "reason", "detail"])
            chosen = [film for film in self.todo if isinstance(self.dropped.get(film), kind)]
            rows.writerows(
                (film.path, self.dropped[film].reason, self.dropped[film].detail) for film in chosen
            )
            self._write(f"{name}.csv", table.getvalue().encode("utf-8", "surrogateescape"))
            counts[name] = len(chosen)
        counts["retryable"] = sum(why.reason in PASSING for why in self.dropped.values())
        self._write_manifest(complete=not counts["retryable"], **counts)
        lines = [f"{digest}  {name}\n" for name, digest in sorted(self._sums.items())]
        self._write("SHA256SUMS.txt", "".join(lines).encode("utf-8", "surrogateescape"))
        return counts
