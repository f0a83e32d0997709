"""How fast a network could run on this machine at best, from two ceilings that are measured."""

import itertools
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

MATRIX, COPIED = 4096, 2**28  # rows of the square matrices; bytes of the array that is copied
ROUNDS = 5


class Ceilings(NamedTuple):
    """Of the default device, in one dtype.

    Attributes:
        flops: multiplications and additions a second, in a product of two large matrices.
        bytes: read and written a second, in a copy of a large array.
    """

    flops: float
    bytes: float


class Layer(NamedTuple):
    """A convolution or matrix product.

    Attributes:
        flops: multiplications and additions.
        numbers: of its inputs and output together.
    """

    flops: float
    numbers: int


def measure_ceilings(dtype: str) -> Ceilings:
    """The fastest of some rounds each, of random numbers."""
    accelerator = jax.default_backend() != "cpu"
    side = 2 * MATRIX if accelerator else MATRIX // 2
    numbers = np.random.default_rng(0).standard_normal((side, side), np.float32) / side**0.5
    matrix = jnp.asarray(numbers, dtype)  # whose powers are as large
    flat = jnp.asarray(np.resize(numbers, COPIED // 4))
    product = _fastest(jax.jit(lambda x: x @ x, donate_argnums=0), matrix)
    copy = _fastest(jax.jit(lambda x: x + 1, donate_argnums=0), flat)  # to the same memory
    return Ceilings(2 * side**3 / product, 2 * COPIED / copy)


def _fastest(program: Callable[[jax.Array], jax.Array], array: jax.Array) -> float:
    array = jax.block_until_ready(program(array))
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        array = jax.block_until_ready(program(array))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def layers(program: Callable[..., Any], *arguments: Any) -> list[Layer]:
    """Every convolution and matrix product of a program; all else could be done on their way."""
    return [*_walk(jax.make_jaxpr(program)(*arguments).jaxpr)]


def _walk(jaxpr: Any) -> Iterator[Layer]:
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
        moved = sum(map(math.prod, shapes))
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = equation.params["dimension_numbers"].rhs_spec[0]
            taps = math.prod(kernel) / kernel[outputs]
            yield Layer(2 * out.size * taps, moved)
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            yield Layer(2 * out.size * math.prod(shapes[0][axis] for axis in contracted), moved)
        for inner in jaxprs_in_params(equation.params):
            yield from _walk(inner)


def floor_seconds(found: Sequence[Layer], ceilings: Ceilings, itemsize: int) -> float:
    """The least time: of every layer what takes longer, its arithmetic or its memory."""
    return sum(
        max(one.flops / ceilings.flops, itemsize * one.numbers / ceilings.bytes) for one in found
    )


def draw(
    path: pathlib.Path, ceilings: Ceilings, points: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """The roofline as a PNG.

    Args:
        path: of the picture.
        ceilings: of this machine.
        points: engine -> for each case its intensity (FLOP a byte) and its rate (FLOP a second).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained", facecolor="white")
    ax = figure.add_subplot(xscale="log", yscale="log")
    ridge = ceilings.flops / ceilings.bytes
    ends = [x for some in points.values() for x, _ in some] + [ridge]
    x = np.geomspace(min(ends) / 2, max(ends) * 2, 100)
    ax.plot(x, np.minimum(ceilings.flops, x * ceilings.bytes) / 1e9, color="black", lw=1)
    for (engine, some), marker in zip(points.items(), itertools.cycle("osD^v<>x+")):
        intensity, rate = np.array(some).T
        ax.plot(intensity, rate / 1e9, marker, label=engine, ms=5)
    ax.set(xlabel="FLOP a byte", ylabel="GFLOP/s")
    ax.grid(which="major", lw=0.4)
    ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150, metadata={"Software": None})
