"""Steps of pretraining: two views a film through the network, the loss, the optimiser, the mean.

The whole batch stands in one contrastive loss, however small the micro-batches are that memory
allows (gradient caching, arXiv 2101.06983): first all projections are computed, micro-batch by
micro-batch, and nothing else is kept; then the loss and its gradient by every projection, over the
whole batch; then each micro-batch is computed once more, and that gradient goes back through it.
What comes out is the gradient of the whole batch. BatchNorm takes its statistics from a
micro-batch, over all devices, so `micro_batch` is part of what is trained, devices are not.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32, PyTree

from . import augment, sharding, supcon
from .efficientnet import EfficientNet
from .recipe import OBJECTIVES, Recipe, is_trained, learning_rate, optimizer
from .weights import Variables

VIEWS = 2  # of each film

Tree = dict[str, PyTree]
Channels = Sequence[float]  # a number for each of the three


class State(NamedTuple):
    """What a step changes. `average` is of the encoder's variables, as is `batch_stats`."""

    step: Int32[Array, ""]
    params: Tree  # of "encoder" and "head"
    batch_stats: Tree
    optimizer: optax.OptState
    average: Tree


Gradient = Callable[[Tree, Tree, Array, Array, Array], tuple[Array, Tree, Tree, Array]]
Step = Callable[[State, Array, Array], tuple[State, dict[str, Array]]]


def start(recipe: Recipe, variables: Variables, width: int) -> State:
    """The state before the first step; `width` is that of the encoder's embedding.

    To have it on many devices, let `jit` make it with their shardings.
    """
    make_head, _ = OBJECTIVES[recipe.objective]
    key = jax.random.key(recipe.seed)
    params = {
        "encoder": variables["params"],
        "head": make_head(recipe.columns).init(key, jnp.zeros((1, width)))["params"],
    }
    moments = optimizer(recipe).init(params)
    average = jax.tree.map(jnp.copy, dict(variables))
    return State(jnp.int32(0), params, variables["batch_stats"], moments, average)


def views(
    recipe: Recipe,
    step: Int32[Array, ""],
    films: Float32[Array, "n h w 1"],
    row: Int32[Array, " n"],
) -> Float32[Array, "two_n h w 1"]:
    """The views of films, one after another; by the seed, the step and the film's row alone."""
    key = jax.random.fold_in(jax.random.key(recipe.seed), step)

    def of_film(film: Array, row: Array) -> Array:
        keys = jax.random.split(jax.random.fold_in(key, row), VIEWS)
        return jax.vmap(lambda one: augment.view(one, film, recipe.augmentation))(keys)

    return jax.vmap(of_film)(films, row).reshape(-1, *films.shape[1:])


def make_gradient(
    model: EfficientNet, recipe: Recipe, mesh: Mesh, mean: Channels, std: Channels
) -> Gradient:
    """The program for the gradient of a whole batch, to be called under `jit`.

    `mean` and `std` are for values in [0, 1].

    Returns:
        `gradient(params, batch_stats, step, films, label)`: loss, its gradient by `params`, the new
        statistics, and the embeddings of all views in the order of the films.
    """
    make_head, loss_of = OBJECTIVES[recipe.objective]
    head = make_head(recipe.columns)
    parts = recipe.batch_size // recipe.micro_batch
    centre, scale = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (mean, std))
    rows = sharding.batch_sharding(mesh)
    of_parts = NamedSharding(mesh, PartitionSpec(None, "data"))

    def forward(
        params: Tree, batch_stats: Tree, step: Array, films: Array, row: Array
    ) -> tuple[Array, tuple[Tree, Array]]:
        """What the loss takes from a micro-batch; new statistics, and the embeddings."""
        images = jax.lax.with_sharding_constraint(views(recipe, step, films, row), rows)
        params = jax.tree.map(
            lambda leaf, trained: leaf if trained else jax.lax.stop_gradient(leaf),
            params,
            is_trained(recipe, params),
        )
        variables = {"params": params["encoder"], "batch_stats": batch_stats}
        train = not recipe.first_stage
        (embedding, _), updates = model.apply(
            variables, (images - centre) / scale, train=train, mutable=["batch_stats"]
        )
        outputs = cast(Array, head.apply({"params": params["head"]}, embedding))
        return outputs, (updates["batch_stats"], jax.lax.stop_gradient(embedding))

    def split(array: Array, each: int = 1) -> Array:
        """[batch * each, ...] to [parts, micro_batch * each, ...].

        Micro-batch j has the films j, j + parts, ...: so none has to move to another device.
        """
        array = array.reshape(-1, parts, each, *array.shape[1:]).swapaxes(0, 1)
        array = array.reshape(parts, -1, *array.shape[3:])
        return jax.lax.with_sharding_constraint(array, of_parts)

    def join(array: Array) -> Array:
        """The inverse of `split`, of views."""
        array = array.reshape(parts, -1, VIEWS, *array.shape[2:]).swapaxes(0, 1)
        array = array.reshape(-1, *array.shape[3:])
        return jax.lax.with_sharding_constraint(array, rows)

    def gradient(
        params: Tree, batch_stats: Tree, step: Array, films: Array, label: Array
    ) -> tuple[Array, Tree, Tree, Array]:
        row = jnp.arange(recipe.batch_size, dtype=jnp.int32)
        of_view = jnp.repeat(label, VIEWS, axis=0)

        def loss(outputs: Array) -> Array:
            return loss_of(outputs, of_view, recipe.temperature)

        if parts == 1:

            def whole(params: Tree) -> tuple[Array, tuple[Tree, Array]]:
                outputs, more = forward(params, batch_stats, step, films, row)
                return loss(outputs), more

            (value, (stats, embedding)), by_params = jax.value_and_grad(whole, has_aux=True)(params)
            return value, by_params, stats, embedding

        films, row = split(films), split(row)

        def project(stats: Tree, part: tuple[Array, Array]) -> tuple[Tree, tuple[Array, Array]]:
            outputs, (stats, embedding) = forward(params, stats, step, *part)
            return stats, (outputs, embedding)

        stats, (outputs, embedding) = jax.lax.scan(project, batch_stats, (films, row))
        value, by_output = jax.value_and_grad(loss)(join(outputs))

        def add(total: Tree, part: tuple[Array, Array, Array]) -> tuple[Tree, None]:
            *inputs, cotangent = part
            _, back = jax.vjp(lambda p: forward(p, batch_stats, step, *inputs)[0], params)
            return jax.tree.map(jnp.add, total, *back(cotangent)), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        by_params, _ = jax.lax.scan(add, zeros, (films, row, split(by_output, VIEWS)))
        return value, by_params, stats, join(embedding)

    return gradient


