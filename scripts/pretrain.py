"""Labelled films in, an encoder out: `python scripts/pretrain.py --config configs/pretrain.py`."""

import contextlib
import functools
import hashlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from cxr_embeddings import cli
from cxr_embeddings.common import machine, paths
from cxr_embeddings.configs.schema import PretrainConfig
from cxr_embeddings.pretraining import (
    first_weights,
    training_films,
    training_folder,
    training_log,
    tune_look,
)

USAGE = """
python scripts/pretrain.py --config configs/pretrain.py \\
    --input /data/tfds/mimic_cxr_native/1.0.0 --labels /data/abnormal.csv \\
    --config.input.splits=/data/mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz \\
    --output /data/pretraining/run1

Trains an EfficientNet by the supervised contrastive loss, abnormal against normal. The same command
again goes on where it ended; at the end, OUTPUT/weights is a bundle for embed.py.
"""
SHORT = {
    "input": "config.input.stores",
    "labels": "config.input.labels",
    "weights": "config.network.weights",
    "output": "config.output.path",
}
REQUIRED = ("config.input.stores", "config.input.labels", "config.output.path")
STUCK = (
    "warning: all projections are one point, from which nothing is learned: begin anew with a "
    "higher training.temperature, more training.warmup_steps, or weights to start from"
)
INTERVALS = ("log", "evaluate", "checkpoint")


def pretrain(config: PretrainConfig) -> int:
    """Runs the whole job. Returns the exit code."""
    for name, value in vars(config.watch).items():
        if value < 1:
            raise ValueError(f"watch.{name} is {value}; expected 1 or more")
    if config.input.workers < 0:
        raise ValueError(f"input.workers is {config.input.workers}; expected 0 or more")
    if "://" in config.output.path:
        raise ValueError(f"output.path is {config.output.path}; expected a folder on a disk")
    return cli.on_hosts(pretrain_with, config)


def pretrain_with(hosts: Any, config: PretrainConfig) -> int:
    """The part of the job that is this host's; as `pretrain`."""
    import jax

    from cxr_embeddings.encoder import checkpoints, sharding
    from cxr_embeddings.encoder import pretrain as trainer
    from cxr_embeddings.input_pipeline.store import random_access

    say = (lambda *_, **__: None) if hosts.index else functools.partial(print, flush=True)
    folder = paths.typed_local(config.output.path, "output.path")
    mesh = sharding.make_mesh(config.network.model_parallel)
    recipe = make_recipe(config, mesh.shape["data"])
    films = training_films.read(config.input, say)
    rows, workers = films.rows("train"), config.input.workers or machine.processors()
    schedule = random_access.make_schedule(films.label[rows], recipe.batch_size, config.seed)
    made = films.stores[0].identity
    card, model, variables = first_weights.load(config.network, config.seed, made, say)
    identity = {
        **{name: str(value) for name, value in recipe._asdict().items()},
        "variant": card.variant,
        "dtype": config.network.dtype,
        "first_weights": card.digest or f"random, seed {config.seed}",
        "preset": card.preset + f", version {card.preset_version}" * (card.preset_version > 1),
        "resolution": str(card.resolution),
        "films": f"{len(rows)}, digest {digest(films, rows)}",
    }
    intervals = [(f"{n}_steps", getattr(config.watch, f"{n}_steps")) for n in INTERVALS]
    rules = sharding.FULLY_SHARDED if config.network.fully_sharded else sharding.MODEL_PARALLEL
    start = functools.partial(trainer.start, recipe, width=card.head_width)
    shapes = jax.eval_shape(start, variables)
    placed = sharding.variable_shardings(mesh, shapes, rules)
    if mesh.size > 1:
        size = sharding.bytes_per_device(shapes, placed) / 1e9
        say(f"weights and what is kept of them: {size:.2f} GB on each of {mesh.size} devices")

    with contextlib.ExitStack() as stack:
        if not training_folder.open_folder(stack, hosts, folder, config, identity):
            say(f"{folder / training_folder.WEIGHTS} is there already: this run is finished")
            return 0
        manager = stack.enter_context(checkpoints.open_checkpoints(folder / "checkpoints"))
        first = training_folder.agreed(hosts, folder, manager.latest_step() or 0)
        stack.enter_context(trainer.memory_explained())
        if first:
            state = checkpoints.restore(manager, first, shapes, placed, identity)
        else:
            state = jax.jit(start, out_shardings=placed)(variables)
        del variables
        say(f"goes on after step {first}" if first else f"{recipe.steps} steps")
        step = trainer.make_step(model, recipe, mesh, shapes, card.mean, card.std, rules)
        each = recipe.batch_size // hosts.count
        mine = slice(hosts.index * each, (hosts.index + 1) * each)

        def rows_of_step(number: int) -> Any:
            return rows[schedule(number)][mine]

        batches = random_access.batches(
            films.stores, films.places, rows_of_step, first, recipe.steps, workers
        )
        labelled = ((images, films.label[rows_of_step(number)]) for number, images in batches)
        log = stack.enter_context(training_log.open_log(folder, first, bool(hosts.index)))
        look = tune_look.make_look(
            config.watch, films, card, model, mesh, hosts, recipe.micro_batch, workers
        )
        bar = cli.progress(
            recipe.steps * recipe.batch_size, first * recipe.batch_size, bool(hosts.index)
        )
        stack.enter_context(bar)
        since, counted = None, 0
        steps = trainer.train(step, state, mesh, labelled, first)
        for number, state, metrics in steps:
            bar.update(recipe.batch_size)
            due = {name: number == recipe.steps or number % n == 0 for name, n in intervals}
            if since is None or any(due.values()):
                numbers = trainer.read(number, metrics)  # waits
            counted += 1
            if written := due["log_steps"] or due["evaluate_steps"]:
                row = {"step": number, "films": number * recipe.batch_size, **numbers}
                if since is not None:
                    seconds = time.monotonic() - since
                    row["films_per_second"] = counted * recipe.batch_size / seconds
                if due["evaluate_steps"]:
                    row |= look(state.average)
                    if not hosts.index:
                        bar.write(training_log.line(row))
                        if trainer.is_stuck(recipe, numbers["loss"]):
                            bar.write(STUCK)
                log(row)
            if due["checkpoint_steps"]:
                checkpoints.save(manager, number, state, identity)
            if since is None or written:
                since, counted = time.monotonic(), 0  # the first step was compiled
        variables = sharding.collect(mesh, state.average)
        training_folder.save(hosts, folder, variables, card, config.bundle, identity)
    say(f"in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return 0


def make_recipe(config: PretrainConfig, rows_on: int) -> Any:
    """The settings of the training as the encoder takes them, checked for `rows_on` devices."""
    from cxr_embeddings.encoder.augment import Augmentation
    from cxr_embeddings.encoder.recipe import Recipe, check

    given = vars(config.training) | {
        "micro_batch": config.training.micro_batch or config.training.batch_size,
        "augmentation": Augmentation(**vars(config.training.augmentation)),
    }
    recipe = Recipe(**given, seed=config.seed)
    check(recipe, rows_on)
    return recipe


def digest(films: Any, rows: Any) -> str:
    """Of the films to train on, with their labels."""
    text = "\n".join(f"{films.places.image_id[i]} {films.label[i]}" for i in rows)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(
        pretrain,
        PretrainConfig,
        "configs/pretrain.py",
        USAGE,
        "the same command goes on from the last checkpoint",
        required=REQUIRED,
        short=SHORT,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
