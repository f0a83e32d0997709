"""Labels and embeddings to a head: the job of `scripts/train_head.py`, and `train_head`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cxr_embeddings import labelled_films
from cxr_embeddings.common import paths, progress
from cxr_embeddings.configs import head as presets
from cxr_embeddings.configs.schema import HeadConfig, LabelsConfig
from cxr_embeddings.errors import translated
from cxr_embeddings.named_options import HeadOptions, check_all_taken, taken
from cxr_embeddings.prediction import Head

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings


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
        labels=taken(LabelsConfig(), given), training=taken(presets.PRESETS[preset], given)
    )
    config = taken(config, given)
    check_all_taken("train_head", given, HeadOptions)
    return train(config, embeddings, shown=progress)


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
    from cxr_embeddings.heads import experiment, features, inputs, saved
    from cxr_embeddings.heads.labels import studies
    from cxr_embeddings.heads.labels.join import join
    from cxr_embeddings.heads.labels.label_table import read_labels
    from cxr_embeddings.heads.labels.splits import check_classes
    from cxr_embeddings.heads.report import summary

    shown = progress.wanted(shown)
    say: Callable[[str], object] = print if shown else lambda line: None
    labels = labelled_films.at_home(config.labels)
    compare = config.compare and str(paths.typed_local(config.compare, "compare"))
    config = dataclasses.replace(config, compare=compare, labels=labels)
    other = experiment.check(config)
    inputs.check(labels)
    table, about = labelled_films.open_embeddings(embeddings, config.embeddings, say, shown)
    config = dataclasses.replace(config, embeddings=about)
    examples = join(table.image_id, read_labels(labels), config.seed)
    examples = check_classes(examples, explicit=labels.findings != ("all",))
    from_paths = experiment.studies_from_paths(examples)
    matrix, examples, beside = inputs.for_examples(labels, table.embedding, examples)
    matrix, examples = studies.merge(matrix, examples, labels.per_study)
    for line in summary.of_counts(experiment.count(examples), examples.notes, examples.definitions):
        say(line)
    with features.on_cpu():
        done = experiment.run(matrix, examples, config, other, shown, beside)
    provenance = {
        "width": table.embedding.shape[1],
        "inputs": beside,
        "per_study": labels.per_study,
        "studies_from_paths": from_paths,
        "encoder": table.encoder,
        "embeddings_dtype": about.dtype,
        "embeddings_digest": table.digest,
        **labelled_films.origin(labels),
        "config": dataclasses.asdict(config),
    }
    card = saved.make_card(done.head.trained, done.head.chosen, provenance)
    for line in [*summary.of_choice(card), *summary.of_results(done.measured)]:
        say(line)
    damaged = [(one.detail, one.image_id) for one in table.damaged]
    done = done._replace(left_out=[*done.left_out, *damaged])
    fitted = saved.Saved(done.head.trained, done.head.spread, card)
    return Head(fitted, done.measured, experiment=done)
