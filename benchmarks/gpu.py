"""One program for a machine with a GPU: is the network right there, and how fast? 14 minutes.

On a bare machine, in the top folder of a checkout:

    pip install "jax[cuda13]>=0.10" flax jaxtyping orbax-checkpoint pydantic typing_extensions
    pip install timm torch     # for the comparison with torch.compile; left out where not installed
    PYTHONPATH=. python benchmarks/gpu.py --output results

The steps: embeddings on the GPU against those on its CPU; B0 and L2 against timm's `torch.compile`;
the Pallas kernel against XLA's form; then L2 with larger images and batches. Each step is a process
of its own, so that one that fails or hangs stops no other. Each result is appended to gpu.jsonl and
gpu.md as soon as it is there. Without a GPU, or with --small, tiny cases show that the program
works.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jax
    import numpy as np

    from benchmarks.encoder import Case
    from cxr_embeddings.encoder.card import Card
    from cxr_embeddings.encoder.efficientnet import EfficientNet
    from cxr_embeddings.encoder.weights import Variables

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "weights" / "demo"  # of B0
Row = dict[str, object]
WORTH_STARTING = 20  # seconds that a step needs at least


class Part(NamedTuple):
    """What is measured in one process."""

    measure: Callable[[list[str]], Iterator[Row]]  # takes the cases
    cases: str  # VARIANT:RESOLUTION:BATCH, or for the kernel its layers, with commas
    small: str  # likewise, for a CPU
    seconds: float  # that it may take at most


def parity(cases: list[str]) -> Iterator[Row]:
    """Embeddings of drawn films on the default device against those of the CPU in float32.

    B0 has the weights of weights/demo, the others untrained ones.
    """
    import jax
    import numpy as np

    from benchmarks import encoder
    from cxr_embeddings.encoder import inference, sharding, weights

    def embeddings(form: EfficientNet, device: jax.Device) -> np.ndarray:
        mesh = sharding.make_mesh(devices=[device])
        layer = next(iter(card.embeddings))
        forward = inference.make_forward(form, variables, mesh, layer, card.mean, card.std)
        placed = weights.cast_kernels(variables, form.dtype)
        placed = sharding.put_variables(placed, sharding.variable_shardings(mesh, placed))
        return np.asarray(forward(placed, sharding.put_rows(mesh, films)))

    for case in map(encoder.parse_case, cases):
        card, variables = _weights(case)
        films = _films(case)
        expected = embeddings(weights.model_for(card), jax.devices("cpu")[0])
        for name, form in encoder.forms_here(weights.model_for(card)).items():
            computations = ("float32", "highest"), ("bfloat16", "default"), ("float32", "default")
            for dtype, precision in computations:  # the last one with products by TensorFloat-32
                with jax.default_matmul_precision(precision if precision != "default" else None):
                    found = embeddings(form.clone(dtype=dtype), jax.devices()[0])
                wide = found.astype("float64"), expected.astype("float64")
                lengths = (np.linalg.norm(rows, axis=1) for rows in wide)
                cosine = (wide[0] * wide[1]).sum(1) / np.multiply(*lengths)
                error = np.linalg.norm(found - expected, axis=1).max()
                apart = np.linalg.norm(expected[1:] - expected[:-1], axis=1).min()
                yield {
                    "case": str(case),
                    "engine": name,
                    "dtype": dtype,
                    "precision": precision,
                    "differs": float(np.abs(found - expected).max() / np.abs(expected).max()),
                    "1 - least cosine": 1 - float(cosine.min()),
                    "error by the distance of two films": float(error / apart),
                    "weights": card.source,
                }


def _weights(case: Case) -> tuple[Card, Variables]:
    from cxr_embeddings.encoder import random_weights, weights
    from cxr_embeddings.encoder.card import load_card

    if case.variant == "b0":
        card = load_card(BUNDLE)
        return card, weights.load_variables(BUNDLE, card)
    card = random_weights.random_card(case.variant, None, "native", (0.5,) * 3, (0.25,) * 3)
    return card, random_weights.random_variables(weights.model_for(card))


def _films(case: Case) -> np.ndarray:
    """Grey films in [0, 1] of different brightness and contrast: smooth shapes, a little noise."""
    import numpy as np

    rng = np.random.default_rng(0)
    y, x = np.mgrid[: case.resolution, : case.resolution] / case.resolution
    films = []
    for _ in range(case.batch):
        waves = rng.uniform(1, 9, (4, 2))
        film = sum(np.sin(6.3 * (a * x + b * y + rng.uniform())) for a, b in waves)
        brightness, contrast = rng.uniform((0.2, 0.03), (0.8, 0.25))
        noise = rng.normal(0, 0.02, x.shape)
        films.append((brightness + contrast * film + noise).clip(0, 1))
    return np.stack(films).astype(np.float32)[..., None]


def speed(cases: list[str], others: tuple[str, ...] = ()) -> Iterator[Row]:
    """Images a second of this project's engines, and of others, in bfloat16."""
    import jax

    from benchmarks import encoder, peers

    for case in map(encoder.parse_case, cases):
        engines = encoder.own_engines() | {name: peers.ENGINES[name] for name in others}
        left = {*engines}
        for name, form, ready, difference in encoder.ready(case, "bfloat16", engines):
            seconds = _seconds(form)
            left.remove(name)
            stats = jax.devices()[0].memory_stats() or {}
            yield {
                "case": str(case),
                "engine": name,
                "dtype": "bfloat16",
                "images/s": case.batch / seconds,
                "ms a batch": 1e3 * seconds,
                "ready after s": ready,
                "differs": difference,
                "peak GiB": stats.get("peak_bytes_in_use", 0) / 2**30,
            }
        for name in sorted(left):
            note = "not measured: it is not installed, or failed as printed"
            yield {"case": str(case), "engine": name, "dtype": "bfloat16", "note": note}


