"""A head from first to last: trained, chosen on tune, measured on test, written as a folder."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from cxr_embeddings.common import progress, writing
from cxr_embeddings.configs.schema import HeadConfig

from . import (
    ablation,
    changes,
    data_efficiency,
    distance,
    inputs,
    predictions,
    saved,
    select,
    sgd,
)
from .labels.label_table import Examples
from .labels.matching import film_ids
from .labels.splits import SPLITS
from .report import course, figures, page
from .select import SplitFilms, Trained
from .statistics import metrics
from .statistics.results import DataEfficiency, Measurements, SplitCounts

TRAINING_FILMS = "training_films.csv"  # by which evaluate.py tells films that a head knows
UNUSED_BY_LBFGS = ("seeds", "batch_size", "epochs", "learning_rate", "patience", "shuffle")


class Fitted(NamedTuple):
    """A head, and what was chosen for it."""

    trained: Trained
    spread: distance.Spread  # of the films of train
    chosen: Mapping[str, metrics.Chosen]  # temperature and thresholds of each finding, on tune


class Experiment(NamedTuple):
    """What came out."""

    head: Fitted
    distances: dict[str, np.ndarray]  # of the films of each split that has any
    measured: Measurements  # what metrics.json holds
    predicted: pd.DataFrame  # a row for each film of tune, or of the local part, and of test
    films: pd.DataFrame  # ids and splits of all films
    tested: metrics.Scored  # the films that were measured
    left_out: Sequence[tuple[str, str]]  # why, and the id, of everything that was not used
    course: pd.DataFrame | None  # of `report.course.longest`, where times are known


def check(config: HeadConfig) -> predictions.Other | None:
    """Checks what can be checked before anything is trained. Returns the head to compare with.

    Raises:
        FileNotFoundError: the other head has no predictions.
        ValueError: a setting cannot be followed.
    """
    select.check(config.training)
    for name, least in (("draws", 1), ("resamples", 1), ("seed", 0)):
        if not least <= (value := getattr(config, name)) < 2**32:
            raise ValueError(f"{name} is {value}; expected {least} or more, below 2^32")
    return predictions.read(config.compare) if config.compare else None


def films_of(examples: Examples) -> dict[str, SplitFilms]:
    """The films of each split."""
    return {
        split: SplitFilms(examples.row[at], examples.label[at], examples.mask[at])
        for split in (SPLITS if "train" in examples.split else ("local", "test"))
        for at in [examples.split == split]
    }


def studies_from_paths(examples: Examples) -> bool:
    """Whether every study stands in the path of its films, where `predict.py` finds it."""
    films = examples.embedded
    merged = np.isin(films.study.astype(str), examples.study_id.astype(str))
    return not (examples.study_id == "").any() and bool(
        (film_ids(films.image_id[merged]).study == films.study[merged]).all()
    )


def count(examples: Examples) -> dict[str, SplitCounts]:
    """Films, patients, and positives and negatives by finding, of each split."""
    counts: dict[str, SplitCounts] = {}
    for split, films in films_of(examples).items():
        sums = (one.tolist() for one in films.counts())
        positives, negatives = (dict(zip(examples.findings, one, strict=True)) for one in sums)
        counts[split] = {
            "films": len(films.row),
            **metrics.count_patients(examples.patient_id[examples.split == split]),
            "positives": positives,
            "negatives": negatives,
        }
    return counts


def run(
    matrix: Float[np.ndarray, "table wide"],
    examples: Examples,
    config: HeadConfig,
    other: predictions.Other | None,
    shown: bool,
    beside: inputs.Inputs | None = None,
) -> Experiment:
    """Does the whole: test is looked at once, after everything is chosen.

    Without films of test, tune is measured in its place. The examples, films or studies, are rows
    of `matrix`: the embeddings, and at their right what `beside` says. `other` is of `check`.

    Raises:
        ValueError: the sizes make no sense, no finding has both classes in tune, or the other head
            cannot be compared.
    """
    films, recipe = films_of(examples), config.training
    tested: Literal["tune", "test"] = "test" if len(films["test"].row) else "tune"
    sizes = data_efficiency.parse_sizes(config.sizes, len(films["train"].row))
    tune, width = films["tune"], inputs.film_width(beside, matrix.shape[1])
    gain = inputs.gain(beside, width)
    if np.isnan(sgd.mean_auroc(tune.label, tune.label, tune.mask)):
        raise ValueError(
            "no finding has both classes in tune, so nothing can be chosen on it: give it more "
            "films, or draw the splits with labels.fractions"
        )
    slow = shown and recipe.optimizer != "lbfgs"
    with progress.bar(recipe.epochs, what="epochs", shown=slow) as bar:

        def after_epoch(auroc: np.ndarray) -> None:
            bar.set_postfix_str(f"tune AUROC {np.fmax.reduce(auroc):.3f}", refresh=False)
            bar.update()

        trained = select.fit(matrix, films["train"], tune, recipe, after_epoch, gain)
    scored: dict[str, metrics.Scored] = {
        split: score(trained, matrix, examples, split) for split in dict.fromkeys(("tune", tested))
    }
    chosen = metrics.choose(examples.findings, scored["tune"])
    spread = distance.fit(matrix[:, :width], films["train"].row, tune.row, config.seed)
    head = Fitted(trained, spread, chosen)
    experiment = measure(
        matrix, examples, head, scored, tested, scored["tune"], config.resamples, config.seed
    )
    splits, measured = (films["train"], tune, films[tested]), experiment.measured
    parts = inputs.parts(beside, width)
    found = {
        name: ablation.measure(
            name,
            matrix[:, columns],
            splits,
            scored[tested],
            examples.findings,
            recipe,
            gain[columns],
        )
        for name, columns in parts.items()
    }
    if found:
        measured["parts"] = found
    if other:
        at = examples.split == tested
        measured["comparison"] = predictions.compare(
            other, tested, examples.image_id[at], examples.findings, scored[tested]
        )
    if sizes:
        trainings = sum(config.draws if size < len(films["train"].row) else 1 for size in sizes)
        with progress.bar(trainings * (1 + len(parts)), what="trainings", shown=shown) as bar:

            def efficiency(columns: slice) -> DataEfficiency:
                return data_efficiency.measure(
                    matrix[:, columns],
                    splits,
                    examples.patient_id[examples.split == "train"],
                    recipe,
                    sizes,
                    findings=examples.findings,
                    draws=config.draws,
                    seed=config.seed,
                    gain=gain[columns],
                    after_draw=bar.update,
                )

            measured["data_efficiency"] = efficiency(slice(None))
            for name, columns in parts.items():
                found[name]["data_efficiency"] = efficiency(columns)
    return experiment


def score(
    trained: Trained, matrix: Float[np.ndarray, "table wide"], examples: Examples, split: str
) -> metrics.Scored:
    """The films of a split with their logits."""
    at = examples.split == split
    logit = select.score(trained, matrix, examples.row[at])
    return metrics.Scored(logit, examples.label[at], examples.mask[at], examples.patient_id[at])


def measure(
    matrix: Float[np.ndarray, "table wide"],
    examples: Examples,
    head: Fitted,
    scored: Mapping[str, metrics.Scored],
    tested: Literal["tune", "test"],
    tune: metrics.Scored | None,
    resamples: int,
    seed: int,
) -> Experiment:
    """Measures a head on the films of the split `tested`; `scored` are those of predictions.csv.

    `tune` are the films that it was chosen on, if known. Films of a split "local" recalibrate it.
    """
    films, at = films_of(examples), examples.split == tested
    distances = {
        split: distance.measure(head.spread, matrix[:, : len(head.spread.centre)], one.row)
        for split, one in films.items()
        if len(one.row)
    }
    measured: Measurements = {
        "split": tested,
        "counts": count(examples),
        "definitions": examples.definitions,
        "notes": examples.notes,
        "results": metrics.evaluate(
            examples.findings,
            tune,
            scored[tested],
            head.chosen,
            {name: values[at] for name, values in examples.groups.items()},
            local=scored.get("local"),
            resamples=resamples,
            seed=seed,
        ),
        "out_of_distribution": {
            split: {"films": len(far), "flagged": int(distance.is_far(far).sum())}
            for split, far in distances.items()
        },
        "data_efficiency": None,
        "comparison": None,
    }
    if of_changes := changes.measure(
        examples.findings, scored[tested], head.chosen, resamples=resamples, seed=seed
    ):
        measured["changes"] = of_changes
    rows = np.concatenate([np.flatnonzero(examples.split == split) for split in scored])
    predicted = predictions.table(
        {name: getattr(examples, name)[rows] for name in predictions.IDS}
        | distance.columns(np.concatenate([distances[split] for split in scored])),
        examples.findings,
        np.concatenate([one.logit for one in scored.values()]),
        {finding: one.temperature for finding, one in head.chosen.items()},
        examples.label[rows],
        examples.mask[rows],
    )
    ids = pd.DataFrame({name: getattr(examples, name) for name in predictions.IDS})
    timed = None
    if examples.taken is not None:
        shown = (predicted["split"] == tested).to_numpy()
        timed = course.longest(predicted[shown], examples.taken[rows][shown])
    return Experiment(
        head, distances, measured, predicted, ids, scored[tested], examples.unmatched, timed
    )


def write(partial: pathlib.Path, experiment: Experiment, card: saved.WholeCard) -> None:
    """Fills the empty folder of a head.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    head = saved.Saved(experiment.head.trained, experiment.head.spread, card)
    saved.save(partial, head, None)
    known = experiment.films[experiment.films["split"] != "test"]
    (partial / TRAINING_FILMS).write_bytes(predictions.encode(known))
    kind = "Head with hidden layers" if card["hidden"] else "Linear probe"
    write_results(partial, experiment, kind, _shown(card))


