"""Published data sets: the tables that `configs/data_sets` describes, read into one plain form."""

import dataclasses
import fnmatch
import json
import os
import posixpath
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from cxr_embeddings import configs
from cxr_embeddings.common import archives, csv_tables, files, paths, untrusted
from cxr_embeddings.common.csv_tables import alike
from cxr_embeddings.common.film_names import SUFFIXES, clean, same_films
from cxr_embeddings.common.finding_names import NO_FINDING
from cxr_embeddings.configs.schema_data_sets import Columns, DataSet

from .data_set_facts import FACTS, IDS, columns_of, read_facts
from .data_set_findings import merge_rows, named_findings, read_findings, texts

_FOLDER = os.path.join(os.path.dirname(configs.__file__), "data_sets")
_RECOGNISED = ("mimic_cxr", "chestxray14")  # by their findings; CheXpert's are the first's
_MAX_XML = 1 << 20  # bytes of a report of Open-i; they have 5,000


class Published(NamedTuple):
    """A table of a data set in the plain form.

    Attributes:
        rows: texts, "" where unknown: those of the columns of `FACTS` that the table has, its
            findings as 1, 0, -1 and "", and its other columns as they are.
        findings: the columns of findings, by their common names; No Finding is one of them where
            the entry has it in `findings`, else it is a column only.
        counts: of what was not taken as it stands there.
    """

    rows: pd.DataFrame
    findings: tuple[str, ...]
    counts: Mapping[str, int]


def names() -> list[str]:
    """The data sets that are known by a name."""
    return sorted(name[:-5] for name in os.listdir(_FOLDER) if name.endswith(".toml"))


