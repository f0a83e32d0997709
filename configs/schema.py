"""Every setting of the commands that take a config, typed, with its sentence for `--help`."""

import dataclasses
from typing import TypeVar

Value = TypeVar("Value")


def field(default: Value, help: str, short: str = "", **more: bool) -> Value:
    """A dataclass field, with what the command line says of it.

    `short` is another name of the option; one that has it is required, unless `more` says
    otherwise. If `more` has `repeated`, the option may be given several times, for a value each.
    """
    known = {"help": help, "short": short, "required": bool(short), "repeated": False}
    return dataclasses.field(default=default, metadata=known | more)


FILMS = (
    "films: a folder (searched recursively), a glob, or a list of files (.txt, .csv, .csv.gz); "
    "local, gs:// or any other address that fsspec reads; or an archive, dicomweb+https://..."
)
VIEWS = "keep films of these views, such as AP,PA, and films without a view; all: keep every view"
CHEST = "skip films whose header names another body part or modality; else they are only counted"
DATA_SET = (
    "published data set of the films and their table: brax, chestxray14, chexpert, kermany, "
    "mimic_cxr, openi, padchest, rsna_pneumonia, vindr_cxr; or a TOML file that describes another"
)
USER_PROJECT = "Google Cloud project that pays for reading requester-pays buckets"
EMBEDDINGS = (
    "folder of embeddings (tfrecord, npz or parquet, in any layout), local or remote; give the "
    "option once for each of several folders, or a .txt file that lists them"
)
PRESET = "how films are prepared, such as cxr_foundation or imagenet; default: as the weights' card"
DTYPE = (
    "precision of the arithmetic: float32 or bfloat16; default: float32 on CPUs, where it is "
    "faster, and bfloat16 on other devices"
)


@dataclasses.dataclass(frozen=True)
class _FilmsConfig:
    """What `embed.py` and `preprocess.py` both ask of the films."""

    path: str = field("", FILMS, "input")
    views: tuple[str, ...] | None = field(None, VIEWS)
    chest_only: bool = field(False, CHEST)
    limit: int | None = field(None, "take only this many, from the start of the list")
    user_project: str | None = field(None, USER_PROJECT)
    data_set: str = field("", DATA_SET)
    metadata_path: str | None = field(
        None,
        "table of that data set, for the views, such as MIMIC-CXR-JPG's metadata; default: the "
        "published one, if it is in the folder",
    )


@dataclasses.dataclass(frozen=True)
class InputConfig(_FilmsConfig):
    path: str = field("", f"a store made by preprocess.py; or {FILMS}", "input")
    workers: int = field(0, "processes that decode films; 0: one for each processor")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    weights: str = field(
        "",
        "a weights bundle (a folder); demo: the shipped one; hf:ORG/NAME: weights of the Hugging "
        "Face Hub; random: untrained",
        "weights",
    )
    variant: str | None = field(None, "b0 to b7, l2, lite0 to lite4; default: as the weights' card")
    resolution: int | None = field(None, "input side in pixels; default: as the weights' card")
    embedding: str | None = field(
        None,
        "layer to write: head (4,096 numbers), own_head, projection, pooled, feature_map or "
        "pooled_map, if the weights' card lists it; default: the first layer that it lists",
    )
    preset: str | None = field(None, PRESET)
    dtype: str | None = field(None, DTYPE)
    engine: str = field(
        "auto",
        "auto: the fastest that is installed for the device; jax; openvino: for x86 CPUs (pip "
        "install 'cxr-embeddings[openvino]'), faster still in bfloat16 where the CPU has it",
    )
    seed: int = field(0, "seed of the random numbers of weights=random")
    model_parallel: int = field(1, "number of devices that share one copy of the weights")


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    path: str = field("", "folder of the embeddings; the same command continues there", "output")
    layout: str | None = field(
        None,
        "per_image: one file for each film, in the folders of the input; sharded: a few large "
        "files, or one for each shard of a store; default: per_image, and sharded for a store",
    )
    format: str = field("tfrecord", "tfrecord, npz, or parquet, which needs the layout sharded")
    shards: int = field(32, "files of the layout sharded; a stopped run repeats at most one")


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """Settings of `scripts/embed.py`."""

    input: InputConfig = InputConfig()
    encoder: EncoderConfig = EncoderConfig()
    output: OutputConfig = OutputConfig()
    batch_size: int = field(0, "films in a step, over all devices; 0: as many as the memory holds")
    distributed: bool = field(False, "share the work with other processes, one a host or GPU")


@dataclasses.dataclass(frozen=True)
class FilmsConfig(_FilmsConfig):
    path: str = field("", f"MIMIC-CXR's folder with its record list; or {FILMS}", "input")
    split_path: str | None = field(
        None, "MIMIC-CXR-JPG's table of splits; default: the one in the folder; none: one split"
    )
    no_view: str = field("keep", "films without a view: keep (as CXR Foundation did) or drop")


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    weights: str = field(
        "", "a weights bundle, whose card says preset and size", "weights", required=False
    )
    preset: str | None = field(None, PRESET)
    size: int | None = field(None, "side of the images in pixels; default: as the weights' card")
    storage: str = field("png16", "png16 (lossless), png8 (a quarter as large), jpeg95 (a tenth)")


@dataclasses.dataclass(frozen=True)
class StoreConfig:
    path: str = field(
        "",
        "folder of the store, such as .../mimic_cxr/1.0.0; the same command again continues there",
        "output",
    )
    name: str = field("films", "name of the data set for TFDS")
    films_per_shard: int = field(64, "most films in a shard; a stopped run repeats one a worker")


