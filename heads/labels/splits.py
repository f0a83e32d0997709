"""Which films a head is trained, tuned and tested on, and whether they can serve for that."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from ..statistics.results import Note
from .columns import as_number
from .label_table import Examples, note

SPLITS = {
    "train": ("train", "training"),
    "tune": ("tune", "validate", "validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
CANNOT = {  # what a finding with one class in the split goes without
    "tune": "temperature and thresholds cannot be set",
    "test": "AUROC and AUPRC cannot be computed",
}


def named_splits(
    names: Shaped[np.ndarray, " n"], known: Mapping[str, Sequence[str]] = SPLITS
) -> Shaped[np.ndarray, " n"]:
    """The names in a table, in any case, as "train", "tune" and "test"; "" for any other."""
    meant = {name.casefold(): split for split, several in known.items() for name in several}
    meant[""] = ""  # a film without a split is in none
    unique, inverse = np.unique(names.astype(np.str_), return_inverse=True)
    return np.array([meant.get(name.casefold(), "") for name in unique], object)[inverse]


def random_splits(
    patient_id: Shaped[np.ndarray, " n"], fractions: tuple[float, ...], seed: int
) -> Shaped[np.ndarray, " n"]:
    """Draws "train", "tune" and "test" at random, all films of a patient into the same one.

    The draw depends on which patients there are, in no way on the order of the films.

    Raises:
        ValueError: a patient is unknown, or the fractions are out of range.
    """
    shares = np.array(fractions)
    fine = len(shares) == 3 and (shares >= 0).all() and abs(shares.sum() - 1) <= 1e-6
    if not fine or shares[:2].min() == 0:
        raise ValueError(
            f"found {fractions=}; expected those of train, tune and test, which sum to 1, the "
            "first two above 0"
        )
    unknown = int((patient_id == "").sum())
    if unknown:
        raise ValueError(
            f"the patients of {unknown} of {len(patient_id)} films are unknown, but all films of a "
            "patient must be in one split: say which column holds the patient by patient_column, "
            "or give a table that has it as metadata_path"
        )
    patients, inverse = np.unique(patient_id.astype(np.str_), return_inverse=True)
    rank = np.random.default_rng(seed).permutation(len(patients))
    ends = np.round(np.cumsum(shares[:2]) * len(patients))
    return np.array([*SPLITS], object)[np.searchsorted(ends, rank, side="right")][inverse]


def check_patients(
    patient_id: Shaped[np.ndarray, " n"],
    study_id: Shaped[np.ndarray, " n"],
    split: Shaped[np.ndarray, " n"],
) -> list[Note]:
    """Makes sure that no patient is in two splits; where patients are unknown, no study.

    Ids that differ as 001 and 1 do are of one patient: some program took them for numbers.

    Returns:
        A note if some patients are unknown ("").

    Raises:
        ValueError: a patient, or a study of an unknown patient, is in more than one split.
    """
    unknown = patient_id == ""
    studies = study_id.astype(np.str_)
    of_unknown = np.isin(studies, studies[unknown]) & (studies != "")
    for what, ids, counted in (
        ("patients", patient_id, ~unknown),
        ("studies, whose patients are unknown,", study_id, of_unknown),
    ):
        table = pd.DataFrame({"id": ids[counted], "split": split[counted]}).drop_duplicates()
        table["one"] = [as_number(one) for one in table["id"]]
        twice = table.groupby("one")["split"].transform("nunique") > 1
        spelt = np.unique(table["id"][twice].to_numpy(np.str_))
        if number := table["one"][twice].nunique():
            raise ValueError(
                f"{number} {what} have films in more than one split: {', '.join(spelt[:5])}; "
                "expected each in one, or results come out too good: correct the split, or have "
                "train_head.py draw one by patient with fractions"
            )
    what = "films whose patient is unknown, so that no check can tell if one is in two splits"
    return note(what, int(unknown.sum()), used=True)


def check_used(
    split: Shaped[np.ndarray, " n"],
    names: Shaped[np.ndarray, " n"],
    needed: Sequence[str] = ("train", "tune"),
) -> None:
    """Makes sure that the `needed` splits have films; `names` are the table's of `split`.

    Raises:
        ValueError: one is empty.
    """
    for one in needed:
        if not (split == one).any():
            there, counts = np.unique(names.astype(np.str_), return_counts=True)
            listed = ", ".join(f"{n} {c} films" for n, c in zip(there, counts, strict=True))
            raise ValueError(
                f"found no film in the split {one!r}; expected some. Films with labels are in: "
                f"{listed or 'none'}. Name the splits train, tune and test in the table. "
                "train_head.py can also take other names (labels.train, labels.tune, labels.test) "
                "or draw splits (labels.fractions)"
            )


def check_classes(examples: Examples, explicit: bool) -> Examples:
    """Makes sure that each finding has positives and negatives to learn from.

    Returns:
        The examples without findings of one class in train, without films that then have no label,
        and with notes of both and of findings with one class in tune or test.

    Raises:
        ValueError: a finding of one class in train was named (`explicit`), or none is left.
    """
    counts = {}
    for split in SPLITS:
        label, mask = (part[examples.split == split] for part in (examples.label, examples.mask))
        counts[split] = (mask & (label == 1)).sum(axis=0), (mask & (label == 0)).sum(axis=0)
    one_class = {split: np.minimum(*both) == 0 for split, both in counts.items()}
    lacks, told = one_class["train"], []
    for i, name in enumerate(examples.findings):
        parts = [f"{split} {p[i]} of {p[i] + n[i]}" for split, (p, n) in counts.items()]
        told.append(f"{name} (positives of the known: {', '.join(parts)})")
    lacking = [told[i] for i in np.flatnonzero(lacks)]
    if lacking and (explicit or lacks.all()):
        raise ValueError(
            f"found one class only in train for {len(lacking)} of {len(told)} findings: "
            f"{', '.join(lacking)}; expected positives and negatives: leave them out of findings, "
            "change the policies (uncertain, not_mentioned), or embed more films"
        )
    notes = list(examples.notes)
    for text in lacking:
        notes += note(f"finding left out, one class only in train: {text}", 1)
    for split, cannot in CANNOT.items():
        for i in np.flatnonzero(one_class[split] & ~lacks & (examples.split == split).any()):
            notes += note(f"finding whose {cannot}, one class only: {told[i]}", 1)
    keep = np.asarray(examples.mask[:, ~lacks].any(axis=1))
    what = "films without a known label of the findings that are left"
    gone = examples.image_id[~keep]
    kept = examples.at(keep)
    check_used(kept.split, kept.split)
    return dataclasses.replace(
        kept,
        label=kept.label[:, ~lacks],
        mask=kept.mask[:, ~lacks],
        findings=tuple(np.array(examples.findings, object)[~lacks]),
        notes=notes + note(what, gone),
        unmatched=[*examples.unmatched, *((what, one) for one in gone)],
    )
