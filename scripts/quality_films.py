"""The films, labels and embeddings that `quality.py` measures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

DATASETS = ("kermany", "nih")
ENCODERS = ("supcon", "cross_entropy", "random")
SAME = (
    "variant",
    "resolution",
    "preset",
    "preset_version",
    "embedding",
    "shape",
    "dtype",
)  # of all
MAY_DIFFER = ("objective", "temperature", "first_weights")  # between the two trainings
PIXELS, SIDE, COMPONENTS = "pixels", 56, 256  # of the PCA: pixels a side, numbers a film
FREQUENT = 15  # positives in test that a finding needs
SEED = 0  # of the PCA and of the halves of tune


class Task(NamedTuple):
    """Films of one data set with labels, by split."""

    dataset: str
    findings: tuple[str, ...]
    films: Mapping[str, Any]
    patient_id: Mapping[str, np.ndarray]


def read_embeddings(folders: Mapping[str, str]) -> tuple[dict, dict, dict]:
    """The films of both data sets, and of each encoder its embeddings of them and its identity.

    Raises:
        ValueError: the encoders differ in more than their weights, or embedded other films.
    """
    from input_pipeline import run_folder
    from input_pipeline.embedding_table import read_table

    image_id: dict[str, np.ndarray] = {}
    vectors: dict[str, dict[str, np.ndarray]] = {name: {} for name in folders}
    encoders: dict[str, Any] = {}
    for name, folder in folders.items():
        for dataset in DATASETS:
            table = read_table(f"{folder}/{dataset}")
            identity = run_folder.UNSAID | (table.encoder or {})
            if identity.get("trained") is not (name != "random"):
                raise ValueError(
                    f"{folder}/{dataset} is called {name}, and its manifest says trained: "
                    f"{identity.get('trained')}; expected {name != 'random'}"
                )
            first = encoders.setdefault(name, identity)
            for other, keys in ((first, (*SAME, "weights_digest")), (encoders["supcon"], SAME)):
                if differ := [key for key in keys if identity.get(key) != other.get(key)]:
                    raise ValueError(
                        f"{folder}/{dataset} differs in {', '.join(differ)} from the embeddings "
                        "that it is compared with; expected the same network but for its weights"
                    )
            ids = image_id.setdefault(dataset, table.image_id)
            row = {one: i for i, one in enumerate(table.image_id)}
            if {*row} != {*ids}:
                raise ValueError(
                    f"{folder}/{dataset} holds {len(row)} films, {len({*row} ^ {*ids})} of them or "
                    f"of those of {folders['supcon']}/{dataset} not in both; expected the same"
                )
            vectors[name][dataset] = table.embedding[[row[one] for one in ids]]
    return image_id, vectors, encoders


def read_trainings(
    bundles: Mapping[str, str], encoders: Mapping[str, Any]
) -> dict[str, dict[str, str]]:
    """The settings that the cards of the trained encoders give.

    Raises:
        ValueError: the embeddings are of other weights, or the trainings differ in more than
            `MAY_DIFFER`.
    """
    from encoder.card import load_card

    trainings: dict[str, dict[str, str]] = {}
    for name, path in bundles.items():
        card = load_card(path)
        if card.digest != (used := encoders[name]["weights_digest"]):
            raise ValueError(
                f"{path} has the digest {card.digest[:16]}, and the embeddings called {name} are "
                f"of {used[:16]}; expected the bundle that they were made with"
            )
        if (objective := card.settings.get("objective")) != name:
            raise ValueError(
                f"{path} is called {name}, and its card says objective: {objective}; expected "
                "weights that pretrain.py trained so"
            )
        trainings[name] = card.settings
    one, other = trainings.values()
    names = [name for name in {**one, **other} if name not in MAY_DIFFER]
    if differ := [name for name in names if one.get(name) != other.get(name)]:
        raise ValueError(
            f"the trainings differ in {', '.join(differ)}; expected the same but for "
            f"{', '.join(MAY_DIFFER)}"
        )
    return trainings


def read_examples(
    image_id: Mapping[str, np.ndarray], tables: Mapping[str, str], splits: str
) -> dict[str, Any]:
    """Labels by film and split; of nih `abnormal`, which is no No Finding, and the 14 findings."""
    from heads.labels import findings, join, label_table

    wanted = {"kermany": ("pneumonia",), "nih": (findings.NO_FINDING, *findings.NIH)}
    examples = {}
    for name, ids in image_id.items():
        labels = label_table.read_labels(tables[name], wanted[name])
        examples[name] = join.join(ids, labels, split_path=f"{splits}/{name}.csv")
    nih = examples["nih"]
    label, names = nih.label.copy(), ("abnormal", *nih.findings[1:])
    label[:, 0] = 1 - label[:, 0]
    return examples | {"nih": dataclasses.replace(nih, label=label, findings=names)}


def make_tasks(examples: Mapping[str, Any]) -> tuple[dict[str, Task], dict[str, Task]]:
    """The questions; and two of them once more, to be learnt from films that no encoder has seen.

    These films are those of tune: half of its patients to draw from, the others to choose by.
    """
    from heads import experiment
    from heads.candidates import Films

    def task(dataset: str, columns: Sequence[int], split: np.ndarray) -> Task:
        some = dataclasses.replace(examples[dataset], split=split)
        films = {
            name: Films(row, label[:, columns], mask[:, columns])
            for name, (row, label, mask) in experiment.films_of(some).items()
        }
        patients = {name: some.patient_id[split == name] for name in films}
        return Task(dataset, tuple(some.findings[j] for j in columns), films, patients)

    nih = examples["nih"]
    positives = (nih.label * nih.mask)[nih.split == "test"].sum(0)
    frequent = [j for j in range(1, len(nih.findings)) if positives[j] >= FREQUENT]
    if not frequent:
        raise ValueError(f"no finding of nih has {FREQUENT} positives in test; expected some")
    columns = {"pneumonia": ("kermany", [0]), "abnormal": ("nih", [0])}
    tasks = {name: task(d, some, examples[d].split) for name, (d, some) in columns.items()}
    tasks["findings"] = task("nih", frequent, nih.split)
    unseen = {}
    for name, (dataset, some) in columns.items():
        patient_id, split = examples[dataset].patient_id, examples[dataset].split
        patients = np.unique(patient_id[split == "tune"].astype(str))
        half = np.random.default_rng(SEED).permutation(patients)[: len(patients) // 2]
        drawn = (split == "tune") & np.isin(patient_id.astype(str), half)
        again = np.where(split == "train", "", np.where(drawn, "train", split)).astype(object)
        unseen[f"{name}_unseen"] = task(dataset, some, again)
    return tasks, unseen


def pca(
    stores: Mapping[str, str], image_id: Mapping[str, np.ndarray], examples: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The principal components of the pixels, averaged down, of the films of train of both sets."""
    from sklearn.decomposition import PCA

    from input_pipeline import files, store

    grids = {}
    for name, ids in image_id.items():
        opened = store.open_store(files.absolute(stores[name]))
        factor, rest = divmod(opened.identity["size"], SIDE)
        row = {one: i for i, one in enumerate(ids)}
        wanted = {film for some in opened.shards.values() for film in some if film.path in row}
        if rest or len(wanted) < len(row):
            raise ValueError(
                f"{stores[name]} has {len(wanted)} of the {len(row)} films that were embedded, of "
                f"{opened.identity['size']} px; expected all, of a multiple of {SIDE} px"
            )
        grids[name] = np.empty((len(row), SIDE * SIDE), np.float32)
        for batch in store.batches(opened, [*opened.shards], 64, wanted):
            small = batch.image.reshape(-1, SIDE, factor, SIDE, factor).mean((2, 4))
            at = [row[film.path] for film in batch.films]
            grids[name][at] = small.reshape(len(small), -1)[: len(at)]
    train = [grids[name][one.row[one.split == "train"]] for name, one in examples.items()]
    fitted = PCA(COMPONENTS, svd_solver="randomized", random_state=SEED).fit(np.concatenate(train))
    return {name: fitted.transform(grid) for name, grid in grids.items()}
