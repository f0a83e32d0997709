"""Writes the stand-in: folders, reports and tables as MIMIC-CXR has them."""

import dataclasses
import datetime
import gzip
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cxr_embeddings.common.writing import encode_table, whole_folder

from . import course
from .anatomy import Patient, draw_patient
from .canvas import SIDES
from .dicom_files import TECHNIQUES, Technique, dicom_bytes
from .drawing import draw_film
from .patient_record import COLUMNS, draw_record
from .report_text import CASES, LABELS, draw_labels, drawn_findings, report_text
from .sites import HOSPITALS, Hospital

_METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition",
    "Rows", "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
_DAMAGE: tuple[Callable[[np.random.Generator, bytes], bytes], ...] = (
    lambda rng, whole: whole[: len(whole) * 3 // 5],  # cut short in the pixel data
    lambda rng, whole: rng.bytes(20_000),  # no DICOM at all
)
_VIEWS = {  # ViewPosition -> meaning of the view's code, and orientation of the patient
    "AP": ("antero-posterior", "Recumbent"),
    "PA": ("postero-anterior", "Erect"),
    "": ("postero-anterior", ""),
    "LATERAL": ("lateral", "Erect"),
    "LL": ("left lateral", "Erect"),
}
STAMP = "synthetic.json"  # the parameters of a finished stand-in, in its folder


@dataclasses.dataclass(frozen=True)
class Study:
    """One study of the stand-in."""

    subject_id: int
    study_id: int
    split: str
    taken: datetime.datetime
    earlier: bool  # whether the patient had a study before
    patient: Patient
    labels: Mapping[str, int]
    side: str
    effusion: float | None = None  # its height in chest units; None: as chance has it
    change: int | None = None  # of the effusion since the study before: -1, 0, 1

    @property
    def folder(self) -> str:
        """The folder of its films; its report is a `.txt` of the same name."""
        return f"files/p{self.subject_id // 1_000_000}/p{self.subject_id}/s{self.study_id}"


def draw_studies(count: int, seed: int, site: str = "") -> list[Study]:
    """Draws `count` studies, one to three for each patient, in the order of patients."""
    rng = np.random.default_rng([seed, 0, *site.encode()])
    hospital = HOSPITALS[site]
    case_list = [*CASES, *[hospital.more] * hospital.times]
    owners = np.repeat(np.arange(count), rng.integers(1, 4, count))[:count]
    people = owners[-1] + 1
    subject_ids = np.sort(10_000_000 + rng.choice(10_000_000, people, replace=False))
    study_ids = 50_000_000 + rng.choice(10_000_000, count, replace=False)
    cycle = ("train", "train", "train", "validate", "test")
    splits = [cycle[rank % 5] for rank in rng.permutation(people)]
    first_days = rng.integers(0, 30_000, people)
    patients = [draw_patient(rng) for _ in range(people)]
    decks = [rng.permutation(len(case_list)) for _ in range(0, count, len(case_list))]
    cases, visits = np.concatenate(decks), np.arange(count) - np.searchsorted(owners, owners)
    studies = []
    for owner, visit, study_id, case in zip(owners, visits, study_ids, cases, strict=False):
        days = int(first_days[owner] + 120 * visit + rng.integers(120))
        seconds = int(rng.integers(86_400))
        study = Study(
            subject_id=int(subject_ids[owner]),
            study_id=int(study_id),
            split=splits[owner],
            taken=datetime.datetime(2110, 1, 1) + datetime.timedelta(days, seconds),
            earlier=bool(visit),
            patient=patients[owner],
            labels=draw_labels(rng, case_list[case]),
            side=str(rng.choice([*SIDES])),
        )
        studies.append(study)
    return studies


def _shape(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """Height and width of a film within the range, upright more often than not."""
    longer = int(rng.integers(low, high + 1))
    shorter = max(low, int(longer * rng.uniform(0.8, 1.0)))
    return (longer, shorter) if rng.random() < 0.65 else (shorter, longer)


def _spread(marked: int, count: int) -> list[bool]:
    """`marked` True values among `count`, evenly spread."""
    return [(k + 1) * marked // count > k * marked // count for k in range(count)]


def write_mimic(
    path: str | os.PathLike,
    *,
    films: int = 56,
    laterals: int = 8,
    damaged: int = 2,
    seed: int = 0,
    size_range: tuple[int, ...] = (420, 1100),
    mimic_iv: bool = False,
    courses: bool = False,
    site: str = "",
) -> dict[str, int]:
    """Writes a stand-in of MIMIC-CXR: folders of DICOM files, reports, and the gz tables.

    The same arguments give the same bytes. It is written beside `path` under a temporary name and
    renamed when it is whole, with its parameters in `STAMP`.

    Args:
        path: folder to make; new, empty, or of the same stand-in.
        films: readable frontal films, one a study.
        laterals: lateral films, in as many of the studies.
        damaged: further studies whose frontal film cannot be read, in turn cut short and garbage.
            Like all others they stand in the tables and have a report.
        seed: of everything drawn.
        size_range: shortest and longest side of a film, in pixels.
        mimic_iv: also draw the patients' record, as tables of MIMIC-IV in the folder `mimiciv`.
        courses: every patient has a course (`course.draw_courses`), and a table `changes` says how
            the effusion changed since the study before: -1 improved, 0 stable, 1 worse.
        site: a name in `HOSPITALS`, whose films differ in a known way.

    Returns:
        Counts: `patients`, `studies`, `films`, `laterals`, `damaged`, and `bytes` on disk; none if
        it was there already.

    Raises:
        ValueError: an argument is out of range, or the folder holds another stand-in.
        FileExistsError: there is something else in the folder.
    """
    path, count = pathlib.Path(path), films + damaged
    parameters = {
        "films": films,
        "laterals": laterals,
        "damaged": damaged,
        "seed": seed,
        "size_range": list(size_range),
        **({"mimic_iv": True} if mimic_iv else {}),
        **({"courses": True} if courses else {}),
        **({"site": site} if site else {}),
    }
    if (path / STAMP).is_file():
        if (found := json.loads((path / STAMP).read_text())) == parameters:
            return {}
        raise ValueError(
            f"{path} was made with {found}; asked for now: {parameters}. Choose another folder, or "
            "remove that one"
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"found something else at {path}; expected an empty or a new folder: "
            "choose another one, or remove it"
        )
    sizes = len(size_range) == 2 and 32 <= size_range[0] <= size_range[1]
    if not (sizes and films > 0 and damaged >= 0 and 0 <= laterals <= count):
        raise ValueError(
            f"found {parameters}; expected films >= 1, damaged >= 0, 0 <= laterals <= films + "
            "damaged, and as size range two numbers of at least 32 pixels, the smaller one first"
        )
    if site not in HOSPITALS:
        raise ValueError(f"site is {site!r}; expected one of {', '.join(filter(None, HOSPITALS))}")
    studies, records = draw_studies(count, seed, site), []
    if courses:
        studies = course.draw_courses(studies, np.random.default_rng([seed, 4]))
    techniques, damages = itertools.cycle(TECHNIQUES), itertools.cycle(_DAMAGE)
    lateral_views = itertools.cycle(("LATERAL", "LL"))
    marks = zip(_spread(laterals, count), _spread(damaged, count), strict=True)
    with whole_folder(path) as partial:
        for number, (has_lateral, is_damaged) in enumerate(marks):
            views = [TECHNIQUES[0] if is_damaged else next(techniques)]
            if has_lateral:
                views.append(next(techniques)._replace(view=next(lateral_views)))
            rng = np.random.default_rng([seed, 1, number, *site.encode()])
            damage = next(damages) if is_damaged else None
            drawn = views, damage, rng, size_range, HOSPITALS[site]
            records += _write_study(partial, studies[number], *drawn)
        _write_tables(partial, studies, records, np.random.default_rng([seed, 2]))
        if courses:
            values = [(study.subject_id, study.study_id, study.change) for study in studies]
            rows = [dict(zip(course.COLUMNS, row, strict=True)) for row in values]
            _write_table(partial / "changes", course.COLUMNS, rows)
        if mimic_iv:
            record = draw_record(studies, np.random.default_rng([seed, 3]))
            for name, columns in COLUMNS.items():
                _write_table(partial / "mimiciv" / name, columns.split(), record[name])
        (partial / STAMP).write_text(json.dumps(parameters, indent=2) + "\n")
    return {
        "patients": len({study.subject_id for study in studies}),
        "studies": count,
        "films": films,
        "laterals": laterals,
        "damaged": damaged,
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    }


def _write_study(
    root: pathlib.Path,
    study: Study,
    views: Sequence[Technique],
    damage: Callable[[np.random.Generator, bytes], bytes] | None,
    rng: np.random.Generator,
    size_range: tuple[int, ...],
    hospital: Hospital,
) -> list[dict[str, object]]:
    """Writes a study's report and films; gives the values of each film in all tables."""

    def random_uid() -> str:
        return f"2.25.{int.from_bytes(rng.bytes(16), 'big')}"

    (root / study.folder).mkdir(parents=True)
    if views[0].view == "AP":
        procedure = "CHEST (PORTABLE AP)"
    else:
        procedure = "CHEST (PA AND LAT)" if len(views) > 1 else "CHEST (SINGLE VIEW)"
    report = report_text(rng, study.labels, study.side, procedure, study.earlier)
    (root / f"{study.folder}.txt").write_text(report)

    findings = drawn_findings(study.labels)
    findings |= {
        name: hospital.faint * findings[name] for name in hospital.more if name in findings
    }
    records, study_uid = [], random_uid()
    for number, technique in enumerate(views, 1):
        height, width = _shape(rng, *size_range)
        about = study.side, (height, width), technique.view, study.effusion, hospital
        film = draw_film(rng, study.patient, findings, *about)
        attributes = {
            "SOPInstanceUID": random_uid(),
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": random_uid(),
            "SeriesNumber": number,
            "InstanceNumber": 1,
            "StudyID": str(study.study_id),
            "PatientID": str(study.subject_id),
            "PatientName": "",
            "StudyDate": f"{study.taken:%Y%m%d}",
            "StudyTime": f"{study.taken:%H%M%S.000}",
            "PerformedProcedureStepDescription": procedure,
        }
        content = dicom_bytes(film, technique, attributes)
        if damage and number == 1:
            content = damage(rng, content)
        digits = rng.bytes(20).hex()
        dicom_id = "-".join(digits[k : k + 8] for k in range(0, 40, 8))
        (root / study.folder / f"{dicom_id}.dcm").write_bytes(content)
        view, orientation = _VIEWS[technique.view]
        in_tables = {
            "dicom_id": dicom_id,
            "subject_id": study.subject_id,
            "study_id": study.study_id,
            "path": f"{study.folder}/{dicom_id}.dcm",
            "split": study.split,
            "ViewPosition": technique.view,
            "Rows": height,
            "Columns": width,
            "ProcedureCodeSequence_CodeMeaning": procedure,
            "ViewCodeSequence_CodeMeaning": view,
            "PatientOrientationCodeSequence_CodeMeaning": orientation,
        }
        records.append(attributes | in_tables)
    return records


def _write_tables(
    root: pathlib.Path,
    studies: Sequence[Study],
    records: Sequence[Mapping[str, object]],
    rng: np.random.Generator,
) -> None:
    """Writes the six tables; the NegBio labels resolve some of CheXpert's uncertain ones."""
    chexpert, negbio = [], []
    for study in studies:
        ids = {"subject_id": study.subject_id, "study_id": study.study_id}
        values = {label: f"{value:.1f}" for label, value in study.labels.items()}
        chexpert.append({**ids, "path": f"{study.folder}.txt", **values})
        unsure = [label for label, value in study.labels.items() if value < 0]
        settled = [label for label in unsure if rng.random() < 0.4]
        negbio.append(chexpert[-1] | dict.fromkeys(settled, "1.0"))
    labels = ("subject_id", "study_id", *LABELS)
    tables = {
        "cxr-record-list": (("subject_id", "study_id", "dicom_id", "path"), records),
        "cxr-study-list": (("subject_id", "study_id", "path"), chexpert),
        "mimic-cxr-2.0.0-metadata": (_METADATA, records),
        "mimic-cxr-2.0.0-split": (("dicom_id", "study_id", "subject_id", "split"), records),
        "mimic-cxr-2.0.0-chexpert": (labels, chexpert),
        "mimic-cxr-2.0.0-negbio": (labels, negbio),
    }
    for name, (columns, rows) in tables.items():
        _write_table(root / name, columns, rows)


def _write_table(
    path: pathlib.Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> None:
    """Writes a table as `path`.csv.gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = encode_table(columns, ([row.get(column) for column in columns] for row in rows))
    path.with_name(f"{path.name}.csv.gz").write_bytes(gzip.compress(data, mtime=0))
