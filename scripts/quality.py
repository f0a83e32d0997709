"""Measures embeddings of trained weights beside others of the same films: docs/quality.md.

python scripts/quality.py --splits weights/splits \\
    --labels kermany=/data/kermany/labels.csv,nih=/data/nih/labels.csv \\
    --stores kermany=/data/stores/kermany-224,nih=/data/stores/nih-224 \\
    --embeddings supcon=/data/embeddings/supcon,cross_entropy=/data/embeddings/cross_entropy,\\
random=/data/embeddings/random \\
    --weights supcon=/data/supcon/weights,cross_entropy=/data/cross_entropy/weights --output docs

The heads are linear probes as train_head.py trains them. Every AUROC is of the test part, every
choice is made on tune. Writes quality.md, quality_auroc.png, quality_labels.png and quality.json,
the numbers of the tables.
"""

import concurrent.futures
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs import machine, paths
from scripts import cli, quality_films
from scripts.quality_films import DATASETS, ENCODERS, PIXELS, Task

FLAGS = {
    "labels": "kermany=CSV,nih=CSV: the tables of labels of the two data sets",
    "splits": "folder of kermany.csv and nih.csv: which films are train, tune and test",
    "stores": "kermany=FOLDER,nih=FOLDER: the films, from preprocess.py; for PCA of pixels",
    "embeddings": "supcon=FOLDER,cross_entropy=FOLDER,random=FOLDER: in each the folders kermany "
    "and nih, from embed.py",
    "weights": "supcon=BUNDLE,cross_entropy=BUNDLE: the weights of these two, from pretrain.py",
    "output": "folder of quality.md and its pictures",
}
SIZES, DRAWS, FEWEST_DRAWS, DRAWN_FILMS = ("8", "...", "all"), 20, 10, 10_240
RESAMPLES, SEED = 1000, 0


def quality(
    labels: str | None,
    splits: str | None,
    stores: str | None,
    embeddings: str | None,
    weights: str | None,
    output: str | None,
) -> None:
    """Does the whole; the arguments are `FLAGS`."""
    if not (labels and splits and stores and embeddings and weights and output):
        raise ValueError(f"expected --{', --'.join(FLAGS)}\n\n" + (__doc__ or ""))
    start = time.monotonic()
    tables = named(labels, "labels", DATASETS)
    films = named(stores, "stores", DATASETS)
    folders = named(embeddings, "embeddings", ENCODERS)
    bundles = named(weights, "weights", ENCODERS[:2])
    place = paths.typed_local(output, "--output")
    place.mkdir(parents=True, exist_ok=True)
    if not os.access(place, os.W_OK):
        raise PermissionError(f"{place} cannot be written; choose another --output")

    # Heads are small: several at a time keep the processors busier than several threads a head.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    import jax

    from configs.schema import TrainingConfig
    from heads import train
    from scripts import quality_page

    jax.config.update("jax_platforms", "cpu")  # as train_head.py
    recipe = train.Recipe(**dataclasses.asdict(TrainingConfig()))
    image_id, vectors, encoders = quality_films.read_embeddings(folders)
    trainings = quality_films.read_trainings(bundles, encoders)
    examples = quality_films.read_examples(image_id, tables, paths.typed(splits))
    print("PCA of the pixels", flush=True)
    vectors[PIXELS] = quality_films.pca(films, image_id, examples)
    tasks, unseen = quality_films.make_tasks(examples)
    found = {"encoders": encoders, "trainings": trainings, "recipe": recipe}
    found |= {"tasks": {**tasks, **unseen}}
    found |= measure_all(tasks, vectors, recipe)
    plans = plan_draws({**tasks, **unseen})
    curves = measure_curves({**tasks, **unseen}, vectors, recipe, plans)
    found |= {"draws": plans, "curves": curves}
    quality_page.write(place, found)
    print(f"{place}/quality.md, after {time.monotonic() - start:.0f} s")


def named(text: str, flag: str, names: Sequence[str]) -> dict[str, str]:
    """`kermany=A,nih=B` as a dict. Raises ValueError where the names are others."""
    pairs = [part.partition("=") for part in text.split(",")]
    pairs = [(name, equals, value.strip()) for name, equals, value in pairs]
    found = {name.strip(): value and paths.typed(value) for name, _, value in pairs}
    if {*found} != {*names} or not all(found.values()):
        raise ValueError(f"--{flag} is {text!r}; expected {','.join(f'{n}=...' for n in names)}")
    return {name: found[name] for name in names}


