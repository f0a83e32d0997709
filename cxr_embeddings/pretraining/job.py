"""Labelled films to an encoder: the job of `scripts/pretrain.py`."""

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Int32, Int64, PyTree

from cxr_embeddings.common import machine, paths, progress
from cxr_embeddings.configs.schema_pretraining import PretrainConfig, WatchConfig
from cxr_embeddings.encoder import checkpoints, sharding, training_step
from cxr_embeddings.encoder.card import Card
from cxr_embeddings.encoder.efficientnet import EfficientNet
from cxr_embeddings.encoder.recipe import Recipe, check
from cxr_embeddings.encoder.training_step import State, Step
from cxr_embeddings.encoder.weights import Variables
from cxr_embeddings.input_pipeline.hosts import Hosts, together
from cxr_embeddings.input_pipeline.store import random_access
from cxr_embeddings.pretraining import (
    best_look,
    first_weights,
    training_films,
    training_folder,
    training_log,
    tune_look,
)
from cxr_embeddings.pretraining.best_look import Best

# Where nothing is given: with a bundle of first weights, and with random ones
DEFAULTS = {"first_stage": (5, 0), "first_share": (0.5, 0.0), "learning_rate": (3e-4, 1e-3)}
CALIBRATED = 64  # films, for the statistics of new channels


class Kept(NamedTuple):
    """What a checkpoint holds."""

    state: State
    best: Best


class Training(NamedTuple):
    """What a training works with, once all is known."""

    hosts: Hosts
    mesh: jax.sharding.Mesh
    recipe: Recipe
    films: training_films.TrainingFilms
    label: Int32[np.ndarray, "film column"]  # what the loss compares
    schedule: Callable[[int], Int64[np.ndarray, " batch"]]  # of a step, rows of the train split
    card: Card  # of what it starts from
    model: EfficientNet
    workers: int  # threads that read films


