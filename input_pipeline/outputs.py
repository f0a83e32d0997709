"""The folder of a run: which files it will hold, which are done and whole, what goes beside them.

A run is resumed by what is there: an output counts as done when it stands under its final name, can
be read to the end with its checksums right, and holds records of the films planned for it.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from configs import paths, writing
from input_pipeline import files, run_folder
from input_pipeline.embeddings import FORMATS, EmbeddingRecord
from input_pipeline.film import Rejected, Skipped
from input_pipeline.hosts import ALONE, Hosts, together

LAYOUTS = ("per_image", "sharded")
_WRITERS = 4  # writing waits for the disk, not for the processor
_WRITES_AHEAD = 64


@dataclasses.dataclass(frozen=True)
class Output:
    """One file to be written.

    Attributes:
        name: relative to the run's folder.
        films: what it is made of.
        even_empty: whether it is written when none of its films has an embedding.
        part: number of the piece of the input that it is made of; hosts divide a run by pieces.
    """

    name: str
    films: Sequence[files.InputFile]
    even_empty: bool
    part: int = 0


def part_out(
    films: Iterable[files.InputFile], folder: str, layout: str, format: str
) -> tuple[list[files.InputFile], dict[files.InputFile, Rejected]]:
    """The films whose embeddings can be written, and why those of the others cannot.

    It is known before a film is read, so that no name ends a run that is hours old.

    Args:
        films: of the run.
        folder: where it writes; absolute or an address.
        layout, format: as of `plan`.
    """
    kept, refused = [], {}
    longest = paths.longest_name(folder)
    suffix = FORMATS[format].suffix if format in FORMATS else ""  # `plan` says what it may be
    for film in films:
        if not paths.is_text(film.path):
            refused[film] = Rejected("name_not_utf8", "rename it, or a folder that it lies in")
        elif layout == "per_image" and (
            why := paths.why_too_long(f"{folder}/{film.key}{suffix}", longest)
        ):
            refused[film] = Rejected(
                "name_too_long", f"it would be {why}: rename it, or choose layout sharded"
            )
        else:
            kept.append(film)
    return kept, refused


def plan(films: Sequence[files.InputFile], layout: str, format: str, shards: int) -> list[Output]:
    """The outputs of a run; `sharded` cuts the films into pieces of nearly equal length.

    Raises:
        ValueError: an unknown layout or format, or a combination that does not exist.
    """
    if not 1 <= shards <= 99_999:
        raise ValueError(f"output.shards is {shards}; expected 1 to 99999")
    shards = min(shards, max(len(films), 1))
    cuts = [i * len(films) // shards for i in range(shards + 1)]
    pieces = {
        f"{i:05d}-of-{shards:05d}": films[start:end]
        for i, (start, end) in enumerate(itertools.pairwise(cuts))
    }
    return plan_pieces(pieces, layout, format)


def plan_pieces(
    pieces: Mapping[str, Sequence[files.InputFile]], layout: str, format: str
) -> list[Output]:
    """The outputs of an input that comes in pieces; `sharded` makes one of each, named after it.

    Raises:
        ValueError: an unknown layout or format, a combination that does not exist, or two outputs
            of one place.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"output.layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")
    if format not in FORMATS:
        raise ValueError(f"output.format is {format!r}; expected one of {', '.join(FORMATS)}")
    suffix = FORMATS[format].suffix
    if layout == "sharded":
        return [
            Output(f"embeddings-{name}{suffix}", films, even_empty=True, part=part)
            for part, (name, films) in enumerate(pieces.items())
        ]
    if format == "parquet":
        raise ValueError("output.format parquet is a table of many films: use layout sharded")
    outputs = [
        Output(film.key + suffix, [film], even_empty=False, part=part)
        for part, films in enumerate(pieces.values())
        for film in films
    ]
    _check_places({output.name: output.films[0].path for output in outputs}, len(outputs), suffix)
    return outputs


def _check_places(path_of: Mapping[str, str], count: int, suffix: str) -> None:
    """Raises ValueError if two outputs would be one file, or one a folder of the other."""
    if len(path_of) < count:
        raise ValueError(
            f"{count - len(path_of)} films would write an output that another one writes: rename "
            "those whose names differ in their suffix alone, or choose layout sharded"
        )
    for name in path_of:
        for end in re.finditer(re.escape(suffix) + "/", name):
            if (folder := name[: end.end() - 1]) in path_of:
                raise ValueError(
                    f"{path_of[folder]} would write the file {folder}, which {path_of[name]} needs "
                    "as a folder: rename one of them, or choose layout sharded"
                )


@contextlib.contextmanager
def open_run(
    folder: str,
    outputs: Sequence[Output],
    format: str,
    identity: Mapping[str, Any],
    details: Mapping[str, Any],
    hosts: Hosts = ALONE,
    refused: Mapping[files.InputFile, Rejected] | None = None,
) -> Iterator["Run"]:
    """Opens a run's folder; see `Run`. On the way out every embedding it was given is written.

    Args:
        folder: absolute local folder or remote prefix, one and the same for all hosts.
        outputs: what `plan` gave.
        format: a key of `FORMATS`.
        identity: what must be equal for two runs to share a folder (weights, preset, ...): plain
            JSON values.
        details: what else the manifest should say: plain JSON values.
        hosts: the processes that share the run.
        refused: the films for which `part_out` found no place, and why.

    Raises:
        ValueError: the folder was made with another identity or from other films.
        OSError: the folder cannot be written, another run is writing to it, or another host failed.
    """
    identity, details = json.loads(json.dumps([identity, details]))
    with contextlib.ExitStack() as stack:

        def open_here() -> Run:
            if not hosts.index:
                stack.enter_context(run_folder.claim(folder))
            elif run_folder.read_manifest(folder) is None:
                raise OSError(f"{folder} is not the folder of host 0: expected one that all share")
            scratch = os.path.join(folder, run_folder.SCRATCH)
            threads = concurrent.futures.ThreadPoolExecutor(_WRITERS, "writer")
            stack.enter_context(threads)
            return Run(
                folder, scratch, threads, outputs, format, identity, details, hosts, refused or {}
            )

        run = together(hosts, open_here if not hosts.index else lambda: None)
        yield together(hosts, open_here if hosts.index else lambda: run)


