"""Label tables of data sets: from findings to abnormal, normal or unknown."""

from collections.abc import Mapping
from typing import NamedTuple

from cxr_embeddings.common.csv_tables import plain, read_rows
from cxr_embeddings.common.finding_names import (
    CHEXPERT,
    NIH,
    NIH_COLUMN,
    NO_FINDING,
    SUPPORT_DEVICES,
    VALUES,
)

from .label import Labels, Verdict

DEVICES = ("unknown", "normal", "abnormal")  # what films of devices alone may count as


class DataSet(NamedTuple):
    """What the label table of a data set holds. Names are compared as `csv_tables.plain` has it.

    Attributes:
        ids: column that we write -> what the table may call it. The first says what a row is about.
        listed: the column that lists all that is positive, with | between; "" where each finding
            has a column of its own, of `VALUES`.
        findings: what makes a film or a study abnormal.
        devices: tubes, lines and the like, which are no finding of the body.
        normal: what is positive where there is no finding, with or without devices.
    """

    ids: Mapping[str, tuple[str, ...]]
    listed: str
    findings: tuple[str, ...]
    devices: tuple[str, ...]
    normal: str


DATASETS = {
    # The tables of the CheXpert and NegBio labellers (Irvin et al., arXiv 1901.07031): one row a
    # study. A study whose columns are all empty has a report that could not be labelled.
    "mimic_cxr": DataSet(
        ids={"study_id": ("study_id",), "subject_id": ("subject_id",)},
        listed="",
        findings=tuple(name for name in CHEXPERT if name not in (NO_FINDING, SUPPORT_DEVICES)),
        devices=(SUPPORT_DEVICES,),
        normal=NO_FINDING,
    ),
    # Data_Entry_2017 of ChestX-ray14 (Wang et al., CVPR 2017): one row a film; no devices.
    "chestxray14": DataSet(
        ids={"image_id": ("Image Index", "file"), "patient_id": ("Patient ID",)},
        listed=NIH_COLUMN,
        findings=NIH,
        devices=(),
        normal=NO_FINDING,
    ),
    # Films of children (Kermany et al., Cell 2018), as a table of its folders: one row a film.
    "kermany": DataSet(
        ids={"image_id": ("file",), "patient_id": ("patient_key",)},
        listed="label",
        findings=("PNEUMONIA",),
        devices=(),
        normal="NORMAL",
    ),
}


def judge(codes: Mapping[str, int | None], dataset: DataSet) -> Verdict:
    """Whether findings call a film or a study abnormal, with the rule that decided.

    - No Finding beside a finding that is positive or uncertain is a contradiction, by the
      labellers' own definition of it: unknown.
    - Any positive finding: abnormal, by the rule of the first one.
    - None positive, but some uncertain: unknown, also with devices.
    - Devices alone, also uncertain ones: abnormal by the rule `device_only`; see `with_devices`.
    - No Finding: normal.
    - Nothing of all this: unknown.

    Args:
        codes: finding -> value of `VALUES`; what is missing is not mentioned.
        dataset: whose findings these are.
    """
    positive = [name for name in dataset.findings if codes.get(name) == 1]
    uncertain = any(codes.get(name) == -1 for name in dataset.findings)
    nothing = codes.get(dataset.normal) == 1
    if nothing and (positive or uncertain):
        return Verdict("unknown", "contradiction")
    if positive:
        return Verdict("abnormal", positive[0].replace(" ", "_").lower())
    if uncertain:
        return Verdict("unknown", "uncertain")
    if any(codes.get(name) in (1, -1) for name in dataset.devices):
        return Verdict("abnormal", "device_only")
    return Verdict("normal", "no_finding") if nothing else Verdict("unknown", "not_mentioned")


def with_devices(verdict: Verdict, devices: str) -> Verdict:
    """A verdict where devices alone count as one of `DEVICES`."""
    return verdict._replace(label=devices) if verdict.rule.startswith("device_") else verdict


def read_labels(path: str) -> Labels:
    """Reads the label table of one of `DATASETS`, recognised by its columns, and judges each row.

    A split is kept beside the ids where the table has one. Devices alone are abnormal.

    Args:
        path: CSV or CSV.gz in UTF-8, local or an address.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no whole table of these, has no rows, two for one id, or a strange value.
    """
    table = read_rows(path)
    _, header = next(table, (1, []))
    name, place = _recognise(header, path)
    dataset = DATASETS[name]
    columns = (*dataset.ids, *(["split"] if "split" in place else []))
    rows: dict[tuple[str, ...], Verdict] = {}
    seen: set[tuple[str, ...]] = set()
    for number, row in table:
        ids = tuple(row[place[column]] for column in dataset.ids)
        if not all(ids):
            raise ValueError(f"row {number} of {path} lacks an id ({', '.join(dataset.ids)})")
        if ids in seen:
            raise ValueError(
                f"row {number} of {path} is the second of {' and '.join(ids)}; expected one row "
                f"for each {' and '.join(dataset.ids)}: remove the others"
            )
        seen.add(ids)
        codes = _codes(row, place, dataset, f"row {number} of {path}")
        rows[tuple(row[place[column]] for column in columns)] = judge(codes, dataset)
    if not rows:
        raise ValueError(f"{path} has no rows; expected a header and at least one row")
    return Labels(f"{len(rows)} rows in {path}, a table as {name} has it", columns, rows)


def _recognise(header: list[str], path: str) -> tuple[str, dict[str, int]]:
    """Which data set has these columns, and where each one is that matters, by our name for it."""
    lacking, known = {}, [plain(column) for column in header]
    for name, dataset in DATASETS.items():
        singles = [dataset.listed] if dataset.listed else _names(dataset)
        wanted = {**dataset.ids, **{single: (single,) for single in singles}}
        place = {
            ours: known.index(plain(theirs))
            for ours, names in (wanted | {"split": ("split",)}).items()
            for theirs in reversed(names)
            if plain(theirs) in known
        }
        lacking[name] = [" or ".join(wanted[ours]) for ours in wanted if ours not in place]
        if not lacking[name]:
            return name, place
    nearest = min(lacking, key=lambda name: len(lacking[name]))
    raise ValueError(
        f"{path} is the label table of none of {', '.join(DATASETS)}; it is nearest to "
        f"{nearest}'s, but has no column {', '.join(lacking[nearest])}. There are: "
        f"{', '.join(header) or '(none)'}"
    )


def _names(dataset: DataSet) -> tuple[str, ...]:
    return (*dataset.findings, *dataset.devices, dataset.normal)


def _codes(
    row: list[str], place: Mapping[str, int], dataset: DataSet, where: str
) -> dict[str, int | None]:
    """Finding -> its value in a row."""
    names = _names(dataset)
    known = {plain(name): name for name in names}
    if dataset.listed:
        parts = [part for part in row[place[dataset.listed]].split("|") if part.strip()]
        wrong = [(part, dataset.listed) for part in parts if plain(part) not in known]
        expected = f"{', '.join(names)}, with | between"
    else:
        wrong = [(row[place[name]], name) for name in names if row[place[name]] not in VALUES]
        expected = "1, 0, -1 or nothing"
    if wrong:  # a misspelt finding would be taken for none
        found, column = wrong[0]
        raise ValueError(
            f"found {found!r} in {where}, column {column!r}; expected {expected}: correct the table"
        )
    if dataset.listed:
        return {known[plain(part)]: 1 for part in parts}
    return {name: VALUES[row[place[name]]] for name in names}
