"""Shards of preprocessed films in the TFDS folder format: who is in which, and what is done.

A shard is one TFRecord file. Beside it, hidden, lies a summary of what went into it, written after
it: a shard counts as done when its summary is there and fits it, whatever the clock says.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, NamedTuple

from annotated_types import Len

from cxr_embeddings.common import files, paths, untrusted, writing

from .. import run_folder, tfrecord
from ..films.decode import Prepared
from ..films.film import Rejected, Skipped
from ..films.presets import PRESETS
from ..mimic.selection import FilmRecord
from .codecs import STORAGES

SUMMARIES = ".shards"  # hidden folder of the plan and the summaries
_READERS = 16  # of summaries, which on a cloud store take their time
PLAN = f"{SUMMARIES}/plan.jsonl"  # a line for every shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a store is made of, and how; its workers get it, too."""

    folder: str  # of the store; absolute or an address, and the same for all workers
    source: str  # where the films are from
    name: str  # of the data set, for TFDS
    films_per_shard: int  # at most
    preset: str  # a key of `presets.PRESETS`
    size: int  # side of the images in pixels
    storage: str  # a key of `codecs.STORAGES`
    views: tuple[str, ...] | None  # ViewPositions to keep; None keeps all
    no_view: str  # what to do with films whose view nothing says; see `selection.list_films`
    has_views: bool = False  # whether a table told the views; `make_store` sets it
    user_project: str | None = None  # see `paths.bill`
    chest_only: bool = False  # see `read_film`

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or not self.name.islower() or not self.name.isascii():
            raise ValueError(
                f"the data set's name is {self.name!r}; expected small letters, digits and _, as "
                "in mimic_cxr"
            )
        if not 1 <= self.films_per_shard <= 100_000:
            raise ValueError(f"films_per_shard is {self.films_per_shard}; expected 1 to 100000")
        if self.preset not in PRESETS or self.storage not in STORAGES or not 8 <= self.size <= 8192:
            raise ValueError(
                f"found the preset {self.preset!r}, size {self.size} and storage {self.storage!r}; "
                f"expected one of {', '.join(PRESETS)}, 8 to 8192 pixels, and one of "
                f"{', '.join(STORAGES)}"
            )


class Shard(NamedTuple):
    """A shard to be made."""

    name: str  # of its file
    split: str
    films: Sequence[FilmRecord]


_Four = Annotated[list[str], Len(4, 4)]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What went into a shard."""

    __pydantic_config__: ClassVar = untrusted.CLOSED

    name: str
    split: str
    bytes: run_folder.Count  # size of its file
    sha256: str  # of its file, in hex
    films: list[_Four]  # of its records: image_id, patient_id, study_id, view_position
    lengths: list[run_folder.Count]  # of its records, in bytes, without what frames them
    dropped: list[_Four]  # without a record: image_id, "skipped" or "rejected", reason, detail
    differences: list[_Four]  # where a file contradicts the tables: image_id, what, table, file
    # Kept all the same: image_id, "not_chest", and what `other_than_chest` says
    not_chest: list[_Four] = dataclasses.field(default_factory=list)

    def retryable(self, tries: Mapping[str, int]) -> bool:
        """Whether a film failed temporarily, and in fewer than `TRIES` runs, as `tries` says."""
        return any(
            reason in run_folder.PASSING and tries.get(image_id, 0) < run_folder.TRIES
            for image_id, _, reason, _ in self.dropped
        )


def plan(films: Iterable[FilmRecord], dataset: str, films_per_shard: int) -> list[Shard]:
    """Cuts each split into shards of nearly equal size.

    Films come in the order of a hash of their ids: always the same, and neighbours in a shard are
    of unrelated patients, as training wants them.
    """
    by_split: dict[str, list[FilmRecord]] = {}
    for film in films:
        by_split.setdefault(film.split, []).append(film)
    shards = []
    for split, members in sorted(by_split.items()):
        members.sort(key=lambda film: hashlib.sha256(film.image_id.encode(*_UTF8)).digest())
        count = -(-len(members) // films_per_shard)
        for i in range(count):
            some = members[i * len(members) // count : (i + 1) * len(members) // count]
            shards.append(Shard(f"{dataset}-{split}.tfrecord-{i:05d}-of-{count:05d}", split, some))
    return shards


_UTF8 = ("utf-8", "surrogateescape")  # names of files need not be text


def encode_plan(shards: Sequence[Shard]) -> tuple[bytes, list[tuple[int, int]]]:
    """The plan as lines of JSON, and where in it each shard's line begins and how long it is."""
    lines = [json.dumps(shard).encode() + b"\n" for shard in shards]
    places, start = [], 0
    for line in lines:
        places.append((start, len(line)))
        start += len(line)
    return b"".join(lines), places


