"""Label tables of data sets: from findings to abnormal, normal or unknown."""

from collections.abc import Collection, Mapping

from cxr_embeddings.common import data_sets
from cxr_embeddings.common.csv_tables import read_rows
from cxr_embeddings.common.finding_names import NO_FINDING, VALUES

from .label import Labels, Verdict

DEVICES = ("unknown", "normal", "abnormal")  # what films of devices alone may count as


def judge(
    codes: Mapping[str, int | None], findings: Collection[str], devices: Collection[str]
) -> Verdict:
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
        findings: those of the body, in their order.
        devices: tubes, lines and the like, which are none.
    """
    positive = [name for name in findings if codes.get(name) == 1]
    uncertain = any(codes.get(name) == -1 for name in findings)
    nothing = codes.get(NO_FINDING) == 1
    if nothing and (positive or uncertain):
        return Verdict("unknown", "contradiction")
    if positive:
        return Verdict("abnormal", positive[0].replace(" ", "_").lower())
    if uncertain:
        return Verdict("unknown", "uncertain")
    if any(codes.get(name) in (1, -1) for name in devices):
        return Verdict("abnormal", "device_only")
    return Verdict("normal", "no_finding") if nothing else Verdict("unknown", "not_mentioned")


def with_devices(verdict: Verdict, devices: str) -> Verdict:
    """A verdict where devices alone count as one of `DEVICES`."""
    return verdict._replace(label=devices) if verdict.rule.startswith("device_") else verdict


def read_labels(path: str) -> Labels:
    """Reads the label table of a data set that its columns tell, and judges each row.

    A split is kept beside the ids where the table has one. Devices alone are abnormal.

    Args:
        path: CSV or CSV.gz in UTF-8, local or an address.

    Raises:
        OSError: it cannot be read.
        ValueError: no data set is recognised, or as `data_sets.read`; a row lacks an id, or is the
            second of one.
    """
    _, header = next(read_rows(path), (1, []))
    entry = data_sets.recognise(header)
    if entry is None:
        raise ValueError(
            f"{path} is the label table of no data set that its columns tell; expected those of "
            f"MIMIC-CXR's or ChestX-ray14's findings. There are: {', '.join(header) or '(none)'}"
        )
    table = data_sets.read(path, entry)
    about = "image_id" if "image_id" in table.rows else "study_id"
    columns = (about, *(name for name in ("patient_id", "split") if name in table.rows))
    devices = [entry.names.get(name, name) for name in entry.devices]
    findings = [name for name in table.findings if name not in (*devices, NO_FINDING)]
    rows: dict[tuple[str, ...], Verdict] = {}
    seen: set[str] = set()
    for number, row in enumerate(table.rows.to_dict("records"), 2):
        ids = tuple(row[name] for name in columns)
        if not ids[0] or ids[0] in seen:
            what = f"is the second of {ids[0]}" if ids[0] else f"lacks an id ({about})"
            raise ValueError(f"row {number} of {path} {what}; expected one row for each")
        seen.add(ids[0])
        codes = {name: VALUES[row[name]] for name in (*findings, *devices, NO_FINDING)}
        rows[ids] = judge(codes, findings, devices)
    return Labels(f"{len(rows)} rows in {path}, a table as {entry.title}'s", columns, rows)