@dataclasses.dataclass(frozen=True)
class PreprocessConfig:
    """Settings of `scripts/preprocess.py`."""

    input: FilmsConfig = FilmsConfig()
    image: ImageConfig = ImageConfig()
    output: StoreConfig = StoreConfig()


@dataclasses.dataclass(frozen=True)
class EmbeddingsConfig:
    path: tuple[str, ...] = field((), EMBEDDINGS, "embeddings", repeated=True)
    cache: str | None = field(
        None, "folder for the table that they are gathered in; default: .table in the first folder"
    )
    dtype: str = field("float32", "numbers of that table: float32, or float16 for half the disk")


@dataclasses.dataclass(frozen=True)
class LabelsConfig:
    path: str = field("", "table of labels: of a published data set, or any CSV", "labels")
    findings: tuple[str, ...] = field(
        (), "columns of that table, such as Edema,Fracture; all: every finding", "findings"
    )
    data_set: str = field("", DATA_SET)
    uncertain: str = field(
        "ignore",
        "what -1 means in the train split: ignore (unknown), zeros (negative) or ones (positive); "
        "in tune and test it is unknown",
    )
    not_mentioned: str = field("ignore", "what an empty cell means: ignore (unknown) or negative")
    id_column: str = field(
        "", "column that names the film; default: found by its usual names, as all columns are"
    )
    name_parts: int = field(
        0,
        "parts of a path, from its end, by which films are found in the table; 1: the file's name, "
        "whatever its folder; 0: all parts that both have",
    )
    study_column: str = field("", "column of the study")
    patient_column: str = field("", "column of the patient")
    split_column: str = field("", "column of the split")
    split_path: str = field("", "another CSV, with the split, such as MIMIC-CXR's")
    train: tuple[str, ...] = field((), "name of the train split; default: train or training")
    tune: tuple[str, ...] = field(
        (), "name of the tune split; default: tune, validate, validation, valid, val or dev"
    )
    test: tuple[str, ...] = field((), "name of the test split; default: test or testing")
    fractions: tuple[float, ...] = field(
        (), "draw the splits: shares of patients to train, tune and test on, such as 0.7,0.1,0.2"
    )
    metadata_path: str = field(
        "", "another CSV, with subgroups, dates and times, such as MIMIC-CXR's metadata"
    )
    subgroups: tuple[str, ...] = field((), "columns to break the results down by: sex,age,view")
    per_study: str = field("none", "mean or max: merge the films of a study into one example")
    covariates: tuple[str, ...] = field(
        (), "columns of the patient's record for the head to know beside the film: age,heartrate"
    )
    covariates_path: str = field("", "another CSV, with these columns; default: the labels")
    prior: str = field(
        "none",
        "difference or concatenate: the head sees the last earlier study too, by StudyDate and "
        "StudyTime of metadata_path, else of the labels",
    )


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    optimizer: str = field("lbfgs", "lbfgs (linear probes, to the optimum), adamw or lars")
    hidden: tuple[int, ...] = field((), "widths of hidden layers: 512,256; none: linear probe")
    dropout: float = field(0.0, "share of hidden units that are left out in a step")
    standardise: bool = field(True, "bring each number of the embeddings to mean 0, deviation 1")
    weight_decays: tuple[float, ...] = field(
        (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
        "each is tried, and the best on the tune split is kept; for lbfgs this is the L2 penalty",
    )
    seeds: tuple[int, ...] = field(
        (0,), "each is tried, and the best on tune is kept; lbfgs needs only one"
    )
    batch_size: int = field(128, "films in a step")
    epochs: int = field(100, "most times that all films are seen")
    learning_rate: float = field(1e-3, "highest learning rate")
    patience: int = field(
        10,
        "stop after so many epochs without a better AUROC on tune; 0: run all epochs, and keep the "
        "last",
    )
    shuffle: bool = field(True, "take the films in a new order in every epoch")


@dataclasses.dataclass(frozen=True)
class HeadOutputConfig:
    path: str = field(
        "", "folder to be made: head, metrics, predictions, report, figures", "output"
    )


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Settings of `scripts/train_head.py`."""

    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    labels: LabelsConfig = LabelsConfig()
    training: TrainingConfig = TrainingConfig()
    output: HeadOutputConfig = HeadOutputConfig()
    sizes: tuple[str, ...] = field(
        (), "numbers of labelled films to show the AUROC for, such as 8,16,...,all; none: no curve"
    )
    draws: int = field(20, "random draws of patients for each of these numbers")
    compare: str = field("", "folder of another head, to be compared on the same films")
    resamples: int = field(1000, "bootstrap samples of patients, for the intervals")
    seed: int = field(0, "seed of the bootstrap, the draws and a random split")


@dataclasses.dataclass(frozen=True)
class EvaluationOutputConfig:
    path: str = field(
        "", "folder to be made, for report and metrics; none: print only", "output", required=False
    )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `scripts/evaluate.py`."""

    head: str = field("", "folder of a head, from train_head.py", "head")
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    labels: LabelsConfig = LabelsConfig(findings=("all",))
    output: EvaluationOutputConfig = EvaluationOutputConfig()
    local: float = field(
        0.2, "share of the patients on whose labels the head is recalibrated; the rest is measured"
    )
    compare: str = field(
        "", "another head for the same films: its folder, or that of its own evaluation of them"
    )
    resamples: int = field(1000, "bootstrap samples of patients, for the intervals")
    seed: int = field(0, "seed of the bootstrap and of the draw of local patients")
