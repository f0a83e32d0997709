"""Labels and embeddings in, a head and its statistics out: `python scripts/train_head.py ...`."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from configs.schema import HeadConfig
from scripts import cli

USAGE = """
python scripts/train_head.py --config configs/head.py \\
    --config.embeddings.path=/data/embeddings \\
    --config.labels.path=/data/mimic-cxr-2.0.0-chexpert.csv.gz \\
    --config.labels.split_path=/data/mimic-cxr-2.0.0-split.csv.gz \\
    --config.labels.findings=Cardiomegaly,Edema \\
    --config.output.path=/data/heads/heart

Trains on the train split, chooses on tune, and reports on test, with intervals: see report.html.
configs/head.py trains linear probes; configs/head.py:mlp and :toolkit heads with hidden layers.
The flags of the CXR Foundation toolkit's train work, too, and mean configs/head.py:toolkit.
"""
REQUIRED = (
    "config.embeddings.path",
    "config.labels.path",
    "config.labels.findings",
    "config.output.path",
)
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
BAR = "{desc}: {percentage:3.0f}% {bar} {n}/{total} {unit}, {remaining} left{postfix}"


def train_head(config: HeadConfig) -> int:
    """Runs the whole job. Returns the exit code."""
    if cli.unset(config, REQUIRED, USAGE):
        return 2
    labels, folder = config.labels, pathlib.Path(config.output.path).expanduser().absolute()
    for name in ("findings", "train", "tune", "test", "subgroups"):
        setattr(labels, name, cli.listed(getattr(labels, name)))
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists already: remove it, or choose another output.path")

    import numpy as np
    from scipy import special

    from heads import candidates, data_efficiency, predictions, store, train
    from heads.labels import studies
    from heads.statistics import metrics
    from input_pipeline.embedding_table import read_table

    recipe = candidates.Recipe(**dataclasses.asdict(config.training))
    candidates.check(recipe)
    table = read_table(config.embeddings.path, config.embeddings.cache, config.embeddings.dtype)
    report_table(config.embeddings.path, table)
    examples = read_examples(config, table.image_id)
    embedding, examples = studies.merge(table.embedding, examples, labels.per_study)
    at = {split: examples.split == split for split in ("train", "tune", "test")}
    films = {
        split: candidates.Films(examples.row[rows], examples.label[rows], examples.mask[rows])
        for split, rows in at.items()
    }
    counts = count(examples, at)
    report_counts(counts, examples.notes)
    if np.isnan(train.mean_auroc(films["tune"].label, films["tune"].label, films["tune"].mask)):
        raise ValueError(
            "tune has both classes of no finding, so nothing can be chosen on it: give it more "
            "films, or draw the splits with labels.fractions"
        )
    sizes = data_efficiency.parse_sizes(cli.listed(config.sizes), len(films["train"].row))
    tested = "test" if at["test"].any() else "tune"
    if tested == "tune":
        print("warning: there is no test split: all figures will be of tune, and too good")

    start = time.monotonic()
    with progress("training", recipe.epochs, "epochs", recipe.optimizer != "lbfgs") as advance:
        trained = candidates.fit(
            embedding,
            films["train"],
            films["tune"],
            recipe,
            lambda auroc: advance(f"tune AUROC {np.nanmax(auroc):.3f}"),
        )
    chosen = trained.candidates[trained.chosen]
    print(f"trained {len(trained.candidates)} candidates in {time.monotonic() - start:.1f} s")
    print("chosen:", ", ".join(f"{k} {v:.4g}" for k, v in chosen.items() if v is not None))
    if trained.note:
        print(f"warning: {trained.note}")

    scored = {
        split: metrics.Scored(
            candidates.score(trained, embedding, films[split].row),
            films[split].label,
            films[split].mask,
            examples.patient_id[at[split]],
        )
        for split in dict.fromkeys(("tune", tested))
    }
    groups = {name: values[at[tested]] for name, values in examples.groups.items()}
    results = metrics.evaluate(
        examples.findings, scored["tune"], scored[tested], groups, config.resamples, config.seed
    )
    temperatures, thresholds = operating(examples.findings, scored["tune"])
    divisor = np.array([temperatures[finding] for finding in examples.findings])
    probability = {s: special.expit(one.logit.astype(float) / divisor) for s, one in scored.items()}
    comparison = None
    if config.compare:
        comparison = predictions.compare(
            config.compare,
            examples.image_id[at[tested]],
            examples.findings,
            probability[tested],
            films[tested].label,
            films[tested].mask,
        )
    efficiency = None
    if sizes:
        trainings = sum(config.draws if size < len(films["train"].row) else 1 for size in sizes)
        with progress("data efficiency", trainings, "trainings") as advance:
            efficiency = data_efficiency.measure(
                embedding,
                films["train"],
                examples.patient_id[at["train"]],
                films["tune"],
                films[tested],
                examples.findings,
                recipe,
                sizes,
                config.draws,
                config.seed,
                advance,
            )

    card = {
        "findings": list(examples.findings),
        "temperatures": temperatures,
        "thresholds": thresholds,
        "per_study": labels.per_study,
        "encoder": table.encoder,
        "embeddings_digest": table.digest,
        "labels_digest": hashlib.sha256(pathlib.Path(labels.path).read_bytes()).hexdigest(),
        "chosen": chosen,
        "candidates": trained.candidates,
        "note": trained.note,
        "config": dataclasses.asdict(config),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    measured = {
        "split": tested,
        "counts": counts,
        "notes": [one._asdict() for one in examples.notes],
        "results": results,
        "data_efficiency": efficiency,
        "comparison": comparison,
    }
    rows = np.concatenate([np.flatnonzero(at[split]) for split in scored])
    ids = {name: getattr(examples, name)[rows] for name in predictions.IDS}
    every = np.concatenate(list(probability.values()))
    predicted = predictions.table(
        ids, examples.findings, every, examples.label[rows], examples.mask[rows]
    )
    left_out = [*examples.unmatched, *((reason, name) for name, reason in table.rejected)]
    with new_folder(folder) as partial:
        store.save(partial, trained, card)
        (partial / "metrics.json").write_text(json.dumps(measured, indent=2, allow_nan=False))
        predicted.to_csv(partial / "predictions.csv", index=False)
        write_left_out(partial / "left_out.csv", left_out)
        draw_report(partial, card, measured, probability[tested], films[tested])
    report_results(folder, tested, results)
    return 0


def read_examples(config: HeadConfig, image_id: Any) -> Any:
    """The labels, joined to the embeddings; findings of one class only are refused or left out."""
    from heads.labels.join import join
    from heads.labels.label_table import read_labels
    from heads.labels.splits import SPLITS, check_classes

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
    )
    return check_classes(examples, explicit=labels.findings != ("all",))


def operating(findings: Any, tune: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Temperature, and thresholds of the scaled probability, of every finding; chosen on tune."""
    from scipy import special

    from heads.statistics import metrics

    temperatures, thresholds = {}, {}
    for j, finding in enumerate(findings):
        known = tune.mask[:, j]
        logit, label = tune.logit[known, j].astype(float), tune.label[known, j]
        temperatures[finding] = metrics.temperature(logit, label)
        probability = special.expit(logit / temperatures[finding])
        thresholds[finding] = metrics.thresholds(probability, label)
    return temperatures, thresholds


