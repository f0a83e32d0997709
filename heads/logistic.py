"""Regularised logistic regressions, many at once, on the same films, by preconditioned L-BFGS.

Time goes into reading the embeddings, so everything is arranged to read them rarely. All problems
(findings times strengths of the penalty) share each pass. A step takes two passes: one for the
logits of the search direction, one for the gradient; along the direction the logits are linear, so
the line search, whose problem is convex in one variable, needs none. And a randomised sketch of the
embeddings' covariance stands in for the Hessian in L-BFGS's first guess (Nocedal and Wright,
Numerical Optimization, 2006, algorithm 7.4), which divides the number of steps by three to five.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from .features import Features, positions, take

TOLERANCE = 3e-3  # see `_distance`; at 1e-2 AUROCs of rare findings still move by 0.001
MAX_STEPS = 1000
_MEMORY = 10  # pairs of steps and gradient changes that L-BFGS remembers
_SKETCH_RANK, _SKETCH_FILMS = 128, 2048
_SEARCH_STEPS = 4  # safeguarded Newton steps; the fifth changed nothing in the count of steps


class Problem(NamedTuple):
    """What is minimised: see `fit`; the weights of a finding add up to 1."""

    label: Float32[Array, "1 finding films"]
    weight: Float32[Array, "1 finding films"]
    penalty: Float32[Array, "penalty 1"]


class Sketch(NamedTuple):
    """Covariance of the embeddings, nearly: large eigenvalues, and one number for all others."""

    vectors: Float32[Array, "rank dim"]
    values: Float32[Array, " rank"]
    rest: Float32[Array, ""]


class LbfgsState(NamedTuple):
    """Where the problems are: `penalty finding` each; kernel and bias lie in one vector."""

    vector: Float32[Array, "penalty finding dim_1"]
    logit: Float32[Array, "penalty finding films"]
    gradient: Float32[Array, "penalty finding dim_1"]
    steps: Float32[Array, "memory penalty finding dim_1"]
    changes: Float32[Array, "memory penalty finding dim_1"]
    inverse: Float32[Array, "memory penalty finding"]  # 1 / (step . change); 0: nothing there
    taken: Int32[Array, ""]  # steps so far


class Probe(NamedTuple):
    """Linear heads: logit = embedding . kernel + bias, of the standardised embedding."""

    kernel: Float32[Array, "penalty finding dim"]
    bias: Float32[Array, "penalty finding"]
    distance: Float32[Array, "penalty finding"]  # from the optimum: see `_distance`
    steps: int  # taken by all together


def fit(
    features: Features,
    label: Float32[np.ndarray, "film finding"],
    weight: Float32[np.ndarray, "film finding"],
    penalties: Sequence[float],
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Probe:
    """Minimises the weighted mean of the logistic loss + penalty / 2 * |kernel|^2, for each pair.

    This is scikit-learn's LogisticRegression with C = 1 / (penalty * films); the bias is free.

    Args:
        features: the films.
        label: 0 or 1.
        weight: 0 where the label is unknown; a finding in which all are gets a kernel of zeros.
        penalties: positive.
        tolerance: stop when every problem's `_distance` is as small.
        max_steps: or after so many steps.
    """
    problem = Problem(
        jnp.asarray(label.T)[None],
        jnp.asarray((weight / np.maximum(weight.sum(0), 1e-30)).T)[None],
        jnp.asarray(penalties, jnp.float32)[:, None],
    )
    sketch = sketched(features)
    state = _start(features, problem)
    distance = _distance(state, problem, sketch)
    while int(state.taken) < max_steps and distance.max() > tolerance:
        state = _step(state, features, problem, sketch, distance > tolerance)
        distance = _distance(state, problem, sketch)
    return Probe(state.vector[..., :-1], state.vector[..., -1], distance, int(state.taken))


def _forward(features: Features, vector: Array) -> Array:
    """Logits [penalty finding films] of kernels and biases [penalty finding dim_1]."""
    kernel = vector[..., :-1].reshape(-1, vector.shape[-1] - 1)

    def product(block: Array) -> Array:  # films first: three times faster for a single finding
        return jax.lax.dot_general(block, kernel, (((1,), (1,)), ((), ())))

    if features.row is None:
        logit = product(features.embedding)
    else:
        index = positions(features.films)
        logit = jax.lax.map(lambda i: product(take(features, i)), index)
        logit = logit.reshape(-1, len(kernel))[: features.films]
    return logit.T.reshape(*vector.shape[:-1], -1) + vector[..., -1:]


def _backward(features: Features, residual: Array) -> Array:
    """Gradient [penalty finding dim_1] of residuals [penalty finding films]."""
    rows = residual.reshape(-1, residual.shape[-1])
    if features.row is None:
        kernel = rows @ features.embedding
    else:
        index = positions(features.films)
        padded = jnp.pad(rows, ((0, 0), (0, index.size - features.films)))
        parts = padded.reshape(len(rows), *index.shape).swapaxes(0, 1)

        def add(kernel: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
            index, part = block
            return kernel + part @ take(features, index), None

        zero = jnp.zeros((len(rows), features.embedding.shape[1]))
        kernel, _ = jax.lax.scan(add, zero, (index, parts))
    kernel = kernel.reshape(*residual.shape[:-1], -1)
    return jnp.concatenate([kernel, residual.sum(-1, keepdims=True)], -1)


def _gradient(features: Features, problem: Problem, vector: Array, logit: Array) -> Array:
    residual = problem.weight * (jax.nn.sigmoid(logit) - problem.label)
    penalised = vector.at[..., -1].set(0)
    return _backward(features, residual) + problem.penalty[..., None] * penalised


@jax.jit
def _start(features: Features, problem: Problem) -> LbfgsState:
    """Kernels of zeros, and the biases that suit them: the log odds of the labels."""
    _, findings, films = problem.label.shape
    shape = (len(problem.penalty), findings, features.embedding.shape[1] + 1)
    share = jnp.clip((problem.weight * problem.label).sum(-1), 1e-6, 1 - 1e-6)
    vector = jnp.zeros(shape).at[..., -1].set(jnp.log(share / (1 - share)))
    logit = jnp.broadcast_to(vector[..., -1:], (*shape[:2], films))
    gradient = _gradient(features, problem, vector, logit)
    memory = jnp.zeros((_MEMORY, *shape))
    return LbfgsState(vector, logit, gradient, memory, memory, memory[..., 0], jnp.int32(0))


@jax.jit
def sketched(features: Features) -> Sketch:
    """The covariance of evenly spread films (Halko, Martinsson and Tropp, 2011, algorithm 4.4)."""
    films, dim = features.films, features.embedding.shape[1]
    number = min(films, _SKETCH_FILMS)
    some = take(features, jnp.arange(number) * films // number)
    basis = jax.random.normal(jax.random.key(0), (dim, min(_SKETCH_RANK, dim, number)))
    for _ in range(2):
        basis, _ = jnp.linalg.qr(some.T @ (some @ basis))
    reduced = some @ basis
    values, vectors = jnp.linalg.eigh(reduced.T @ reduced / number)
    trace = jnp.square(some).sum() / number
    rest = jnp.maximum(trace - values.sum(), 0) / max(dim - len(values), 1)
    return Sketch((basis @ vectors).T, jnp.maximum(values, 0), rest)


def _first_guess(sketch: Sketch, curvature: Array, penalty: Array, gradient: Array) -> Array:
    """(curvature * covariance + penalty)^-1 gradient."""
    kernel, bias = gradient[..., :-1], gradient[..., -1:]
    curvature, penalty = curvature[..., None], penalty[..., None]
    flat = 1 / (curvature * sketch.rest + penalty)
    steep = 1 / (curvature * sketch.values[None, None] + penalty)
    along = kernel @ sketch.vectors.T
    return jnp.concatenate(
        [flat * kernel + ((steep - flat) * along) @ sketch.vectors, bias / curvature], -1
    )


def _direction(state: LbfgsState, guess: functools.partial) -> Array:
    """L-BFGS's two loops over the remembered pairs, the newest first and then last."""

    def newest_first(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        direction, share = carry
        at = (state.taken - 1 - i) % _MEMORY
        part = state.inverse[at] * (state.steps[at] * direction).sum(-1)
        return direction - part[..., None] * state.changes[at], share.at[at].set(part)

    carry = (state.gradient, jnp.zeros_like(state.inverse))
    direction, share = jax.lax.fori_loop(0, _MEMORY, newest_first, carry)
    last = (state.taken - 1) % _MEMORY
    size = state.inverse[last] * (state.changes[last] * guess(state.changes[last])).sum(-1)
    direction = guess(direction) / jnp.where(size > 0, size, 1)[..., None]

    def newest_last(i: Array, direction: Array) -> Array:
        at = (state.taken + i) % _MEMORY
        part = state.inverse[at] * (state.changes[at] * direction).sum(-1)
        return direction + (share[at] - part)[..., None] * state.steps[at]

    return -jax.lax.fori_loop(0, _MEMORY, newest_last, direction)


def _line_search(
    logit: Array, slope: Array, problem: Problem, linear: Array, square: Array
) -> Array:
    """The t [penalty finding] that minimises the objective of logit + t * slope.

    The penalty adds linear * t + square * t^2 / 2. Newton's method between the best bounds known,
    halving or doubling where it leaves them.
    """

    label, weight, _ = problem

    def improve(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        t, low, high = carry
        p = jax.nn.sigmoid(logit + t[..., None] * slope)
        first = (weight * (p - label) * slope).sum(-1) + linear + t * square
        second = (weight * p * (1 - p) * slope * slope).sum(-1) + square
        low, high = jnp.where(first < 0, t, low), jnp.where(first > 0, t, high)
        newton = t - first / jnp.where(second > 0, second, 1)
        outside = jnp.where(jnp.isinf(high), 2 * t, (low + high) / 2)
        return jnp.where((newton > low) & (newton < high), newton, outside), low, high

    one = jnp.ones_like(linear)
    bounds = (one, jnp.zeros_like(one), jnp.full_like(one, jnp.inf))
    return jax.lax.fori_loop(0, _SEARCH_STEPS, improve, bounds)[0]


def _curvature(state: LbfgsState, problem: Problem) -> Array:
    """Mean second derivative of the loss by the logit."""
    p = jax.nn.sigmoid(state.logit)
    return jnp.maximum((problem.weight * p * (1 - p)).sum(-1), 1e-9)


@jax.jit
def _distance(
    state: LbfgsState, problem: Problem, sketch: Sketch
) -> Float32[Array, "penalty finding"]:
    """How far the optimum is, in lengths of the kernel.

    The Newton decrement g' H^-1 g is the squared distance in the norm of the Hessian H, which the
    sketch stands in for. H is at least the penalty, so that this bounds the distance of the
    kernel: sqrt(g' H^-1 g / (penalty |kernel|^2)). Unlike the gradient's own size it means the
    same for rare and for frequent findings, and for weak and for strong penalties.
    """
    newton = _first_guess(sketch, _curvature(state, problem), problem.penalty, state.gradient)
    decrement = (newton * state.gradient).sum(-1)
    size = problem.penalty * jnp.square(state.vector[..., :-1]).sum(-1)
    return jnp.sqrt(jnp.where(decrement > 0, decrement / jnp.maximum(size, 1e-30), 0))


@functools.partial(jax.jit, donate_argnums=0)
def _step(
    state: LbfgsState,
    features: Features,
    problem: Problem,
    sketch: Sketch,
    unfinished: Bool[Array, "penalty finding"],
) -> LbfgsState:
    _, _, penalty = problem
    guess = functools.partial(_first_guess, sketch, _curvature(state, problem), penalty)
    direction = _direction(state, guess)
    downhill = (direction * state.gradient).sum(-1, keepdims=True) < 0
    direction = jnp.where(downhill, direction, -state.gradient)
    direction = jnp.where(unfinished[..., None], direction, 0)

    slope = _forward(features, direction)
    kernel, along = state.vector[..., :-1], direction[..., :-1]
    linear, square = (penalty * (x * along).sum(-1) for x in (kernel, along))
    t = _line_search(state.logit, slope, problem, linear, square)[..., None]

    step = t * direction
    vector, logit = state.vector + step, state.logit + t * slope
    gradient = _gradient(features, problem, vector, logit)
    change = gradient - state.gradient
    product = (step * change).sum(-1)
    at = state.taken % _MEMORY
    return LbfgsState(
        vector,
        logit,
        gradient,
        state.steps.at[at].set(step),
        state.changes.at[at].set(change),
        state.inverse.at[at].set(jnp.where(product > 0, 1 / product, 0)),
        state.taken + 1,
    )
