"""Labels and embeddings to a head: the job of `scripts/train_head.py`, and `train_head`."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict, TypeVar

from cxr_embeddings.common import files, paths, progress
from cxr_embeddings.configs import head as presets
from cxr_embeddings.configs.schema import EmbeddingsConfig, HeadConfig, LabelsConfig
from cxr_embeddings.embedding import read_embeddings
from cxr_embeddings.errors import translated
from cxr_embeddings.prediction import Head

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings
    from cxr_embeddings.options import Dataclass

Config = TypeVar("Config", bound="Dataclass")

LIBRARIES = ("cxr-embeddings", "jax", "flax", "optax", "numpy", "scipy", "scikit-learn", "pandas")


class HeadOptions(TypedDict, total=False):
    """Options of `train_head`: fields of `LabelsConfig`, `TrainingConfig` and `HeadConfig`.

    What they mean, and what they are where they are not given, stands there.
    """

    data_set: str | os.PathLike[str]
    uncertain: str
    not_mentioned: str
    id_column: str
    name_parts: int
    study_column: str
    patient_column: str
    split_column: str
    split_path: str | os.PathLike[str]
    train: Sequence[str]
    tune: Sequence[str]
    test: Sequence[str]
    fractions: Sequence[float]
    metadata_path: str | os.PathLike[str]
    subgroups: Sequence[str]
    per_study: str
    optimizer: str
    hidden: Sequence[int]
    dropout: float
    standardise: bool
    weight_decays: Sequence[float]
    seeds: Sequence[int]
    batch_size: int
    epochs: int
    learning_rate: float
    patience: int
    shuffle: bool
    sizes: Sequence[str]
    draws: int
    compare: str | os.PathLike[str]
    resamples: int
    seed: int


@translated
def train_head(
    embeddings: Embeddings | str | os.PathLike | Sequence[str | os.PathLike],
    labels: str | os.PathLike,
    *,
    findings: str | Sequence[str],
    preset: str = "linear",
    progress: bool | None = None,
    **options: Unpack[HeadOptions],
) -> Head:
    """Trains a head on the train split, chooses it on tune, and measures it on test.

    Args:
        embeddings: from `Encoder.embed`, `embed` or `read_embeddings`; or their folder, or several.
        labels: CSV of labels: MIMIC-CXR's chexpert or negbio, ChestX-ray14's, or any other with a
            column that names films or studies and columns of 1, 0, -1 and empty values; or what
            `data_set`, one of `configs/data_sets` or a TOML file, says of it.
        findings: columns of that table, such as ["Edema"]; "all": every finding of it.
        preset: "linear" (a linear probe), "mlp" (two hidden layers) or "toolkit" (as the CXR
            Foundation toolkit trains).
        progress: print what is done; None: in a terminal or a notebook.
        **options: fields of `configs.schema`'s `LabelsConfig`, such as split_path, fractions,
            uncertain and subgroups; of its `TrainingConfig`, such as hidden, epochs and
            weight_decays, which change the preset; and of its `HeadConfig`: sizes, draws, compare,
            resamples and seed.

    Returns:
        The head, with what was measured in `metrics`; `summary` says it in words.

    Raises:
        InputError: an option is unknown or cannot be followed; the labels do not fit the
            embeddings, or are damaged.
        FileError: there are no embeddings, or no table of labels.
    """
    if preset not in presets.PRESETS:
        raise ValueError(f"preset is {preset!r}; expected one of {', '.join(presets.PRESETS)}")
    names = [findings] if isinstance(findings, str) else findings
    given: dict[str, object] = {"path": os.fspath(labels), "findings": names, **options}
    config = HeadConfig(
        labels=_taken(LabelsConfig(), given), training=_taken(presets.PRESETS[preset], given)
    )
    config = _taken(config, given)
    if given:
        known = HeadOptions.__annotations__
        similar = difflib.get_close_matches(next(iter(given)), known, 1)
        hint = f"did you mean {similar[0]}?" if similar else f"expected {', '.join(known)}"
        raise ValueError(f"train_head has no option {next(iter(given))}: {hint}")
    return train(config, embeddings, shown=progress)


def _taken(config: Config, given: dict[str, object]) -> Config:
    """The config with what is given for its fields, which is taken out of `given`."""
    mine = {field.name for field in dataclasses.fields(config)} & given.keys()
    changes = {name: given.pop(name) for name in mine}
    for name, value in changes.items():
        if isinstance(value, list | os.PathLike):
            changes[name] = tuple(value) if isinstance(value, list) else os.fspath(value)
    return dataclasses.replace(config, **changes)


def train(
    config: HeadConfig,
    embeddings: Embeddings | str | os.PathLike | Sequence[str | os.PathLike] = (),
    *,
    shown: bool | None = True,
) -> Head:
    """Runs the whole job.

    Args:
        config: of the job; `output` does not count.
        embeddings: see `train_head`; (): those that the config names.
        shown: print what is done; None: in a terminal or a notebook.

    Raises:
        ValueError, OSError: as the family of `train_head`.
    """
    from cxr_embeddings.heads import experiment, features, saved
    from cxr_embeddings.heads.labels import studies
    from cxr_embeddings.heads.labels.join import join
    from cxr_embeddings.heads.labels.label_table import read_labels
    from cxr_embeddings.heads.labels.splits import check_classes
    from cxr_embeddings.heads.report import summary
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings

    shown = progress.wanted(shown)
    say: Callable[[str], object] = print if shown else lambda line: None
    labels = config.labels
    tables = {
        name: os.path.expanduser(path)
        for name in ("path", "split_path", "metadata_path")
        if (path := getattr(labels, name))
    }
    labels = dataclasses.replace(labels, **tables)
    compare = config.compare and str(paths.typed_local(config.compare, "compare"))
    config = dataclasses.replace(config, compare=compare, labels=labels)
    other = experiment.check(config)
    if isinstance(embeddings, Embeddings):
        table = embeddings
        about = EmbeddingsConfig(tuple(table.folders), dtype=table.embedding.dtype.name)
    else:
        several = [embeddings] if isinstance(embeddings, str | os.PathLike) else embeddings
        places = tuple(os.fspath(one) for one in several)
        about = EmbeddingsConfig(places) if places else config.embeddings
        cache = about.cache or None
        table = read_embeddings(about.path, cache=cache, dtype=about.dtype, progress=shown)
    config = dataclasses.replace(config, embeddings=about)
    count, width = table.embedding.shape
    say(f"{count} embeddings of {width:,} numbers in {', '.join(about.path) or 'memory'}")
    if table.encoder is None:
        say("warning: no manifest.json says which encoder made these embeddings")
    elif not table.encoder.get("trained"):
        say("warning: these are the embeddings of an untrained network")
    if table.complete is False:
        say("warning: the run that made them did not finish: some films are missing")
    if table.damaged:
        name, _, reason = table.damaged[0]
        say(f"warning: {len(table.damaged)} left out, such as {name}: {reason}")
    examples = join(table.image_id, read_labels(labels), config.seed)
    examples = check_classes(examples, explicit=labels.findings != ("all",))
    from_paths = experiment.studies_from_paths(examples)
    embedding, examples = studies.merge(table.embedding, examples, labels.per_study)
    for line in summary.of_counts(experiment.count(examples), examples.notes, examples.definitions):
        say(line)
    with features.on_cpu():
        done = experiment.run(embedding, examples, config, other, shown)
    provenance = {
        "per_study": labels.per_study,
        "studies_from_paths": from_paths,
        "encoder": table.encoder,
        "embeddings_dtype": about.dtype,
        "embeddings_digest": table.digest,
        "tables_digests": {
            path: hashlib.sha256(files.read_bytes(paths.typed(path))).hexdigest()
            for path in tables.values()
            if not os.path.isdir(paths.typed(path))  # of films or reports without a table
        },
        "config": dataclasses.asdict(config),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    card = saved.make_card(done.trained, done.chosen, provenance)
    for line in [*summary.of_choice(card), *summary.of_results(done.measured)]:
        say(line)
    damaged = [(one.detail, one.image_id) for one in table.damaged]
    done = done._replace(left_out=[*done.left_out, *damaged])
    return Head(saved.Saved(done.trained, done.spread, card), done.measured, experiment=done)
