"""Every knob of every command, typed, with the sentence that `--help` prints for it."""

import dataclasses
from typing import Any


def knob(default: Any, help: str, repeated: bool = False) -> Any:
    """A dataclass field with its help text, and whether its option may be given several times."""
    return dataclasses.field(default=default, metadata={"help": help, "repeated": repeated})


@dataclasses.dataclass
class InputConfig:
    path: str = knob(
        "",
        "a store made by preprocess.py; or films: a folder (searched recursively), a glob, or a "
        "list of files (.txt, .csv, .csv.gz); local, gs:// or any other address that fsspec reads",
    )
    views: tuple[str, ...] | None = knob(
        None, "keep films whose ViewPosition is one of these (AP,PA) or absent; all: every view"
    )
    limit: int | None = knob(None, "embed only the first so many files of the sorted listing")
    workers: int = knob(0, "processes that decode films; 0: one for each processor")
    user_project: str | None = knob(
        None, "Google Cloud project that pays for reading from requester-pays buckets"
    )


@dataclasses.dataclass
class EncoderConfig:
    weights: str = knob(
        "", "a weights bundle (a folder with card.json), or `random` for untrained numbers"
    )
    variant: str | None = knob(None, "b0 ... b7 or l2; with a bundle its card decides")
    resolution: int | None = knob(
        None, "side of the square network input in pixels; unset: what the card says"
    )
    embedding: str | None = knob(
        None,
        "layer to emit: head (4,096), own_head, projection, pooled, feature_map or pooled_map, of "
        "those that the card offers; unset: the first of them",
    )
    preset: str | None = knob(
        None, "how films are prepared: cxr_foundation, imagenet, ...; unset: what the card says"
    )
    dtype: str | None = knob(
        None,
        "precision of the network's arithmetic: bfloat16 or float32; unset: float32 on CPU, where "
        "it is the faster one, else bfloat16",
    )
    engine: str = knob(
        "jax",
        "what computes: jax; or openvino, the faster one on x86 CPUs (pip install "
        "'cxr-embeddings[openvino]'), whose bfloat16 is faster yet where the CPU has it; or "
        "pallas, on NVIDIA GPUs, with a kernel of ours for depthwise convolutions (not yet timed)",
    )
    seed: int = knob(0, "seed of weights=random")
    model_parallel: int = knob(1, "devices that share one copy of the weights; 1: one copy each")


@dataclasses.dataclass
class OutputConfig:
    path: str = knob("", "folder of the embeddings; a run into it again goes on where it ended")
    layout: str | None = knob(
        None,
        "per_image: the input's tree, one file a film; sharded: few large files, of a store one "
        "for each of its shards; unset: per_image of films, sharded of a store",
    )
    format: str = knob("tfrecord", "tfrecord, npz, or (sharded only) parquet")
    shards: int = knob(
        32, "of films: files of the sharded layout; a run that is stopped repeats at most one"
    )


@dataclasses.dataclass
class EmbedConfig:
    """What `scripts/embed.py` needs to know."""

    input: InputConfig = dataclasses.field(default_factory=InputConfig)
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    output: OutputConfig = dataclasses.field(default_factory=OutputConfig)
    batch_size: int = knob(
        0, "films a step, over all devices of all hosts; 0: as many as their memory holds"
    )
    distributed: bool = knob(
        False, "several processes share the work on a store: one for each host, or GPU"
    )


@dataclasses.dataclass
class FilmsConfig:
    path: str = knob(
        "",
        "MIMIC-CXR's folder with its record list; or a folder (searched recursively), a glob, or a "
        "list of films; local, gs:// or any other address that fsspec reads",
    )
    metadata_path: str | None = knob(
        None, "MIMIC-CXR-JPG's metadata table, which has the views; unset: in the folder, if there"
    )
    split_path: str | None = knob(
        None, "MIMIC-CXR-JPG's split table; unset: in the folder, if there; none: one split"
    )
    views: tuple[str, ...] | None = knob(
        None, "keep films whose ViewPosition is one of these (AP,PA); all: every view"
    )
    no_view: str = knob(
        "keep",
        "films without ViewPosition: keep (as CXR Foundation did), drop, or impute from the "
        "metadata table's view codes and procedures",
    )
    limit: int | None = knob(None, "only the first so many films of the sorted list")
    user_project: str | None = knob(
        None, "Google Cloud project that pays for reading from requester-pays buckets"
    )


@dataclasses.dataclass
class ImageConfig:
    weights: str = knob("", "a weights bundle, whose card says preset and size")
    preset: str | None = knob(
        None, "how films are prepared: cxr_foundation, imagenet, ...; unset: what the card says"
    )
    size: int | None = knob(
        None, "side of the square images in pixels; unset: the card's resolution"
    )
    storage: str = knob("png16", "png16: nothing is lost; png8 and jpeg95: a quarter, a tenth")