def make_step(
    model: EfficientNet,
    recipe: Recipe,
    mesh: Mesh,
    state: State,
    *,
    mean: Channels,
    std: Channels,
    rules: sharding.Rules,
) -> Step:
    """Compiles (at first use) one step, for a state as that of `start`, or its shapes.

    Returns:
        `step(state, films, label)`: films float32 [batch_size h w 1] in [0, 1] and int32 labels,
        both split over `data`, to the next state, and to numbers about the step: loss,
        learning_rate, gradient_norm, alignment, uniformity. The state that goes in is consumed.
    """
    gradient = make_gradient(model, recipe, mesh, mean, std)
    rate, optimize = learning_rate(recipe), optimizer(recipe)

    def step(state: State, films: Array, label: Array) -> tuple[State, dict[str, Array]]:
        value, gradients, stats, embedding = gradient(
            state.params, state.batch_stats, state.step, films, label
        )
        with jax.numpy_dtype_promotion("standard"):  # Optax counts steps in integers
            updates, moments = optimize.update(gradients, state.optimizer, state.params)
            now = rate(state.step)
        params = cast(Tree, optax.apply_updates(state.params, updates))
        # The first weights are far from the last ones: a young average forgets them soon.
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(recipe.average_decay, (1 + count) / (10 + count))
        encoder = {"params": params["encoder"], "batch_stats": stats}
        average = jax.tree.map(
            lambda old, new: old * decay + new * (1 - decay), state.average, encoder
        )
        z = supcon.normalise(embedding)
        metrics = {
            "loss": value,
            "learning_rate": jnp.asarray(now, jnp.float32),
            "gradient_norm": optax.tree.norm(gradients),
            "alignment": supcon.alignment(z[::VIEWS], z[1::VIEWS]),
            "uniformity": supcon.uniformity(z[::VIEWS]),
        }
        return State(state.step + 1, params, stats, moments, average), metrics

    placed = sharding.variable_shardings(mesh, state, rules)
    rows, everywhere = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        in_shardings=(placed, rows, rows),
        out_shardings=(placed, everywhere),
        donate_argnums=0,
    )


def make_result(
    recipe: Recipe, first: Variables, shardings: PyTree[NamedSharding]
) -> Callable[[Tree], Tree]:
    """Gives a function from a state's average to the encoder's variables that a training leaves.

    They are the average with `first_share` of the first variables, which keeps what those know
    beside what was learned (Wortsman et al., arXiv 2109.01903).
    """
    share = recipe.first_share
    if not share:
        return lambda average: average

    def mixed(first: Tree, average: Tree) -> Tree:
        return jax.tree.map(lambda old, new: share * old + (1 - share) * new, first, average)

    placed = jax.jit(dict, out_shardings=shardings)(first)
    return functools.partial(jax.jit(mixed, out_shardings=shardings), placed)


def train(
    step: Step,
    state: State,
    mesh: Mesh,
    batches: Iterable[
        tuple[Float32[np.ndarray, "local h w 1"], Int32[np.ndarray, "local finding"]]
    ],
    first: int,
) -> Iterator[tuple[int, State, dict[str, Array]]]:
    """Runs steps; each is under way while the next batch is read.

    Of each batch this host gives its rows. The state has `first` steps behind it.

    Yields:
        After each step its number, counted from 1, the state, which the next step consumes, and its
        numbers, which are still being computed.

    Raises:
        ValueError: the numbers of a step are not finite.
    """
    before = None
    for number, (films, label) in enumerate(batches, first + 1):
        rows = sharding.put_rows(mesh, films), sharding.put_rows(mesh, label)
        state, metrics = step(state, *rows)
        if before is not None:
            read(number - 1, before)
        yield number, state, metrics
        before = metrics


@contextlib.contextmanager
def memory_explained() -> Iterator[None]:
    """Raises ValueError, with what to do, where the memory of the devices was too small."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory")):
            raise
        raise ValueError(
            "the memory of the devices is too small for this step: halve training.micro_batch, or "
            "set network.remat=True, or with several devices network.fully_sharded=True "
            f"({str(error)[:200]})"
        ) from error


def read(step: int, metrics: dict[str, Array]) -> dict[str, float]:
    """The numbers of a step; waits for it. Raises ValueError where they are not finite."""
    numbers = {name: float(value) for name, value in metrics.items()}
    wrong = [name for name in ("loss", "gradient_norm") if not np.isfinite(numbers[name])]
    if wrong:
        raise ValueError(
            f"{' and '.join(wrong)} of step {step} are not finite: lower "
            "training.learning_rate or raise training.warmup_steps or training.temperature, in a "
            "new output.path; the last checkpoint is of an earlier, finite step"
        )
    return numbers
