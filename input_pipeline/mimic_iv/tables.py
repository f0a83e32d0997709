"""Tables of MIMIC-IV in a DuckDB database: read whole or not at all, every value checked.

The columns are those of MIMIC-IV 2.0 to 3.1 (https://mimic.mit.edu/docs/iv/modules) and of
MIMIC-CXR's metadata. Of patients without films no row is kept.
"""

import contextlib
import csv
import gzip
import io
import pathlib
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping

import duckdb

MEMORY = "2GB"  # what the database holds at most; what is beyond goes to the disk

FILMS = "dicom_id subject_id study_id StudyDate StudyTime"
VITALS = {  # least, most, unit; what is outside was mistyped: it is unknown, and counted
    "temperature": (70, 115, "degrees Fahrenheit"),
    "heartrate": (10, 300, "beats a minute"),
    "resprate": (2, 80, "breaths a minute"),
    "o2sat": (30, 100, "percent"),
    "sbp": (30, 300, "mmHg"),
    "dbp": (10, 200, "mmHg"),
}
RANGES = VITALS | {"acuity": (1, 5, "1 (most urgent) to 5")}
TABLES = {  # the columns that are read
    "hosp/patients": "subject_id gender anchor_age anchor_year dod",
    "hosp/admissions": "subject_id hadm_id admittime dischtime deathtime race edregtime "
    "hospital_expire_flag",
    "ed/edstays": "subject_id hadm_id stay_id intime outtime race arrival_transport disposition",
    "ed/triage": f"subject_id stay_id {' '.join(VITALS)} acuity",
    "ed/vitalsign": f"subject_id stay_id charttime {' '.join(VITALS)}",
    "icu/icustays": "subject_id stay_id intime outtime",
}
PROCEDURES = {"icu/procedureevents": "subject_id starttime endtime itemid"}
KEYS = {"films": "dicom_id", "patients": "subject_id", "admissions": "hadm_id"}
KEYS |= dict.fromkeys(("edstays", "triage", "icustays"), "stay_id")  # what names a row

KINDS = {  # of values: SQL that is NULL where the text {} is none, and what is expected
    "text": ("{}", "text"),
    "id": ("TRY_CAST({} AS BIGINT)", "a whole number"),
    "number": ("TRY_CAST({} AS DOUBLE)", "a number"),
    "time": ("TRY_STRPTIME({}, '%Y-%m-%d %H:%M:%S')", "a time such as 2180-05-06 22:23:00"),
    "date": ("TRY_CAST({} AS DATE)", "a date such as 2180-05-06"),
}
KIND_OF = dict.fromkeys((*RANGES, "StudyDate", "StudyTime"), "number") | {"dod": "date"}
KIND_OF |= dict.fromkeys(("dicom_id", "gender", "race", "arrival_transport", "disposition"), "text")
REST = " "  # no name of a column
_TELLS = "CSV Error on Line|a row has|^Expected Number|^Invalid unicode|^Value with|GZIP"


