"""The network's forward pass by this project and by every other engine that is installed.

Plain Flax alone needs no more than JAX, Flax and NumPy.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from encoder import depthwise, depthwise_kernel, efficientnet, random_weights
from encoder.efficientnet import VARIANTS, EfficientNet
from encoder.random_weights import random_variables
from encoder.weights import cast_kernels
from scripts import peer_engines, roofline
from scripts.peers import NATIVE_HEADS
from scripts.timing import interleave, report

CASES = "b0:224:8,l2:224:1,l2:224:4,l2:475:1"  # variant, resolution in pixels, images a batch
OURS, PLAIN, ENGINE = "this project", "plain Flax", "this project, engine=openvino"
KERNEL = "this project, engine=pallas"  # on NVIDIA GPUs
LIBRARIES = ("jax", "flax", "timm", "torch", "keras", "tensorflow-cpu", "onnxruntime", "openvino")


@dataclasses.dataclass
class Timed:
    """What one engine did in one case; `images_per_second` by the median."""

    variant: str
    resolution: int
    batch: int
    dtype: str
    engine: str
    ready_seconds: float
    difference: float
    seconds: list[float]
    images_per_second: float
    speedup: float
    gflops: float
    gbytes: float
    of_floor: float


def run(
    repeats: int = 10,
    cases: str = CASES,
    dtype: str = "float32",
    engines: str = "all",
    output: str = "",
) -> None:
    """Prints for each case what the engines take, and how near they come to this machine's floor.

    Args:
        repeats: rounds that count; in each, all engines run once, on the same random images.
        cases: VARIANT:RESOLUTION:BATCH, with commas.
        dtype: of the computation, float32 or bfloat16.
        engines: names of others with commas, or all.
        output: folder for encoder.json, encoder.md and roofline.png; none: not written.
    """
    others = {PLAIN: None, **peer_engines.ENGINES}
    chosen = [*others] if engines == "all" else engines.split(",")
    if unknown := {*chosen} - {*others}:
        raise SystemExit(f"no such engine: {', '.join(unknown)}; expected {', '.join(others)}")
    for case in cases.split(","):
        variant, *sizes = case.split(":")
        if variant not in VARIANTS or len(sizes) != 2 or not all(n.isdecimal() for n in sizes):
            raise SystemExit(
                f"error: found the case {case!r}; expected VARIANT:RESOLUTION:BATCH, as l2:224:1, "
                f"of the variants {', '.join(VARIANTS)}"
            )
    ceilings = roofline.measure_ceilings(dtype)
    print(
        f"{platform.processor() or platform.machine()}, {jax.devices()[0].device_kind}; products "
        f"{ceilings.flops / 1e9:,.0f} GFLOP/s, copies {ceilings.bytes / 1e9:,.0f} GB/s in {dtype}"
    )
    cache = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", cache.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    timed: list[Timed] = []
    points: dict[str, list[tuple[float, float]]] = {}
    for case in cases.split(","):
        variant, resolution, batch = case.split(":")
        for one, intensity in _compare(
            variant, int(resolution), int(batch), dtype, chosen, repeats, ceilings
        ):
            timed.append(one)
            points.setdefault(one.engine, []).append((intensity, one.gflops * 1e9))
    print(f"\npeak memory of this process: {_peak_gib():.1f} GiB")
    if output:
        folder = pathlib.Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"versions": _versions(), "ceilings": ceilings._asdict()}
        facts |= {"timed": [dataclasses.asdict(one) for one in timed]}
        (folder / "encoder.json").write_text(json.dumps(facts, indent=1) + "\n")
        (folder / "encoder.md").write_text(_table(timed))
        roofline.draw(folder / "roofline.png", ceilings, points)


def _compare(
    variant: str,
    resolution: int,
    batch: int,
    dtype: str,
    others: Sequence[str],
    repeats: int,
    ceilings: roofline.Ceilings,
) -> Iterator[tuple[Timed, float]]:
    """Makes all engines ready, compares their embeddings, then lets them take turns."""
    model = EfficientNet(variant, NATIVE_HEADS[variant], dtype=jnp.dtype(dtype))
    variables = random_variables(model)
    grey = np.random.default_rng(0).normal(size=(batch, resolution, resolution, 1))
    images = np.repeat(grey.astype(np.float32), 3, axis=-1)
    print(f"\n{variant} at {resolution} px, batch {batch}, {dtype}")
    forms, ready = _ready(model, variables, images, dtype, others)
    expected = np.asarray(forms[OURS]())
    seconds = interleave(forms, repeats)
    print(report(seconds, baseline=OURS))
    plain = model.clone(conv_general_dilated=jax.lax.conv_general_dilated)
    found = roofline.layers(lambda v, x: plain.apply(v, x)[0], variables, images)
    itemsize = jnp.dtype(dtype).itemsize
    flops, moved = sum(one.flops for one in found), itemsize * sum(one.numbers for one in found)
    floor = roofline.floor_seconds(found, ceilings, itemsize)
    for name, values in seconds.items():
        median = statistics.median(values)
        speedup = statistics.median(a / b for a, b in zip(seconds[OURS], values, strict=True))
        difference = float(np.abs(forms[name]() - expected).max() / np.abs(expected).max())
        one = Timed(
            variant,
            resolution,
            batch,
            dtype,
            name,
            ready[name],
            difference,
            values,
            batch / median,
            speedup,
            flops / median / 1e9,
            moved / median / 1e9,
            floor / median,
        )
        print(
            f"{name:32} {one.images_per_second:8.3g} images/s {one.gflops:8.0f} GFLOP/s "
            f"{one.gbytes:7.1f} GB/s {one.of_floor:6.1%} of the floor, differs {difference:.0e}"
        )
        yield one, flops / moved


def _ready(
    model: EfficientNet, variables: dict, images: np.ndarray, dtype: str, others: Sequence[str]
) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, float]]:
    """Every engine's forward pass, run once, and the seconds until then; says which failed."""

    def program(conv_general_dilated: Callable[..., Any]) -> Callable[..., jax.Array]:
        network = model.clone(conv_general_dilated=conv_general_dilated)
        return lambda variables, images: network.apply(variables, images)[0]

    on_device, x = jax.device_put(cast_kernels(variables, dtype)), jnp.asarray(images)

    def by_jax(name: str) -> Callable[[], np.ndarray]:
        if name in gpu:
            network = depthwise_kernel.for_gpu(model, gpu[name])
            form = _compile(lambda v, x: network.apply(v, x)[0], (on_device, x), name)
        else:
            form = compile_forms(program, on_device, x, names=(name,))[name]
        return lambda: np.asarray(form(on_device, x))

    gpu = {OURS: depthwise_kernel.by_xla, KERNEL: depthwise_kernel.depthwise_bn_swish}
    gpu = gpu if jax.default_backend() == "gpu" else {}
    forms, ready = {}, {}
    for name in dict.fromkeys((OURS, *gpu, ENGINE, *others)):
        start = time.perf_counter()
        try:
            if name in (OURS, KERNEL, PLAIN):
                forms[name] = by_jax(name)
            elif name == ENGINE:
                forms[name] = _by_openvino(model, variables, images, dtype)
            else:
                make = peer_engines.ENGINES[name]
                forms[name] = make(model.variant, variables, images, dtype)
            forms[name]()
            ready[name] = time.perf_counter() - start
        except Exception as error:  # whatever another library raises
            forms.pop(name, None)
            print(f"without {name}: {str(error).splitlines()[0][:200]}")
    return forms, ready


