"""Tables of splits without one of the five folds in `weights/splits`, for training an encoder."""

import pathlib

import pandas as pd

FOLDS = 5
TABLES = pathlib.Path(__file__).parents[1] / "weights/splits"


def split_of(fold: "pd.Series[int]", tested: int) -> "pd.Series[str]":
    """Test is one fold, tune the next one, and train the other three."""
    named = {tested: "test", (tested + 1) % FOLDS: "tune"}
    return fold.map(lambda one: named.get(one, "train"))


def run(output: str, fold: int = 0) -> None:
    """Writes OUTPUT/kermany.csv and OUTPUT/nih.csv: test is this fold, tune is the next one."""
    if fold not in range(FOLDS):
        raise SystemExit(f"error: --fold is {fold}; expected 0 to {FOLDS - 1}")
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(TABLES.glob("*.csv")):
        table = pd.read_csv(path, dtype={"patient_id": str})
        table["split"] = split_of(table.fold, fold)
        table[["image_id", "patient_id", "split"]].to_csv(folder / path.name, index=False)
        print(folder / path.name, dict(table.split.value_counts()))
