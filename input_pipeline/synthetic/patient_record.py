"""The stand-in of MIMIC-IV: stays, vital signs and deaths of the drawn patients.

How ill a patient is depends on what the film shows, and drives the rest, so that tests know what is
to be found: with `severity` the heart rate and the risk of intensive care and of death rise, and
the acuity falls (1 is the most urgent). The risk of death also rises with age.
"""

import datetime
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .mimic_folder import Study

COLUMNS = {  # as in MIMIC-IV 3.1 and MIMIC-IV-ED 2.2: https://mimic.mit.edu/docs/iv/modules
    "hosp/patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "hosp/admissions": "subject_id hadm_id admittime dischtime deathtime admission_type "
    "admit_provider_id admission_location discharge_location insurance language marital_status "
    "race edregtime edouttime hospital_expire_flag",
    "ed/edstays": "subject_id hadm_id stay_id intime outtime gender race arrival_transport "
    "disposition",
    "ed/triage": "subject_id stay_id temperature heartrate resprate o2sat sbp dbp pain acuity "
    "chiefcomplaint",
    "ed/vitalsign": "subject_id stay_id charttime temperature heartrate resprate o2sat sbp dbp "
    "rhythm pain",
    "icu/icustays": "subject_id hadm_id stay_id first_careunit last_careunit intime outtime los",
    "icu/procedureevents": "subject_id hadm_id stay_id caregiver_id starttime endtime storetime "
    "itemid value valueuom location locationcategory orderid linkorderid ordercategoryname "
    "ordercategorydescription patientweight isopenbag continueinnextdept statusdescription "
    "originalamount originalrate",
    "truth": "study_id setting severity",  # of the stand-in only
}
# Where films are taken. Those of the first three, 56 %, are in no stay of the emergency department.
SETTINGS = {"outpatient": 0.26, "ward": 0.2, "icu": 0.1, "sent home": 0.2, "admitted": 0.24}
RACES = ("WHITE", "WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC OR LATINO", "ASIAN", "UNKNOWN")
VITALS = {  # mean, change with severity, deviation, highest
    "temperature": (98.4, 0.2, 0.6, 110),
    "heartrate": (84, 10, 8, 200),
    "resprate": (18, 2, 2, 60),
    "o2sat": (97, -1.2, 1.2, 100),
    "sbp": (132, -6, 15, 220),
    "dbp": (76, -3, 10, 130),
}
VENTILATION = 225792  # the itemid of the invasive one
UNIT = "Medical Intensive Care Unit (MICU)"
DAY = datetime.timedelta(1)
Row = dict[str, object]


def draw_record(studies: Sequence["Study"], rng: np.random.Generator) -> dict[str, list[Row]]:
    """Draws the rows of each table in `COLUMNS`, of studies in the order of patients and time."""
    tables: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    hadm_ids = itertools.count(20_000_000)
    for _, several in itertools.groupby(studies, lambda study: study.subject_id):
        visits = list(several)
        age, year = int(np.clip(rng.normal(64, 17), 18, 98)), visits[0].taken.year
        person: Row = {
            "subject_id": visits[0].subject_id,
            "gender": str(rng.choice(["F", "M"])),
            "race": str(rng.choice(RACES)),
            "anchor_age": 91 if age > 89 else age,
            "anchor_year": year,
            "anchor_year_group": "2014 - 2016",
        }
        for study, later in itertools.zip_longest(visits, visits[1:]):
            free = (later.taken - study.taken) / 2 if later else None
            for name, row in _visit(study, age, free, next(hadm_ids), rng):
                tables[name].append(person | row)
                if row.get("deathtime"):
                    person["dod"] = f"{row['deathtime']:%Y-%m-%d}"
        tables["hosp/patients"].append(person)
    return tables


