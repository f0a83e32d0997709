"""How long linking MIMIC-CXR to tables of MIMIC-IV's size takes, and how much memory.

The tables are drawn at random in the published format: nobody's record.
"""

import pathlib
import resource
import subprocess
import sys
import time

import duckdb

from cxr_embeddings.input_pipeline.synthetic.patient_record import COLUMNS

FILMED = "hash(i) % 74000"  # visits with films, which makes 65,000 patients
VISIT = "i % 425000"
VITALS = "98.6 temperature,60 + i % 60 heartrate,18 resprate,97 o2sat,120 sbp,80 dbp"


def patient(stay: str) -> str:
    return f"CAST(10000000 + hash({stay}) % 300000 AS BIGINT) subject_id"


def later(stay: str, seed: int, most_hours: int) -> str:
    """A time so many hours after the patient's arrival, at most."""
    arrival = f"TIMESTAMP '2150-01-01' + to_seconds(CAST(hash({stay}, 0) % 250000000 AS BIGINT))"
    return f"{arrival} + to_seconds(CAST(hash(i, {seed}) % {most_hours * 3600} AS BIGINT))"


ROWS = {  # table -> how many, and the columns that are not empty
    "hosp/patients": (300_000, "10000000 + i subject_id,'F' gender,60 anchor_age,2150 anchor_year"),
    "hosp/admissions": (
        546_000,
        f"{patient('i')},20000000 + i hadm_id,'WHITE' race,0 hospital_expire_flag,"
        f"{later('i', 1, 9)} admittime,{later('i', 2, 240)} + to_hours(9) dischtime",
    ),
    "ed/edstays": (
        425_000,
        f"{patient('i')},30000000 + i stay_id,{later('i', 0, 1)} intime,"
        f"{later('i', 1, 9)} + to_hours(1) outtime,'WALK IN' arrival_transport",
    ),
    "ed/triage": (425_000, f"{patient('i')},30000000 + i stay_id,{VITALS},i % 5 + 1 acuity"),
    "ed/vitalsign": (
        1_600_000,
        f"{patient(VISIT)},30000000 + {VISIT} stay_id,{later(VISIT, 1, 9)} charttime,{VITALS}",
    ),
    "icu/icustays": (
        94_000,
        f"{patient('i')},35000000 + i stay_id,{later('i', 1, 9)} intime,"
        f"{later('i', 2, 99)} + to_hours(9) outtime",
    ),
}


def run(folder: str, films: int = 377_110) -> None:
    """Draws the tables in `folder` where they are not; links them, prints time and memory."""
    place, taken = pathlib.Path(folder), later(FILMED, 3, 10)
    tables = {f"mimiciv/{name}": (*rows, COLUMNS[name]) for name, rows in ROWS.items()}
    tables["metadata"] = (
        films,
        f"md5(CAST(i AS VARCHAR)) dicom_id,{patient(FILMED)},50000000 + i study_id,"
        f"strftime({taken}, '%Y%m%d') StudyDate,strftime({taken}, '%H%M%S.5') StudyTime",
        "dicom_id subject_id study_id StudyDate StudyTime",
    )
    for name, (rows, columns, header) in tables.items():
        file = place / f"{name}.csv.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        empty = [f"NULL {column}" for column in header.split() if f" {column}" not in columns]
        if not file.exists():
            duckdb.execute(
                f"COPY (SELECT {header.replace(' ', ',')} FROM (SELECT "
                f"{','.join([columns, *empty])} FROM range({rows}) t(i))) TO '{file}' (HEADER)"
            )
    command = [sys.executable, "scripts/link_mimic_iv.py", f"--mimic_iv={place}/mimiciv"]
    command += [f"--metadata={place}/metadata.csv.gz", f"--output={place}/{time.time():.0f}"]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"{films:,} films in {seconds:.1f} s, at most {peak:.2f} GB")