@contextlib.contextmanager
def database(folder: pathlib.Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in memory, which spills into the folder, and loads no code from elsewhere.

    Raises OSError where neither has room left.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY,
        "temp_directory": str(folder / ".spill"),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        with duckdb.connect(":memory:", config=settings) as db:
            yield db
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise OSError(str(error).partition("\n")[0]) from error
    except RuntimeError as error:
        if "interrupted" in str(error):  # so DuckDB takes Ctrl-C while it works
            raise KeyboardInterrupt from error
        raise
    finally:
        shutil.rmtree(folder / ".spill", ignore_errors=True)


def locate(folders: Mapping[str, pathlib.Path], name: str) -> pathlib.Path:
    """The file of a table such as hosp/patients, in the folder of its module.

    Raises FileNotFoundError.
    """
    folder = folders[name.partition("/")[0]]
    for path in (folder / f"{name}.csv.gz", folder / f"{name}.csv"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"found no {name}.csv.gz or {name}.csv in {folder}; expected a folder with hosp, icu and "
        "ed in it. MIMIC-IV-ED is a download of its own: give its folder by --mimic_iv_ed"
    )


def load(
    db: duckdb.DuckDBPyConnection, table: str, path: pathlib.Path, columns: str
) -> dict[str, int]:
    """Makes a table of a CSV or CSV.gz; but for `films`, of the patients of these only.

    Returns:
        How many numbers were out of range, by table and column.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no whole table in UTF-8 with commas, columns are missing, a value is of
            another kind, or a row is there twice.
    """
    names = columns.split()
    patient = KINDS["id"][0].format("subject_id")
    ours = f"{patient} IS NULL OR {patient} IN (SELECT subject_id FROM films)"
    load_text(db, "raw", path, names, "true" if table == "films" else ours, only=True)
    values, outside = [], {}
    for name in names:
        kind = KIND_OF.get(name, "time" if name.endswith("time") else "id")
        text = f"NULLIF(TRIM({name}), '')"
        value, expected = KINDS[kind][0].format(text), KINDS[kind][1]
        wrong = f"SELECT count({text}), min({text}) FROM raw WHERE {value} IS NULL"
        count, first = db.execute(wrong).fetchall()[0]
        if count:
            raise ValueError(
                f"{count} rows of {path} have a {name} such as {first!r}; expected {expected}, as "
                "PhysioNet publishes it: get the file again, or correct them"
            )
        if name in RANGES:
            fits = "{} BETWEEN {} AND {}".format(value, *RANGES[name])
            if out := db.execute(f"SELECT count(*) FROM raw WHERE NOT {fits}").fetchall()[0][0]:
                outside[f"{table} {name}"] = out
            value = f"CASE WHEN {fits} THEN {value} END"
        values += [f"{value} AS {name}"]
    db.execute(f"CREATE TABLE {table} AS SELECT {', '.join(values)} FROM raw")
    if key := KEYS.get(table):
        twice = f"SELECT {key} FROM {table} GROUP BY {key} HAVING count(*) > 1"
        count, first = db.execute(f"SELECT count(*), min({key}) FROM ({twice})").fetchall()[0]
        if count:
            raise ValueError(
                f"{path} has more than one row for {count} {key}s, the first of them {first}; "
                "expected one each: get the file again"
            )
    return outside


def load_text(
    db: duckdb.DuckDBPyConnection,
    table: str,
    path: pathlib.Path,
    needed: Iterable[str],
    where: str = "true",
    only: bool = False,
) -> list[str]:
    """Makes a table of the texts of a CSV or CSV.gz, of all columns or of the `needed` only.

    Returns all columns. Raises as `load`.
    """
    header = _header(path)
    if missing := [name for name in needed if header.count(name) != 1]:
        raise ValueError(
            f"{path} has the columns {', '.join(header)}; expected each of {', '.join(missing)} "
            "once: is it another table, or MIMIC-III's?"
        )
    # One column more than there are, and empty texts that are not NULL as lacking ones are: else
    # DuckDB takes a row whose values have moved to the right if the last of them is empty.
    kinds = ", ".join(f"{quoted(name, chr(39))}: 'VARCHAR'" for name in (*header, REST))
    whole = f"{quoted(header[-1])} NOT NULL AND {quoted(REST)} IS NULL"
    names = ", ".join(quoted(name) for name in (needed if only else header))
    file = quoted(re.sub(r"([*?\[])", r"[\1]", str(path)), "'")  # one path, no pattern
    try:
        db.execute(
            f"CREATE OR REPLACE TABLE {table} AS SELECT {names} FROM read_csv({file}, header=true, "
            f"auto_detect=false, delim=',', quote='\"', escape='\"', columns={{{kinds}}}, "
            "null_padding=true, nullstr=chr(1), parallel=false) WHERE CASE WHEN "
            f"{whole} THEN {where} ELSE error('a row has more or fewer values than the header') END"
        )
    except (duckdb.InvalidInputException, duckdb.IOException) as error:
        # Other lines of it quote the row
        told = "; ".join(line for line in str(error).splitlines() if re.search(_TELLS, line))
        raise _damaged(path, told) from error
    return header


def _header(path: pathlib.Path) -> list[str]:
    """The names of the columns."""
    try:
        with gzip.open(path) if path.name.endswith(".gz") else open(path, "rb") as stream:
            text = stream.readline(1 << 20).decode("utf-8-sig")
        header = next(csv.reader(io.StringIO(text)), [])
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, error) from error
    if len(header) == 1 and re.search(r"[;\t|]", text):
        raise ValueError(f"{path} has no commas between its values: save it with commas")
    return [name.strip() for name in header]


def _damaged(path: pathlib.Path, told: object) -> ValueError:
    return ValueError(f"{path} is not a whole CSV file in UTF-8 ({told}): get it again")


def quoted(name: str, mark: str = '"') -> str:
    """A name, or with ' a text, in SQL."""
    return mark + name.replace(mark, 2 * mark) + mark
