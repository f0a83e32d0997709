"""One program for a machine with a GPU: is the network right there, and how fast? 14 minutes or so.

On a bare machine, in the top folder of a checkout:

    pip install "jax[cuda13]>=0.10" flax jaxtyping orbax-checkpoint pydantic typing_extensions
    pip install timm torch     # for the comparison with torch.compile; left out where not installed
    pip install -e '.[store]'  # for the step fed
    PYTHONPATH=. python benchmarks/gpu.py --output results

The steps, each a process of at most 150 seconds: embeddings on the GPU against those on its CPU; B0
and L2 against timm's `torch.compile`, and as a share of the floor; L2 with larger images; a batch
that is too large for the memory; films that this machine's processors prepare in a second. Each
result is appended to gpu.jsonl and gpu.md as soon as it is there: a step that fails or hangs takes
nothing away. --step=l2 does one step; --cases=lite0:64:2 shows on any machine that it works.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
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
BUNDLE = ROOT / "weights" / "demo"  # of Lite0
SECONDS = 150  # after which a step is ended
Row = dict[str, object]


class Step(NamedTuple):
    """What is measured in one process."""

    measure: Callable[[list[str]], Iterator[Row]]  # takes the cases
    cases: str  # VARIANT:RESOLUTION:BATCH, with commas


def parity(cases: list[str]) -> Iterator[Row]:
    """Embeddings of drawn films on the default device against those of the CPU in float32.

    Lite0 has the weights of weights/demo, the others untrained ones.
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
        form = encoder.form_here(weights.model_for(card))
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

    if case.variant == "lite0":
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

    limits = _limits()
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
                "share of the floor": _floor(case, *limits) / seconds,
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


def _limits() -> tuple[float, float]:
    """Bytes a second that the device copies, read and written; operations a second of a product."""
    import jax
    import jax.numpy as jnp

    side = 8192 if jax.default_backend() == "gpu" else 512
    square = jnp.ones((side, side), jnp.bfloat16)
    add, product = jax.jit(lambda x: x + 1), jax.jit(lambda x: x @ x)
    copy = _seconds(lambda: add(square).block_until_ready())
    return 4 * side**2 / copy, 2 * side**3 / _seconds(lambda: product(square).block_until_ready())


def _floor(case: Case, bandwidth: float, arithmetic: float) -> float:
    """Seconds: of each convolution what takes longer, its maps and kernel once, or its products."""
    import jax

    from cxr_embeddings.encoder import random_weights
    from cxr_embeddings.encoder.efficientnet import EfficientNet

    seconds = []

    def noted(x: jax.Array, kernel: jax.Array, *rest: object, **options: object) -> jax.Array:
        out = jax.lax.conv_general_dilated(x, kernel, *rest, **options)  # type: ignore[arg-type]
        moved = 2 * (x.size + kernel.size + out.size)
        products = 2 * out.size * kernel.size / kernel.shape[-1]
        seconds.append(max(moved / bandwidth, products / arithmetic))
        return out

    model = EfficientNet(case.variant, conv_general_dilated=noted)
    variables = random_weights.random_variables(EfficientNet(case.variant))
    shape = (case.batch, case.resolution, case.resolution, 3)
    jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct(shape, "float32"))
    return sum(seconds)


def too_large(cases: list[str]) -> Iterator[Row]:
    """Embeds a batch that does not fit into the memory: it is computed in parts."""
    import jax
    import numpy as np

    from benchmarks import encoder
    from cxr_embeddings.encoder import inference, sharding, weights

    for case in map(encoder.parse_case, cases):
        card, variables = _weights(case)
        form = encoder.form_here(weights.model_for(card)).clone(dtype="bfloat16")
        mesh = sharding.make_mesh(devices=jax.devices()[:1])
        layer, asked = next(iter(card.embeddings)), []
        forward = inference.make_forward(form, variables, mesh, layer, card.mean, card.std)

        def counted(placed: Variables, films: jax.Array, forward=forward, asked=asked) -> jax.Array:
            asked.append(len(films))
            return forward(placed, films)

        placed = weights.cast_kernels(variables, form.dtype)
        placed = sharding.put_variables(placed, sharding.variable_shardings(mesh, placed))
        films = np.repeat(_films(case._replace(batch=1)), case.batch, axis=0)
        [(_, rows)] = inference.embed(counted, placed, mesh, [(None, films)])
        yield {"case": str(case), "films": len(rows), "computed at once": asked[-1]}


def fed(cases: list[str]) -> Iterator[Row]:
    """Films that the processors prepare in a second, from DICOM files and from a PNG16 store."""
    from benchmarks import encoder
    from cxr_embeddings.common import machine, workers
    from cxr_embeddings.input_pipeline.films import decode
    from cxr_embeddings.input_pipeline.films.listing import list_inputs
    from cxr_embeddings.input_pipeline.store import dataset
    from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic
    from cxr_embeddings.scripts import preprocess

    for case in map(encoder.parse_case, cases):
        with tempfile.TemporaryDirectory() as folder:
            write_mimic(pathlib.Path(folder), films=case.batch, laterals=0, damaged=0)
            films = [(film, film.path) for film in list_inputs(f"{folder}/files").files]
            count = machine.processors()
            with decode.decoders("native", case.resolution, None, count) as decoders:
                [*workers.in_order(films[:count], decoders, count)]  # they have started then
                start = time.perf_counter()
                [*workers.in_order(films, decoders, 2 * count)]
            rate = len(films) / (time.perf_counter() - start)
            yield {"case": str(case), "from": "DICOM files", "films/s": rate}
            words = [f"--input={folder}/files", f"--output={folder}/store"]
            words += ["--config.image.preset=native", f"--config.image.size={case.resolution}"]
            if preprocess.main(["preprocess", *words]):
                return
            store = dataset.open_store(f"{folder}/store")
            wanted = {film for some in store.shards.values() for film in some}
            read = dataset.batches(store, [*store.shards], 1, wanted)
            next(read)  # TensorFlow has started then
            start = time.perf_counter()
            rate = len([*read]) / (time.perf_counter() - start)
            yield {"case": str(case), "from": "a PNG16 store", "films/s": rate}


with_torch = functools.partial(speed, others=("torch.compile",))
STEPS = {
    "parity": Step(parity, "lite0:224:16,l2:224:4"),
    "b0": Step(with_torch, "b0:224:64"),
    "l2": Step(with_torch, "l2:475:8"),
    "larger": Step(speed, "l2:800:8,l2:1280:1,l2:475:32,l2:1280:4"),
    "too_large": Step(too_large, "l2:1280:512"),
    "fed": Step(fed, "l2:475:256"),  # of films; the network is not run
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


def measure(name: str, folder: pathlib.Path, cases: str = "") -> None:
    """Does one step."""
    from benchmarks.encoder import facts

    folder.mkdir(parents=True, exist_ok=True)
    record(folder, "machine", {"before": name, **facts()})
    step = STEPS[name]
    for row in step.measure((cases or step.cases).split(",")):
        record(folder, name, row)
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for the results")
    parser.add_argument("--step", choices=STEPS, help="default: all, each in its own process")
    parser.add_argument("--cases", default="", help="VARIANT:RESOLUTION:BATCH, in place of its own")
    given = parser.parse_args()
    if not given.step:
        for step in STEPS:
            command = [sys.executable, __file__, "--output", given.output, "--cases", given.cases]
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run([*command, "--step", step], timeout=SECONDS, check=False)
        return
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # torch needs memory, too
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(given.output / "compiled"))
    measure(given.step, given.output, given.cases)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    main()
