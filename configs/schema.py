"""Every knob of every command, typed, with the sentence that `--help` prints for it."""

import dataclasses
from typing import Any


def knob(default: Any, help: str) -> Any:
    """A dataclass field with its help text."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass
class InputConfig:
    path: str = knob(
        "",
        "a folder (searched recursively), a glob, or a list of files (.txt, .csv, .csv.gz); local, "
        "gs:// or any other address that fsspec reads",
    )
    views: tuple[str, ...] | None = knob(
        None, "keep films whose ViewPosition is one of these (AP,PA) or absent; all: every view"
    )
    limit: int | None = knob(None, "embed only the first so many files of the sorted listing")
    workers: int = knob(0, "processes that decode films; 0: one for each processor")


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
    seed: int = knob(0, "seed of weights=random")
    model_parallel: int = knob(1, "devices that share one copy of the weights; 1: one copy each")


@dataclasses.dataclass
class OutputConfig:
    path: str = knob("", "folder of the embeddings; a run into it again goes on where it ended")
    layout: str = knob(
        "per_image", "per_image: the input's tree, one file a film; sharded: few large files"
    )
    format: str = knob("tfrecord", "tfrecord, npz, or (sharded only) parquet")
    shards: int = knob(32, "files of the sharded layout; a run that is stopped repeats at most one")


@dataclasses.dataclass
class EmbedConfig:
    """What `scripts/embed.py` needs to know."""

    input: InputConfig = dataclasses.field(default_factory=InputConfig)
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    output: OutputConfig = dataclasses.field(default_factory=OutputConfig)
    batch_size: int = knob(8, "films a step, over all devices")
