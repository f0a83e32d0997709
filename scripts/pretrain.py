"""Labelled films in, an encoder out: `python scripts/pretrain.py --config configs/pretrain.py`."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import time
from typing import Any

from configs.schema import PretrainConfig
from scripts import cli, first_weights, training_films, training_log, tune_look

USAGE = """
python scripts/pretrain.py --config configs/pretrain.py \\
    --config.input.stores=/data/tfds/mimic_cxr/1.0.0 \\
    --config.input.labels=/data/abnormal.csv \\
    --config.input.splits=/data/mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz \\
    --config.output.path=/data/pretraining/run1

Trains an EfficientNet by the supervised contrastive loss, abnormal against normal. The same command
again goes on where it ended; at the end, OUTPUT/weights is a bundle for embed.py.
"""
REQUIRED = ("config.input.stores", "config.input.labels", "config.output.path")
LIBRARIES = ("cxr-embeddings", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
INTERVALS = ("log", "evaluate", "checkpoint")
RUN, WEIGHTS = "run.json", "weights"


def pretrain(config: PretrainConfig) -> int:
    """Runs the whole job. Returns the exit code."""
    if cli.unset(config, REQUIRED, USAGE):
        return 2
    for name, value in vars(config.watch).items():
        if value < 1:
            raise ValueError(f"watch.{name} is {value}; expected 1 or more")

    from encoder import sharding

    if config.distributed:
        sharding.join_hosts()
    import jax

    from input_pipeline.hosts import Hosts

    hosts = Hosts(jax.process_index(), jax.process_count(), sharding.gather)
    try:
        return pretrain_with(hosts, config)
    except (ValueError, OSError, ImportError) as error:
        if hosts.count == 1:
            raise
        cli.end_host(error)


def pretrain_with(hosts: Any, config: PretrainConfig) -> int:
    """The part of the job that is this host's; as `pretrain`."""
    from encoder import checkpoints, sharding
    from encoder import pretrain as trainer
    from input_pipeline import training

    say = (lambda *_, **__: None) if hosts.index else print
    folder = pathlib.Path(config.output.path).expanduser().absolute()
    if (folder / WEIGHTS).exists():
        say(f"{folder / WEIGHTS} is there already: this run is finished")
        return 0
    mesh = sharding.make_mesh(config.network.model_parallel)
    recipe = make_recipe(config)
    trainer.check(recipe, mesh.shape["data"])
    films = training_films.read(config.input, config.seed, say)
    rows, workers = films.rows("train"), config.input.workers or len(os.sched_getaffinity(0))
    schedule = training.make_schedule(films.label[rows], recipe.batch_size, config.seed)
    made = films.stores[0].identity
    card, model, variables = first_weights.load(config.network, config.seed, made, say)
    identity = {
        **{name: str(value) for name, value in recipe._asdict().items()},
        "variant": card.variant,
        "dtype": config.network.dtype,
        "first_weights": card.digest or f"random, seed {config.seed}",
        "preset": card.preset,
        "resolution": str(card.resolution),
        "films": f"{len(rows)}, digest {digest(films, rows)}",
    }
    if not hosts.index:
        open_folder(folder, config, identity)

    intervals = [(f"{n}_steps", getattr(config.watch, f"{n}_steps")) for n in INTERVALS]
    rules = sharding.FULLY_SHARDED if config.network.fully_sharded else sharding.MODEL_PARALLEL
    state = trainer.start(recipe, variables, card.head_width)
    placed = sharding.variable_shardings(mesh, state, rules)
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(checkpoints.open_checkpoints(folder / "checkpoints"))
        restored = checkpoints.restore(manager, state, placed, identity)
        first, begun = restored or (0, sharding.put_variables(state, placed))
        say(f"goes on after step {first}" if first else f"{recipe.steps} steps", flush=True)
        step = trainer.make_step(model, recipe, mesh, state, card.mean, card.std, rules)
        each = recipe.batch_size // hosts.count
        mine = slice(hosts.index * each, (hosts.index + 1) * each)

        def rows_of_step(number: int) -> Any:
            return rows[schedule(number)][mine]

        batches = training.batches(
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
        for number, state, metrics in trainer.train(step, begun, mesh, labelled, first):
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
                log(row)
            if due["checkpoint_steps"]:
                checkpoints.save(manager, number, state, identity)
            if since is None or written:
                since, counted = time.monotonic(), 0  # the first step was compiled
        variables = sharding.collect(mesh, state.average)
        if not hosts.index:
            save(folder / WEIGHTS, variables, card, config, identity)
    say(f"in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return 0


def make_recipe(config: PretrainConfig) -> Any:
    """The settings of the training as the encoder takes them."""
    from encoder.augment import Augmentation
    from encoder.pretrain import Recipe

    given = vars(config.training) | {
        "micro_batch": config.training.micro_batch or config.training.batch_size,
        "augmentation": Augmentation(**vars(config.training.augmentation)),
    }
    return Recipe(**given, seed=config.seed)


def digest(films: Any, rows: Any) -> str:
    """Of the films to train on, with their labels."""
    text = "\n".join(f"{films.places.image_id[i]} {films.label[i]}" for i in rows)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def open_folder(folder: pathlib.Path, config: PretrainConfig, identity: dict[str, str]) -> None:
    """Makes the folder of a run, or sees that it is of the same one.

    Raises:
        ValueError: it is of another run, or holds other things.
        OSError: it cannot be written.
    """
    from encoder import checkpoints

    if (folder / RUN).exists():
        found = json.loads((folder / RUN).read_text())["identity"]
        checkpoints.check_identity(found, identity, str(folder))
        return
    folder.mkdir(parents=True, exist_ok=True)
    if found := sorted(f.name for f in folder.iterdir() if not f.name.startswith(".")):
        raise ValueError(
            f"{folder} holds {found[0]} and no {RUN}: it is no run of this command; choose another "
            "output.path"
        )
    partial = folder / f".{RUN}.partial"
    facts = {
        "identity": identity,
        "config": dataclasses.asdict(config),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    partial.write_text(json.dumps(facts, indent=2) + "\n")
    partial.rename(folder / RUN)


def save(
    path: pathlib.Path, variables: Any, card: Any, config: PretrainConfig, identity: dict[str, str]
) -> None:
    """Writes the trained weights as a bundle."""
    from encoder import weights

    given = config.bundle
    card = dataclasses.replace(
        card,
        source=f"scripts/pretrain.py, cxr-embeddings {importlib.metadata.version(LIBRARIES[0])}",
        licence=given.licence or "not said",
        terms_of_use=given.terms_of_use,
        training_data=given.training_data or f"{identity['films']}; not described further",
        settings=identity,
        trained=True,
    )
    weights.save_bundle(path, variables, card)


def main() -> None:
    stopped = "the same command goes on from the last checkpoint"
    cli.run(pretrain, PretrainConfig, "configs/pretrain.py", USAGE, stopped)


if __name__ == "__main__":
    main()
