"""What a reader takes home: the labels, a head trained on them, its report, and the map."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from cxr_embeddings.common import files, paths, writing
from cxr_embeddings.errors import translated
from cxr_embeddings.explorer.label_file import LabelFile
from cxr_embeddings.head_training import train_head
from cxr_embeddings.prediction import check_new

if TYPE_CHECKING:
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings
    from cxr_embeddings.prediction import Head

SHARES = (0.6, 0.2, 0.2)  # of the patients: train, tune and test
WITH_HELD_OUT = (0.75, 0.25, 0.0)  # of the others, where a part was set aside, which is test
DRAWS = 1000  # of the split, until both labels of all findings are in each part


class TakenHome(NamedTuple):
    """The head, and what it says of all films."""

    head: Head
    predicted: pd.DataFrame  # of `Head.predict`, a row for each film, in their order
    files: dict[str, pathlib.Path]  # "labels", "head", "report" and "map"


@translated
def take_home(
    folder: str | os.PathLike[str],
    embeddings: Embeddings,
    labels: LabelFile,
    findings: Sequence[str],
    maps: Mapping[str, Float[np.ndarray, "film 2"]],
    held_out: Bool[np.ndarray, " film"] | None = None,
    *,
    seed: int = 0,
) -> TakenHome:
    """Trains a head on all labels by `cxr.train_head`, and writes everything into a new folder.

    `train_head.py --labels FOLDER/labels.csv --embeddings ... --findings ...` gives the same head:
    the column `split` of that table says which films are for what.

    Args:
        folder: new or empty. It gets `labels.csv`, `head/` with the head and its report, and
            `map.parquet`: where all films lie and their scores.
        embeddings: of the films of the labels, in the same order.
        labels: of the readers and of the given table.
        findings: to be learnt.
        maps: coordinates by name, such as "pca"; they become columns pca_x and pca_y.
        held_out: films that were set aside; they become test. Without, test is drawn as well.
        seed: of the split and of the head.

    Raises:
        InputError: the labels are too few for a head.
        FileError: the folder holds something, or cannot be written.
    """
    place = paths.typed_local(os.fspath(folder), "the folder to take home")
    check_new(place)
    table = _table(embeddings.image_id, labels, findings)
    known = (table[[*findings]] != "").any(axis=1).to_numpy()
    if not known.any():
        raise ValueError(f"no film is labelled for {', '.join(findings)}: label some first")
    aside = np.zeros(len(table), bool) if held_out is None else held_out
    table.insert(2, "split", np.where(aside, "test", ""))
    drawn = known & ~aside
    table.loc[drawn, "split"] = split(
        table[drawn], findings, SHARES if held_out is None else WITH_HELD_OUT, seed
    )
    csv, home = place / "labels.csv", place / "head"
    coordinates = {
        f"{name}_{axis}": one[:, i] for name, one in maps.items() for i, axis in enumerate("xy")
    }
    try:
        rows = table[known].to_numpy().tolist()
        files.write_whole(str(csv), writing.encode_table([*table], rows))
        head = train_head(embeddings, csv, findings=[*findings], seed=seed, progress=False)
        head.report(home)
        predicted = head.predict(embeddings).iloc[: len(table)]
        scores = predicted.drop(columns=["image_id", "reason"])
        whole = pd.concat([table, pd.DataFrame(coordinates), scores], axis=1)
        with writing.whole_file(place / "map.parquet") as stream:
            whole.to_parquet(stream, index=False)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)  # it was empty
        raise
    written = {"labels": csv, "head": home, "report": home / "report.html"}
    return TakenHome(head, predicted, written | {"map": place / "map.parquet"})


def split(
    table: pd.DataFrame, findings: Sequence[str], shares: tuple[float, ...], seed: int
) -> Shaped[np.ndarray, " row"]:
    """Draws train, tune and test by patient; films of unknown patients one by one.

    It is the first draw, counted from the seed on, in which all parts that have a share have both
    labels of every finding; else the first in which train and tune do; else in which train does.

    Args:
        table: with the columns image_id, patient_id and those of findings, "1", "0" or "".
    """
    from cxr_embeddings.heads.labels.splits import random_splits

    patient = table["patient_id"].where(table["patient_id"] != "", "\0" + table["image_id"])
    cells = table[[*findings]].to_numpy(str)
    wanted = ["train", "tune", "test"][: 3 if shares[2] else 2]

    def good(names: np.ndarray) -> int:
        """The number of parts, from train on, that have both labels of every finding."""
        inside = (cells[names == part] for part in wanted)
        lacking = [not all({"0", "1"} <= {*column} for column in part.T) for part in inside]
        return [*lacking, True].index(True)

    best = random_splits(patient.to_numpy(), shares, seed)
    for draw in range(seed + 1, seed + DRAWS):
        if good(best) == len(wanted):
            break
        best = max(best, random_splits(patient.to_numpy(), shares, draw), key=good)
    return best


def _table(
    image_id: Shaped[np.ndarray, " film"], labels: LabelFile, findings: Sequence[str]
) -> pd.DataFrame:
    """A row for each film: its ids, and 1, 0 or "" for each finding."""
    columns: dict[str, np.ndarray] = {"image_id": image_id, "patient_id": labels.patient_id}
    for finding in findings:
        found = labels.of(finding)
        columns[finding] = np.full(len(image_id), "", object)
        columns[finding][found.film] = np.where(found.label > 0, "1", "0")
    return pd.DataFrame(columns, dtype=object)