def _by_openvino(
    model: EfficientNet, variables: dict, images: np.ndarray, dtype: str
) -> Callable[[], np.ndarray]:
    """As embed.py runs it; it takes grey images."""
    from encoder import openvino_engine

    batch, resolution = images.shape[:2]
    card = random_weights.random_card(model.variant, resolution, "native", (0.0,) * 3, (1.0,) * 3)
    offered = efficientnet.embedding_widths(model.variant, model.head_width)
    card = dataclasses.replace(card, head_width=model.head_width, embeddings=offered)
    graph = openvino_engine.build(card, variables, next(iter(offered)))
    requests = openvino_engine.compile(graph, dtype, batch)
    grey = np.ascontiguousarray(images[..., :1])
    return lambda: next(openvino_engine.embed(requests, [(None, grey)]))[1]


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _table(timed: Sequence[Timed]) -> str:
    heads = "case", "engine", "images a second", f"{OURS} is so many times as fast", "of the floor"
    rows = [heads, ["---"] * len(heads)]
    for one in timed:
        case = f"{one.variant} at {one.resolution} px, batch {one.batch}, {one.dtype}"
        numbers = f"{one.images_per_second:.3g}", f"{1 / one.speedup:.2f}", f"{one.of_floor:.0%}"
        rows.append([case, one.engine, *numbers])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def rates(seconds: Mapping[str, list[float]], what: str, number: int) -> str:
    """A line on how many of something each form does in a second."""
    parts = (f"{name} {number / np.median(values):.3g}" for name, values in seconds.items())
    return f"{what} per second: " + ", ".join(parts)


class PlainBatchNorm(nn.Module):
    """Flax's own, then the activation."""

    activation: Callable[[jax.Array], jax.Array]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layer = nn.BatchNorm(
            use_running_average=not train,
            momentum=efficientnet.BATCH_NORM_MOMENTUM,
            epsilon=efficientnet.BATCH_NORM_EPSILON,
            dtype=self.dtype,
        )
        nn.share_scope(self, layer)
        return self.activation(layer(x))


def compile_forms(
    program: Callable[[Callable[..., Any]], Callable[..., Any]],
    *arguments: Any,
    names: Sequence[str] = (OURS, PLAIN),
) -> dict[str, Callable[..., Any]]:
    """Compiles a program of the network, made for a convolution, in our form and in Flax's."""
    forms = {}
    if OURS in names:
        forms[OURS] = _compile(program(depthwise.conv_general_dilated), arguments, OURS)
    if PLAIN in names:
        with (
            mock.patch.object(efficientnet, "swish", jax.nn.swish),
            mock.patch.object(efficientnet, "BatchNorm", PlainBatchNorm),
        ):
            forms[PLAIN] = _compile(program(jax.lax.conv_general_dilated), arguments, PLAIN)
    return forms


def _compile(
    program: Callable[..., Any], arguments: Sequence[Any], name: str
) -> Callable[..., Any]:
    """The compiled program, after a line on what its compilation took."""
    start = time.perf_counter()
    lowered = jax.jit(program).lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - traced
    again = ""
    if jax.config.jax_compilation_cache_dir:
        jax.clear_caches()
        start_again = time.perf_counter()
        jax.jit(program).lower(*arguments).compile()
        again = f", both from the cache in {time.perf_counter() - start_again:.1f} s"
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    print(
        f"{name}: traced in {traced - start:.1f} s, compiled in {seconds:.1f} s{again}, "
        f"temporary memory {memory:.0f} MiB"
    )
    return compiled


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