def pretrain(config: PretrainConfig, hosts: Hosts) -> None:
    """Trains an encoder, or goes on where it ended, and writes its bundle; all hosts call it.

    Raises:
        ValueError: an option is wrong, or films, labels, weights and the folder do not fit.
        OSError: a file cannot be read or written.
    """
    _check(config)
    say = (lambda *_: None) if hosts.index else functools.partial(print, flush=True)
    folder = paths.typed_local(config.output.path, "output.path")
    mesh = sharding.make_mesh(config.network.model_parallel)
    recipe = _recipe(config)
    check(recipe, mesh.shape["data"])
    films = training_films.read(config.input, config.watch.questions, say)
    label = films.label if config.input.across_stores else films.by_store()
    recipe = dataclasses.replace(recipe, columns=label.shape[1])
    schedule = random_access.make_schedule(label[films.epoch()], recipe.batch_size, config.seed)
    network = first_weights.resolved(config.network)
    config = dataclasses.replace(config, network=network)
    made = films.stores[0].identity
    card, model, variables, random = first_weights.load(network, config.seed, made, say)
    workers = config.input.workers or machine.processors()
    training = Training(hosts, mesh, recipe, films, label, schedule, card, model, workers)
    identity = _identity(training, config)
    rules = sharding.FULLY_SHARDED if network.fully_sharded else sharding.MODEL_PARALLEL

    def start(variables: Variables) -> Kept:
        state = training_step.start(recipe, variables, card.embeddings["head"])
        return Kept(state, best_look.begin(variables))

    shapes = jax.eval_shape(start, variables)
    placed = sharding.variable_shardings(mesh, shapes, rules)
    if mesh.size > 1:
        size = sharding.bytes_per_device(shapes, placed) / 1e9
        say(f"weights and what is kept of them: {size:.2f} GB on each of {mesh.size} devices")

    with contextlib.ExitStack() as stack:
        if not training_folder.open_folder(stack, hosts, folder, config, identity):
            say(f"{folder / training_folder.WEIGHTS} is there already: this run is finished")
            return
        manager = stack.enter_context(checkpoints.open_checkpoints(folder / "checkpoints"))
        first = training_folder.agreed(hosts, folder, manager.latest_step() or 0)
        together(hosts, functools.partial(checkpoints.check_space, manager, shapes))
        stack.enter_context(training_step.memory_explained())
        if recipe.first_stage and "head_conv" in random:
            variables = _calibrated(training, variables, random["head_conv"])
        result = training_step.make_result(recipe, variables, placed.state.average)
        if first:
            kept = checkpoints.restore(manager, first, shapes, placed, identity)
        else:
            kept = jax.jit(start, out_shardings=placed)(variables)
        del variables
        say(f"goes on after step {first}" if first else f"{recipe.steps} steps")
        pixels = {"mean": card.mean, "std": card.std}
        step = training_step.make_step(model, recipe, mesh, shapes.state, **pixels, rules=rules)
        log = stack.enter_context(
            training_log.open_log(folder, first, films.questions, bool(hosts.index))
        )
        save = functools.partial(checkpoints.save, manager, identity=identity)
        update = best_look.make_update(hosts, placed.best)
        best = _watched(
            training,
            config.watch,
            step,
            (first, kept),
            log=log,
            save=save,
            update=update,
            result=result,
        )
        number, score = int(best.step), float(best.score)
        if score != best_look.NO_SCORE:
            none = "; none was better than the first weights" if not number else ""
            say(f"the weights are those of step {number}, whose score was best: {score:.4f}{none}")
            found = {"best_step": str(number), "score": f"{score:.4f}"}
            card = dataclasses.replace(card, settings=found)
        card = dataclasses.replace(card, trained=card.trained or number > 0)
        average = sharding.collect(mesh, best.average)
        training_folder.save(hosts, folder, average, card, config.bundle, identity)
    say(f"in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def _check(config: PretrainConfig) -> None:
    """Raises ValueError where an option is wrong by itself."""
    for name, value in dataclasses.asdict(config.watch).items():
        if name != "questions" and value < 1:
            raise ValueError(f"watch.{name} is {value}; expected 1 or more")
    if config.input.workers < 0:
        raise ValueError(f"input.workers is {config.input.workers}; expected 0 or more")


def _recipe(config: PretrainConfig) -> Recipe:
    """The recipe, with what follows from other settings where nothing is given."""
    given = config.training
    settings = {**vars(given), "micro_batch": given.micro_batch or given.batch_size}
    for name, values in DEFAULTS.items():
        if settings[name] is None:
            settings[name] = values[config.network.weights == "random"]
    return Recipe(**settings, seed=config.seed)


def _calibrated(training: Training, variables: Variables, first: int) -> Variables:
    """With statistics of films of train for the random channels of the head, from `first` on."""
    embed = tune_look.make_embed(training, "feature_map")
    maps = embed(variables, tune_look.sample(training.films.rows("train"), CALIBRATED))
    return first_weights.calibrated(
        variables, first, maps.reshape(-1, training.card.embeddings["feature_map"])
    )


def _identity(training: Training, config: PretrainConfig) -> dict[str, str]:
    """What makes a run this one and no other."""
    card, films, recipe = training.card, training.films, training.recipe
    watch = config.watch
    rows, tune = films.epoch(), films.rows("tune")  # which chooses the weights that are kept
    text = "\n".join(
        [f"{films.places.image_id[i]} {films.label[i].tolist()}" for i in rows]
        + [f"tune {films.places.image_id[i]} {films.answers[i].tolist()}" for i in tune]
    )
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return {
        **{name: str(value) for name, value in vars(recipe).items()},
        "findings": ", ".join(films.findings),
        "repeat": ", ".join(map(str, films.repeat)),
        "variant": card.variant,
        "dtype": str(config.network.dtype),
        "first_weights": card.digest or f"random, seed {recipe.seed}",
        "preset": card.preset + f", version {card.preset_version}" * (card.preset_version > 1),
        "resolution": str(card.resolution),
        "films": f"{len(rows)}, digest {digest}",
        "questions": ", ".join(films.questions),
        "evaluated": f"every {watch.evaluate_steps} steps, {watch.evaluate_films} films",
    }


def _batches(
    training: Training, first: int
) -> Iterator[tuple[Float32[np.ndarray, "local h w 1"], Int32[np.ndarray, "local finding"]]]:
    """This host's films and labels of each step after the first `first` ones."""
    films, recipe, hosts = training.films, training.recipe, training.hosts
    rows = films.epoch()
    each = recipe.batch_size // hosts.count
    mine = slice(hosts.index * each, (hosts.index + 1) * each)

    def rows_of_step(number: int) -> Int64[np.ndarray, " local"]:
        return rows[training.schedule(number)][mine]

    batches = random_access.batches(
        films.stores, films.places, rows_of_step, first, recipe.steps, training.workers
    )
    return ((images, training.label[rows_of_step(number)]) for number, images in batches)


def _watched(
    training: Training,
    watch: WatchConfig,
    step: Step,
    start: tuple[int, Kept],
    *,
    log: Callable[[Mapping[str, float]], None],
    save: Callable[[int, Kept], None],
    update: Callable[[Best, int, Mapping[str, float], PyTree], Best],
    result: Callable[[PyTree], PyTree],
) -> Best:
    """Takes all steps; writes the log and checkpoints, looks at tune, and shows the progress.

    Args:
        start: number of steps that are done already, and what is kept after them.
        save: takes the number of a step and what is kept.
        update: of `best_look.make_update`.
        result: of `training_step.make_result`.

    Returns:
        The best look.
    """
    recipe, hidden = training.recipe, bool(training.hosts.index)
    look = tune_look.make_look(training, watch.evaluate_films)
    looked_at = min(watch.evaluate_films, len(training.films.rows("tune")))
    films = recipe.batch_size
    first, (begun, best) = start
    since, counted = None, 0

    def say(text: str) -> None:
        if text and not hidden:
            bar.write(text)

    def looked(row: dict[str, float], average: PyTree) -> Best:
        """Adds the numbers of a look to the row."""
        average = result(average)
        row |= look(average)
        bar.unpause()  # the time left is that of the steps
        say(training_log.line(row))
        found = update(best, int(row["step"]), row, average)
        if row["step"] and "effective_rank" in row:
            rank = row["effective_rank"]
            say(tune_look.collapsed(rank, float(found.first_rank), looked_at))
        return found

    with progress.bar(recipe.steps * films, first * films, shown=not hidden) as bar:
        if not first:
            row: dict[str, float] = {"step": 0, "films": 0}
            best = looked(row, begun.average)
            log(row)
        batches = _batches(training, first)
        for number, state, metrics in training_step.train(
            step, begun, training.mesh, batches, first
        ):
            bar.update(films)
            last = number == recipe.steps
            evaluated = last or number % watch.evaluate_steps == 0
            written = evaluated or number % watch.log_steps == 0
            kept = last or number % watch.checkpoint_steps == 0
            if since is None or written or kept:
                numbers = training_step.read(number, metrics)  # waits
            counted += 1
            if written:
                row = {"step": number, "films": number * films, **numbers}
                if since is not None:
                    row["films_per_second"] = counted * films / (time.monotonic() - since)
                if evaluated:
                    best = looked(row, state.average)
                log(row)
            if kept:
                save(number, Kept(state, best))
            if since is None or written:
                since, counted = time.monotonic(), 0  # the first step was compiled
    return best
