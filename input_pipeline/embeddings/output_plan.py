"""Which files a run will hold, by the names of its films, and which films no file can hold."""

import dataclasses
import importlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from cxr_embeddings.common import paths

from ..films.film import InputFile, Rejected
from .formats import FORMATS

LAYOUTS = ("per_image", "sharded")


@dataclasses.dataclass(frozen=True)
class Output:
    """One file to be written."""

    name: str  # relative to the run's folder
    films: Sequence[InputFile]
    even_empty: bool  # whether it is written when none of its films has an embedding
    part: int = 0  # the piece of the input that it is made of; hosts divide a run by pieces


def part_out(
    films: Iterable[InputFile], folder: str, layout: str, format: str
) -> tuple[list[InputFile], dict[InputFile, Rejected]]:
    """The films whose embeddings can be written to a folder, and why those of the others cannot.

    It is known before a film is read, so that no name ends a run that is hours old.
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


def plan(films: Sequence[InputFile], layout: str, format: str, shards: int) -> list[Output]:
    """As `plan_pieces`, of films that `sharded` cuts into pieces of nearly equal length."""
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
    pieces: Mapping[str, Sequence[InputFile]], layout: str, format: str
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
    if format == "parquet":
        importlib.import_module("pyarrow")  # where it is missing, no film is embedded first
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
    _check_places(outputs, suffix)
    return outputs


def _check_places(outputs: Sequence[Output], suffix: str) -> None:
    """Raises ValueError if two outputs would be one file, or one a folder of the other."""
    path_of: dict[str, str] = {}
    for output in outputs:
        path = output.films[0].path
        if path_of.setdefault(output.name, path) != path:
            raise ValueError(
                f"{path_of[output.name]} and {path} would write one output, {output.name}: rename "
                "those whose names differ in their suffix alone, or choose another layout"
            )
    for name in path_of:
        for end in re.finditer(re.escape(suffix) + "/", name):
            if (folder := name[: end.end() - 1]) in path_of:
                raise ValueError(
                    f"{path_of[folder]} would write the file {folder}, which {path_of[name]} needs "
                    "as a folder: rename one of them, or choose another layout"
                )
