"""The outputs of a run: which are done and whole, what is still to do, what goes beside them.

A run is resumed by what is there: an output counts as done when it stands under its final name, can
be read to the end with its checksums right, and holds records of the films planned for it.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cxr_embeddings.common import files, paths
from cxr_embeddings.common.identities import Facts

from .. import run_folder
from ..films.film import InputFile, Rejected, Skipped
from ..hosts import ALONE, Hosts, together
from .formats import EmbeddingRecord, format_of, is_embedding_file
from .output_plan import Output

_WRITERS = 4  # writing waits for the disk, not for the processor
_WRITES_AHEAD = 64


@contextlib.contextmanager
def open_run(
    folder: str,
    outputs: Sequence[Output],
    identity: Facts,
    details: Facts,
    hosts: Hosts = ALONE,
    refused: Mapping[InputFile, Rejected] | None = None,
) -> Iterator["Run"]:
    """Opens a run's folder; see `Run`. On the way out every embedding it was given is written.

    Args:
        folder: absolute local folder or remote prefix, one and the same for all hosts.
        outputs: from `output_plan`.
        identity: what must be equal for two runs to share a folder (weights, preset, ...).
        details: what else the manifest should say.
        hosts: the processes that share the run.
        refused: from `output_plan.part_out`.

    Raises:
        ValueError: the folder was made with another identity or from other films.
        OSError: the folder cannot be written, another run is writing to it, or another host failed.
    """
    described = run_folder.plain(identity), run_folder.plain(details)
    opened: list[Run] = []
    with contextlib.ExitStack() as stack:

        def open_here() -> None:
            if not hosts.index:
                stack.enter_context(run_folder.claim(folder))
            elif run_folder.read_manifest(folder) is None:
                raise OSError(f"{folder} is not the folder of host 0: expected one that all share")
            opened.append(Run(folder, outputs, *described, hosts, refused or {}))
            stack.callback(opened[0].wait)

        for is_turn in (hosts.index == 0, hosts.index != 0):  # host 0 makes the others' folder
            together(hosts, open_here if is_turn else lambda: None)
        yield opened[0]


def _read_whole(folder: str, outputs: Sequence[Output]) -> dict[str, tuple[set[str], str]]:
    """Reads outputs to their ends: name of each whole one -> ids of its films, and its SHA-256."""

    def read(output: Output) -> tuple[set[str], str] | None:
        data = files.read_bytes(paths.inside(folder, output.name))
        try:
            found = {record.image_id for record in format_of(output.name).decode(data)}
        except (ImportError, MemoryError):  # not the file's fault, and damaged files are removed
            raise
        except Exception:  # whatever a damaged file makes its reader raise
            return None
        if foreign := found - {film.path for film in output.films}:
            raise ValueError(
                f"{output.name} in {folder} holds {min(foreign) or 'no image id'}, which this run "
                "would not put there: the films have changed; choose another output folder"
            )
        whole = found or output.even_empty
        return (found, hashlib.sha256(data).hexdigest()) if whole else None

    with concurrent.futures.ThreadPoolExecutor(2 * _WRITERS) as threads:
        results = zip(outputs, threads.map(read, outputs), strict=True)
        return {output.name: result for output, result in results if result}


class Run:
    """The outputs of a run: `add` every film of `todo`, then `finish`.

    Attributes:
        todo: films without an embedding yet, in the order of the plan.
        done: number of films whose embeddings were there before.
        damaged: number of outputs that were there, but cut short or altered, and were removed.
        dropped: film -> why it has no embedding.
        not_chest: path of an embedded film -> what `other_than_chest` says of it.
        output_of: film -> the output that it goes to.

    Of several hosts each has its own share of these, and none of another's.
    """

    def __init__(
        self,
        folder: str,
        outputs: Sequence[Output],
        identity: Facts,
        details: Facts,
        hosts: Hosts,
        refused: Mapping[InputFile, Rejected],
    ) -> None:
        self._folder, self._identity, self._details = folder, identity, details
        self._outputs, self._hosts, self._refused = outputs, hosts, refused
        self._threads = concurrent.futures.ThreadPoolExecutor(_WRITERS, "writer")
        planned = {output.name for output in outputs}
        earlier, names = run_folder.earlier_outputs(folder, identity, planned, is_embedding_file)
        self._earlier = earlier or []
        mine = [output for output in outputs if output.part % hosts.count == hosts.index]
        there = [output for output in mine if output.name in names]
        whole = _read_whole(folder, there)
        self._sums = {name: digest for name, (_, digest) in whole.items()}
        damaged = [output.name for output in there if output.name not in whole]
        self.damaged = len(damaged)
        fs, root = paths.file_system(folder)
        for name in damaged:
            fs.rm_file(paths.inside(root, name))

        self.output_of = {film: output for output in mine for film in output.films}
        done = {image_id for found, _ in whole.values() for image_id in found}
        self.todo = [film for film in self.output_of if film.path not in done]
        self.done = len(self.output_of) - len(self.todo)
        self._tries = run_folder.tries_before(folder)
        self.dropped: dict[InputFile, Skipped | Rejected] = {**refused}
        self.not_chest = {
            row["image_id"]: (row["reason"], row.get("detail", ""))
            for row in run_folder.read_dropped(folder, "not_chest")
            if row["image_id"] in done
        }
        self._waiting = collections.Counter(self.output_of[film].name for film in self.todo)
        self._records: dict[str, list[EmbeddingRecord]] = collections.defaultdict(list)
        self._writes: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        if not hosts.index:
            self._write_manifest(complete=False)

    def add(self, film: InputFile, outcome: np.ndarray | Skipped | Rejected) -> None:
        """Takes a film's embedding, or why it has none; raises the OSError of an earlier write."""
        output = self.output_of[film]
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
        format = format_of(output.name)
        if records and output.name in self._sums:
            data = files.read_bytes(paths.inside(self._folder, output.name))
            records = records + format.decode(data)
        if records or (output.even_empty and output.name not in self._sums):
            order = {film.path: i for i, film in enumerate(output.films)}
            records = sorted(records, key=lambda record: order[record.image_id])
            self._write(output.name, format.encode(records))

    def _write(self, name: str, data: bytes) -> None:
        self._sums[name] = run_folder.write(self._folder, name, data)

    def _write_manifest(self, complete: bool, **counts: object) -> None:
        """Writes what the folder holds and which runs made it, each kind of run once."""
        made_nothing = counts and self.done == counts["embedded"] and self._earlier
        known = made_nothing or self._details in self._earlier
        runs = self._earlier if known else [*self._earlier, self._details]
        content = run_folder.encode_manifest(self._identity, runs, complete, **counts)
        self._write(run_folder.MANIFEST, content)

    def wait(self) -> None:
        """Waits for all writes."""
        self._threads.shutdown()

    def finish(self, missing: int = 0, given_up: int = 0) -> dict[str, int]:
        """Waits for the last write of all hosts; the first then writes tables, manifest, checksums.

        Args:
            missing: films that the input lacks because they failed temporarily.
            given_up: films that it lacks because they failed in several runs.

        Returns:
            Films that are "embedded" now, and had an embedding "before"; with the counts of
            `run_folder.dropped_tables`. A folder is complete when none is retryable.
        """
        while self._writes:
            self._writes.popleft().result()
        rows = [
            (film.path, type(why).__name__.lower(), why.reason, why.detail)
            for film in (*self._refused, *self.todo)
            if (why := self.dropped.get(film))
        ]
        rows += [(path, "not_chest", *why) for path, why in sorted(self.not_chest.items())]
        self._share_checksums()
        tried = {film.path for film in self.dropped}
        tables, dropped = run_folder.dropped_tables(rows, self._tries, tried)
        films = sum(len(output.films) for output in self._outputs)
        counts = {"embedded": films - len(self.dropped) + len(self._refused), **dropped}
        counts["retryable"] += missing
        counts["given_up"] += given_up
        before = int(self._hosts.gather(np.array([self.done])).sum())
        if not self._hosts.index:
            for name, data in tables.items():
                self._write(name, data)
            self._write_manifest(complete=not counts["retryable"], **counts)
            self._write(run_folder.CHECKSUMS, run_folder.encode_checksums(self._sums))
        return counts | {"before": before}

    def _share_checksums(self) -> None:
        """Gives every host the checksums of all outputs; one that was not written has none."""
        mine = b"".join(
            bytes.fromhex(self._sums.get(o.name, "")) or bytes(32) for o in self._outputs
        )
        everyone = self._hosts.gather(np.frombuffer(mine, np.uint8)).max(axis=0).reshape(-1, 32)
        for output, digest in zip(self._outputs, everyone, strict=True):
            if digest.any():
                self._sums[output.name] = digest.tobytes().hex()