def _visit(
    study: "Study",
    age: int,
    free: datetime.timedelta | None,
    hadm_id: int,
    rng: np.random.Generator,
) -> Iterator[tuple[str, Row]]:
    """What happens around a study, and ends after `free` at the latest, or by death if None."""

    def hours(least: float, most: float) -> datetime.timedelta:
        return datetime.timedelta(seconds=round(3600 * rng.uniform(least, most)))

    taken, ill = study.taken, ("Edema", "Pleural Effusion")
    severity = rng.normal() + 1.5 * any(study.labels.get(name) == 1 for name in ill)
    setting = str(rng.choice([*SETTINGS], p=[*SETTINGS.values()]))
    if free and free < 3 * DAY:  # too near the next one
        setting = "outpatient"
    yield "truth", {"study_id": study.study_id, "setting": setting, "severity": round(severity, 4)}
    if setting == "outpatient":
        return
    inside = setting in ("ward", "icu")
    admitted = taken - hours(8, 100) if inside else taken + hours(0.3, 3)
    arrived = admitted - hours(4, 7) if inside else taken - hours(0.3, 4)
    left = admitted + hours(0.1, 2)
    days = float(np.exp(rng.normal(0.8 + 0.3 * severity, 0.6)))
    days = min(days, free.days) if free else days
    discharged = max(taken, left) + hours(24 * days, 24 * days)
    home, by_ed = setting == "sent home", not inside or rng.random() < 0.5
    if by_ed:
        yield from _emergency(arrived, left, None if home else hadm_id, severity, rng)
    if home:
        return
    dies = not free and rng.random() < _sigmoid(-2.5 + 0.05 * (age - 64) + severity)
    yield (
        "hosp/admissions",
        {
            "hadm_id": hadm_id,
            "admittime": admitted,
            "dischtime": discharged,
            "deathtime": discharged if dies else None,
            "admission_type": "EW EMER." if by_ed else "DIRECT EMER.",
            "discharge_location": "DIED" if dies else "HOME",
            "edregtime": arrived if by_ed else None,
            "edouttime": left if by_ed else None,
            "hospital_expire_flag": int(dies),
        },
    )
    begins = taken - hours(0.5, 6) if setting == "icu" else max(taken, left) + hours(1, 20)
    if begins < discharged and (setting == "icu" or rng.random() < _sigmoid(severity - 2)):
        since = max(begins, taken)
        ends = (since + (discharged - since) * rng.uniform(0.2, 0.9)).replace(microsecond=0)
        ids: Row = {"hadm_id": hadm_id, "stay_id": hadm_id + 15_000_000}
        times: Row = {"intime": begins, "outtime": ends, "los": (ends - begins) / DAY}
        yield "icu/icustays", ids | times | {"first_careunit": UNIT, "last_careunit": UNIT}
        if rng.random() < _sigmoid(severity - 1):
            times = {"starttime": begins + hours(0, 2), "endtime": ends, "storetime": ends}
            yield "icu/procedureevents", ids | times | {"itemid": VENTILATION}


def _emergency(
    arrived: datetime.datetime,
    left: datetime.datetime,
    hadm_id: int | None,
    severity: float,
    rng: np.random.Generator,
) -> Iterator[tuple[str, Row]]:
    """A visit to the emergency department; `hadm_id` is of the admission that follows."""

    def vitals() -> Row:
        drawn = {
            name: round(min(rng.normal(mean + slope * severity, deviation), top), 1)
            for name, (mean, slope, deviation, top) in VITALS.items()
        }
        return {name: None if rng.random() < 0.05 else value for name, value in drawn.items()}

    stay: Row = {"stay_id": int(rng.integers(30_000_000, 35_000_000))}
    yield (
        "ed/edstays",
        stay
        | {
            "hadm_id": hadm_id,
            "intime": arrived,
            "outtime": left,
            "arrival_transport": "AMBULANCE" if rng.random() < _sigmoid(severity) else "WALK IN",
            "disposition": "ADMITTED" if hadm_id else "HOME",
        },
    )
    acuity = round(float(np.clip(rng.normal(3 - 0.7 * severity, 0.5), 1, 5)))
    yield "ed/triage", stay | vitals() | {"acuity": acuity, "chiefcomplaint": "Dyspnea"}
    for step in range(1, int(24 * (left - arrived) / DAY) + 1):
        yield "ed/vitalsign", stay | vitals() | {"charttime": arrived + step * DAY / 24}


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
