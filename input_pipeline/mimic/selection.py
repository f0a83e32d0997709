"""The films of MIMIC-CXR, or of any other input, with their views and splits; those to be kept.

Films and MIMIC-CXR's tables are joined by dicom_id, which is a film's file name without suffix,
those of other data sets by paths; never by position.
"""

import dataclasses
import posixpath
from collections.abc import Sequence

import pandas as pd

from cxr_embeddings.common import dicomweb, paths

from ..films.film import Skipped, known_view
from .counts import by_split, count
from .film_list import TABLES, FilmRecord, FoundFilms, list_input
from .tables import SPLITS, UNASSIGNED, Table, find_table, read_data_set, read_table

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
    if nobody := (listed["subject_id"] == "").sum():
        notes.append(f"The patient of {nobody:,} films is not known.")
    assigned = listed[(listed["subject_id"] != "") & (listed["split"] != UNASSIGNED)]
    if torn := (assigned.groupby("subject_id")["split"].nunique() > 1).sum():
        notes.append(f"{torn:,} patients have films in more than one split.")

    unsaid = (listed["view"] == "") & (no_view != "keep")
    other = listed["view"].notna() & (listed["view"] != "") & ~listed["view"].isin(views or ())
    left_out = unsaid | (other & (views is not None))
    why = listed["view"].where(~unsaid, "not said")
    skipped = [
        (film, Skipped("view", said))
        for film, said in zip(listed["image_id"][left_out], why[left_out], strict=True)
    ]
    films = [
        FilmRecord(listing.root + row[0], *row)
        for row in listed[~left_out].itertuples(index=False, name=None)
    ]
    counts = count(listed, metadata is not None, split_path is not None)
    counts |= {"skipped": len(skipped), "chosen": len(films)}
    if split_path:
        counts |= by_split("chosen", listed["split"][~left_out])
    return FilmList(films, skipped, counts, notes, metadata is not None, data_set)


def _look_up(
    listing: FoundFilms,
    metadata: Table | None,
    split_path: str | None,
    views_asked: Sequence[str] | None,
) -> tuple[pd.DataFrame, list[str]]:
    """The films, sorted, with the columns of `FilmRecord` but for the path; all notes."""
    notes = listing.notes
    films = pd.DataFrame(
        sorted(listing.films), columns=["image_id", "subject_id", "study_id"], dtype="object"
    )
    films = films.assign(split=UNASSIGNED, view=None, size=None)
    if split_path:
        table = read_table(split_path, ("split",))
        if unknown := {*table.rows["split"]} - {*SPLITS}:
            raise ValueError(
                f"{split_path} has the splits {', '.join(map(repr, sorted(unknown)[:5]))}; "
                f"expected only {', '.join(SPLITS)}"
            )
        films["split"] = _join(films, table, notes)["split"].fillna(UNASSIGNED).to_numpy()
    else:
        notes.append("No table has the splits: every film is unassigned.")
    if metadata:
        rows = _join(films, metadata, notes)
        said = metadata.rows["ViewPosition"].unique()
        kept = {view: known_view(view, views_asked) for view in said}
        films["view"] = pd.Series(map(kept.get, rows["ViewPosition"]), dtype="object")
        sides = rows[["Rows", "Columns"]].apply(pd.to_numeric, errors="coerce")
        sizes = [
            (int(height), int(width)) if 0 < height < 1e6 and 0 < width < 1e6 else None
            for height, width in sides.itertuples(index=False)
        ]
        films["size"] = pd.Series(sizes, dtype="object")
    else:
        notes.append("No table has the views: they are read from the files' headers.")
    return films, notes


def _join(films: pd.DataFrame, table: Table, notes: list[str]) -> pd.DataFrame:
    """Each film's row of a table. Raises ValueError if it contradicts the films.

    Completes their subject_id and study_id, and adds what has no partner to the notes.
    """
    rows = table.rows_of(films["image_id"].tolist())
    for column in ("subject_id", "study_id"):
        here, there = films[column], rows[column].fillna("").set_axis(films.index)
        odd = (here != there) & (here != "") & (there != "")
        if odd.any():
            first = int(odd.to_numpy().argmax())
            raise ValueError(
                f"{table.path} has {column} {there[first]!r} for {films['image_id'][first]}, but "
                f"the list of films has {here[first]!r}, and {odd.sum()} films are like that; "
                "expected list and tables of one release"
            )
        films[column] = here.where(here != "", there)
    found = rows.index[rows.index >= 0]
    name, matched = posixpath.basename(table.path), found.nunique()
    counts = {
        f"films have no row in {name}": len(films) - len(found),
        f"rows of {name} have no film": len(table.rows) - matched,
        f"films have the name of another one in {name}": len(found) - matched,
    }
    notes.append(f"{len(found):,} films have a row in {table.path}.")
    notes += [f"{count:,} {what}." for what, count in counts.items() if count]
    return rows