@dataclasses.dataclass
class StoreConfig:
    path: str = knob(
        "", "folder of the store, such as .../mimic_cxr/1.0.0; a run into it again goes on"
    )
    name: str = knob("films", "of the data set, for TFDS")
    films_per_shard: int = knob(64, "at most; a run that is stopped repeats a shard a worker")


@dataclasses.dataclass
class PreprocessConfig:
    """What `scripts/preprocess.py` needs to know."""

    input: FilmsConfig = dataclasses.field(default_factory=FilmsConfig)
    image: ImageConfig = dataclasses.field(default_factory=ImageConfig)
    output: StoreConfig = dataclasses.field(default_factory=StoreConfig)


@dataclasses.dataclass
class EmbeddingsConfig:
    path: tuple[str, ...] = knob(
        (),
        "folder of the embeddings (tfrecord, npz or parquet, in any layout), local or remote; of "
        "several folders: the option once for each, or a .txt file with one a line",
        repeated=True,
    )
    cache: str | None = knob(
        None,
        "folder for the table they are gathered in once; unset: .table in their own folder, of "
        "several in the first",
    )
    dtype: str = knob("float32", "of that table: float32, or float16 for half the disk")


@dataclasses.dataclass
class LabelsConfig:
    path: str = knob(
        "", "CSV of labels: MIMIC-CXR's chexpert or negbio, ChestX-ray14's, or any other"
    )
    findings: tuple[str, ...] = knob(
        (), "columns of that table, such as Cardiomegaly,Edema; all: every finding of it"
    )
    uncertain: str = knob(
        "ignore",
        "-1 in train means: ignore (unknown), zeros (negative), ones (positive); it is unknown in "
        "tune and test",
    )
    not_mentioned: str = knob("ignore", "empty means: ignore (unknown) or negative")
    id_column: str = knob(
        "", "column that names the film; unset: known by its name, here and below"
    )
    name_parts: int = knob(
        0,
        "last parts of paths by which films are found in the table: 1 is the file's name, whatever "
        "the folders; 0: all parts that both have",
    )
    study_column: str = knob("", "column of the study")
    patient_column: str = knob("", "column of the patient")
    split_column: str = knob("", "column of the split")
    split_path: str = knob("", "another CSV that has the split, such as MIMIC-CXR's")
    train: tuple[str, ...] = knob(
        (), "what the split to train on is called; unset: train, training"
    )
    tune: tuple[str, ...] = knob(
        (),
        "what the split to choose on is called; unset: tune, validate, validation, valid, val, dev",
    )
    test: tuple[str, ...] = knob((), "what the split to test on is called; unset: test, testing")
    fractions: tuple[float, ...] = knob(
        (), "0.7,0.1,0.2: shares of the patients to train, tune and test on, drawn by the seed"
    )
    metadata_path: str = knob(
        "", "another CSV that has the subgroups, such as MIMIC-CXR's metadata"
    )
    subgroups: tuple[str, ...] = knob((), "columns to break the results down by: sex,age,view")
    per_study: str = knob("none", "mean or max: one example a study, of its films' embeddings")


@dataclasses.dataclass
class TrainingConfig:
    optimizer: str = knob("lbfgs", "lbfgs (linear probes, to the optimum), adamw, or lars")
    hidden: tuple[int, ...] = knob(
        (), "widths of hidden layers, such as 512,256; none: linear probe"
    )
    dropout: float = knob(0.0, "share of hidden units that a step leaves out")
    standardise: bool = knob(True, "bring each number of the embeddings to mean 0, deviation 1")
    class_weights: str = knob("none", "balanced: both classes of a finding weigh the same")
    weight_decays: tuple[float, ...] = knob(
        (1e-4, 1e-3, 1e-2, 1e-1, 1.0), "all are trained, and tune chooses; of lbfgs: the L2 penalty"
    )
    seeds: tuple[int, ...] = knob((0,), "all are trained, and tune chooses; lbfgs needs none")
    batch_size: int = knob(128, "films a step")
    epochs: int = knob(100, "times that all films are seen, at most")
    learning_rate: float = knob(1e-3, "at its highest")
    patience: int = knob(
        10, "epochs without a better AUROC on tune that end a run; 0: all epochs, the last is kept"
    )
    shuffle: bool = knob(True, "a new order of the films in every epoch")


@dataclasses.dataclass
class HeadOutputConfig:
    path: str = knob("", "folder to be made: head, card, metrics, predictions, report, figures")


