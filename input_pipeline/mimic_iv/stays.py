"""Which emergency visit, admission and intensive care stay a film belongs to."""

import dataclasses

import duckdb

ENDLESS = "without an end, or with one before the beginning"
# Rows that contradict themselves are left out
CONTRADICTIONS = (
    ("edstays", ENDLESS, "NOT coalesce(outtime >= intime, false)"),
    ("icustays", ENDLESS, "NOT coalesce(outtime >= intime, false)"),
    ("admissions", ENDLESS, "NOT coalesce(dischtime >= admittime, false)"),
    ("admissions", "with a death before them", "deathtime < admittime"),
)
# Why a film is left out, the first that holds; t is its time
REFUSED = {
    "without a valid date and time": "t IS NULL",
    "of patients that hosp/patients lacks": "patients.subject_id IS NULL",
    "before birth": "year(t) - anchor_year + anchor_age < 0",
    "after the day of death": "CAST(t AS DATE) > dod",
}
# Stays of a kind: their table, id, first and last moment. An admission begins in the emergency
# department if it came from there.
STAYS = {
    "ed": ("edstays", "stay_id", "intime", "outtime"),
    "admission": ("admissions", "hadm_id", "least(admittime, edregtime)", "dischtime"),
    "icu": ("icustays", "stay_id", "intime", "outtime"),
}
_TIME = (  # StudyTime is a number such as 93025.84
    "TRY_STRPTIME(CAST(TRY_CAST(StudyDate AS INT) AS VARCHAR) || "
    "lpad(CAST(TRY_CAST(floor(StudyTime) AS INT) AS VARCHAR), 6, '0'), '%Y%m%d%H%M%S')"
)


@dataclasses.dataclass(frozen=True)
class Windows:
    """How far from a film a stay or a vital sign may lie and still count."""

    before_admission_hours: float  # a film so long before an admission belongs to it
    nearest_days: float  # likewise before or after a visit to the emergency department
    vitals_hours: float  # vital signs are no older than this at the film

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= 100_000:
                raise ValueError(f"{name} is {value}; expected a number from 0 to 100,000")


def place_films(db: duckdb.DuckDBPyConnection, windows: Windows) -> dict[str, dict[str, int]]:
    """Makes the films that can be used, and a table of links for each kind of `STAYS`.

    `used` has dicom_id, subject_id, study_id, t and what hosp/patients says. `ed_link`,
    `admission_link` and `icu_link` have, for each film that has one, the id of its stay, `link`
    (holds, ended_before, begins_after) and `holding`, the number of stays that hold the film. One
    that holds it is taken before one that ended, and that before one to come; then the nearest,
    the one that began last, and the one with the highest id.

    Returns:
        Counts: `rows left out` and `films left out` by reason; for each kind of stay the films that
        `none`, `one` and `several` hold, and those of `none` that have one `near`.

    Raises:
        ValueError: no film is left.
    """
    counts: dict[str, dict[str, int]] = {"rows left out": {}}
    for table, reason, wrong in CONTRADICTIONS:
        if number := db.execute(f"SELECT count(*) FROM {table} WHERE {wrong}").fetchall()[0][0]:
            counts["rows left out"][f"of {table} {reason}"] = number
            db.execute(f"DELETE FROM {table} WHERE {wrong}")
    reasons = " ".join(f"WHEN {holds} THEN '{why}'" for why, holds in REFUSED.items())
    db.execute(
        f"CREATE TABLE judged AS SELECT f.*, patients.* EXCLUDE (subject_id), CASE {reasons} END "
        f"AS reason FROM (SELECT dicom_id, subject_id, study_id, {_TIME} AS t FROM films) f "
        "LEFT JOIN patients USING (subject_id)"
    )
    by_reason = "SELECT reason, count(*) FROM judged WHERE reason NOT NULL GROUP BY 1 ORDER BY 1"
    counts["films left out"] = dict(db.execute(by_reason).fetchall())
    db.execute("CREATE TABLE used AS SELECT * EXCLUDE (reason) FROM judged WHERE reason IS NULL")
    films = db.execute("SELECT count(*) FROM used").fetchall()[0][0]
    if not films:
        told = ", ".join(f"{count} {reason}" for reason, count in counts["films left out"].items())
        raise ValueError(
            f"no film can be linked ({told or 'there is none'}); expected films of MIMIC-CXR and "
            "tables of MIMIC-IV, which share their subject_ids; those of MIMIC-III are others"
        )
    near = {"ed": windows.nearest_days * 24, "admission": windows.before_admission_hours}
    for kind in STAYS:
        linked = _link(db, kind, near.get(kind, 0.0), near["ed"] if kind == "ed" else 0.0)
        counts[kind] = {"none": films - linked["one"] - linked["several"], **linked}
    return counts


def seconds(hours: float) -> str:
    """An interval in SQL."""
    return f"to_seconds({round(hours * 3600)})"


def _link(db: duckdb.DuckDBPyConnection, kind: str, before: float, after: float) -> dict[str, int]:
    """Makes one table of links, of films up to so many hours before and after a stay."""
    table, key, first, last = STAYS[kind]
    db.execute(
        f"CREATE TABLE {kind}_link AS SELECT dicom_id, {key}, "
        "CASE WHEN t > ends THEN 'ended_before' WHEN t < begins THEN 'begins_after' "
        "ELSE 'holds' END AS link, "
        "count(*) FILTER (t BETWEEN begins AND ends) OVER (PARTITION BY dicom_id) AS holding "
        f"FROM used JOIN (SELECT *, {first} AS begins, {last} AS ends FROM {table}) "
        "USING (subject_id) "
        f"WHERE t BETWEEN begins - {seconds(before)} AND ends + {seconds(after)} "
        # a stay to come must not displace one that was: the cells that get empty would tell of it
        "QUALIFY row_number() OVER (PARTITION BY dicom_id ORDER BY begins > t, "
        f"greatest(begins - t, t - ends, to_seconds(0)), begins DESC, {key} DESC) = 1"
    )
    numbers = {"one": "holding = 1", "several": "holding > 1", "near": "holding = 0"}
    counted = ", ".join(f"count(*) FILTER ({which})" for which in numbers.values())
    found = db.execute(f"SELECT {counted} FROM {kind}_link").fetchall()[0]
    return dict(zip(numbers, found, strict=True))
