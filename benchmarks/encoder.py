"""The network's forward pass by this project's engines and by timm, eager and `torch.compile`.

The first engine needs no more than JAX, Flax and NumPy.
"""

import contextlib
import dataclasses
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers
from benchmarks.peers import Make, Run
from benchmarks.timing import interleave
from cxr_embeddings.common import machine
from cxr_embeddings.encoder import embedding_layers, gpu_form, random_weights
from cxr_embeddings.encoder.efficientnet import VARIANTS, EfficientNet
from cxr_embeddings.encoder.weights import Variables, cast_kernels

OURS = "this project"
ENGINE = f"{OURS}, engine=openvino"  # on CPUs
LIBRARIES = ("jax", "flax", "timm", "torch", "openvino")


class Case(NamedTuple):
    """A network, the side of its images in pixels, and how many images are a batch."""

    variant: str
    resolution: int
    batch: int

    def __str__(self) -> str:
        return f"{self.variant} at {self.resolution} px, batch {self.batch}"


def parse_case(text: str) -> Case:
    """The case that VARIANT:RESOLUTION:BATCH names, such as l2:224:1."""
    variant, *sizes = text.split(":")
    numbers = [int(n) for n in sizes if n.isdecimal() and int(n)]
    if variant not in VARIANTS or not len(sizes) == len(numbers) == 2:
        raise SystemExit(
            f"error: found the case {text!r}; expected VARIANT:RESOLUTION:BATCH, as l2:224:1, of "
            f"the variants {', '.join(VARIANTS)}"
        )
    return Case(variant, *numbers)


def form_here(model: EfficientNet) -> EfficientNet:
    """A network as `load_encoder` has it on the device that JAX has."""
    return gpu_form.for_gpu(model) if jax.default_backend() == "gpu" else model


def own_engines() -> dict[str, Make]:
    """This project's engines on the device that JAX has, the usual one first."""
    return {OURS: _by_jax} | ({ENGINE: _by_openvino} if jax.default_backend() == "cpu" else {})


def _by_jax(variant: str, variables: Variables, images: np.ndarray, dtype: str) -> Run:
    model = form_here(EfficientNet(variant, peers.head_width(variant), dtype=jnp.dtype(dtype)))
    arguments = jax.device_put(cast_kernels(variables, dtype)), jnp.asarray(images)
    form = jax.jit(lambda v, x: model.apply(v, x)[0])
    return lambda: np.asarray(form(*arguments))


def _by_openvino(variant: str, variables: Variables, images: np.ndarray, dtype: str) -> Run:
    """As embed.py runs it; it takes grey images."""
    from cxr_embeddings.encoder import openvino_engine

    batch, resolution = images.shape[:2]
    head_width = peers.head_width(variant)
    card = random_weights.random_card(variant, resolution, "native", (0.0,) * 3, (1.0,) * 3)
    offered = embedding_layers.embedding_widths(variant, head_width)
    card = dataclasses.replace(card, head_width=head_width, embeddings=offered)
    requests = openvino_engine.compile(card, variables, next(iter(offered)), dtype, batch)
    grey = np.ascontiguousarray(images[..., :1])
    return lambda: next(openvino_engine.embed(requests, [(None, grey)]))[1]


def draw(case: Case) -> tuple[Variables, np.ndarray]:
    """Untrained variables, and grey images [batch h w 3] of random numbers."""
    variables = random_weights.random_variables(
        EfficientNet(case.variant, peers.head_width(case.variant))
    )
    shape = (case.batch, case.resolution, case.resolution, 1)
    grey = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return variables, np.repeat(grey, 3, axis=-1)


def ready(
    case: Case, dtype: str, engines: Mapping[str, Make]
) -> Iterator[tuple[str, Run, float, float]]:
    """Makes one engine after another ready; says which failed, and why.

    Yields:
        Its name, its forward pass, the seconds until its first embeddings, and by how much they
        differ from the first engine's: the largest difference, as a share of the largest value.
    """
    variables, images = draw(case)
    expected = None
    for name, make in engines.items():
        start = time.perf_counter()
        try:
            form = make(case.variant, variables, images, dtype)
            found = np.asarray(form(), np.float32)
        except Exception as error:  # whatever another library raises
            print(f"without {name}: {(str(error) or type(error).__name__).splitlines()[0][:200]}")
            if expected is None:
                return
            continue
        seconds = time.perf_counter() - start
        expected = found if expected is None else expected
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        yield name, form, seconds, float(difference)


def run(
    repeats: int = 10, cases: str = "b0:224:8,l2:224:1,l2:224:4,l2:475:1", dtype: str = "float32"
) -> None:
    """Prints for each case how fast the engines are, and by how much their embeddings differ.

    repeats: rounds. In each, all engines run twice in an order drawn anew, and the second call
        counts: the first pays for what the engine before has left in the caches.
    cases: VARIANT:RESOLUTION:BATCH, with commas.
    dtype: of the computation, float32 or bfloat16.
    """
    print(as_table([facts()]), end="")
    for case in [parse_case(text) for text in cases.split(",")]:
        made = {name: rest for name, *rest in ready(case, dtype, own_engines() | peers.ENGINES)}
        seconds = interleave({name: one[0] for name, one in made.items()}, repeats, 0, settle=1)
        rows: list[dict[str, object]] = []
        for name, values in seconds.items():
            _, seconds_to_ready, difference = made[name]
            ratios = [a / b for a, b in zip(seconds[OURS], values, strict=True)]
            row = {"case": case, "dtype": dtype, "engine": name}
            row |= {"images/s": case.batch / statistics.median(values)}
            row |= {"times as fast as ours": statistics.median(ratios), "differs": difference}
            rows.append(row | {"ready after s": seconds_to_ready})
        if not rows:
            raise SystemExit(f"error: {case} could not be measured, for the reason above")
        print(f"\n{as_table(rows)}", end="")


def facts() -> dict[str, str]:
    """The machine and the versions of the libraries that are installed."""
    versions = []
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    device = f"{jax.devices()[0].device_kind}, {machine.processors()} cores of {platform.machine()}"
    python = platform.python_version()
    return {"device": device, "python": python, "versions": " ".join(versions)}


def as_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a table of Markdown; a column for each name that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    for row in rows:
        cells = (row.get(name, "") for name in names)
        lines.append([f"{one:.3g}" if isinstance(one, float) else str(one) for one in cells])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
