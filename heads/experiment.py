"""A head from first to last: trained, chosen on tune, measured on test, written as a folder."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from cxr_embeddings.common import writing
from cxr_embeddings.configs.schema import TrainingConfig

from . import data_efficiency, predictions, saved, select, sgd
from .labels.label_table import Examples
from .labels.matching import film_ids
from .labels.splits import SPLITS
from .report import figures, page
from .select import SplitFilms, Trained
from .statistics import metrics

# what is done, how many steps, their unit, whether to show it -> a bar, to call after each step
Progress = Callable[[str, int, str, bool], AbstractContextManager[Callable[..., None]]]


class Plan(NamedTuple):
    """What to do.

    Attributes:
        recipe: what is trained, and how.
        sizes: numbers of films to measure the data efficiency at, as `data_efficiency.parse_sizes`
            takes them; none: it is not measured.
        draws: of patients, for each size.
        resamples: of the bootstrap.
        seed: of the bootstrap and the draws.
        compare: predictions of another head, and its name; None: no comparison.
    """

    recipe: TrainingConfig
    sizes: Sequence[str]
    draws: int
    resamples: int
    seed: int
    compare: tuple[pd.DataFrame, str] | None


def plan(
    recipe: TrainingConfig,
    sizes: Sequence[str],
    draws: int,
    resamples: int,
    seed: int,
    compare: str,
) -> Plan:
    """Checks what can be checked before anything is read or trained.

    Args:
        compare: folder of another head; "" for none. The others: see `Plan`.

    Raises:
        FileNotFoundError: the other head has no predictions.
        ValueError: something cannot be followed.
    """
    select.check(recipe)
    for name, value, least in (("draws", draws, 1), ("resamples", resamples, 1), ("seed", seed, 0)):
        if not least <= value < 2**32:
            raise ValueError(f"{name} is {value}; expected {least} or more, below 2^32")
    other = None
    if compare:
        other = predictions.read(compare), os.path.basename(os.path.abspath(compare))
    return Plan(recipe, sizes, draws, resamples, seed, other)


class Experiment(NamedTuple):
    """What came out.

    Attributes:
        trained: the head that was chosen.
        temperatures, thresholds: of each finding, chosen on tune.
        measured: plain JSON values: the split that was measured, counts of each split, notes,
            results, data_efficiency and comparison.
        predicted: a row for each film of tune and test.
        tested: the films that were measured.
    """

    trained: Trained
    temperatures: dict[str, float]
    thresholds: dict[str, dict[str, float | None]]
    measured: dict[str, Any]
    predicted: pd.DataFrame
    tested: metrics.Scored


def films_of(examples: Examples) -> dict[str, SplitFilms]:
    """The films of each split."""
    return {
        split: SplitFilms(examples.row[at], examples.label[at], examples.mask[at])
        for split in SPLITS
        for at in [examples.split == split]
    }


def studies_from_paths(examples: Examples) -> bool:
    """Whether every study stands in the path of its films, where `predict.py` finds it."""
    films = examples.embedded
    merged = np.isin(films.study.astype(str), examples.study_id.astype(str))
    return not (examples.study_id == "").any() and bool(
        (film_ids(films.image_id[merged]).study == films.study[merged]).all()
    )


def count(examples: Examples) -> dict[str, dict[str, Any]]:
    """Films, patients, and positives and negatives by finding, of each split."""
    counts = {}
    for split, films in films_of(examples).items():
        positive = films.label > 0
        sums = {
            "positives": (positive & films.mask).sum(0).tolist(),
            "negatives": (~positive & films.mask).sum(0).tolist(),
        }
        counts[split] = {
            "films": len(films.row),
            **metrics.count_patients(examples.patient_id[examples.split == split]),
            **{k: dict(zip(examples.findings, v, strict=True)) for k, v in sums.items()},
        }
    return counts


def run(
    embedding: Float[np.ndarray, "table dim"], examples: Examples, plan: Plan, progress: Progress
) -> Experiment:
    """Does the whole: test is looked at once, after everything is chosen.

    Without films of test, tune is measured in its place.

    Raises:
        ValueError: the recipe or the sizes make no sense, tune has both classes of no finding, or
            the other head cannot be compared.
    """
    films = films_of(examples)
    tested = "test" if len(films["test"].row) else "tune"
    sizes = data_efficiency.parse_sizes(plan.sizes, len(films["train"].row))
    tune = films["tune"]
    if np.isnan(sgd.mean_auroc(tune.label, tune.label, tune.mask)):
        raise ValueError(
            "tune has both classes of no finding, so nothing can be chosen on it: give it more "
            "films, or draw the splits with labels.fractions"
        )
    recipe = plan.recipe
    with progress("training", recipe.epochs, "epochs", recipe.optimizer != "lbfgs") as advance:
        trained = select.fit(
            embedding,
            films["train"],
            tune,
            recipe,
            lambda auroc: advance(f"tune AUROC {np.fmax.reduce(auroc):.3f}"),
        )
    scored = {
        split: metrics.Scored(
            select.score(trained, embedding, films[split].row),
            films[split].label,
            films[split].mask,
            examples.patient_id[examples.split == split],
        )
        for split in dict.fromkeys(("tune", tested))
    }
    chosen = metrics.choose(examples.findings, scored["tune"])
    temperatures, thresholds = (
        {finding: one[i] for finding, one in chosen.items()} for i in range(2)
    )
    at = examples.split == tested
    measured = {
        "split": tested,
        "counts": count(examples),
        "notes": [note._asdict() for note in examples.notes],
        "results": metrics.evaluate(
            examples.findings,
            scored["tune"],
            scored[tested],
            chosen,
            {name: values[at] for name, values in examples.groups.items()},
            plan.resamples,
            plan.seed,
        ),
        "data_efficiency": None,
        "comparison": None,
    }
    if plan.compare:
        measured["comparison"] = predictions.compare(
            *plan.compare, tested, examples.image_id[at], examples.findings, scored[tested]
        )
    if sizes:
        trainings = sum(plan.draws if size < len(films["train"].row) else 1 for size in sizes)
        with progress("data efficiency", trainings, "trainings", True) as advance:
            measured["data_efficiency"] = data_efficiency.measure(
                embedding,
                films["train"],
                examples.patient_id[examples.split == "train"],
                tune,
                films[tested],
                examples.findings,
                recipe,
                sizes,
                plan.draws,
                plan.seed,
                advance,
            )
    rows = np.concatenate([np.flatnonzero(examples.split == split) for split in scored])
    predicted = predictions.table(
        {name: getattr(examples, name)[rows] for name in predictions.IDS},
        examples.findings,
        np.concatenate([one.logit for one in scored.values()]),
        temperatures,
        examples.label[rows],
        examples.mask[rows],
    )
    return Experiment(trained, temperatures, thresholds, measured, predicted, scored[tested])


def write(
    partial: pathlib.Path,
    experiment: Experiment,
    left_out: Sequence[tuple[str, str]],
    provenance: Mapping[str, Any],
) -> None:
    """Fills the folder of a head.

    Args:
        partial: an empty folder.
        experiment: what came out.
        left_out: why, and the id, of everything that was not used.
        provenance: what else the card says: plain JSON values, with the encoder's identity.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    trained, measured = experiment.trained, experiment.measured
    findings = list(measured["results"]["findings"])
    chosen = trained.candidates[trained.chosen]
    training = {"chosen": chosen, "candidates": trained.candidates, "note": trained.note}
    card = {
        "findings": findings,
        "temperatures": experiment.temperatures,
        "thresholds": experiment.thresholds,
        **training,
        **provenance,
    }
    saved.save(partial, trained, card)
    (partial / "metrics.json").write_text(json.dumps(measured, indent=2, allow_nan=False))
    table = experiment.predicted.astype(object)
    rows = table.where(table.notna(), None).itertuples(index=False)
    predicted = writing.encode_table(list(table.columns), rows)
    (partial / "predictions.csv").write_bytes(predicted)
    (partial / "left_out.csv").write_bytes(writing.encode_table(("reason", "id"), left_out))
    drawn = figures.draw(
        findings, experiment.tested, measured["results"], measured["data_efficiency"]
    )
    (partial / "figures").mkdir()
    figures.save(drawn, partial / "figures")
    kind = "Head with hidden layers" if trained.head.hidden else "Linear probe"
    page.write_report(
        partial / "report.html",
        f"{kind}: {', '.join(findings) if len(findings) < 4 else f'{len(findings)} findings'}",
        {**training, "temperatures": experiment.temperatures, **_used(provenance)},
        measured["counts"],
        [tuple(note.values()) for note in measured["notes"]],
        measured["results"],
        measured["data_efficiency"],
        measured["comparison"],
        drawn,
    )


def _used(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Without the settings that had no part in this head."""
    config = provenance["config"]
    training, unused = config["training"], []
    if training["optimizer"] == "lbfgs":
        unused += ["seeds", "batch_size", "epochs", "learning_rate", "patience", "shuffle"]
    if not training["hidden"]:
        unused += ["dropout"]
    training = {name: value for name, value in training.items() if name not in unused}
    config = {**config, "training": training, **({} if config["sizes"] else {"draws": None})}
    return {**provenance, "config": config}


@contextlib.contextmanager
def new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder under a temporary name beside `folder`, which it becomes when all went well.

    Raises:
        OSError: it cannot be made or written.
    """
    try:
        with writing.whole_folder(folder) as partial:
            yield partial
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror or error}): choose another output.path, "
            "or make room"
        ) from error
