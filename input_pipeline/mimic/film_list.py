"""Which films an input has: by MIMIC-CXR's list of them, by its metadata table, or by a search."""

import posixpath
import re
from typing import NamedTuple

import pandas as pd

from cxr_embeddings.common import paths

from ..films.film import film_key
from ..films.listing import list_inputs
from .tables import Table, dicom_id_of, read_table

_RECORD_LISTS = ("cxr-record-list.csv.gz", "cxr-record-list.csv")
TABLES = ("cxr-record-list.csv", "mimic-cxr-2.")  # how the names of MIMIC-CXR's tables begin
_SUFFIXES = (".dcm", ".jpg")  # of MIMIC-CXR and of MIMIC-CXR-JPG
# A plain path below a folder; no part of it begins with a dot, as `..` does.
_BELOW = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")


class FilmRecord(NamedTuple):
    """One listed film."""

    path: str  # absolute path or address, to be opened
    image_id: str  # its path below the data set's folder, with `/` and suffix; unique in a list
    patient_id: str  # MIMIC's subject_id; "" where unknown
    study_id: str  # "" where unknown
    split: str  # one of `SPLITS`, or `UNASSIGNED`
    # `known_view` of the metadata table's ViewPosition; "": the table has none, and it is kept;
    # None: no row of a table, so the file's header decides
    view: str | None
    size: tuple[int, int] | None  # Rows and Columns in the metadata table; None: not there


class FoundFilms(NamedTuple):
    """Films before views and splits are looked up."""

    root: str  # with an image_id behind it, the path of a film
    films: list[tuple[str, str, str]]  # image_id, patient and study; "" where unknown
    notes: list[str]


def list_input(source: str, names: set[str], metadata: Table | None) -> FoundFilms:
    """The films of an input, and notes on where they are from."""
    if lists := [name for name in _RECORD_LISTS if name in names]:
        table = read_table(posixpath.join(source, lists[0]), ("path",))
        return _below(source, table, table.rows["path"], f"The films are those of {table.path}.")
    if metadata and posixpath.dirname(metadata.path) == source:
        rows = metadata.rows
        patients, studies = rows["subject_id"], rows["study_id"]
        stems = "files/p" + patients.str[:2] + "/p" + patients + "/s" + studies + "/" + rows["film"]
        fs, inner = paths.file_system(source)
        there = [end for end in _SUFFIXES if fs.exists(posixpath.join(inner, stems.iloc[0] + end))]
        if not there:
            raise FileNotFoundError(
                f"found neither {stems.iloc[0]}.dcm nor .jpg in {source}; expected the films that "
                f"{metadata.path} lists: get them, or keep the table elsewhere and give its path "
                "as metadata_path to list the films that are there"
            )
        note = f"The films are those of {metadata.path}, as *{there[0]}."
        return _below(source, metadata, stems + there[0], note)

    listing = list_inputs(source)
    notes = [f"The films are the files found in {source}."]
    notes += [f"Ignored {n:,} {s} files." for s, n in listing.ignored.items()]
    if listing.repeated:
        notes.append(f"{listing.repeated:,} entries of the list repeat a film.")
    folder = posixpath.dirname(source)
    if posixpath.basename(source) == "files" and {*_RECORD_LISTS} & paths.names_in(folder, TABLES):
        notes.append(f"{folder} has MIMIC-CXR's list of films: name that folder to use it.")
    root = film_key(listing.files[0].path).removesuffix(listing.files[0].key)
    films = []
    for file in listing.files:
        found = re.search(r"/p([0-9]+)/s([0-9]+)/[^/]+$", file.path)
        patient, study = found.groups() if found else ("", "")
        films.append((file.path.removeprefix(root), patient, study))
    return FoundFilms(root, films, notes)


def _below(folder: str, table: Table, image_ids: pd.Series, note: str) -> FoundFilms:
    """The films of a table; `image_ids` are their paths below the folder, row by row."""
    bad = image_ids[~image_ids.map(lambda one: bool(_BELOW.fullmatch(one)))]
    if len(bad):
        raise ValueError(
            f"{table.path} has the film {bad.iloc[0]!r}, and {len(bad)} are like that; expected "
            "plain paths below its folder, such as files/p10/p10000032/s50414267/NAME.dcm"
        )
    odd = image_ids[image_ids.map(dicom_id_of) != table.rows["film"]]
    if len(odd):
        raise ValueError(
            f"{table.path} has the film {odd.iloc[0]!r} for dicom_id "
            f"{table.rows['film'][odd.index[0]]!r}, and {len(odd)} are like that; expected the "
            "dicom_id as file name: get it again"
        )
    ids = (image_ids, table.rows["subject_id"], table.rows["study_id"])
    return FoundFilms(posixpath.join(folder, ""), [*zip(*ids, strict=True)], [note])
