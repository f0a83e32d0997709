"""The films of MIMIC-CXR, or of any other input, with their views and splits; those to be kept.

Films and MIMIC-CXR's tables are joined by dicom_id, which is a film's file name without suffix,
those of other data sets by paths; never by position.
"""

import dataclasses
import posixpath
from collections.abc import Sequence

from cxr_embeddings.common import dicomweb, paths

from ..films.film import Skipped, known_view
from .counts import by_split, count
from .film_list import TABLES, FilmRecord, FoundFilms, list_input
from .tables import (
    SPLITS,
    UNASSIGNED,
    Table,
    film_size,
    find_table,
    read_data_set,
    read_table,
)

NO_VIEW = ("keep", "drop")  # what becomes of a film without ViewPosition in the table


@dataclasses.dataclass(frozen=True)
class FilmList:
    """What `list_films` found; each list is sorted by image_id."""

    films: list[FilmRecord]  # the chosen ones
    skipped: list[tuple[str, Skipped]]  # image_id of the others, and why
    counts: dict[str, int]  # films unless they say otherwise
    notes: list[str]  # where the list is from, and what in it and the tables has no partner
    has_views: bool  # whether there was a metadata table
    data_set: str = ""  # whose table that was, if it was asked for


def list_films(
    path: str,
    *,
    data_set: str = "",
    metadata_path: str | None = None,
    split_path: str | None = None,
    views: Sequence[str] | None = ("AP", "PA"),
    no_view: str = "keep",
    limit: int | None = None,
) -> FilmList:
    """Lists the films of an input and chooses those of some views.

    In a folder, the films are those of `cxr-record-list.csv.gz`; without that, those of the
    metadata table, if it lies in the folder; else those that `list_inputs` finds, as it also does
    for a glob, a list of files or a single film. What it finds has patient and study from the
    folders `p.../s...` around the film, else from the tables.

    Args:
        path: local path or address.
        data_set: one of `data_sets`, whose table has views, patients and studies.
        metadata_path: MIMIC-CXR-JPG's metadata table; None: the one in the folder, if there is one.
            With `data_set` its table; None: those in the folder.
        split_path: MIMIC-CXR-JPG's split table, likewise.
        views: ViewPositions to keep, in capitals; None keeps all.
        no_view: films whose row has no ViewPosition: "keep", as the CXR Foundation toolkit does, or
            "drop".
        limit: keep only the first so many films, before views are looked at.

    Raises:
        OSError: the input or a table is not there, or cannot be read.
        ValueError: a table is damaged, lacks a column, repeats a film or contradicts the list; a
            path leaves the folder; an argument makes no sense.
    """
    if no_view not in NO_VIEW:
        raise ValueError(f"no_view is {no_view!r}; expected one of {', '.join(NO_VIEW)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1")
    if views is not None and (
        isinstance(views, str) or not views or any(not v or v != v.strip().upper() for v in views)
    ):
        raise ValueError(f"views are {views!r}; expected names in capitals, such as ('AP', 'PA')")

    source = paths.typed(path)
    names = set() if dicomweb.is_archive(source) else paths.names_in(source, TABLES)
    split_path = find_table(source, names, "split", split_path)
    columns = ("ViewPosition", "Rows", "Columns")
    metadata = None
    if data_set:
        metadata = read_data_set(data_set, source, metadata_path)
    elif found := find_table(source, names, "metadata", metadata_path):
        metadata = read_table(found, columns)

    listing = list_input(source, names, None if data_set else metadata)
    listed, notes = _look_up(listing, metadata, split_path, views)
    if limit is not None and limit < len(listed):
        notes.append(f"Of {len(listed):,} films only the first {limit:,} are listed.")
        listed = listed[:limit]
    if nobody := sum(not film.patient_id for film in listed):
        notes.append(f"The patient of {nobody:,} films is not known.")
    assigned = {(f.patient_id, f.split) for f in listed if f.patient_id and f.split != UNASSIGNED}
    if torn := len(assigned) - len({patient for patient, _ in assigned}):
        notes.append(f"{torn:,} patients have films in more than one split.")

    films, skipped = _choose(listed, views, no_view)
    counts = count(listed, metadata is not None, split_path is not None)
    counts |= {"skipped": len(skipped), "chosen": len(films)}
    if split_path:
        counts |= by_split("chosen", [film.split for film in films])
    return FilmList(films, skipped, counts, notes, metadata is not None, data_set)


