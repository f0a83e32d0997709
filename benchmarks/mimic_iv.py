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

VITALS = "98.6 temperature,60 + i % 60 heartrate,18 resprate,97 o2sat,120 sbp,80 dbp"


def run(
    folder: str,
    films: int = 377_110,
    patients: int = 300_000,
    admissions: int = 546_000,
    visits: int = 425_000,
    icu_stays: int = 94_000,
    vitals: int = 1_600_000,
) -> None:
    """Draws the tables in `folder` where they are not; links them, prints time and memory."""
    place = pathlib.Path(folder)

    def after(time: str, most_hours: int, seed: int) -> str:
        return f"{time} + to_seconds(CAST(hash(i, {seed}) % {most_hours * 3600} AS BIGINT))"

    def patient(of: str) -> str:
        return f"CAST(10000000 + hash({of}) % {patients} AS BIGINT) subject_id"

    arrival = "TIMESTAMP '2150-01-01' + to_seconds(CAST(hash({}, 7) % 250000000 AS BIGINT))"
    stay = arrival.format("i")
    filmed = "hash(i) % 74000"  # visits with films, which makes 65,000 patients
    drawn = {  # table -> rows, and the columns that are not empty
        "hosp/patients": (patients, "10000000 + i subject_id,'F' gender,60 anchor_age,"
                          "2150 anchor_year,'2014 - 2016' anchor_year_group"),
        "hosp/admissions": (admissions, f"{patient('i')},20000000 + i hadm_id,'WHITE' race,"
                            f"{after(stay, 9, 1)} admittime,{after(stay, 240, 2)} + to_hours(9) "
                            "dischtime,0 hospital_expire_flag,'EW EMER.' admission_type"),
        "ed/edstays": (visits, f"{patient('i')},30000000 + i stay_id,{stay} intime,"
                       f"{after(stay, 9, 1)} outtime,'F' gender,'WHITE' race,"
                       "'WALK IN' arrival_transport,'HOME' disposition"),
        "ed/triage": (visits, f"{patient('i')},30000000 + i stay_id,{VITALS},i % 5 + 1 acuity,"
                      "'Dyspnea' chiefcomplaint"),
        "ed/vitalsign": (vitals, f"{patient(f'i % {visits}')},30000000 + i % {visits} stay_id,"
                         f"{after(arrival.format(f'i % {visits}'), 9, 1)} charttime,{VITALS}"),
        "icu/icustays": (icu_stays, f"{patient('i')},20000000 + i hadm_id,39000000 + i stay_id,"
                         f"{after(stay, 9, 1)} + to_hours(2) intime,{after(stay, 99, 2)} + "
                         "to_hours(11) outtime,2.5 los"),
    }  # fmt: skip
    tables = {f"mimiciv/{name}": (*rows, COLUMNS[name].split()) for name, rows in drawn.items()}
    taken = after(arrival.format(filmed), 10, 3)
    tables["metadata"] = (
        films,
        f"md5(CAST(i AS VARCHAR)) dicom_id,{patient(filmed)},50000000 + i study_id,"
        f"strftime({taken}, '%Y%m%d') StudyDate,strftime({taken}, '%H%M%S.5') StudyTime",
        ["dicom_id", "subject_id", "study_id", "StudyDate", "StudyTime"],
    )
    for name, (rows, columns, header) in tables.items():
        file = place / f"{name}.csv.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        rest = [f"NULL {column}" for column in header if f" {column}" not in columns]
        if not file.exists():
            duckdb.execute(
                f"COPY (SELECT {','.join(header)} FROM (SELECT {','.join([columns, *rest])} "
                f"FROM range({rows}) t(i))) TO '{file}' (HEADER)"
            )
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "scripts/link_mimic_iv.py", f"--mimic_iv={place}/mimiciv",
         f"--metadata={place}/metadata.csv.gz", f"--output={place}/linked-{time.time():.0f}"],
        check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"{films:,} films in {seconds:.1f} s, at most {peak:.2f} GB")
