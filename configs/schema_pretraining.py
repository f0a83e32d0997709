"""The settings of `scripts/pretrain.py`, typed, with their sentences for `--help`."""

import dataclasses

from cxr_embeddings.configs.schema import DTYPE, field


@dataclasses.dataclass(frozen=True)
class TrainingFilmsConfig:
    stores: tuple[str, ...] = field(
        (), "folders made by preprocess.py, all of one preset and size", "input"
    )
    labels: tuple[str, ...] = field(
        (), "CSV of labels for each store, in the same order, as of label_abnormal.py", "labels"
    )
    splits: tuple[str, ...] = field(
        (), "CSV of splits for each store; default: the column `split` of the labels"
    )
    not_mentioned: str = field("ignore", "what an empty cell means: ignore (unknown), negative")
    repeat: tuple[int, ...] = field(
        (), "how often an epoch takes each film of each store, such as 1,4; default: once"
    )
    name_parts: int = field(
        0, "parts of a path, from its end, by which films are found in the tables; 0: all parts"
    )
    findings: tuple[str, ...] = field(
        ("abnormal",),
        "columns of the labels (1, 0, or empty where it is unknown), such as Edema,Fracture; what "
        "a table has no column for is unknown of its films",
    )
    across_stores: bool = field(
        False,
        "compare films of different stores with one another, too; hospitals are easy to tell apart",
    )
    workers: int = field(0, "threads that read films; 0: one for each processor")


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    weights: str = field("random", "bundle to start from, or `random`", "weights", required=False)
    variant: str | None = field(None, "b0 to b7, l2, lite0 to lite4; default: the bundle's or b0")
    dtype: str | None = field(None, DTYPE)
    remat: bool = field(False, "compute each block again for its gradient: less memory, more time")
    model_parallel: int = field(1, "number of devices that share one copy of the weights")
    fully_sharded: bool = field(
        False,
        "split the weights and the optimiser's state over all devices; L2 on more than 16 devices "
        "also needs model_parallel=8",
    )


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    crop: float = field(0.7, "smallest share of the film's side that a view shows")
    rotation: float = field(10.0, "largest angle to either side in degrees")
    contrast: float = field(0.3, "largest relative change of contrast")
    brightness: float = field(0.15, "largest shift, where black is 0 and white is 1")
    blur: float = field(1.0, "largest standard deviation of the Gaussian blur in pixels")
    noise: float = field(0.03, "largest standard deviation of the noise")
    mirror: bool = field(False, "mirror half of the views left to right; hearts lie on one side")


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    objective: str = field("supcon", "supcon, the supervised contrastive loss; or cross_entropy")
    first_stage: int | None = field(
        None,
        "first stage that is trained, 1 to 7, or 8 for the head alone; layers before it and all "
        "statistics of BatchNorm stay those of the first weights. 0 trains all. Default: 5 where "
        "the first weights are a bundle, 0 where they are random",
    )
    first_share: float | None = field(
        None,
        "share of the first weights in the result, which averages them with the trained ones; "
        "default: 0.5 where they are a bundle, 0 where they are random",
    )
    temperature: float = field(0.1, "temperature of the contrastive loss")
    batch_size: int = field(256, "films in a step, over all devices; two views of each")
    micro_batch: int = field(
        0,
        "films of a step that are computed at once, which takes less memory and a third more time; "
        "0: all. The loss is that of the whole batch, BatchNorm's statistics are those of a "
        "micro-batch",
    )
    steps: int = field(10_000, "steps in all")
    optimizer: str = field("adamw", "adamw or lars")
    learning_rate: float | None = field(
        None,
        "highest learning rate; default: 3e-4 where the first weights are a bundle, 1e-3 where "
        "they are random; for lars about 0.3 for each 256 films",
    )
    warmup_steps: int = field(500, "steps in which the rate rises; then it falls to 0, as a cosine")
    weight_decay: float = field(0.05, "of kernels, not of biases or BatchNorm; for lars about 1e-6")
    average_decay: float = field(0.999, "of the moving average of the weights, which is the result")
    augmentation: AugmentationConfig = AugmentationConfig()


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    log_steps: int = field(10, "steps from one row of metrics.csv to the next")
    evaluate_steps: int = field(
        500, "steps from one look at the tune split to the next; the best look's weights are kept"
    )
    evaluate_films: int = field(1000, "most films of train, and of tune, in a look")
    questions: tuple[str, ...] = field(
        (),
        "further columns of 1, 0 or nothing in the labels that are not trained on, such as female; "
        "in the score of a look they count as the findings do",
    )
    checkpoint_steps: int = field(200, "most steps lost if the run is stopped")


@dataclasses.dataclass(frozen=True)
class BundleConfig:
    licence: str = field("", "licence of the new weights; default: that of the first weights")
    terms_of_use: str = field("", "further terms of use; default: those of the first weights")
    training_data: str = field("", "one sentence on the films, with their attribution")


@dataclasses.dataclass(frozen=True)
class PretrainOutputConfig:
    path: str = field(
        "", "folder of weights, metrics.csv, checkpoints; the same command continues", "output"
    )


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Settings of `scripts/pretrain.py`."""

    input: TrainingFilmsConfig = TrainingFilmsConfig()
    network: NetworkConfig = NetworkConfig()
    training: PretrainingConfig = PretrainingConfig()
    watch: WatchConfig = WatchConfig()
    bundle: BundleConfig = BundleConfig()
    output: PretrainOutputConfig = PretrainOutputConfig()
    seed: int = field(0, "seed of the first weights, the views and the order of the films")
    distributed: bool = field(False, "train with other processes, one for each host or GPU")