def measure_all(tasks: Mapping[str, Task], vectors: Mapping[str, Any], recipe: Any) -> dict:
    """Heads of all films of train, on test and on the other data set's test.

    Returns:
        auroc: task -> representation -> what `metrics.evaluate` gives; paired: task -> other
        representation -> the test of contrastive less it. "pneumonia to abnormal" is a task, too.
        notes: of the trainings, without what stands behind a colon -> representation -> heads.
    """
    from heads import candidates
    from heads.statistics import metrics

    across = {"pneumonia": "abnormal", "abnormal": "pneumonia"}
    auroc: dict[str, dict] = {}
    scored: dict[str, dict] = {}
    notes: dict[str, Counter[str]] = {}
    for representation, of_set in vectors.items():
        for name, here in tasks.items():
            embedding = of_set[here.dataset]
            head = candidates.fit(embedding, here.films["train"], here.films["tune"], recipe)
            for note in filter(None, head.note.split("; ")):
                notes.setdefault(note.partition(":")[0], Counter())[representation] += 1
            tune = score(head, embedding, here, "tune")
            chosen = metrics.choose(here.findings, tune)
            for target in [name, across.get(name)]:
                if target:
                    there = tasks[target]
                    key = name if target == name else f"{name} to {target}"
                    test = score(head, of_set[there.dataset], there, "test")
                    scored.setdefault(key, {})[representation] = test
                    auroc.setdefault(key, {})[representation] = metrics.evaluate(
                        here.findings, tune, test, chosen, {}, RESAMPLES, SEED
                    )
            print(f"{representation}: {name}", flush=True)
    paired = {
        key: compare(auroc[key]["supcon"]["findings"], tests) for key, tests in scored.items()
    }
    return {"auroc": auroc, "paired": paired, "notes": notes}


def score(head: Any, embedding: np.ndarray, task: Task, split: str) -> Any:
    from heads import candidates
    from heads.statistics import metrics

    films = task.films[split]
    logit = candidates.score(head, embedding, films.row).astype(np.float64)
    return metrics.Scored(logit, films.label, films.mask, task.patient_id[split])


def compare(findings: Mapping[str, Any], tests: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Contrastive less each other representation: DeLong's test, by patient."""
    from heads.statistics import bootstrap, discrimination

    ours, found = tests["supcon"], {}
    patients = bootstrap.patients(ours.patient_id)
    for name, other in tests.items():
        if name != "supcon":
            films = ours.label, ours.mask, other.logit, ours.logit
            found[name] = discrimination.compare([*findings], *films, patients)
    return found


def plan_draws(tasks: Mapping[str, Task]) -> dict[str, dict[int, int]]:
    """task -> number of labels -> draws: fewer where heads take longer and draws differ less."""
    from heads import data_efficiency

    plans = {}
    for name, task in tasks.items():
        films = len(task.films["train"].row)
        sizes = data_efficiency.parse_sizes(SIZES, films)
        plans[name] = {n: min(DRAWS, max(FEWEST_DRAWS, DRAWN_FILMS // n)) for n in sizes}
        plans[name][films] = 1
    return plans


def measure_curves(
    tasks: Mapping[str, Task],
    vectors: Mapping[str, Any],
    recipe: Any,
    plans: Mapping[str, Mapping[int, int]],
) -> dict:
    """task -> representation -> number of labels -> mean AUROC of each finding."""
    from heads import learning_curves
    from heads.statistics import bootstrap

    jobs = [(name, representation) for representation in vectors for name in tasks]
    total = len(vectors) * sum(sum(plan.values()) for plan in plans.values())
    with cli.progress(total, what="trainings") as bar:

        def curve(job: tuple[str, str]) -> Any:
            name, representation = job
            task = tasks[name]
            return learning_curves.measure(
                vectors[representation][task.dataset],
                task.films["train"],
                task.patient_id["train"],
                task.films["tune"],
                task.films["test"],
                recipe,
                plans[name],
                bootstrap.draw(task.patient_id["test"], RESAMPLES, SEED),
                SEED,
                bar.update,
            )

        with concurrent.futures.ThreadPoolExecutor(machine.processors()) as threads:
            found = dict(zip(jobs, threads.map(curve, jobs), strict=True))
    return {name: {one: found[name, one] for one in vectors} for name in tasks}


def main() -> None:
    cli.run_flags(quality, "nothing was written", FLAGS)


if __name__ == "__main__":
    main()
