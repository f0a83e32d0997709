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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peer_engines, peers, roofline
from benchmarks.network_forms import OURS, PLAIN, compile_form, compile_program
from benchmarks.timing import interleave, report
from cxr_embeddings.common import machine
from cxr_embeddings.encoder import depthwise_kernel, efficientnet, random_weights
from cxr_embeddings.encoder.efficientnet import VARIANTS, EfficientNet
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.weights import cast_kernels

CASES = "b0:224:8,l2:224:1,l2:224:4,l2:475:1"  # variant, resolution in pixels, images a batch
ENGINE = f"{OURS}, engine=openvino"  # on CPUs
KERNEL = f"{OURS}, engine=pallas"  # on NVIDIA GPUs
LIBRARIES = (
    *("jax", "flax", "timm", "torch", "torch_tensorrt", "keras", "tensorflow-cpu"),
    *("onnxruntime", "openvino"),
)


class Case(NamedTuple):
    """A network, the pixels of its images on each side, and how many of them are a batch."""

    variant: str
    resolution: int
    batch: int

    def __str__(self) -> str:
        return f"{self.variant} at {self.resolution} px, batch {self.batch}"


@dataclasses.dataclass
class Timed:
    """What one engine did in one case.

    Attributes:
        ready_seconds: from nothing to the first embeddings.
        difference: the largest, of the largest number of this project's embeddings.
        seconds: of each round.
        images_per_second: by their median, as all that follows but `speedup`.
        speedup: over this project, the median of the ratios of the rounds.
        gflops, gbytes: a second, counted by layers.
        of_floor: the share of the speed that the ceilings allow.
        intensity: FLOP a byte.
    """

    case: Case
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
    intensity: float


def run(
    repeats: int = 10,
    cases: str = CASES,
    dtype: str = "float32",
    engines: str = "all",
    output: str = "",
) -> None:
    """Prints for each case what the engines take, and how near they come to this machine's floor.

    Args:
        repeats: rounds; in each, all engines run twice, on the same random images, and the second
            call counts: the first would pay for what the engine before left in the caches.
        cases: VARIANT:RESOLUTION:BATCH, with commas.
        dtype: of the computation, float32 or bfloat16.
        engines: names of others with commas, or all.
        output: folder for encoder.json, encoder.md and roofline.png; none: not written.
    """
    others = {PLAIN: None, **peer_engines.ENGINES}
    chosen = [*others] if engines == "all" else engines.split(",")
    if unknown := {*chosen} - {*others}:
        raise SystemExit(
            f"error: no such engine: {', '.join(unknown)}; expected {', '.join(others)}"
        )
    parsed = [_parse(case) for case in cases.split(",")]
    ceilings = roofline.measure_ceilings(dtype)
    print(
        f"{_machine()}; products {ceilings.flops / 1e9:,.0f} GFLOP/s, copies "
        f"{ceilings.bytes / 1e9:,.0f} GB/s in {dtype}"
    )
    timed: list[Timed] = []
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        for case in parsed:
            timed += _compare(case, dtype, chosen, repeats, ceilings)
            if output and timed:  # the next case may be too much for the time or the memory
                _write(pathlib.Path(output), timed, ceilings)
    if not timed:
        raise SystemExit("error: no case could be measured, for the reasons above")
    print(f"\n{_best_batches(timed)}peak memory of this process: {_peak_gib():.1f} GiB")
    if of_device := jax.devices()[0].memory_stats():
        print(f"JAX on the device: {of_device['peak_bytes_in_use'] / 2**30:.1f} GiB")


def _parse(text: str) -> Case:
    variant, *sizes = text.split(":")
    if (
        variant not in VARIANTS
        or len(sizes) != 2
        or not all(n.isdecimal() and int(n) for n in sizes)
    ):
        raise SystemExit(
            f"error: found the case {text!r}; expected VARIANT:RESOLUTION:BATCH, as l2:224:1, of "
            f"the variants {', '.join(VARIANTS)}"
        )
    return Case(variant, *map(int, sizes))