def load(name: str | os.PathLike[str]) -> DataSet:
    """The entry of a data set: of a name in `names`, or of a TOML file.

    Raises:
        ValueError: there is no such data set, or its file does not say what `DataSet` asks for.
    """
    name = os.fspath(name)
    path = name if name.endswith(".toml") else os.path.join(_FOLDER, f"{name}.toml")
    if not name.endswith(".toml") and name not in names():
        raise ValueError(
            f"there is no data set {name!r}; expected one of {', '.join(names())}, or a TOML file "
            "that describes another (docs/data_sets.md)"
        )
    try:
        said = tomllib.loads(files.read_bytes(paths.typed(path)).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is no TOML file ({error}): correct it") from error
    fields = (one.name for one in dataclasses.fields(DataSet))
    facts = [one.name for one in dataclasses.fields(Columns)]
    advice = f"its keys are {', '.join(fields)}; those of columns and patterns {', '.join(facts)}"
    data = json.dumps(said, default=str).encode()
    entry = untrusted.read_json(data, DataSet, path, advice)
    if odd := entry.values.keys() - facts:
        raise ValueError(f"{path}: values.{min(odd)} is not expected: {advice}")
    short = os.path.basename(path).removesuffix(".toml")
    return dataclasses.replace(entry, name=entry.name or short)


def recognise(columns: Collection[str]) -> DataSet | None:
    """The data set whose findings a table has, all of them, of those that are known by these."""
    for entry in map(load, _RECOGNISED):
        listed = entry.columns.findings
        if all(alike(name, columns) for name in entry.findings) or (
            isinstance(listed, str) and listed and alike(listed, columns)
        ):
            return entry
    return None


def definitions(entry: DataSet | None, named: bool, findings: Sequence[str]) -> list[str]:
    """Sentences on what the labels of these findings mean, for reports.

    `named`: the user named the data set; else the table has its columns, and may be of another.
    """
    if entry is None:
        return ["No entry of a data set says what an empty cell or -1 means here."]
    if not named:
        start = f"The table has the columns of {entry.title}."
        return [one for one in (start, entry.absence, entry.uncertainty) if one]
    start = f"{entry.title}: {entry.labels}"
    common = {of: [one for one, ours in entry.names.items() if ours == of] for of in findings}
    names = [
        f"{of} is {' or '.join(map(repr, some))} there." for of, some in common.items() if some
    ]
    return [one for one in (start, entry.absence, entry.uncertainty, entry.caution, *names) if one]


def find_tables(entry: DataSet, folder: str) -> list[str]:
    """The published tables in the folder of the data set, or that itself where it needs no table.

    Raises OSError if there are none.
    """
    found = []
    for folder_of, _, pattern in (kind.rpartition("/") for kind in entry.tables):
        place = posixpath.join(folder, folder_of).rstrip("/")
        there = sorted(paths.names_in(place))
        found += [f"{place}/{name}" for name in there if fnmatch.fnmatchcase(name, pattern)]
    if entry.tables and not found:
        raise FileNotFoundError(
            f"found no table of {entry.title} in {folder}; expected {' or '.join(entry.tables)}: "
            "get it, or give the path of the table"
        )
    return list(dict.fromkeys(found)) or [folder]


def read(path: str | os.PathLike[str], entry: DataSet) -> Published:
    """Reads a table of a data set; or the reports, or the folder of films, that stand for one.

    Args:
        path: CSV or CSV.gz in UTF-8; of Open-i the folder or archive of its XML; of a data set
            without tables the folder of its films.
        entry: from `load`.

    Raises:
        OSError: it is not there or cannot be read.
        ValueError: it is damaged, names neither films nor studies, or holds what the entry does not
            know.
    """
    path = paths.typed(os.fspath(path))
    raw, facts, told = _read_facts(path, entry)
    codes, more = read_findings(raw, entry, path)
    counts = {**told, **more}
    facts = facts.join(_others(raw, [*facts, *codes], entry))
    if entry.rows != "one":
        of = facts[next(FACTS[one] for one in IDS if FACTS[one] in facts)]
        codes, more = merge_rows(codes, of, entry.rows)
        facts = facts.set_axis(of).groupby(level=0, sort=False).first()
        counts |= more
    rows = facts.join(texts(codes)).reset_index(drop=True)
    rows.attrs |= {"data_set": entry.name, "films_of": entry.films_of}
    healthy = NO_FINDING if entry.normal not in entry.findings else ""
    return Published(rows, tuple(name for name in map(str, codes) if name != healthy), counts)


def read_films(path: str, entry: DataSet) -> pd.DataFrame:
    """The films that a table names, with their facts and no findings. Raises as `read`.

    Returns:
        The columns of `FACTS` and, of the image, Rows and Columns, as far as the table has them.
    """
    raw, facts, _ = _read_facts(path, entry)
    sizes = [name for name in ("Rows", "Columns") if name in raw]
    named = facts.join(raw[sizes]) if "image_id" in facts else facts[:0].assign(image_id="")
    return named[named["image_id"] != ""].drop_duplicates()


def _read_facts(path: str, entry: DataSet) -> tuple[pd.DataFrame, pd.DataFrame, Mapping[str, int]]:
    """The table as text, and what `read_facts` makes of it."""
    raw = pd.DataFrame(_texts(path, entry), dtype="str")
    facts, counts = read_facts(raw, entry)
    if not {FACTS["image"], FACTS["study"]} & {*facts}:
        named = (getattr(entry.columns, one) for one in IDS[:2])
        choices = [one for names in named for one in ([names] if isinstance(names, str) else names)]
        wanted = " or ".join(filter(None, choices))
        raise ValueError(
            f"{path} is no table of {entry.title}: expected the column {wanted}. There are: "
            f"{', '.join(raw.columns)}"
        )
    return raw, facts, counts


def _others(raw: pd.DataFrame, taken: Collection[str], entry: DataSet) -> pd.DataFrame:
    """Columns of the table that are none of `taken`, and no finding."""
    of_findings = [*named_findings(entry), *entry.names, *columns_of(entry)]
    known = {csv_tables.plain(name) for name in [*of_findings, *taken]}
    return raw[[name for name in raw if csv_tables.plain(str(name)) not in known]]


def _texts(path: str, entry: DataSet) -> Mapping[str, list[str]]:
    """The columns of a table as text, or of what stands for one."""
    if entry.form == "table" or path.lower().endswith((".csv", ".csv.gz")):
        return csv_tables.read_columns(path)
    if entry.form == "file_names":
        there = (name.removeprefix(f"{path}/") for name in files.walk(path))
        images = (name for name in there if name.lower().rpartition(".")[2] in SUFFIXES)
        table = {"file": sorted(images)}
    else:
        with archives.open_members(path, _MAX_XML) as members:
            reports = [(name, read()) for name, read in members() if name.lower().endswith(".xml")]
        found = [film for name, data in reports for film in _coded_films(name, data)]
        table = {of: [film[i] for film in found] for i, of in enumerate(("image", "uid", "MeSH"))}
    if not any(table.values()):
        raise FileNotFoundError(f"found nothing of {entry.title} in {path}")
    return table


def _coded_films(name: str, data: bytes) -> Iterator[tuple[str, str, str]]:
    """Film, report and MeSH headings, with | between, of a report of Open-i; their qualifiers (of
    Opacity/lung/base) are left out. A report without films has one without a name."""
    report = untrusted.read_xml(data)
    uid = None if report is None else report.find("uId")
    if report is None or uid is None:
        raise ValueError(f"{name} is no whole report of Open-i: get it again, or leave it out")
    terms = [(term.text or "").partition("/")[0].strip() for term in report.iter("major")]
    films = dict.fromkeys(image.get("id", "") for image in report.iter("parentImage"))
    for film in films or [""]:
        yield film, uid.get("id", ""), "|".join(dict.fromkeys(terms))


def check_disjoint(name_a: str, a: pd.DataFrame, name_b: str, b: pd.DataFrame) -> None:
    """Makes sure that two sites share no film and no patient.

    Films are compared by `image_id`, folders included as far as both have them, and patients by
    `patient_id`, where both tables have the column. Data sets of different names in `names` number
    their patients independently, so that only the films of one under the name of another are
    looked for (`films_of`).

    Args:
        name_a, name_b: of the sites, for the error; or of data sets.
        a, b: tables with a row a film, such as `Published.rows`.

    Raises:
        ValueError: they share films or patients.
    """
    sets = [_data_set(name_a, a), _data_set(name_b, b)]
    families = [films_of or one for one, films_of in sets]
    if sets[0][0] != sets[1][0] and families[0] == families[1]:
        raise ValueError(
            f"the films of {name_a} and of {name_b} are the same films under other names "
            f"({families[0]}): leave out one of the two sites"
        )
    if all(families) and families[0] != families[1]:
        return
    shared = {}
    if "image_id" in a and "image_id" in b:
        ours, theirs = ([clean(x) for x in frame["image_id"] if x] for frame in (a, b))
        shared["films"] = [ours[i] for i, _ in same_films(ours, theirs)]
    if "patient_id" in a and "patient_id" in b:
        shared["patients"] = sorted({*a["patient_id"]} & {*b["patient_id"]} - {""})
    for what, ids in shared.items():
        if ids := list(dict.fromkeys(ids)):
            raise ValueError(
                f"{name_a} and {name_b} share {len(ids)} {what}, such as {', '.join(ids[:3])}; a "
                "test on another site needs other films of other patients: leave them out of one "
                f"site, or, if the sites number their {what} independently, put the site's name "
                "before the ids in one of the tables"
            )


def _data_set(name: str, frame: pd.DataFrame) -> tuple[str, str]:
    """The data set that a site's films are of, "" if unknown; and whose films these really are."""
    if "data_set" in frame.attrs:
        return frame.attrs["data_set"], frame.attrs["films_of"]
    return (name, load(name).films_of) if name in names() else ("", "")
