"""Films linked to MIMIC-IV, the patient's record: the job of `scripts/link_mimic_iv.py`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator

from cxr_embeddings import __version__
from cxr_embeddings.common import paths, writing
from cxr_embeddings.errors import translated

Counts = dict[str, dict[str, int]]

LEFT_OUT = ("numbers out of range", "rows left out", "films left out")
PUBLISHED = {  # of films by their stays
    "ed": "MIMIC-Eye: none 56 %; a window of 7 days finds 23 % more",
}


@translated
def link_mimic_iv(
    mimic_iv: str | os.PathLike[str],
    metadata: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    mimic_iv_ed: str | os.PathLike[str] | None = None,
    splits: str | os.PathLike[str] | None = None,
    before_admission_hours: float = 24.0,
    nearest_days: float = 7.0,
    vitals_hours: float = 24.0,
    select: str = "all",
    ventilation: bool = False,
) -> Counts:
    """Links films of MIMIC-CXR to the patient's record, and checks that nothing leaks.

    Writes a folder with covariates.csv (what was known when the film was taken), outcomes.csv
    (what came later), links.csv (ids of stays), columns.json and manifest.json. Rules and columns
    are in docs/mimic_iv.md.

    Args:
        mimic_iv: folder of MIMIC-IV with hosp and icu, and perhaps ed, in it.
        metadata: MIMIC-CXR's table of that name.
        output: folder to be made.
        mimic_iv_ed: folder of MIMIC-IV-ED with ed in it; None: that of `mimic_iv`.
        splits: CSV with dicom_id and split, of which each patient must be in one; None: unchecked.
        before_admission_hours: a film so long before an admission belongs to it.
        nearest_days: where no stay in the emergency department holds a film, the nearest one that
            ended or begins so many days from it is linked; of one to come nothing is known.
        vitals_hours: vital signs that are older at the film are left out.
        select: outcomes of "all" films, or of the "first" ones of each stay.
        ventilation: also whether it begins within 24 hours, from icu/procedureevents.

    Returns:
        The counts of manifest.json: rows and films left out, films by their number of stays, and
        films by each outcome.

    Raises:
        InputError: a table is damaged or of another data set, an option is wrong, or there is a
            leak.
        FileError: a table is not there, or the folder holds something.
    """
    import duckdb

    from cxr_embeddings.input_pipeline.mimic_iv import covariates, leaks, outcomes, stays, tables

    windows = stays.Windows(before_admission_hours, nearest_days, vitals_hours)
    if select not in outcomes.SELECTIONS:
        raise ValueError(
            f"select is {select!r}; expected all or first. Which film is the last of a stay is "
            "known only when the stay is over: a head for its outcomes would know the future"
        )
    wanted = tables.TABLES | (tables.PROCEDURES if ventilation else {})
    root = paths.typed_local(os.fspath(mimic_iv), "--mimic_iv")
    ed = paths.typed_local(os.fspath(mimic_iv_ed or mimic_iv), "--mimic_iv_ed")
    places = {"hosp": root, "icu": root, "ed": ed}
    source = {"films": paths.typed_local(os.fspath(metadata), "--metadata")}
    source |= {name: tables.locate(places, name) for name in wanted}
    split_file = paths.typed_local(os.fspath(splits), "--splits") if splits else None
    folder = paths.typed_local(os.fspath(output), "--output")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds something; expected a new or an empty folder")
    with writing.whole_folder(folder) as partial:
        with tables.database(partial) as db:
            outside: dict[str, int] = {}
            for name, columns in {"films": tables.FILMS, **wanted}.items():
                outside |= tables.load(db, name.rpartition("/")[2], source[name], columns)
            counts = {"numbers out of range": outside, **stays.place_films(db, windows)}
            covariates.make_covariates(db, windows)
            outcomes.make_links(db)
            counts |= outcomes.make_outcomes(db, select, ventilation)
            for part in leaks.PARTS:
                rows = f"SELECT * FROM {part} ORDER BY subject_id, study_time, dicom_id"
                file = tables.quoted(str(partial / f"{part}.csv"), "'")
                db.execute(f"COPY ({rows}) TO {file} (HEADER)")
        known = {name: one.known for name, one in covariates.COVARIATES.items()}
        out = outcomes.OUTCOMES | (outcomes.VENTILATED if ventilation else {})
        described = {
            name: {
                "role": "covariate" if name in known else "outcome",
                "table": one.table,
                "known": known.get(name, f"{name}_time"),
                "unit": one.unit,
            }
            for name, one in (covariates.COVARIATES | out).items()
        }
        _write_json(partial / "columns.json", described)
        leaks.check(partial, split_file)
        manifest = {
            "versions": {"cxr-embeddings": __version__, "duckdb": duckdb.__version__},
            "settings": dataclasses.asdict(windows)
            | {"select": select, "ventilation": ventilation},
            "inputs": {str(path): _sha256(path) for path in source.values()},
            "counts": counts,
        }
        _write_json(partial / "manifest.json", manifest)
    return counts


def _write_json(path: pathlib.Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def summary(counts: Counts) -> Iterator[str]:
    """What was left out, linked and found, in lines."""
    for what, found in counts.items():
        films = sum(found.values()) - found.get("near", 0)
        share = "" if what in LEFT_OUT else " ({:.1%})"
        told = (f"{name} {count:,}{share.format(count / films)}" for name, count in found.items())
        yield f"{what}: {', '.join(told) or 'none'}"
        if what in PUBLISHED:
            yield f"    published: {PUBLISHED[what]}"
