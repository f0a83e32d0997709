"""What became of the patient after the film, and when it was settled.

An outcome is known where an admission holds the film or follows it within the window, or where a
stay in the emergency department without an admission holds it. It is unknown where it was settled
before the film.
"""

from typing import NamedTuple

import duckdb

SELECTIONS = {
    "all": "",
    "first": "QUALIFY stay IS NULL OR study_time = min(study_time) OVER (PARTITION BY stay)",
}
VENTILATION = (225792, 225794)  # itemids of invasive and of non-invasive ventilation
DAY = "to_hours(24)"


class Outcome(NamedTuple):
    """One column in SQL; the column NAME_time, which follows it, has the time `settled`."""

    value: str
    settled: str
    closed: str  # why it cannot be known any more; NULL where it can
    table: str
    unit: str = "1 or 0"


def _within_day(event: str, table: str) -> Outcome:
    """Whether an event begins within 24 hours; not of films that are taken while it lasts."""
    closed = f"CASE WHEN closed IS NULL AND in_{event} THEN 'there already' ELSE closed END"
    return Outcome(f"CAST({event} NOT NULL AS INT)", f"coalesce({event}, t + {DAY})", closed, table)


OUTCOMES = {
    "hospital_death": Outcome(
        "died",
        "CASE WHEN died = 1 THEN coalesce(deathtime, ends) ELSE ends END",
        "closed",
        "hosp/admissions: hospital_expire_flag, deathtime; without one ed/edstays: disposition",
    ),
    "icu_within_24h": _within_day("icu", "icu/icustays: intime"),
    "length_of_stay_hours": Outcome(
        "round(epoch(ends - t) / 3600, 3)",
        "ends",
        "closed",
        "hosp/admissions: dischtime; without one ed/edstays: outtime",
        "hours from the film to the end of the stay, by discharge or death",
    ),
}
VENTILATED = {"ventilation_within_24h": _within_day("ventilation", "icu/procedureevents: itemid")}
# event -> table, first and last moment, and the rows that count
EVENTS = {
    "icu": ("icustays", "intime", "outtime", "true"),
    "ventilation": ("procedureevents", "starttime", "endtime", f"itemid IN {VENTILATION}"),
}


def make_links(db: duckdb.DuckDBPyConnection) -> None:
    """Makes the table `links`: of each film the ids of its stays, and the `stay` of its outcomes.

    It tells of stays that are to come, so it is for looking things up, not for heads.
    """
    # Whoever is in the emergency department and not admitted from it is in no later admission.
    db.execute(
        "CREATE TABLE links AS SELECT *, CASE WHEN hadm_id NOT NULL THEN 'admission ' || hadm_id "
        "WHEN ed_link = 'holds' THEN 'ed ' || ed_stay_id END AS stay "
        "FROM (SELECT dicom_id, used.subject_id, study_id, t AS study_time, "
        "ed.stay_id AS ed_stay_id, ed.link AS ed_link, "
        "CASE WHEN ed.link = 'holds' AND e.hadm_id IS NULL AND a.link = 'begins_after' THEN NULL "
        "ELSE a.hadm_id END AS hadm_id, a.link AS admission_link, icu.stay_id AS icu_stay_id "
        "FROM used LEFT JOIN ed_link ed USING (dicom_id) "
        "LEFT JOIN edstays e ON e.stay_id = ed.stay_id "
        "LEFT JOIN admission_link a USING (dicom_id) LEFT JOIN icu_link icu USING (dicom_id))"
    )


def make_outcomes(
    db: duckdb.DuckDBPyConnection, select: str, ventilation: bool
) -> dict[str, dict[str, int]]:
    """Makes the table `outcomes` of those that `stays.place_films` and `make_links` made.

    Args:
        select: one of `SELECTIONS`: all films, or the first ones of each stay.
        ventilation: whether `procedureevents` is there, and asked for.

    Returns:
        For each outcome the number of films by its value, or by the reason why it is unknown.
    """
    wanted = OUTCOMES | (VENTILATED if ventilation else {})
    events = {event: rows for event, rows in EVENTS.items() if ventilation or event == "icu"}
    joins, lasting = "", ""
    for event, (table, first, last, which) in events.items():
        lasting += f"{event}, coalesce(in_{event}, false) AS in_{event}, "
        joins += (
            f" LEFT JOIN (SELECT dicom_id, min({first}) FILTER ({first} > t) AS {event}, "
            f"bool_or({first} <= t) AS in_{event} FROM used JOIN {table} USING (subject_id) "
            f"WHERE {first} <= t + {DAY} AND {last} >= t AND {which} GROUP BY dicom_id) "
            "USING (dicom_id)"
        )
    db.execute(
        f"CREATE TABLE followed AS SELECT l.*, study_time AS t, deathtime, {lasting} "
        "coalesce(dischtime, outtime) AS ends, CASE WHEN l.hadm_id IS NULL "
        "THEN CAST(coalesce(disposition = 'EXPIRED', false) AS INT) "
        "WHEN hospital_expire_flag = 1 OR deathtime IS NULL THEN hospital_expire_flag END AS died, "
        "CASE WHEN stay IS NULL THEN 'in no stay' WHEN ed_link = 'holds' AND e.hadm_id NOT NULL "
        "AND e.hadm_id IS DISTINCT FROM l.hadm_id THEN 'sent to another admission' "
        "WHEN deathtime <= t THEN 'already dead' "
        "WHEN coalesce(dischtime, outtime) <= t THEN 'stay is over' END AS closed "
        "FROM links l LEFT JOIN admissions a ON a.hadm_id = l.hadm_id "
        f"LEFT JOIN edstays e ON e.stay_id = ed_stay_id {joins} {SELECTIONS[select]}"
    )
    columns, counts = [], {}
    for name, (value, settled, closed, _, unit) in wanted.items():
        known = f"({closed}) IS NULL AND ({value}) NOT NULL"
        columns += [f"CASE WHEN {known} THEN {value} END AS {name}"]
        columns += [f"CASE WHEN {known} THEN {settled} END AS {name}_time"]
        shown = f"CAST({value} AS VARCHAR)" if unit == "1 or 0" else "'known'"
        by_value = (
            f"SELECT coalesce({closed}, {shown}, 'tables contradict'), count(*) FROM followed "
            "GROUP BY 1 ORDER BY 1"
        )
        counts[name] = dict(db.execute(by_value).fetchall())
    db.execute(
        "CREATE TABLE outcomes AS SELECT dicom_id, subject_id, study_id, study_time, "
        f"{', '.join(columns)} FROM followed"
    )
    return counts
