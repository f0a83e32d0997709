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
from jaxtyping import Array, Float32, Int32, Int64

from cxr_embeddings.common import machine, paths, progress
from cxr_embeddings.configs.schema_pretraining import PretrainConfig, WatchConfig
from cxr_embeddings.encoder import checkpoints, sharding, training_step
from cxr_embeddings.encoder.card import Card
from cxr_embeddings.encoder.efficientnet import EfficientNet
from cxr_embeddings.encoder.recipe import Recipe, check
from cxr_embeddings.encoder.training_step import State
from cxr_embeddings.input_pipeline.hosts import Hosts
from cxr_embeddings.input_pipeline.store import random_access
from cxr_embeddings.pretraining import (
    first_weights,
    training_films,
    training_folder,
    training_log,
    tune_look,
)

STUCK = (
    "warning: all projections are one point, from which nothing is learned: start again with a "
    "higher training.temperature, more training.warmup_steps, or weights to start from"
)


class Training(NamedTuple):
    """What a training works with, once all is known."""

    hosts: Hosts
    mesh: jax.sharding.Mesh
    recipe: Recipe
    films: training_films.TrainingFilms
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
    recipe = Recipe(**vars(config.training), seed=config.seed, findings=config.input.findings)
    recipe = dataclasses.replace(recipe, micro_batch=recipe.micro_batch or recipe.batch_size)
    check(recipe, mesh.shape["data"])
    films = training_films.read(config.input, (), say)
    label = films.label[films.rows("train")]
    schedule = random_access.make_schedule(label, recipe.batch_size, config.seed)
    network = first_weights.resolved(config.network)
    config = dataclasses.replace(config, network=network)
    made = films.stores[0].identity
    card, model, variables = first_weights.load(network, config.seed, made, say)
    workers = config.input.workers or machine.processors()
    training = Training(hosts, mesh, recipe, films, schedule, card, model, workers)
    identity = _identity(training, network.dtype or "")
    rules = sharding.FULLY_SHARDED if network.fully_sharded else sharding.MODEL_PARALLEL
    start = functools.partial(training_step.start, recipe, width=card.embeddings["head"])
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
        stack.enter_context(training_step.memory_explained())
        if first:
            state = checkpoints.restore(manager, first, shapes, placed, identity)
        else:
            state = jax.jit(start, out_shardings=placed)(variables)
        del variables
        say(f"goes on after step {first}" if first else f"{recipe.steps} steps")
        pixels = {"mean": card.mean, "std": card.std}
        step = training_step.make_step(model, recipe, mesh, shapes, **pixels, rules=rules)
        log = stack.enter_context(training_log.open_log(folder, first, bool(hosts.index)))
        steps = training_step.train(step, state, mesh, _batches(training, first), first)
        save = functools.partial(checkpoints.save, manager, identity=identity)
        state = _watched(training, config.watch, steps, (first, state), log=log, save=save)
        average = sharding.collect(mesh, state.average)
        training_folder.save(hosts, folder, average, card, config.bundle, identity)
    say(f"in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def _check(config: PretrainConfig) -> None:
    """Raises ValueError where an option is wrong by itself."""
    for name, value in dataclasses.asdict(config.watch).items():
        if value < 1:
            raise ValueError(f"watch.{name} is {value}; expected 1 or more")
    if config.input.workers < 0:
        raise ValueError(f"input.workers is {config.input.workers}; expected 0 or more")


def _identity(training: Training, dtype: str) -> dict[str, str]:
    """What makes a run this one and no other."""
    card, films, recipe = training.card, training.films, training.recipe
    rows = films.rows("train")
    text = "\n".join(f"{films.places.image_id[i]} {films.label[i].tolist()}" for i in rows)
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return {
        **{name: str(value) for name, value in vars(recipe).items()},
        "findings": ", ".join(films.findings),
        "variant": card.variant,
        "dtype": dtype,
        "first_weights": card.digest or f"random, seed {recipe.seed}",
        "preset": card.preset + f", version {card.preset_version}" * (card.preset_version > 1),
        "resolution": str(card.resolution),
        "films": f"{len(rows)}, digest {digest}",
    }


def _batches(
    training: Training, first: int
) -> Iterator[tuple[Float32[np.ndarray, "local h w 1"], Int32[np.ndarray, "local finding"]]]:
    """This host's films and labels of each step after the first `first` ones."""
    films, recipe, hosts = training.films, training.recipe, training.hosts
    rows = films.rows("train")
    each = recipe.batch_size // hosts.count
    mine = slice(hosts.index * each, (hosts.index + 1) * each)

    def rows_of_step(number: int) -> Int64[np.ndarray, " local"]:
        return rows[training.schedule(number)][mine]

    batches = random_access.batches(
        films.stores, films.places, rows_of_step, first, recipe.steps, training.workers
    )
    return ((images, films.label[rows_of_step(number)]) for number, images in batches)


def _watched(
    training: Training,
    watch: WatchConfig,
    steps: Iterator[tuple[int, State, dict[str, Array]]],
    start: tuple[int, State],
    *,
    log: Callable[[Mapping[str, float]], None],
    save: Callable[[int, State], None],
) -> State:
    """Takes all steps; writes the log and checkpoints, looks at tune, and shows the progress.

    Args:
        start: number of steps that are done already, and the state after them.
        save: takes the number of a step and its state.

    Returns:
        The state after the last step.
    """
    recipe, hidden = training.recipe, bool(training.hosts.index)
    look = tune_look.make_look(training, watch.evaluate_films)
    films = recipe.batch_size
    first, state = start
    since, counted = None, 0
    with progress.bar(recipe.steps * films, first * films, shown=not hidden) as bar:
        for number, state, metrics in steps:
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
                    row |= look(state.average)
                    if not hidden:
                        bar.write(training_log.line(row))
                        if training_step.is_stuck(recipe, numbers["loss"]):
                            bar.write(STUCK)
                log(row)
            if kept:
                save(number, state)
            if since is None or written:
                since, counted = time.monotonic(), 0  # the first step was compiled
    return state
