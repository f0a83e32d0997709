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
    """What `list_films` found; each list is sorted by image_id.

    Attributes:
        films: the chosen ones.
        skipped: image_id and why, of the others. Together they are all that are listed.
        imputed: image_id, view, and the column that it was taken from.
        counts: of films unless they say otherwise; views as the metadata table has them, before
            anything is imputed. `mimic_counts` has the published ones.
        notes: sentences: where the list is from, and what in it and the tables has no partner.
        has_views: whether there was a metadata table.
    """

    films: list[FilmRecord]
    skipped: list[tuple[str, Skipped]]
    imputed: list[tuple[str, str, str]]
    counts: dict[str, int]
    notes: list[str]
    has_views: bool


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
        FileNotFoundError: the input or a table is not there.
        OSError: a file cannot be read.
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
    """The films, sorted, with what the tables say of them.

    Returns:
        The films, their rows in the metadata table (-1: none), and all notes.
    """
    root, image_ids, patients, studies, notes = listing
    order = sorted(range(len(image_ids)), key=image_ids.__getitem__)
    image_ids, patients, studies = (
        [column[i] for i in order] for column in (image_ids, patients, studies)
    )
    dicom_ids, rows = [dicom_id_of(image_id) for image_id in image_ids], [-1] * len(order)
    splits: list[str] = [UNASSIGNED] * len(order)
    views: list[str | None] = [None] * len(order)
    sizes: list[tuple[int, int] | None] = [None] * len(order)
    if split_path:
        table = read_table(split_path, ("split",))
        if unknown := {*table.columns["split"]} - {*SPLITS}:
            raise ValueError(
                f"{split_path} has the splits {', '.join(map(repr, sorted(unknown)[:5]))}; "
                f"expected only {', '.join(SPLITS)}"
            )
        split_rows, patients, studies = _join(dicom_ids, patients, studies, table, notes)
        splits = table.take("split", split_rows, UNASSIGNED)
    else:
        notes.append("No table has the splits: every film is unassigned.")
    if metadata:
        rows, patients, studies = _join(dicom_ids, patients, studies, metadata, notes)
        said = zip(rows, metadata.take("ViewPosition", rows), strict=True)
        views = [view if row >= 0 else None for row, view in said]
        known = {view: view and known_view(view, views_asked) for view in {*views}}
        views = [known[view] for view in views]
        sizes = [*map(film_size, metadata.take("Rows", rows), metadata.take("Columns", rows))]
    else:
        notes.append("No table has the views: they are read from the files' headers.")
    paths = [root + image_id for image_id in image_ids]
    columns = (paths, image_ids, patients, studies, splits, views, sizes)
    return [*map(FilmRecord._make, zip(*columns, strict=True))], rows, notes


def _join(
    dicom_ids: Sequence[str],
    patients: Sequence[str],
    studies: Sequence[str],
    table: Table,
    notes: list[str],
) -> tuple[list[int], list[str], list[str]]:
    """Each film's row of a table, -1 where there is none, and what was unknown of its ids.

    Args:
        dicom_ids: of the films.
        patients: of the films, "" where unknown.
        studies: likewise.
        table: to look them up in.
        notes: what has no partner is added.

    Raises:
        ValueError: the table has another patient or study for a film.
    """
    rows = [table.row_of.get(dicom_id, -1) for dicom_id in dicom_ids]
    completed = []
    for column, known in (("subject_id", patients), ("study_id", studies)):
        said = table.take(column, rows)
        pairs = enumerate(zip(known, said, strict=True))
        if differing := [i for i, (here, there) in pairs if here != there and here and there]:
            first = differing[0]
            raise ValueError(
                f"{table.path} has {column} {said[first]!r} for {dicom_ids[first]}, but the list "
                f"of films has {known[first]!r}, and {len(differing)} films are like that; "
                "expected list and tables of one release"
            )
        completed.append([here or there for here, there in zip(known, said, strict=True)])
    name, matched = posixpath.basename(table.path), len({*rows} - {-1})
    absent = rows.count(-1)
    counts = {
        f"films have no row in {name}": absent,
        f"rows of {name} have no film": len(table.row_of) - matched,
        f"films have the dicom_id of another one in {name}": len(rows) - absent - matched,
    }
    notes.append(f"{len(rows) - absent:,} films have a row in {table.path}.")
    notes += [f"{count:,} {what}." for what, count in counts.items() if count]
    return rows, completed[0], completed[1]


def _choose(
    listed: Sequence[FilmRecord],
    told: Sequence[tuple[str, str]],
    views: Sequence[str] | None,
    no_view: str,
) -> tuple[list[FilmRecord], list[tuple[str, Skipped]], list[tuple[str, str, str]]]:
    """Parts the chosen films from the skipped ones, and tells whose view is imputed.

    Args:
        listed: films with the views of the metadata table.
        told: for each the view to impute, if it has none, and where that is from; else empty.
        views: as for `list_films`.
        no_view: likewise.
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