def write_results(
    partial: pathlib.Path,
    experiment: Experiment,
    what: str,
    provenance: Mapping[str, object],
    warnings: Sequence[str] = (),
) -> None:
    """Fills a folder with predictions, figures and the report: `what` begins its title."""
    findings, measured = [*experiment.head.chosen], experiment.measured
    saved.write_metrics(partial, measured)
    (partial / "predictions.csv").write_bytes(predictions.encode(experiment.predicted))
    left_out = writing.encode_table(("reason", "id"), experiment.left_out)
    (partial / "left_out.csv").write_bytes(left_out)
    drawn = figures.draw(
        findings,
        experiment.tested,
        measured["results"],
        measured["data_efficiency"],
        experiment.distances,
        measured.get("parts", {}),
    )
    if experiment.course is not None:
        drawn["course"] = figures.course(findings, experiment.course, measured["results"])
    svgs = figures.save(drawn, partial / "figures")
    page.write_report(
        partial / "report.html",
        f"{what}: {', '.join(findings) if len(findings) < 4 else f'{len(findings)} findings'}",
        provenance,
        measured,
        svgs,
        warnings,
    )


def _shown(card: saved.WholeCard) -> dict[str, object]:
    """The card as the page has it, without the settings that had no part in this head."""
    first = ("chosen", "candidates", "note", "temperatures")
    elsewhere = ("card_version", "hidden", "width", "findings", "thresholds")
    whole: dict[str, object] = {**card}
    config = dict(card["config"])
    unused = UNUSED_BY_LBFGS if config["training"]["optimizer"] == "lbfgs" else ()
    unused += ("dropout",) if not config["training"]["hidden"] else ()
    config["training"] = {k: v for k, v in config["training"].items() if k not in unused}
    if not config["sizes"]:
        config["draws"] = None
    shown = {name: whole[name] for name in first} | whole | {"config": config}
    return {name: value for name, value in shown.items() if name not in elsewhere}
