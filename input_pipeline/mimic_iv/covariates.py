"""What was known of the patient when the film was taken.

Each column is one entry: its value in SQL, the table that it comes from, and the column with the
time from which on it was known. A value that was known later than the film is not written.
"""

from typing import NamedTuple

import duckdb

from .stays import Windows, seconds
from .tables import RANGES, VITALS

ALWAYS = "always"  # a fact of a patient at any time
AT_FILM = "study_time"  # the film's own time
KEYS = ("dicom_id", "subject_id", "study_id", AT_FILM)
_AGE = "(year(t) - anchor_year + anchor_age)"


class Covariate(NamedTuple):
    """One column; `t` in its SQL is the time of the film."""

    value: str
    table: str
    known: str = ALWAYS  # name of the column with the time
    unit: str = ""


COVARIATES = {
    "age": Covariate(
        # over 89 in anchor_year, anchor_age is 91: how old they were before is unknown
        f"CASE WHEN anchor_age <= 89 THEN CASE WHEN {_AGE} > 89 THEN 91 ELSE {_AGE} END "
        "WHEN year(t) >= anchor_year THEN 91 END",
        "hosp/patients: anchor_age, anchor_year",
        unit="years; 91 means over 89",
    ),
    "sex": Covariate("gender", "hosp/patients: gender"),
    "race": Covariate("races.race", "hosp/admissions and ed/edstays: race", "race_time"),
    "arrival_transport": Covariate(
        "arrival_transport", "ed/edstays: arrival_transport", "arrival_time"
    ),
    "hours_since_arrival": Covariate(
        "round(epoch(t - arrival_time) / 3600, 3)", "ed/edstays: intime", "arrival_time", "hours"
    ),
    **{
        name: Covariate(f"triage.{name}", f"ed/triage: {name}", "arrival_time", unit)
        for name, (_, _, unit) in RANGES.items()
    },
    **{
        f"last_{name}": Covariate(f"v.{name}", f"ed/vitalsign: {name}", "vitals_time", unit)
        for name, (_, _, unit) in VITALS.items()
    },
    "in_ed": Covariate("CAST(in_ed AS INT)", "ed/edstays: intime, outtime", AT_FILM, "1 or 0"),
    "in_ward": Covariate(
        "CAST(admitted AND NOT in_ed AND NOT in_icu AS INT)",
        "hosp/admissions: admittime, dischtime",
        AT_FILM,
        "1 or 0",
    ),
    "in_icu": Covariate("CAST(in_icu AS INT)", "icu/icustays: intime, outtime", AT_FILM, "1 or 0"),
}
TIMES = {"race_time": "races.since", "arrival_time": "arrival_time", "vitals_time": "v.charttime"}


def make_covariates(db: duckdb.DuckDBPyConnection, windows: Windows) -> None:
    """Makes the table `covariates` of those that `tables.load` and `stays.place_films` made."""
    db.execute(
        "CREATE TABLE races AS SELECT subject_id, since, race FROM (SELECT subject_id, intime AS "
        "since, race FROM edstays UNION ALL SELECT subject_id, admittime, race FROM admissions) "
        "WHERE race NOT NULL "
        "QUALIFY row_number() OVER (PARTITION BY subject_id, since ORDER BY race) = 1"
    )
    each = ", ".join(VITALS)
    db.execute(
        f"CREATE TABLE vitals AS SELECT stay_id, charttime, {each} FROM vitalsign WHERE charttime "
        f"NOT NULL QUALIFY row_number() OVER (PARTITION BY stay_id, charttime ORDER BY {each}) = 1"
    )
    # A stay that is to come says nothing, not even by the cells that it fills.
    db.execute(
        "CREATE TABLE arrived AS SELECT used.*, e.stay_id, e.arrival_transport, "
        "e.intime AS arrival_time, coalesce(ed.link = 'holds', false) AS in_ed, "
        "dicom_id IN (SELECT dicom_id FROM used JOIN admissions USING (subject_id) "
        "WHERE t BETWEEN admittime AND dischtime) AS admitted, icu.stay_id NOT NULL AS in_icu "
        "FROM used LEFT JOIN ed_link ed USING (dicom_id) "
        "LEFT JOIN edstays e ON e.stay_id = ed.stay_id AND e.intime <= t "
        "LEFT JOIN icu_link icu USING (dicom_id)"
    )
    values = [f"{column.value} AS {name}" for name, column in COVARIATES.items()]
    values += [f"{value} AS {name}" for name, value in TIMES.items()]
    db.execute(
        f"CREATE TABLE covariates AS SELECT f.dicom_id, f.subject_id, study_id, t AS {AT_FILM}, "
        f"{', '.join(values)} FROM arrived f LEFT JOIN triage "
        "ON triage.stay_id = f.stay_id AND triage.subject_id = f.subject_id "
        "ASOF LEFT JOIN races ON races.subject_id = f.subject_id AND races.since <= f.t "
        "LEFT JOIN (SELECT dicom_id, vitals.* FROM arrived ASOF JOIN vitals "
        "ON vitals.stay_id = arrived.stay_id AND vitals.charttime <= arrived.t "
        f"WHERE charttime >= t - {seconds(windows.vitals_hours)}) v ON v.dicom_id = f.dicom_id"
    )