def count(examples: Any, at: dict[str, Any]) -> dict[str, Any]:
    """Films, patients, positives and negatives of every split."""
    import numpy as np

    counts = {}
    for split, rows in at.items():
        positive, mask = examples.label[rows] > 0, examples.mask[rows]
        sums = {"positives": (positive & mask).sum(0), "negatives": (~positive & mask).sum(0)}
        counts[split] = {
            "films": int(rows.sum()),
            "patients": len(np.unique(examples.patient_id[rows])),
            **{
                what: dict(zip(examples.findings, numbers.tolist(), strict=True))
                for what, numbers in sums.items()
            },
        }
    return counts


def draw_report(
    folder: pathlib.Path, card: dict, measured: dict, probability: Any, films: Any
) -> None:
    """Writes `report.html` and the folder `figures`."""
    from heads.report import figures, page

    findings, results = card["findings"], measured["results"]
    efficiency = measured["data_efficiency"]
    drawn = figures.draw(findings, probability, films.label, films.mask, results, efficiency)
    (folder / "figures").mkdir()
    figures.save(drawn, folder / "figures")
    page.write_report(
        folder / "report.html",
        f"{'Linear probe' if not card['config']['training']['hidden'] else 'Head'} of "
        f"{len(findings)} finding{'s' if len(findings) > 1 else ''}",
        {k: v for k, v in card.items() if k not in ("findings", "thresholds")},
        measured["counts"],
        [tuple(note.values()) for note in measured["notes"]],
        results,
        efficiency,
        measured["comparison"],
        drawn,
    )


@contextlib.contextmanager
def new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder under a temporary name beside `folder`, which it becomes when all went well."""
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_left_out(path: pathlib.Path, left_out: list[tuple[str, str]]) -> None:
    """Every film and label row that was not used, and why."""
    import csv

    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerows([("reason", "id"), *left_out])


@contextlib.contextmanager
def progress(what: str, total: int, unit: str, shown: bool = True) -> Iterator[Callable[..., None]]:
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


def report_table(path: str, table: Any) -> None:
    """Says which embeddings were read."""
    encoder = table.encoder or {}
    print(f"{len(table.image_id)} embeddings of {table.embedding.shape[1]:,} numbers in {path}")
    if table.encoder is None:
        print("warning: no manifest.json says which encoder made these embeddings")
    elif not encoder.get("trained"):
        print("warning: these are the embeddings of an untrained network")
    if table.complete is False:
        print("warning: the run that made them did not finish: some films are missing")
    if table.rejected:
        name, reason = table.rejected[0]
        print(f"warning: {len(table.rejected)} left out, such as {name}: {reason}")


def report_counts(counts: dict[str, Any], notes: Any) -> None:
    """Says how many films each split has, and what was left out."""
    for what, number, examples in notes:
        print(f"  {number:8} {what}{': ' + ', '.join(examples[:2]) if examples else ''}")
    for split, one in counts.items():
        positives = ", ".join(f"{name} {n}" for name, n in one["positives"].items())
        print(f"{split:5} {one['films']:8} films of {one['patients']} patients; with {positives}")


def report_results(folder: pathlib.Path, split: str, results: dict[str, Any]) -> None:
    """Says how good the head is, and where things lie."""
    print(f"AUROC on {split} (95 % interval)")
    for finding, result in [*results["findings"].items(), ("mean", results["mean"])]:
        if result.get("undefined"):
            print(f"  {finding:28} -      {result['undefined']}")
        elif auroc := result["auroc"]:
            low, high = (
                auroc[k] if auroc[k] is not None else float("nan") for k in ("low", "high")
            )
            print(f"  {finding:28} {auroc['value']:.3f}  ({low:.3f} to {high:.3f})")
    print(
        f"in {folder}: report.html, metrics.json, predictions.csv, left_out.csv, figures, card.json"
    )


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


def main() -> None:
    sys.argv = translated(sys.argv)
    cli.run(train_head, HeadConfig, "configs/head.py", USAGE)


if __name__ == "__main__":
    main()