def _names_there(folder: str, outputs: Sequence[Output], has_manifest: bool) -> set[str]:
    """Names of the embedding files in a folder. Raises ValueError if they are not this run's."""
    suffixes = tuple(f.suffix for f in FORMATS.values())
    names = {name for name in paths.files_below(folder) if name.endswith(suffixes)}
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
        data = files.read_bytes(paths.inside(folder, output.name))
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
        output_of: film -> the output that it goes to.

    Of several hosts each has its own share of these, and none of another's.
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
        hosts: Hosts,
        refused: Mapping[files.InputFile, Rejected],
    ) -> None:
        self._folder, self._scratch, self._threads = folder, scratch, threads
        self._format, self._identity, self._details = FORMATS[format], identity, details
        self._outputs, self._hosts, self._refused = outputs, hosts, refused
        earlier = run_folder.earlier_runs(folder, identity)
        self._earlier = earlier or []
        names = _names_there(folder, outputs, has_manifest=earlier is not None)
        mine = [output for output in outputs if output.part % hosts.count == hosts.index]
        there = [output for output in mine if output.name in names]
        whole, self._sums = _read_whole(folder, there, format)
        damaged = [output.name for output in there if output.name not in whole]
        self.damaged = len(damaged)
        fs, root = paths.file_system(folder)
        for name in damaged:
            fs.rm_file(paths.inside(root, name))

        self.output_of = {film: output for output in mine for film in output.films}
        self.todo = [f for o in mine for f in o.films if f.path not in whole.get(o.name, ())]
        self.done = len(self.output_of) - len(self.todo)
        self._tries = run_folder.tries_before(folder)
        self.dropped: dict[files.InputFile, Skipped | Rejected] = {**refused}
        self._waiting = collections.Counter(self.output_of[film].name for film in self.todo)
        self._records: dict[str, list[EmbeddingRecord]] = collections.defaultdict(list)
        self._writes: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        if not hosts.index:
            self._write_manifest(complete=False)

    def add(self, film: files.InputFile, outcome: np.ndarray | Skipped | Rejected) -> None:
        """Takes a film's embedding, or the reason why it has none; writes what is complete.

        Writing happens on other threads; the OSError of an earlier write is raised here.
        """
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
        if records and output.name in self._sums:
            data = files.read_bytes(paths.inside(self._folder, output.name))
            records = records + self._format.decode(data)
        if records or (output.even_empty and output.name not in self._sums):
            order = {film.path: i for i, film in enumerate(output.films)}
            records = sorted(records, key=lambda record: order[record.image_id])
            self._write(output.name, self._format.encode(records))

    def _write(self, name: str, data: bytes) -> None:
        files.write_whole(paths.inside(self._folder, name), data, self._scratch)
        self._sums[name] = hashlib.sha256(data).hexdigest()

    def _write_manifest(self, complete: bool, **counts: Any) -> None:
        """Writes what the folder holds and which runs made it, each kind of run once."""
        made_nothing = counts and self.done == counts["embedded"] and self._earlier
        known = made_nothing or self._details in self._earlier
        runs = self._earlier if known else [*self._earlier, self._details]
        content = run_folder.encode_manifest(self._identity, runs, complete, **counts)
        self._write(run_folder.MANIFEST, content)

    def finish(
        self, missing: int = 0, given_up: int = 0, rejected: bytes | None = None
    ) -> dict[str, int]:
        """Waits for the last write of all hosts; the first then writes tables, manifest, checksums.

        Args:
            missing: films that the input lacks for reasons that may pass.
            given_up: films that the input lacks for such reasons after `TRIES` runs.
            rejected: what rejected.csv holds, where another folder's is copied.

        Returns:
            How many films have an embedding now, and had one `before`; were skipped and were
            rejected; how many failed for reasons of `PASSING` and are `retryable`, or `given_up`
            after `TRIES` runs. The manifest calls the folder complete when none is retryable.
        """
        while self._writes:
            self._writes.popleft().result()
        rows = {
            kind: [
                [film.path, why.reason, why.detail]
                for film in (*self._refused, *self.todo)
                if isinstance(why := self.dropped.get(film), kind)
            ]
            for kind in (Skipped, Rejected)
        }
        self._share_checksums()
        dropped, retryable, now_given_up = run_folder.rejected_rows(
            rows[Rejected], self._tries, {film.path for film in self.dropped}
        )
        counts = {
            "embedded": sum(len(output.films) for output in self._outputs)
            - (len(self.dropped) - len(self._refused)),
            "skipped": len(rows[Skipped]),
            "rejected": len(rows[Rejected]),
            "retryable": missing + retryable,
            "given_up": given_up + now_given_up,
        }
        before = int(self._hosts.gather(np.array([self.done])).sum())
        if self._hosts.index:
            return counts | {"before": before}
        if rejected is None:
            rejected = writing.encode_table(run_folder.REJECTED, dropped)
        self._write("rejected.csv", rejected)
        skipped = writing.encode_table(["image_id", "reason", "detail"], rows[Skipped])
        self._write("skipped.csv", skipped)
        self._write_manifest(
            complete=not counts["retryable"],
            **counts | {"given_up": run_folder.describe_given_up(counts["given_up"])},
        )
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
