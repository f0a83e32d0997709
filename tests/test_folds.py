"""The folds in weights/splits."""

import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks import folds

TABLES = {
    "kermany": ("patient_key", lambda labels: labels.pneumonia),
    "nih": ("patient_id", lambda labels: 1 - labels.no_finding),
}


@pytest.mark.parametrize("name", TABLES)
def test_no_patient_is_in_two_folds(name):
    table = pd.read_csv(folds.TABLES / f"{name}.csv")
    assert table.groupby("patient_id").fold.nunique().max() == 1
    for tested in range(folds.FOLDS):
        split = folds.split_of(table.fold, tested)
        assert set(table.fold[split == "test"]) == {tested}
        assert set(table.fold[split == "tune"]) == {(tested + 1) % folds.FOLDS}
        assert set(split) == {"train", "tune", "test"}


@pytest.mark.parametrize("name", TABLES)
def test_the_folds_are_scikit_learns(shared_data, name):
    column, label = TABLES[name]
    labels = pd.read_csv(shared_data / name / "labels.csv", dtype={column: str})
    labels["fold"] = -1
    cut = StratifiedGroupKFold(folds.FOLDS, shuffle=True, random_state=0)
    for k, (_, rows) in enumerate(cut.split(labels, label(labels), labels[column])):
        labels.loc[rows, "fold"] = k
    labels["image_id"] = labels.file.str.removeprefix("images/")
    table = pd.read_csv(folds.TABLES / f"{name}.csv", dtype={"patient_id": str})
    both = table.merge(labels, on="image_id", suffixes=("", "_again"))
    assert len(both) == len(table) > 600
    assert (both.fold == both.fold_again).all() and (both.patient_id == both[column]).all()


def test_a_table_of_splits_for_each_fold(tmp_path):
    folds.run(str(tmp_path), fold=4)
    table, written = (pd.read_csv(one / "nih.csv") for one in (folds.TABLES, tmp_path))
    assert (table.image_id == written.image_id).all()
    assert ((written.split == "test") == (table.fold == 4)).all()
    assert ((written.split == "tune") == (table.fold == 0)).all()
    with pytest.raises(SystemExit, match="--fold is 5; expected 0 to 4"):
        folds.run(str(tmp_path), fold=5)
