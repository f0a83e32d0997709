"""Labels and embeddings in, a head and its statistics out: `python scripts/train_head.py ...`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cxr_embeddings import cli
from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import HeadConfig

if TYPE_CHECKING:
    import numpy as np

    from cxr_embeddings.heads.labels.label_table import Examples, Note
    from cxr_embeddings.heads.select import Trained
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings

USAGE = """
python scripts/train_head.py --config configs/head.py \\
    --embeddings /data/embeddings --labels /data/mimic-cxr-2.0.0-chexpert.csv.gz \\
    --config.labels.split_path=/data/mimic-cxr-2.0.0-split.csv.gz \\
    --findings Cardiomegaly,Edema --output /data/heads/heart

Trains on the train split, chooses on tune, and reports on test, with intervals: see report.html.
configs/head.py trains linear probes; configs/head.py:mlp and :toolkit heads with hidden layers.
The flags of the CXR Foundation toolkit's train work, too, and mean configs/head.py:toolkit.
"""
SHORT = {
    "embeddings": "config.embeddings.path",
    "labels": "config.labels.path",
    "findings": "config.labels.findings",
    "output": "config.output.path",
}
REQUIRED = tuple(SHORT.values())
TOOLKIT_FLAGS = {
    "labels_csv": "config.labels.path",
    "data_dir": "config.embeddings.path",
    "head_name": "config.labels.findings",
    "train_split_name": "config.labels.train",
    "tune_split_name": "config.labels.tune",
    "num_epochs": "config.training.epochs",
    "batch_size": "config.training.batch_size",
}
LIBRARIES = ("cxr-embeddings", "jax", "flax", "optax", "numpy", "scipy", "scikit-learn", "pandas")
FEW = 10  # films of one class on tune, below which what is chosen on it hangs on single films
BAR = "{desc}: {percentage:3.0f}% {bar} {n}/{total} {unit}, {remaining} left{postfix}"


def train_head(config: HeadConfig) -> int:
    """Runs the whole job. Returns the exit code."""
    labels, folder = config.labels, paths.typed_local(config.output.path, "output.path")
    for name in ("path", "split_path", "metadata_path"):
        setattr(labels, name, os.path.expanduser(getattr(labels, name)))
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists already: remove it, or choose another output.path")

    import jax

    from cxr_embeddings.common import files
    from cxr_embeddings.heads import experiment
    from cxr_embeddings.heads.labels import studies
    from cxr_embeddings.input_pipeline.embeddings.table import read_table

    jax.config.update("jax_platforms", "cpu")  # fast enough, and everywhere the same numbers
    plan = experiment.plan(
        config.training,
        config.sizes,
        config.draws,
        config.resamples,
        config.seed,
        config.compare and str(paths.typed_local(config.compare, "compare")),
    )
    table = read_table(
        config.embeddings.path, config.embeddings.cache or None, config.embeddings.dtype
    )
    report_table(config.embeddings.path, table)
    examples = read_examples(config, table.image_id)
    from_paths = experiment.studies_from_paths(examples)
    embedding, examples = studies.merge(table.embedding, examples, labels.per_study)
    report_counts(experiment.count(examples), examples.notes)

    provenance = {
        "per_study": labels.per_study,
        "studies_from_paths": from_paths,
        "encoder": table.encoder,
        "embeddings_dtype": config.embeddings.dtype,
        "embeddings_digest": table.digest,
        "tables_digests": {
            path: hashlib.sha256(files.read_bytes(paths.typed(path))).hexdigest()
            for path in (labels.path, labels.split_path, labels.metadata_path)
            if path
        },
        "config": dataclasses.asdict(config),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    start = time.monotonic()
    with experiment.new_folder(folder) as partial:
        done = experiment.run(embedding, examples, plan, progress)
        damaged = ((one.detail, one.image_id) for one in table.damaged)
        left_out = [*examples.unmatched, *damaged]
        experiment.write(partial, done, left_out, provenance)
    report_results(done.trained, done.measured)
    print(f"in {folder}, after {time.monotonic() - start:.0f} s: report.html, metrics.json, ...")
    return 0


def read_examples(config: HeadConfig, image_id: np.ndarray) -> Examples:
    """The labels, joined to the embeddings; findings of one class only are refused or left out."""
    from cxr_embeddings.heads.labels.join import join
    from cxr_embeddings.heads.labels.label_table import read_labels
    from cxr_embeddings.heads.labels.splits import SPLITS, check_classes

    labels = config.labels
    table = read_labels(
        labels.path,
        labels.findings,
        uncertain=labels.uncertain,
        not_mentioned=labels.not_mentioned,
        id_column=labels.id_column,
        study_column=labels.study_column,
        patient_column=labels.patient_column,
        split_column=labels.split_column,
        subgroups=labels.subgroups,
    )
    examples = join(
        image_id,
        table,
        split_path=labels.split_path,
        metadata_path=labels.metadata_path,
        fractions=labels.fractions or None,
        seed=config.seed,
        split_names={name: getattr(labels, name) or SPLITS[name] for name in SPLITS},
        name_parts=labels.name_parts,
    )
    return check_classes(examples, explicit=labels.findings != ("all",))


@contextlib.contextmanager
def progress(what: str, total: int, unit: str, shown: bool) -> Iterator[Callable[..., None]]:
    """A progress bar; what it gives is called after each step, with a text to put behind."""
    from tqdm import tqdm

    quiet = 0.1 if sys.stderr.isatty() else 10
    bar = tqdm(
        total=total, desc=what, unit=unit, bar_format=BAR, mininterval=quiet, disable=not shown
    )

    def advance(postfix: str = "") -> None:
        bar.postfix = postfix
        bar.update()

    with bar:
        yield advance


def report_table(path: str | Sequence[str], table: Embeddings) -> None:
    """Says which embeddings were read."""
    encoder, places = table.encoder or {}, path if isinstance(path, str) else ", ".join(path)
    print(f"{len(table.image_id)} embeddings of {table.embedding.shape[1]:,} numbers in {places}")
    if table.encoder is None:
        print("warning: no manifest.json says which encoder made these embeddings")
    elif not encoder.get("trained"):
        print("warning: these are the embeddings of an untrained network")
    if table.complete is False:
        print("warning: the run that made them did not finish: some films are missing")
    if damaged := table.damaged:
        name, _, why = damaged[0]
        print(f"warning: {len(damaged)} left out, such as {name}: {why}")


def report_counts(counts: dict[str, Any], notes: Sequence[Note]) -> None:
    """Says how many films each split has, and what was left out."""
    from cxr_embeddings.heads.report.panels import patients

    for note in notes:
        print(f"  {note}")
    for split, one in counts.items():
        positives = ", ".join(f"{name} {n}" for name, n in one["positives"].items())
        print(f"{split:5} {one['films']:8} films; patients: {patients(one)}; with {positives}")
    if unknown := sum(one["films_of_unknown_patients"] for one in counts.values()):
        print(
            f"warning: the patients of {unknown} films are unknown: each is counted by itself, and "
            "intervals are too narrow where patients have several films"
        )
    tune = counts["tune"]
    few = [
        f"{name} ({least} {what})"
        for what in ("positives", "negatives")
        for name, least in tune[what].items()
        if tune["films"] and least < FEW
    ]
    if few:
        print(
            f"warning: tune has fewer than {FEW} films of one class for {', '.join(few)}: "
            "thresholds and temperatures come from these few films, and are uncertain"
        )


def report_results(trained: Trained, measured: dict[str, Any]) -> None:
    """Says what was chosen, and how good it is."""
    chosen = trained.candidates[trained.chosen]
    said = ", ".join(f"{name} {v:.4g}" for name, v in chosen.items() if v is not None)
    print(f"chosen of {len(trained.candidates)}: {said}")
    if trained.note:
        print(f"warning: {trained.note}")
    split, results = measured["split"], measured["results"]
    for finding, result in results["findings"].items():
        if why := result.get("temperature_kept"):
            print(f"warning: {finding}: probabilities are not scaled (temperature 1): {why}")
    if split == "tune":
        print("warning: there is no test split: these figures are of tune, and too good")
    print(f"AUROC on {split} (95 % interval)")
    mean = [("mean", results["mean"])] if len(results["findings"]) > 1 else []
    for finding, result in [*results["findings"].items(), *mean]:
        if result.get("undefined"):
            print(f"  {finding:28} -      {result['undefined']}")
        elif auroc := result["auroc"]:
            low, high = auroc["low"], auroc["high"]
            interval = "too few films" if low is None else f"{low:.3f} to {high:.3f}"
            print(f"  {finding:28} {auroc['value']:.3f}  ({interval})")
    if measured["comparison"]:
        report_comparison(split, measured["comparison"])


def report_comparison(split: str, comparison: dict[str, Any]) -> None:
    """Says how this head differs from the other."""
    test, films = comparison["test"], comparison["n"]
    print(f"AUROC on {films} films of {split} less that of {comparison['other']} ({test})")
    for finding, result in comparison["findings"].items():
        if result["undefined"]:
            print(f"  {finding:28} -      {result['undefined']}")
            continue
        both = f"{result['auroc']:.3f} - {result['other_auroc']:.3f}"
        interval = f"{result['low']:+.3f} to {result['high']:+.3f}"
        p = f"p {result['p']:.3g}, by Holm {result['p_holm']:.3g}"
        print(f"  {finding:28} {both} = {result['difference']:+.3f}  ({interval}; {p})")


def translated(argv: list[str]) -> list[str]:
    """A command line of the toolkit's train as one of ours; any other as it is.

    The toolkit writes its model into the folder `model` of its data, where nothing else is said.
    """
    split = [re.match(r"--?(\w+)(=.*)?$", argument, re.DOTALL) for argument in argv]
    if not any(found and found[1] in TOOLKIT_FLAGS for found in split):
        return argv
    ours = [
        f"--{TOOLKIT_FLAGS[found[1]]}{found[2] or ''}"
        if found and found[1] in TOOLKIT_FLAGS
        else argument
        for found, argument in zip(split, argv, strict=True)
    ]
    if not any(argument.lstrip("-").split("=")[0] == "config" for argument in ours):
        ours.insert(1, "--config=configs/head.py:toolkit")
    if not any("config.output.path" in argument for argument in ours):
        flag = "--config.embeddings.path"
        i = next((i for i, argument in enumerate(ours) if argument.split("=")[0] == flag), None)
        if i is not None and (data := "=".join([*ours[i].split("=")[1:]] or ours[i + 1 : i + 2])):
            ours.append(f"--config.output.path={os.path.join(data, 'model')}")
    return ours


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(
        train_head,
        HeadConfig,
        "configs/head.py",
        USAGE,
        "nothing was written",
        required=REQUIRED,
        short=SHORT,
        argv=translated(list(sys.argv if argv is None else argv)),
    )


if __name__ == "__main__":
    sys.exit(main())