@dataclasses.dataclass
class HeadConfig:
    """What `scripts/train_head.py` needs to know."""

    embeddings: EmbeddingsConfig = dataclasses.field(default_factory=EmbeddingsConfig)
    labels: LabelsConfig = dataclasses.field(default_factory=LabelsConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    output: HeadOutputConfig = dataclasses.field(default_factory=HeadOutputConfig)
    sizes: tuple[str, ...] = knob(
        (), "8,16,...,all: numbers of labelled films to show the AUROC for; none: no such curve"
    )
    draws: int = knob(20, "random draws of patients for each of these sizes")
    compare: str = knob("", "folder of another head, tested on the same films: a paired test")
    resamples: int = knob(1000, "of the bootstrap by patient that gives the intervals")
    seed: int = knob(0, "of the bootstrap, the draws and a random split")


@dataclasses.dataclass
class TrainingFilmsConfig:
    stores: tuple[str, ...] = knob((), "folders made by preprocess.py, all of one preset and size")
    labels: tuple[str, ...] = knob(
        (), "CSV of labels of each of them, in the same order, such as label_abnormal.py writes"
    )
    splits: tuple[str, ...] = knob(
        (), "CSV with the split of each, likewise; unset: the column `split` of the labels"
    )
    name_parts: int = knob(
        0, "last parts of paths by which films are found in the tables, as in train_head.py; 0: all"
    )
    finding: str = knob("abnormal", "column of the labels: 1 and 0; films without are left out")
    workers: int = knob(0, "threads that read films; 0: one for each processor")


@dataclasses.dataclass
class NetworkConfig:
    weights: str = knob("random", "a weights bundle to start from, or `random`: from scratch")
    variant: str | None = knob(None, "b0 ... b7 or l2; unset: that of the bundle, else b0")
    dtype: str | None = knob(
        None,
        "precision of the arithmetic: bfloat16 or float32; unset: float32 on CPU, else bfloat16",
    )
    remat: bool = knob(False, "compute each block anew for its gradient: less memory, more time")
    model_parallel: int = knob(1, "devices that share one copy of the weights")
    fully_sharded: bool = knob(
        False,
        "split weights and what the optimiser keeps of them over all devices; of L2 over more than "
        "16 with model_parallel=8",
    )


@dataclasses.dataclass
class AugmentationConfig:
    crop: float = knob(0.7, "smallest share of the film's side that a view shows")
    rotation: float = knob(10.0, "largest angle, in degrees, to either side")
    contrast: float = knob(0.3, "largest relative change")
    brightness: float = knob(0.15, "largest shift, where black is 0 and white 1")
    blur: float = knob(1.0, "largest deviation of the Gaussian, in pixels")
    noise: float = knob(0.03, "largest deviation of the noise")
    mirror: bool = knob(False, "left to right, one view in two: the heart has a side, so no")


@dataclasses.dataclass
class PretrainingConfig:
    objective: str = knob(
        "supcon", "supcon: the supervised contrastive loss; cross_entropy, to compare with"
    )
    temperature: float = knob(0.1, "of the contrastive loss")
    batch_size: int = knob(256, "films a step, over all devices of all hosts; two views of each")
    micro_batch: int = knob(
        0,
        "of them, films computed at once: less memory, a third more time; 0: all. The loss is that "
        "of the whole batch, BatchNorm's statistics are those of a micro-batch",
    )
    steps: int = knob(10_000, "in all")
    optimizer: str = knob("adamw", "adamw or lars")
    learning_rate: float = knob(1e-3, "at its highest; of lars about 0.3 for each 256 films")
    warmup_steps: int = knob(500, "in which it rises to that; then a cosine brings it to 0")
    weight_decay: float = knob(0.05, "of kernels; biases and BatchNorm have none; of lars 1e-6")
    average_decay: float = knob(0.999, "of the moving average of the weights, which is the result")
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)


@dataclasses.dataclass
class WatchConfig:
    log_steps: int = knob(10, "steps between two rows of metrics.csv")
    evaluate_steps: int = knob(500, "steps between two looks at the tune split")
    evaluate_films: int = knob(1000, "films of train, and of tune, that such a look takes at most")
    checkpoint_steps: int = knob(200, "steps between two checkpoints: what a stop costs at most")


@dataclasses.dataclass
class BundleConfig:
    licence: str = knob("", "of the weights; unset: that of the bundle they started from")
    terms_of_use: str = knob("", "what else is asked of whoever uses them; unset: likewise")
    training_data: str = knob("", "one sentence: what films, with their attribution")


@dataclasses.dataclass
class PretrainOutputConfig:
    path: str = knob(
        "", "folder of the run: weights, metrics.csv, checkpoints; the same command again goes on"
    )


@dataclasses.dataclass
class PretrainConfig:
    """What `scripts/pretrain.py` needs to know."""

    input: TrainingFilmsConfig = dataclasses.field(default_factory=TrainingFilmsConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    training: PretrainingConfig = dataclasses.field(default_factory=PretrainingConfig)
    watch: WatchConfig = dataclasses.field(default_factory=WatchConfig)
    bundle: BundleConfig = dataclasses.field(default_factory=BundleConfig)
    output: PretrainOutputConfig = dataclasses.field(default_factory=PretrainOutputConfig)
    seed: int = knob(0, "of first weights, views and the order of the films")
    distributed: bool = knob(False, "several processes train together: one for each host, or GPU")
