"""The films of MIMIC-CXR, or of any other input, with their views and splits; those to be kept.

Films and tables are joined by dicom_id, which is a film's file name without suffix, never by
position.
"""

import collections
import dataclasses
import posixpath
from collections.abc import Sequence

from cxr_embeddings.common import paths

from ..films.film import Skipped, known_view
from .counts import by_split, count
from .film_list import FilmRecord, FoundFilms, dicom_id_of, list_input, names_in
from .tables import (
    SPLITS,
    UNASSIGNED,
    VIEW_COLUMNS,
    Table,
    film_size,
    find_table,
    read_table,
    told_view,
)

NO_VIEW = ("keep", "drop", "impute")  # what becomes of a film without ViewPosition in the table


@dataclasses.dataclass(frozen=True)
class FilmList:
    """What `list_films` found; each list is sorted by image_id."""

    films: list[FilmRecord]  # the chosen ones
    skipped: list[tuple[str, Skipped]]  # image_id of the others, and why
    imputed: list[tuple[str, str, str]]  # image_id, view, and the column that it was taken from
    # Films unless they say otherwise; views as the metadata table has them, before any is imputed
    counts: dict[str, int]
    notes: list[str]  # where the list is from, and what in it and the tables has no partner
    has_views: bool  # whether there was a metadata table


def list_films(
    path: str,
    *,
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
        metadata_path: MIMIC-CXR-JPG's metadata table; None: the one in the folder, if there is one.
        split_path: MIMIC-CXR-JPG's split table, likewise.
        views: ViewPositions to keep, in capitals; None keeps all.
        no_view: films whose row has no ViewPosition: "keep", as the CXR Foundation toolkit does;
            "drop"; or "impute" from ViewCodeSequence_CodeMeaning, else from a description of the
            procedure that names this view alone, as MIMIC-CXR's authors advise
            (MIT-LCP/mimic-cxr#15); what is still unknown is dropped.
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
    names = names_in(source)
    metadata_path = find_table(source, names, "metadata", metadata_path)
    split_path = find_table(source, names, "split", split_path)
    texts = VIEW_COLUMNS if no_view == "impute" else ()
    metadata = None
    if metadata_path:
        metadata = read_table(metadata_path, ("ViewPosition", "Rows", "Columns", *texts))
    elif no_view == "impute":
        raise ValueError(
            f"no_view is 'impute', but {source} has no table mimic-cxr-2.*-metadata.csv.gz to take "
            "views from: give its path as metadata_path, or choose keep or drop"
        )

    listing = list_input(source, names, metadata)
    listed, rows, notes = _look_up(listing, metadata, split_path, views)
    if limit is not None and limit < len(listed):
        notes.append(f"Of {len(listed):,} films only the first {limit:,} are listed.")
        listed, rows = listed[:limit], rows[:limit]
    if nobody := sum(not film.patient_id for film in listed):
        notes.append(f"The patient of {nobody:,} films is not known.")
    assigned = {(f.patient_id, f.split) for f in listed if f.patient_id and f.split != UNASSIGNED}
    if torn := len(assigned) - len({patient for patient, _ in assigned}):
        notes.append(f"{torn:,} patients have films in more than one split.")

    told = [("", "")] * len(listed)
    if metadata and no_view == "impute":
        told = [*map(told_view, *(metadata.take(column, rows) for column in VIEW_COLUMNS))]
    films, skipped, imputed = _choose(listed, told, views, no_view)
    counts = count(listed, metadata is not None, split_path is not None)
    for view, number in sorted(collections.Counter(view for _, view, _ in imputed).items()):
        counts[f"imputed {view}"] = number
    counts |= {"skipped": len(skipped), "chosen": len(films)}
    if split_path:
        counts |= by_split("chosen", [film.split for film in films])
    return FilmList(films, skipped, imputed, counts, notes, metadata is not None)


def _look_up(
    listing: FoundFilms,
    metadata: Table | None,
    split_path: str | None,
    views_asked: Sequence[str] | None,
) -> tuple[list[FilmRecord], list[int], list[str]]:
    """The films, sorted; their rows in the metadata table, -1 where there is none; all notes."""
    root, films, notes = listing
    image_ids, patients, studies = map(list, zip(*sorted(films), strict=True))
    known = {"subject_id": patients, "study_id": studies}
    dicom_ids, rows = [dicom_id_of(image_id) for image_id in image_ids], [-1] * len(films)
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
        splits = table.take("split", _join(dicom_ids, known, table, notes), UNASSIGNED)
    else:
        notes.append("No table has the splits: every film is unassigned.")
    if metadata:
        rows = _join(dicom_ids, known, metadata, notes)
        said = metadata.take("ViewPosition", rows)
        kept = {view: view and known_view(view, views_asked) for view in {*said}}
        views = [kept[view] if row >= 0 else None for row, view in zip(rows, said, strict=True)]
        sizes = [*map(film_size, metadata.take("Rows", rows), metadata.take("Columns", rows))]
    else:
        notes.append("No table has the views: they are read from the files' headers.")
    paths = [root + image_id for image_id in image_ids]
    columns = (paths, image_ids, *known.values(), splits, views, sizes)
    return [*map(FilmRecord._make, zip(*columns, strict=True))], rows, notes


def _join(
    dicom_ids: Sequence[str], known: dict[str, list[str]], table: Table, notes: list[str]
) -> list[int]:
    """Each film's row of a table, -1 where there is none. Raises ValueError if it contradicts.

    Completes what is `known`, the films' values of the columns "subject_id" and "study_id", and
    adds what has no partner to the notes.
    """
    rows = [table.row_of.get(dicom_id, -1) for dicom_id in dicom_ids]
    for column, values in known.items():
        pairs = [*zip(values, table.take(column, rows), strict=True)]
        odd = [i for i, (here, there) in enumerate(pairs) if here != there and here and there]
        if odd:
            here, there = pairs[odd[0]]
            raise ValueError(
                f"{table.path} has {column} {there!r} for {dicom_ids[odd[0]]}, but the list of "
                f"films has {here!r}, and {len(odd)} films are like that; expected list and tables "
                "of one release"
            )
        known[column] = [here or there for here, there in pairs]
    name, matched = posixpath.basename(table.path), len({*rows} - {-1})
    absent = rows.count(-1)
    counts = {
        f"films have no row in {name}": absent,
        f"rows of {name} have no film": len(table.row_of) - matched,
        f"films have the dicom_id of another one in {name}": len(rows) - absent - matched,
    }
    notes.append(f"{len(rows) - absent:,} films have a row in {table.path}.")
    notes += [f"{count:,} {what}." for what, count in counts.items() if count]
    return rows


def _choose(
    listed: Sequence[FilmRecord],
    told: Sequence[tuple[str, str]],
    views: Sequence[str] | None,
    no_view: str,
) -> tuple[list[FilmRecord], list[tuple[str, Skipped]], list[tuple[str, str, str]]]:
    """The chosen films, the skipped ones and those whose view is imputed.

    The view to impute, and where it is from, is `told`; both are "" where there is none.
    """
    films, skipped, imputed = [], [], []
    for film, (view, column) in zip(listed, told, strict=True):
        if film.view == "" and view:
            imputed.append((film.image_id, view, column))
            film = film._replace(view=view)
        if film.view == "" and no_view != "keep":
            skipped.append((film.image_id, Skipped("view", "not said")))
        elif film.view and views is not None and film.view not in views:
            skipped.append((film.image_id, Skipped("view", film.view)))
        else:
            films.append(film)
    return films, skipped, imputed
