"""Films linked to MIMIC-IV: each time is moved across its border, leaks are planted, tables harmed.

The tables are drawn in the published format; no patient's.
"""

import datetime
import gzip
import json
import random
import shutil

import numpy as np
import pandas as pd
import pytest
import running
from label_tables import read_labels

import cxr_embeddings as cxr
from cxr_embeddings.input_pipeline.mimic_iv import leaks
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import draw_studies, write_mimic
from cxr_embeddings.input_pipeline.synthetic.patient_record import COLUMNS, draw_record

FILM = datetime.datetime(2150, 3, 10, 9, 30, 25)
HOUR, DAY = 3600, 86_400
TABLES = {name: columns.split() for name, columns in COLUMNS.items() if "/" in name}
METADATA = ["dicom_id", "subject_id", "study_id", "StudyDate", "StudyTime"]


def at(seconds):
    """A time so long after the film."""
    return f"{FILM + datetime.timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}"


def ed(arrival, end, **more):
    visit = {"stay_id": 1, "intime": at(arrival), "outtime": at(end), "race": "WHITE", **more}
    return {"ed/edstays": visit, "ed/triage": {"stay_id": 1, "heartrate": 101, "acuity": 2}}


def admission(begin, end, **more):
    row = {"hadm_id": 2, "admittime": at(begin), "dischtime": at(end), "hospital_expire_flag": 0}
    return {"hosp/admissions": row | {"race": "ASIAN"} | more}


def icu(begin, end):
    return {"icu/icustays": {"stay_id": 3, "intime": at(begin), "outtime": at(end)}}


def vitals(time):
    row = {"stay_id": 1, "charttime": at(time), "heartrate": 99}
    return ed(-30 * HOUR, HOUR) | {"ed/vitalsign": row}


def ventilation(time):
    row = {"starttime": at(time), "endtime": at(time + 2 * DAY), "itemid": 225792}
    return {**admission(-HOUR, 9 * DAY), "icu/procedureevents": row}


def dies(time):
    return admission(-5 * DAY, 9 * DAY, deathtime=at(time), hospital_expire_flag=1)


def within_day(d):
    return "" if d <= 0 else "1" if d <= DAY else "0"


# A column -> the record where something happens d seconds after the film, what stands in the column
# then, and the borders of d.
MOVED = {
    "heartrate": (lambda d: ed(d, d + 9 * DAY), lambda d: "101.0" if d <= 0 else "", [0]),
    "acuity": (lambda d: ed(d - DAY, d), lambda d: "2.0" if d >= -7 * DAY else "", [-7 * DAY]),
    "last_heartrate": (vitals, lambda d: "99.0" if -DAY <= d <= 0 else "", [-DAY, 0]),
    "arrival_transport": (
        lambda d: ed(d, d + 1, arrival_transport="WALK IN"),
        lambda d: "WALK IN" if -7 * DAY - 1 <= d <= 0 else "",
        [0, -7 * DAY - 1],
    ),
    "hours_since_arrival": (
        lambda d: ed(d, d + 9 * DAY), lambda d: f"{-d / HOUR:.3f}" if d <= 0 else "", [0],
    ),
    "race": (lambda d: admission(d, 9 * DAY), lambda d: "ASIAN" if d <= 0 else "", [0]),
    "in_ed": (lambda d: ed(-9 * DAY, d), lambda d: str(int(d >= 0)), [0]),
    "in_ward": (lambda d: admission(d, 9 * DAY), lambda d: str(int(d <= 0)), [0]),
    "in_icu": (lambda d: icu(-9 * DAY, d), lambda d: str(int(d >= 0)), [0]),
    "hospital_death": (dies, lambda d: "1" if d > 0 else "", [0]),
    "icu_within_24h": (
        lambda d: admission(-DAY, 9 * DAY) | icu(d, 9 * DAY), within_day, [0, DAY]
    ),
    "ventilation_within_24h": (ventilation, within_day, [0, DAY]),
    "length_of_stay_hours": (
        lambda d: admission(-9 * DAY, d), lambda d: f"{d / HOUR:.3f}" if d > 0 else "", [0]
    ),
    "hospital_death_time": (
        lambda d: admission(d, 9 * DAY), lambda d: at(9 * DAY) if d <= DAY else "", [DAY]
    ),
}  # fmt: skip