def _look_up(
    listing: FoundFilms,
    metadata: Table | None,
    split_path: str | None,
    views_asked: Sequence[str] | None,
) -> tuple[list[FilmRecord], list[str]]:
    """The films, sorted; all notes."""
    root, films, notes = listing
    image_ids, patients, studies = map(list, zip(*sorted(films), strict=True))
    known = {"subject_id": patients, "study_id": studies}
    splits: list[str] = [UNASSIGNED] * len(films)
    views: list[str | None] = [None] * len(films)
    sizes: list[tuple[int, int] | None] = [None] * len(films)
    if split_path:
        table = read_table(split_path, ("split",))
        if unknown := {*table.columns["split"]} - {*SPLITS}:
            raise ValueError(
                f"{split_path} has the splits {', '.join(map(repr, sorted(unknown)[:5]))}; "
                f"expected only {', '.join(SPLITS)}"
            )
        splits = table.take("split", _join(image_ids, known, table, notes), UNASSIGNED)
    else:
        notes.append("No table has the splits: every film is unassigned.")
    if metadata:
        rows = _join(image_ids, known, metadata, notes)
        said = metadata.take("ViewPosition", rows)
        kept = {view: view and known_view(view, views_asked) for view in {*said}}
        views = [kept[view] if row >= 0 else None for row, view in zip(rows, said, strict=True)]
        sizes = [*map(film_size, metadata.take("Rows", rows), metadata.take("Columns", rows))]
    else:
        notes.append("No table has the views: they are read from the files' headers.")
    paths = [root + image_id for image_id in image_ids]
    columns = (paths, image_ids, *known.values(), splits, views, sizes)
    return [*map(FilmRecord._make, zip(*columns, strict=True))], notes


def _join(
    image_ids: Sequence[str], known: dict[str, list[str]], table: Table, notes: list[str]
) -> list[int]:
    """Each film's row of a table, -1 where there is none. Raises ValueError if it contradicts.

    Completes what is `known`, the films' values of the columns "subject_id" and "study_id", and
    adds what has no partner to the notes.
    """
    rows = table.find(image_ids)
    for column, values in known.items():
        pairs = [*zip(values, table.take(column, rows), strict=True)]
        odd = [i for i, (here, there) in enumerate(pairs) if here != there and here and there]
        if odd:
            here, there = pairs[odd[0]]
            raise ValueError(
                f"{table.path} has {column} {there!r} for {image_ids[odd[0]]}, but the list of "
                f"films has {here!r}, and {len(odd)} films are like that; expected list and tables "
                "of one release"
            )
        known[column] = [here or there for here, there in pairs]
    name, matched = posixpath.basename(table.path), len({*rows} - {-1})
    absent = rows.count(-1)
    counts = {
        f"films have no row in {name}": absent,
        f"rows of {name} have no film": len(table.row_of) - matched,
        f"films have the name of another one in {name}": len(rows) - absent - matched,
    }
    notes.append(f"{len(rows) - absent:,} films have a row in {table.path}.")
    notes += [f"{count:,} {what}." for what, count in counts.items() if count]
    return rows


def _choose(
    listed: Sequence[FilmRecord], views: Sequence[str] | None, no_view: str
) -> tuple[list[FilmRecord], list[tuple[str, Skipped]]]:
    """The chosen films, and the skipped ones."""
    films, skipped = [], []
    for film in listed:
        if film.view == "" and no_view != "keep":
            skipped.append((film.image_id, Skipped("view", "not said")))
        elif film.view and views is not None and film.view not in views:
            skipped.append((film.image_id, Skipped("view", film.view)))
        else:
            films.append(film)
    return films, skipped