def _compare(
    case: Case, dtype: str, others: Sequence[str], repeats: int, ceilings: roofline.Ceilings
) -> list[Timed]:
    """Makes all engines ready, compares their embeddings, then lets them take turns."""
    variant, resolution, batch = case
    model = EfficientNet(variant, peers.head_width(variant), dtype=jnp.dtype(dtype))
    variables = random_variables(model)
    grey = np.random.default_rng(0).normal(size=(batch, resolution, resolution, 1))
    images = np.repeat(grey.astype(np.float32), 3, axis=-1)
    print(f"\n{case}, {dtype}")
    forms, ready = _ready(model, variables, images, dtype, others)
    if OURS not in forms:  # what failed was said
        return []
    found = {name: np.asarray(form()) for name, form in forms.items()}
    scale = np.abs(found[OURS]).max()
    differences = {name: np.abs(rows - found[OURS]).max() / scale for name, rows in found.items()}
    seconds = interleave(forms, repeats, warmup=0, settle=1)
    print(report(seconds, baseline=OURS))
    plain = model.clone(conv_general_dilated=jax.lax.conv_general_dilated)
    layers = roofline.layers(lambda v, x: plain.apply(v, x)[0], variables, images)
    itemsize = jnp.dtype(dtype).itemsize
    flops, moved = sum(one.flops for one in layers), itemsize * sum(one.numbers for one in layers)
    floor = roofline.floor_seconds(layers, ceilings, itemsize)
    timed = []
    for name, values in seconds.items():
        median = statistics.median(values)
        one = Timed(
            case=case,
            dtype=dtype,
            engine=name,
            ready_seconds=ready[name],
            difference=float(differences[name]),
            seconds=values,
            images_per_second=batch / median,
            speedup=statistics.median(a / b for a, b in zip(seconds[OURS], values, strict=True)),
            gflops=flops / median / 1e9,
            gbytes=moved / median / 1e9,
            of_floor=floor / median,
            intensity=flops / moved,
        )
        print(
            f"{name:32} {one.images_per_second:8.3g} images/s {one.gflops:8.0f} GFLOP/s "
            f"{one.gbytes:7.1f} GB/s {one.of_floor:6.1%} of the floor, differs "
            f"{one.difference:.0e}"
        )
        timed.append(one)
    return timed


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
            form = compile_program(name, lambda v, x: network.apply(v, x)[0], on_device, x)
        else:
            form = compile_form(name, program, on_device, x)
        return lambda: np.asarray(form(on_device, x))

    gpu = {OURS: depthwise_kernel.by_xla, KERNEL: depthwise_kernel.depthwise_bn_swish}
    gpu = gpu if jax.default_backend() == "gpu" else {}
    own = {"cpu": [OURS, ENGINE], "gpu": [*gpu]}.get(jax.default_backend(), [OURS])
    forms, ready = {}, {}
    for name in (*own, *others):
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
    from cxr_embeddings.encoder import openvino_engine

    batch, resolution = images.shape[:2]
    card = random_weights.random_card(model.variant, resolution, "native", (0.0,) * 3, (1.0,) * 3)
    offered = efficientnet.embedding_widths(model.variant, model.head_width)
    card = dataclasses.replace(card, head_width=model.head_width, embeddings=offered)
    requests = openvino_engine.compile(card, variables, next(iter(offered)), dtype, batch)
    grey = np.ascontiguousarray(images[..., :1])
    return lambda: next(openvino_engine.embed(requests, [(None, grey)]))[1]


def _machine() -> str:
    cores = machine.processors()
    return f"{jax.devices()[0].device_kind}, {cores} cores of {platform.machine()}"


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _write(folder: pathlib.Path, timed: Sequence[Timed], ceilings: roofline.Ceilings) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"machine": _machine(), "versions": _versions(), "ceilings": ceilings._asdict()}
    facts |= {"timed": [{**vars(one), "case": one.case._asdict()} for one in timed]}
    (folder / "encoder.json").write_text(json.dumps(facts, indent=1) + "\n")
    heads = "case", "engine", "images a second", f"{OURS} is so many times as fast", "of the floor"
    rows = [heads, ["---"] * len(heads)]
    for one in timed:
        numbers = f"{one.images_per_second:.3g}", f"{1 / one.speedup:.2f}", f"{one.of_floor:.0%}"
        rows.append([f"{one.case}, {one.dtype}", one.engine, *numbers])
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    (folder / "encoder.md").write_text(f"{table}\n{_best_batches(timed)}")
    points: dict[str, list[tuple[float, float]]] = {}
    for one in timed:
        points.setdefault(one.engine, []).append((one.intensity, one.gflops * 1e9))
    roofline.draw(folder / "roofline.png", ceilings, points)


def _best_batches(timed: Sequence[Timed]) -> str:
    """A line for each network and engine that had several batches: the fastest. These did not take
    turns: ratios of engines are those of their cases."""
    groups: dict[tuple[str, int, str], list[Timed]] = {}
    for one in timed:
        groups.setdefault((one.case.variant, one.case.resolution, one.engine), []).append(one)
    lines = []
    for (variant, resolution, engine), some in groups.items():
        best = max(some, key=lambda one: one.images_per_second)
        if len(some) > 1:
            lines.append(
                f"{variant} at {resolution} px, {engine}: at best {best.images_per_second:.3g} "
                f"images/s, with batch {best.case.batch}\n"
            )
    return "".join(lines)


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
