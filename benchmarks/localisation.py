"""Whether heat maps point at findings: hit rate and mIoU, for the table of docs/heads.md.

Both are measured as in CheXlocalize (Saporta et al., Nature Machine Intelligence 2022;4:867-878):
a hit is a map whose maximum lies in the finding; for the intersection over union the map is cut by
Otsu's threshold. All films that have the finding count, whatever the head says of them.
"""

import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt16
from scipy import ndimage

import cxr_embeddings as cxr
from cxr_embeddings.heads.statistics.proportion import wilson
from cxr_embeddings.input_pipeline.synthetic.anatomy import draw_patient
from cxr_embeddings.input_pipeline.synthetic.drawing import draw_film

DRAWN = (  # findings of CheXlocalize that can be drawn: all ten of them
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum"),
    *("Lung Lesion", "Lung Opacity", "Pleural Effusion", "Pneumothorax", "Support Devices"),
)
PLAIN = 0.3  # of the largest change of brightness: from there on a drawn finding is seen
BOXED_AT = 1024  # sides of the films in pixels that the boxes of ChestX-ray14 are measured in
RENAMED = {"Infiltrate": "Infiltration"}  # finding in the table of boxes -> in that of labels


class Placed(NamedTuple):
    """A film with a finding at a known place."""

    film: np.ndarray | pathlib.Path
    finding: str
    region: Bool[np.ndarray, "height width"]


def threshold(values: Float[np.ndarray, "..."]) -> float:
    """Otsu's (IEEE Trans. SMC 1979): the one that parts the values best, of 255 even ones."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    sums = np.cumsum(counts * middles)
    distance = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + np.argmax(below * above * np.square(distance))])


def draw(
    seed: int, findings: Sequence[str]
) -> tuple[UInt16[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
    """A frontal film with these findings, and where they change what is seen without them."""

    def drawn(names: Sequence[str]) -> np.ndarray:
        rng = np.random.default_rng(seed)
        shape = (int(rng.integers(420, 600)), int(rng.integers(400, 560)))
        side = str(rng.choice(["right", "left"]))
        patient, plainly = draw_patient(rng), rng.uniform(0.6, 1.0)
        return draw_film(rng, patient, dict.fromkeys(names, plainly), side, shape, "PA")

    film, without = drawn(findings), drawn(())
    change = ndimage.uniform_filter(abs(film - without), 5)
    return (65_535 * film).astype(np.uint16), change > PLAIN * max(change.max(), 1e-3)


def drawn_films(films: int) -> tuple[dict[str, np.ndarray], pd.DataFrame, list[Placed]]:
    """Drawn with one finding, or with none: pictures and labels to train on, those of test."""
    pictures, rows, placed = {}, [], []
    for i in range(films):
        kind = i % (len(DRAWN) + 3)
        findings = [DRAWN[kind]] if kind < len(DRAWN) else []
        split = ("train", "train", "tune", "test")[i // (len(DRAWN) + 3) % 4]
        film, region = draw(i, findings)
        if split != "test":
            pictures[str(i)] = film
            rows.append({"image_id": str(i), "split": split, **dict.fromkeys(DRAWN, 0)})
            rows[-1] |= dict.fromkeys(findings, 1)
        elif findings:
            placed.append(Placed(film, findings[0], region))
    return pictures, pd.DataFrame(rows), placed


def real_films(
    data: pathlib.Path,
) -> tuple[dict[str, pathlib.Path], pd.DataFrame, list[Placed]]:
    """Those of ChestX-ray14: films without boxes, labels of these, and films with boxes."""
    labels = pd.read_csv(data / "nih/labels.csv")
    boxes = pd.read_csv(data / "nih_boxes/BBox_List_2017.csv.gz").iloc[:, :6]
    boxes.columns = pd.Index(["source_image", "finding", "x", "y", "width", "height"])
    boxes["finding"] = boxes.finding.replace(RENAMED)
    boxes = boxes[boxes.source_image.isin(labels.source_image)]
    file_of = dict(zip(labels.source_image, labels.file, strict=True))
    placed = []
    for (source, finding), of_film in boxes.groupby(["source_image", "finding"]):
        region = np.zeros((BOXED_AT // 2, BOXED_AT // 2), bool)  # the films are half as large
        for x, y, width, height in of_film[["x", "y", "width", "height"]].to_numpy() / 2:
            region[round(y) : round(y + height), round(x) : round(x + width)] = True
        placed.append(Placed(data / "nih" / file_of[source], str(finding), region))
    others = labels[~labels.source_image.isin(boxes.source_image)].copy()
    others["image_id"] = others.file
    others["split"] = np.where(np.arange(len(others)) % 4 == 3, "tune", "train")
    names = sorted({one.finding for one in placed})
    return (
        {file: data / "nih" / file for file in others.file},
        others[["image_id", "split", *names]],
        placed,
    )


def measure(
    encoder: cxr.Encoder, head: cxr.Head, placed: Sequence[Placed]
) -> dict[str, list[tuple[bool, float, float]]]:
    """By finding, of each film: whether it is hit, its IoU, and the share of the film it fills."""
    found: dict[str, list[tuple[bool, float, float]]] = {}
    maps = cxr.explain(
        [one.film for one in placed], encoder, head, image_ids=[*map(str, range(len(placed)))]
    ).maps
    by_name = {(one.image_id, one.finding): one for one in maps}
    for i, one in enumerate(placed):
        heat = by_name[str(i), one.finding]
        (x, y), on_film = heat.maximum, heat.map
        seen = on_film >= threshold(on_film)
        union = float((seen & one.region).sum() / (seen | one.region).sum())
        row = bool(one.region[y, x]), union, float(one.region.mean())
        found.setdefault(one.finding, []).append(row)
    return found


def show(kind: str, found: dict[str, list[tuple[bool, float, float]]]) -> None:
    """Prints the table, findings first, then all films."""
    print(f"\n{kind}\n\n| Finding | Films | Hit rate (95 %) | By chance | mIoU |")
    print("|---|---|---|---|---|")
    rows = {**dict(sorted(found.items())), "all": [row for of in found.values() for row in of]}
    for name, measured in rows.items():
        hits, unions, shares = (np.array(column, float) for column in zip(*measured, strict=True))
        low, high = wilson(hits.mean(), len(hits), 1.96)
        print(
            f"| {name} | {len(hits)} | {hits.mean():.2f} ({low:.2f} to {high:.2f}) "
            f"| {shares.mean():.2f} | {unions.mean():.2f} |"
        )


def run(weights: str = "demo", data: str = "../shared/data", films: int = 1300) -> None:
    """Trains heads on films without known places, and prints where they look in others.

    Of the `films` that are drawn, half are to train on, and a quarter each to choose and to test.
    """
    encoder = cxr.load_encoder(weights)
    kinds = {
        "drawn films": lambda: drawn_films(films),
        "ChestX-ray14": lambda: real_films(pathlib.Path(data)),
    }
    for kind, films_of in kinds.items():
        pictures, labels, placed = films_of()
        with tempfile.TemporaryDirectory() as folder:
            table = pathlib.Path(folder) / "labels.csv"
            labels.to_csv(table, index=False)
            embeddings = encoder.embed([*pictures.values()], image_ids=[*pictures])
            names = [*labels.columns[2:]]
            head = cxr.train_head(embeddings, table, findings=names, resamples=1)
        print(head.summary)
        show(f"{kind} ({encoder.description})", measure(encoder, head, placed))