def write(folder, records):
    """Writes tables of MIMIC-IV, one patient with one film for each of the named records."""
    rows = {name: [] for name in TABLES}
    films = []
    for number, (name, record) in enumerate(records.items()):
        patient = {"subject_id": 10_000_000 + number}
        born = {"gender": "F", "anchor_age": 60, "anchor_year": 2150}
        rows["hosp/patients"].append(patient | born | record.pop("hosp/patients", {}))
        for table, several in record.items():
            for row in several if isinstance(several, list) else [several]:
                own = {key: 100 * number + row[key] for key in ("stay_id", "hadm_id") if key in row}
                rows[table].append(patient | row | own)
        times = {"StudyDate": "21500310", "StudyTime": "93025.25"}
        films.append({"dicom_id": name, **patient, "study_id": 5 * 10**7 + number} | times)
    for table, columns in TABLES.items():
        save(folder / f"{table}.csv", columns, rows[table])
    save(folder / "metadata.csv", METADATA, films)
    return folder


def save(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns, dtype=object).to_csv(path, index=False)


def read(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def link(folder, name="out", **options):
    counts = cxr.link_mimic_iv(folder, folder / "metadata.csv", folder / name, **options)
    return counts, folder / name


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """The row of each film, by the column in question and the seconds that its event is moved."""
    draw, records = random.Random(0), {}
    for column, (record, _, borders) in MOVED.items():
        offsets = {border + step for border in borders for step in (-1, 0, 1)}
        offsets |= {
            border + draw.randint(-8 * HOUR, 8 * HOUR) for border in borders for _ in "1234"
        }
        records |= {f"{column} {offset}": record(offset) for offset in offsets}
    folder = write(tmp_path_factory.mktemp("moved"), records)
    _, out = link(folder, ventilation=True)
    found = {row["dicom_id"]: row for row in read(out / "covariates.csv")}
    for row in read(out / "outcomes.csv"):
        found[row["dicom_id"]] |= row
    assert found.keys() == records.keys()
    return found


@pytest.mark.parametrize("column", MOVED)
def test_a_column_appears_and_disappears_at_its_border(moved, column):
    _, expected, borders = MOVED[column]
    cases = {int(name.split()[1]): row for name, row in moved.items() if name.split()[0] == column}
    assert len({expected(offset) for offset in cases}) > 1 and len(cases) >= 3 * len(borders)
    for offset, row in cases.items():
        found = row[column]
        if column.endswith("hours") or column.startswith("hours"):
            found = found and f"{float(found):.3f}"
        assert found == expected(offset), (offset, row)


def test_a_stay_to_come_changes_no_covariate(tmp_path):
    before = ed(-3 * DAY, -2 * DAY)
    visit = before["ed/edstays"]
    soon = [visit, visit | {"stay_id": 4, "intime": at(HOUR), "outtime": at(DAY)}]
    later = before | {"ed/edstays": soon} | admission(HOUR, 2 * DAY) | icu(HOUR, DAY)
    _, out = link(write(tmp_path, {"without": dict(before), "with": later}))
    rows = {row["dicom_id"]: row for row in read(out / "covariates.csv")}
    different = {name for name in rows["with"] if rows["with"][name] != rows["without"][name]}
    assert different == {"dicom_id", "subject_id", "study_id"} and rows["with"]["heartrate"]


def test_an_admission_that_is_registered_and_still_to_come_ends_none(tmp_path):
    first = admission(-DAY, 2 * HOUR)["hosp/admissions"]
    second = first | {"hadm_id": 5, "edregtime": at(-HOUR), "admittime": at(HOUR)}
    both = {"hosp/admissions": [first, second | {"dischtime": at(DAY)}]}
    _, out = link(write(tmp_path, {"without": {"hosp/admissions": first}, "with": both}))
    assert [row["in_ward"] for row in read(out / "covariates.csv")] == ["1", "1"]


def test_ties_and_overlaps(tmp_path):
    visits = [{"stay_id": k, "intime": at(begin), "outtime": at(DAY)}
              for k, begin in ((1, -DAY), (3, -HOUR), (2, -HOUR))]  # fmt: skip
    own = ed(-HOUR, HOUR, hadm_id=9)  # sent to an admission that is not there
    home = ed(-HOUR, HOUR) | admission(2 * HOUR, DAY, hospital_expire_flag=1)
    lost = ed(-HOUR, HOUR, disposition="EXPIRED")
    records = {"several": {"ed/edstays": visits}, "own": own, "home": home, "lost": lost}
    counts, out = link(write(tmp_path, records))
    assert counts["ed"] == {"none": 0, "one": 3, "several": 1, "near": 0}
    links = {row["dicom_id"]: row for row in read(out / "links.csv")}
    assert links["several"]["ed_stay_id"] == "3" and links["home"]["hadm_id"] == ""
    assert counts["hospital_death"] == {"0": 2, "1": 1, "sent to another admission": 1}


def test_contradictions_and_ages_are_counted(tmp_path):
    records = {
        "back": ed(HOUR, -HOUR),
        "endless": {"icu/icustays": {"stay_id": 3, "intime": at(0), "outtime": ""}},
        "early death": admission(-DAY, DAY, deathtime=at(-2 * DAY)),
        "spared": admission(-DAY, DAY, deathtime=at(HOUR)),
        "mistyped": ed(-HOUR, HOUR) | {"ed/triage": {"stay_id": 1, "heartrate": 9999}},
        "unborn": {"hosp/patients": {"anchor_age": 20, "anchor_year": 2171}},
        "dead": {"hosp/patients": {"dod": "2150-03-09"}},
        "dying": {"hosp/patients": {"dod": "2150-03-10"}},
        "old": {"hosp/patients": {"anchor_age": 91, "anchor_year": 2150}},
        "older": {"hosp/patients": {"anchor_age": 88, "anchor_year": 2148}},
        "younger": {"hosp/patients": {"anchor_age": 91, "anchor_year": 2151}},
    }
    counts, out = link(write(tmp_path, records))
    assert counts["numbers out of range"] == {"triage heartrate": 1}
    assert counts["films left out"] == {"after the day of death": 1, "before birth": 1}
    assert sorted(counts["rows left out"].values()) == [1, 1, 1]
    assert counts["hospital_death"]["tables contradict"] == 1
    ages = {row["dicom_id"]: row["age"] for row in read(out / "covariates.csv")}
    assert [ages[name] for name in ("dying", "old", "older", "younger")] == ["60", "91", "91", ""]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"] == counts and len(manifest["inputs"]) == 7


@pytest.fixture
def simple(tmp_path):
    """A record of two films, which is whole."""
    stays = ed(-HOUR, HOUR) | admission(HOUR, DAY) | icu(2 * HOUR, 3 * HOUR)
    vital = {"ed/vitalsign": {"stay_id": 1, "charttime": at(-60), "heartrate": 99}}
    return write(tmp_path, {"a": stays | vital, "b": stays | vital})


DAMAGE = [  # table, a text in it, another in its place, and what is said
    ("hosp/patients", "anchor_age", "dob", "expected each of anchor_age once: .* MIMIC-III's"),
    ("hosp/patients", ",2150,", ",MMCL,", "2 rows of .*patients.csv have a anchor_year such as"),
    ("hosp/patients", "10000001,", "10000000,", "more than one row for 1 subject_ids"),
    ("hosp/patients", "1000000", "1000", "no film can be linked .2 of patients that hosp"),
    ("ed/edstays", ":25,", ",", "2 rows of .*edstays.csv have a intime such as .* expected a"),
    ("ed/vitalsign", "2150-03-10 ", "10/03/2150 ", "2 rows of .*vitalsign.csv have a charttime"),
    ("ed/vitalsign", "99", "9o", "2 rows of .*vitalsign.csv have a heartrate such as '9o'"),
    ("ed/edstays", ",", ";", "edstays.csv has no commas between its values"),
    ("ed/edstays", "WHITE", "WEI\xdf", "edstays.csv is not a whole CSV file in UTF-8"),
    ("ed/edstays", ",WHITE", ",WHITE,WHITE", "is not .* a row has more or fewer values"),
    ("hosp/admissions", ",ASIAN", ',"ASIAN', "admissions.csv is not a whole CSV file"),
    ("metadata", "StudyTime", "Time", "metadata.csv has the columns .*StudyTime once"),
    ("metadata", "93025.25", "9:30", "2 rows of .*metadata.csv have a StudyTime such as '9:30'"),
    ("metadata", "93025.25", "997700", "no film can be .* .2 without a valid date and time"),
]


@pytest.mark.parametrize(("table", "old", "new", "said"), DAMAGE)
def test_what_is_wrong_with_a_table_is_said(simple, table, old, new, said):
    path = simple / f"{table}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new), encoding="latin-1")
    with pytest.raises(cxr.InputError, match=said) as found:
        link(simple)
    assert "WHITE" not in str(found.value) and not (simple / "out").exists()


def test_packed_tables_and_folders_of_their_own(simple, tmp_path):
    _, plain = link(simple)
    ed_folder = tmp_path / "mimic-iv-ed [2.2]"
    shutil.move(simple / "ed", ed_folder / "ed")
    packed = gzip.compress((ed_folder / "ed/edstays.csv").read_bytes())
    (ed_folder / "ed/edstays.csv.gz").write_bytes(packed)
    (ed_folder / "ed/edstays.csv").unlink()
    with pytest.raises(cxr.FileError, match=r"found no ed/edstays.csv.gz .*--mimic_iv_ed"):
        link(simple, "again")
    _, again = link(simple, "again", mimic_iv_ed=ed_folder)
    for part in leaks.PARTS:
        assert (plain / f"{part}.csv").read_bytes() == (again / f"{part}.csv").read_bytes()
    (ed_folder / "ed/edstays.csv.gz").write_bytes(packed[:-20])
    with pytest.raises(cxr.InputError, match=r"edstays.csv.gz is not a whole CSV file"):
        link(simple, "cut", mimic_iv_ed=ed_folder)
    with pytest.raises(cxr.FileError, match="holds something; expected a new"):
        link(simple, "again", mimic_iv_ed=ed_folder)
    for options in ({"nearest_days": -1.0}, {"select": "last"}):
        with pytest.raises(cxr.InputError, match="expected"):
            link(simple, "cut", **options)


def course(number):
    """Three films in one admission, the second and third of other studies."""
    return [{"dicom_id": f"{number}-{k}", "subject_id": 10_000_000 + number,
             "study_id": 5 * 10**7 + 3 * number + k, "StudyDate": "21500310",
             "StudyTime": 93025 + 10_000 * k} for k in range(3)]  # fmt: skip


def edited(folder, part, change):
    """Rewrites the rows of a table."""
    rows = [row for row in map(change, read(folder / f"{part}.csv")) if row]
    save(folder / f"{part}.csv", [*rows[0]], rows)


LEAKS = {  # what is said -> the file, and what is done to each of its rows
    "12 of 36 values of last_heartrate in covariates.csv are known after the film": (
        "covariates", lambda row: row | {"vitals_time": at(DAY)} if "-0" in row["dicom_id"] else row
    ),
    "36 of 36 values of hospital_death in outcomes.csv are settled before": (
        "outcomes", lambda row: row | {"hospital_death_time": row["study_time"]}
    ),
    "says of no column of covariates.csv when los is known": (
        "covariates", lambda row: row | {"los": "3"}
    ),
    "covariates.csv has no column arrival_time, the time of acuity": (
        "covariates", lambda row: {k: v for k, v in row.items() if k != "arrival_time"}
    ),
    "36 films of covariates.csv have another study_time in links.csv": (
        "covariates", lambda row: row | {"study_time": at(9 * DAY)}
    ),
    "12 of 12 stays with several films have only the last one in outcomes.csv": (
        "outcomes", lambda row: row if "-2" in row["dicom_id"] else None
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def stays(tmp_path_factory):
    """Twelve admissions of three films each, linked."""
    stay = ed(-HOUR, HOUR, hadm_id=2) | admission(HOUR, 2 * DAY)
    vital = {"ed/vitalsign": {"stay_id": 1, "charttime": at(-60), "heartrate": 99}}
    folder = write(tmp_path_factory.mktemp("stays"), {str(k): stay | vital for k in range(12)})
    save(folder / "metadata.csv", METADATA, [film for k in range(12) for film in course(k)])
    link(folder)
    return folder


@pytest.mark.parametrize("said", LEAKS)
def test_planted_leaks_are_refused(stays, tmp_path, said):
    part, change = LEAKS[said]
    folder = tmp_path / "out"
    shutil.copytree(stays / "out", folder)
    fine = running.call("link_mimic_iv", f"--check={folder}")
    assert fine.returncode == 0 and fine.stdout.startswith("no leak: ")
    edited(folder, part, change)
    found = running.call("link_mimic_iv", f"--check={folder}")
    assert found.returncode == 1 and said in found.stderr and found.stderr.startswith("error: ")


def test_other_choices_of_films_are_no_leak(stays, tmp_path):
    for name, keep in {"first": "0", "middle": "1"}.items():
        folder = tmp_path / name
        shutil.copytree(stays / "out", folder)
        edited(folder, "outcomes", lambda row, k=keep: row if row["dicom_id"][-1] == k else None)
        assert leaks.check(folder)
    _, first = link(stays, "first", select="first")
    assert [row["dicom_id"][-1] for row in read(first / "outcomes.csv")] == ["0"] * 12


def test_a_patient_in_two_splits_is_refused(stays, tmp_path):
    films = [{"dicom_id": f"{k}-{n}", "split": "train"} for k in range(12) for n in range(3)]
    save(tmp_path / "split.csv", ["dicom_id", "split"], films)
    assert leaks.check(stays / "out", tmp_path / "split.csv")
    films[4]["split"] = "test"
    save(tmp_path / "split.csv", ["dicom_id", "split"], films)
    with pytest.raises(cxr.InputError, match="1 patients have films in more than one split"):
        link(stays, "refused", splits=tmp_path / "split.csv")
    assert not (stays / "refused").exists()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The record of 600 drawn studies, and what it is linked to."""
    folder, studies = tmp_path_factory.mktemp("drawn"), draw_studies(600, 1)
    record = draw_record(studies, np.random.default_rng(2))
    for name, columns in COLUMNS.items():
        rows = [{column: row.get(column) for column in columns.split()} for row in record[name]]
        save(folder / f"{name}.csv", columns.split(), rows)
    films = [{"dicom_id": f"d{study.study_id}", "subject_id": study.subject_id,
              "study_id": study.study_id, "StudyDate": f"{study.taken:%Y%m%d}",
              "StudyTime": f"{study.taken:%H%M%S.000}"} for study in studies]  # fmt: skip
    save(folder / "metadata.csv", METADATA, films)
    counts, out = link(folder)
    table = pd.read_csv(out / "covariates.csv").merge(pd.read_csv(out / "outcomes.csv"))
    table = table.merge(pd.read_csv(folder / "truth.csv"))
    ill = {study.study_id: study.labels.get("Edema") == 1 for study in studies}
    return counts, out, table.assign(edema=table["study_id"].map(ill))


def test_the_planted_stays_and_effects_are_found(drawn):
    counts, _, table = drawn
    setting = table["setting"]
    outside = setting.isin(["outpatient", "ward", "icu"])
    assert counts["ed"]["none"] == outside.sum() and counts["ed"]["several"] == 0
    assert 0.5 < outside.mean() < 0.63  # 0.56 was planted
    for column, there in (("ed", ~outside), ("icu", setting == "icu"), ("ward", setting == "ward")):
        assert (table[f"in_{column}"] == there).all()
    correlation = table[["severity", "heartrate", "last_heartrate", "acuity"]].corr()["severity"]
    assert correlation[["heartrate", "last_heartrate"]].min() > 0.6 > -0.6 > correlation["acuity"]
    for group, column, least in (
        ("edema", "heartrate", 8),
        ("hospital_death", "severity", 0.5),
        ("icu_within_24h", "severity", 0.5),
        ("hospital_death", "age", 3),
    ):
        means = table.groupby(group)[column].mean()
        assert len(means) == 2 and means.iloc[1] > means.iloc[0] + least


def test_heads_read_the_outcomes(drawn):
    _, out, table = drawn
    labels = read_labels(out / "outcomes.csv", ("hospital_death", "icu_within_24h"))
    assert labels.facts.ids["image"][0].startswith("d")
    known = table["hospital_death"].notna().sum(), table["icu_within_24h"].notna().sum()
    assert tuple(labels.mask.sum(axis=0)) == known and known[1] < known[0] < len(table)
    assert labels.label.sum(axis=0)[0] == table["hospital_death"].sum() > 10
    columns = json.loads((out / "columns.json").read_text())
    described = {name for name in columns if columns[name]["role"] == "covariate"}
    assert described < {*table} and columns["heartrate"]["known"] == "arrival_time"


def test_the_command_says_what_was_found(drawn, tmp_path):
    counts, out, _ = drawn
    folder = out.parent
    result = running.call(
        "link_mimic_iv", f"--mimic_iv={folder}", f"--metadata={folder}/metadata.csv",
        f"--output={tmp_path}/out", "--nearest_days=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"ed: none {counts['ed']['none']} (" in result.stdout and "near 0 " in result.stdout
    assert "published: MIMIC-Eye: none 56 %" in result.stdout
    assert result.stdout.endswith(f"outcomes were open\nin {tmp_path}/out\n")
    for words in ([], [f"--check={out}", "--output=x"]):
        assert running.call("link_mimic_iv", *words).returncode == 1


def test_the_stand_in_gets_a_record_and_stays_as_it_was(tmp_path):
    few = {"films": 3, "laterals": 1, "damaged": 0, "size_range": (48, 64)}
    for name, more in (("with", True), ("without", False)):
        write_mimic(tmp_path / name, **few, mimic_iv=more)
    both = [running.tree(tmp_path / name) for name in ("with", "without")]
    added = {name for name in both[0] if name.startswith("mimiciv/")}
    assert {name.removesuffix(".csv.gz").removeprefix("mimiciv/") for name in added} == {*COLUMNS}
    assert both[0].keys() - added == both[1].keys()
    assert all(both[0][name] == both[1][name] for name in both[1] if name != "synthetic.json")
