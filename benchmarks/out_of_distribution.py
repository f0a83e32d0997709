"""Which films a head flags as out of distribution: the table of docs/heads.md.

Heads are trained on three kinds of frontal films: of children (Kermany et al.), of adults
(ChestX-ray14), and drawn ones. The films that are counted are in no training part.
"""

import pathlib
import tempfile

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_images

import cxr_embeddings as cxr
from benchmarks.folds import TABLES, split_of
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

CHANGES = {
    "their own, mirrored": np.fliplr,
    "their own, inverted": np.invert,
    "their own, turned by 90 degrees": np.rot90,
    "their own, turned by 180 degrees": lambda film: np.rot90(film, 2),
}


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"))


def real(data: pathlib.Path, name: str, most: int) -> dict[str, list[pathlib.Path]]:
    """Films of each split, evenly chosen from all; fold 0 is test."""
    rows = pd.read_csv(TABLES / f"{name}.csv")
    split_of_film = split_of(rows.fold, tested=0)
    files = {split: rows.image_id[split_of_film == split] for split in ("train", "tune", "test")}
    return {
        split: [data / name / "images" / one for one in found[:: -(-len(found) // most)]]
        for split, found in files.items()
    }


def others(data: pathlib.Path) -> dict[str, list]:
    """What is no chest film, drawn or photographed by somebody else."""
    random = np.random.default_rng(0)

    def noise(width: float) -> np.ndarray:
        field = ndimage.gaussian_filter(random.standard_normal((512, 512)), width)
        low, high = np.percentile(field, [1, 99])
        return np.uint8(255 * np.clip((field - low) / (high - low), 0, 1))

    photos = [grey(Image.fromarray(one)) for one in load_sample_images().images]
    corners = random.integers(0, [120, 330], (100, 2))
    return {
        "a leg": [data / "dicom" / "original" / "nema_RG3_J2KI_extremity.dcm"],
        "noise": [noise(0) for _ in range(20)],
        "noise, blurred (2 to 100 px)": [noise(width) for width in (2, 8, 32, 100) * 10],
        "parts of two photographs": [photos[y % 2][y : y + 300, x : x + 300] for y, x in corners],
    }


def drawn(folder: pathlib.Path) -> tuple[dict[str, list[pathlib.Path]], list[pathlib.Path]]:
    """Frontal films of each split, and lateral ones."""
    write_mimic(folder, films=450, laterals=100, damaged=0, seed=1, size_range=(420, 600))
    table = pd.read_csv(next(folder.glob("*-metadata.csv.gz"))).set_index("dicom_id").ViewPosition
    films = sorted(folder.rglob("*.dcm"))
    lateral, frontal = (
        [film for film in films if table[film.stem] in views]
        for views in (("LATERAL", "LL"), ("AP", "PA"))
    )
    return {split: frontal[k::3] for k, split in enumerate(("train", "tune", "test"))}, lateral


def head_of(encoder: cxr.Encoder, splits: dict[str, list], folder: pathlib.Path) -> cxr.Head:
    """A head on these films. Its labels are made up, because the distance asks for none."""
    ids = [f"{split}-{i}" for split in ("train", "tune") for i in range(len(splits[split]))]
    rows = [f"{name},{name.partition('-')[0]},{i % 2}" for i, name in enumerate(ids)]
    (folder / "labels.csv").write_text("\n".join(["image_id,split,finding", *rows]) + "\n")
    table = encoder.embed(splits["train"] + splits["tune"], image_ids=ids)
    return cxr.train_head(table, folder / "labels.csv", findings="finding", resamples=1)


def run(weights: str = "demo", data: str = "../shared/data", films: int = 800) -> None:
    """Prints the share that each head flags; `films`: of a split of one kind, at most."""
    source, encoder = pathlib.Path(data), cxr.load_encoder(weights)
    rates: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kinds = {kind: real(source, kind, films) for kind in ("kermany", "nih")}
        kinds["drawn"], lateral = drawn(folder / "mimic")
        tests = {f"new frontal films: {kind}": one["test"] for kind, one in kinds.items()}
        counted = tests | {"lateral films: drawn": lateral} | others(source)
        embedded = {what: encoder.embed(of) for what, of in counted.items()}
        for kind, splits in kinds.items():
            head = head_of(encoder, splits, folder)
            own = dict(embedded)
            if kind != "drawn":
                test = [grey(Image.open(film)) for film in splits["test"][:100]]
                for what, change in CHANGES.items():
                    own[what] = encoder.embed([np.ascontiguousarray(change(x)) for x in test])
            for what, table in own.items():
                flagged = head.predict(table).out_of_distribution
                share = f"{flagged.sum()} of {len(flagged)} ({100 * flagged.mean():.0f} %)"
                rates.setdefault(what, {})[kind] = share
    print(f"| Films | {' | '.join(f'trained on {kind}' for kind in kinds)} |\n|---|---|---|---|")
    for what, of in rates.items():
        print(f"| {what} | {' | '.join(of.get(kind, '') for kind in kinds)} |")