def _seconds(call: Callable[[], object]) -> float:
    """The median of ten calls, after one that does not count."""
    from benchmarks.timing import interleave

    return statistics.median(interleave({"": call})[""])


def kernel(layers: list[str]) -> Iterator[Row]:
    """The Pallas kernel against XLA's form, layer by layer: BATCHxSIDExCHANNELSxKERNELxSTRIDE."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from cxr_embeddings.encoder import depthwise_kernel

    interpret = jax.default_backend() != "gpu"
    by_pallas = functools.partial(depthwise_kernel.depthwise_bn_swish, interpret=interpret)
    for layer in layers:
        batch, side, channels, size, strides = map(int, layer.split("x"))
        rng = np.random.default_rng(0)
        images = jnp.asarray(rng.normal(size=(batch, side, side, channels)), "bfloat16")
        taps = jnp.asarray(rng.normal(size=(size, size, 1, channels)) / size, "bfloat16")
        scale, bias = jnp.asarray(rng.normal(size=(2, channels)), jnp.float32)
        moved = 2 * images.size * (1 + 1 / strides**2)  # bytes: the images read, the map written
        expected = None
        for name, form in (("XLA", depthwise_kernel.by_xla), ("Pallas", by_pallas)):
            call = functools.partial(jax.jit(form, static_argnums=4), images, taps, scale, bias)
            found = np.asarray(call(strides)[0], np.float32)
            expected = found if expected is None else expected
            seconds = _seconds(lambda call=call, n=strides: jax.block_until_ready(call(n)))
            yield {
                "layer": layer,
                "engine": name,
                "ms": 1e3 * seconds,
                "GB/s": moved / seconds / 1e9,
                "differs": float(np.abs(found - expected).max() / np.abs(expected).max()),
            }


with_torch = functools.partial(speed, others=("torch.compile",))
STEPS = {
    "parity": Part(parity, "b0:224:16,l2:224:4", "b0:32:2", 240),
    "b0": Part(with_torch, "b0:224:64", "b0:32:2", 120),
    "l2": Part(with_torch, "l2:475:8", "b0:48:2", 270),
    "kernel": Part(
        kernel,  # the layers of L2 at 475 px, by stage
        "8x238x432x3x2,8x119x624x3x1,8x60x1056x5x1,8x30x2064x3x1,8x30x2880x5x1,8x15x8256x3x1",
        "2x6x8x3x1",
        90,
    ),
    "larger": Part(speed, "l2:800:8,l2:1280:1,l2:475:32,l2:1280:4", "b0:64:1", 600),
}


def record(folder: pathlib.Path, step: str, row: Row) -> None:
    """Adds a result to gpu.jsonl, and writes gpu.md anew."""
    from benchmarks.encoder import as_table

    with (folder / "gpu.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": step, **row}) + "\n")
    tables: dict[str, list[Row]] = {}
    for line in (folder / "gpu.jsonl").read_text().splitlines():
        one = json.loads(line)
        tables.setdefault(one.pop("step"), []).append(one)
    text = (f"## {name}\n\n{as_table(rows)}" for name, rows in tables.items())
    (folder / "gpu.md").write_text("\n".join(text))


def measure(name: str, folder: pathlib.Path, small: bool) -> None:
    """Does one step in this process."""
    import jax

    from benchmarks.encoder import facts

    small = small or jax.default_backend() == "cpu"
    if name == next(iter(STEPS)):
        record(folder, "machine", {**facts(), "small": small})
    step = STEPS[name]
    for row in step.measure((step.small if small else step.cases).split(",")):
        record(folder, name, row)
        print(json.dumps(row), flush=True)


def run(folder: pathlib.Path, minutes: float, small: bool) -> int:
    """Does all steps, each in a process of its own, while time is left; returns an exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.jsonl").unlink(missing_ok=True)
    end, failed = time.monotonic() + 60 * minutes, 0
    environment = os.environ | {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # torch needs memory, too
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    }
    for name, step in STEPS.items():
        left = min(step.seconds, end - time.monotonic())
        if left < WORTH_STARTING:
            print(f"{name}: left out, the time is over")
            continue
        print(f"{name}: at most {left:.0f} s", flush=True)
        command = [sys.executable, __file__, f"--output={folder}", f"--step={name}"]
        try:
            code = subprocess.run(
                [*command, *["--small"] * small], env=environment, timeout=left
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"{name}: stopped, its time is over; what it had measured is kept")
            continue
        failed += code != 0
        if code:
            print(f"{name}: failed with exit code {code}, for the reason above")
    print(f"results are in {folder}: gpu.md, gpu.jsonl")
    return 1 if failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=14, help="for all steps together; 14")
    parser.add_argument("--small", action="store_true", help="tiny cases; always so on a CPU")
    parser.add_argument("--step", choices=STEPS, help="do one step only, in this process")
    given = parser.parse_args()
    if given.step:
        given.output.mkdir(parents=True, exist_ok=True)
        measure(given.step, given.output, given.small)
    else:
        sys.exit(run(given.output, given.minutes, given.small))


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    main()