def read_shard(folder: str, start: int, length: int) -> Shard:
    """A shard of a store's plan, by the place of its line. Raises OSError."""
    line = files.read_range(f"{folder}/{PLAN}", start, length)
    name, split, films = json.loads(line)
    return Shard(name, split, [FilmRecord(*film) for film in films])


def write_shard(
    settings: Settings,
    shard: Shard,
    decoded: Iterable[tuple[FilmRecord, Prepared | Skipped | Rejected]],
) -> Summary:
    """Writes a shard of the films that decoders give, then its summary."""
    folder, storage = settings.folder, STORAGES[settings.storage]
    scratch = f"{folder}/{run_folder.SCRATCH}"
    kept: list[list[str]] = []
    lengths: list[int] = []
    dropped: list[list[str]] = []
    differences: list[list[str]] = []
    not_chest: list[list[str]] = []
    content = hashlib.sha256()
    with writing.whole_file(paths.inside(folder, shard.name), scratch) as stream:
        for film, outcome in decoded:
            if isinstance(outcome, Prepared):
                differences += _differences(film, outcome)
                outcome = _choose(film, outcome, settings)
            if not isinstance(outcome, Prepared):
                kind = type(outcome).__name__.lower()
                dropped.append([film.image_id, kind, outcome.reason, outcome.detail])
                continue
            if outcome.not_chest:
                not_chest.append([film.image_id, "not_chest", *outcome.not_chest])
            view = (film.view if film.view is not None else outcome.view_position) or ""
            row = [film.image_id, film.patient_id, film.study_id, view]
            names = ("image_id", "patient_id", "study_id", "view_position")
            values = {name: value.encode(*_UTF8) for name, value in zip(names, row, strict=True)}
            values["image"] = storage.encode(outcome.image)
            example = tfrecord.encode_example(values)
            for part in tfrecord.frame(example):
                stream.write(part)
                content.update(part)
            kept.append(row)
            lengths.append(len(example))
    size = sum(lengths) + tfrecord.FRAME * len(lengths)
    facts = shard.name, shard.split, size, content.hexdigest()
    summary = Summary(*facts, kept, lengths, dropped, differences, not_chest)
    data = json.dumps(dataclasses.asdict(summary)).encode()
    run_folder.write(folder, _summary_name(shard.name), data)
    return summary


def _choose(film: FilmRecord, prepared: Prepared, settings: Settings) -> Prepared | Skipped:
    """A film whose view only its file says is kept or skipped by that."""
    view = prepared.view_position
    if film.view is not None or settings.views is None or view in settings.views:
        return prepared
    if not view and settings.no_view == "keep":
        return prepared
    return Skipped("view", view or "not said")


def _differences(film: FilmRecord, prepared: Prepared) -> Iterator[list[str]]:
    view, shape = prepared.view_position, prepared.shape
    if film.view and view and film.view != view:
        yield [film.image_id, "ViewPosition", film.view, view]
    if film.size and tuple(film.size) != shape:
        sizes = ("{} x {}".format(*both) for both in (film.size, shape))
        yield [film.image_id, "Rows x Columns", *sizes]


def _summary_name(shard: str) -> str:
    return f"{SUMMARIES}/{shard}.json"


def read_summaries(folder: str, shards: Sequence[Shard]) -> dict[str, Summary]:
    """The summaries of the shards that are there and whole, by name."""
    sizes = {name: info["size"] for name, info in paths.files_below(folder).items()}

    def read(shard: Shard) -> Summary | None:
        name = _summary_name(shard.name)
        if shard.name not in sizes or name not in sizes:
            return None
        try:
            summary = files.read_json(f"{folder}/{name}", Summary, "")
        except ValueError:  # damaged: the shard is made again
            return None
        return summary if summary.bytes == sizes[shard.name] else None

    with concurrent.futures.ThreadPoolExecutor(_READERS) as threads:
        found = threads.map(read, shards)
        return {summary.name: summary for summary in found if summary}


def summarised(folder: str) -> set[str]:
    """Names of the shards that have a summary."""
    fs, root = paths.file_system(f"{folder}/{SUMMARIES}")
    fs.invalidate_cache()
    names = (posixpath.basename(path) for path in fs.ls(root, detail=False))
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def forget(folder: str, shards: Sequence[Shard]) -> None:
    """Removes the summaries of shards, which are to be made anew."""
    fs, root = paths.file_system(f"{folder}/{SUMMARIES}")
    for name in summarised(folder) & {shard.name for shard in shards}:
        fs.rm_file(f"{root}/{name}.json")
