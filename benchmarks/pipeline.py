"""From a store's films to embedding records, as embed.py makes them, against the network alone.

At least `GOAL` of the bare forward pass should be kept: that the network is not kept waiting. The
network is an untrained one, and ready before a clock starts.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import timing
from cxr_embeddings.configs.schema import EmbedConfig, EncoderConfig, InputConfig
from cxr_embeddings.embedding import embed_run
from cxr_embeddings.film_sources import FilmSource, open_source
from cxr_embeddings.input_pipeline.embeddings import output_plan, writer
from cxr_embeddings.input_pipeline.films.decode import Batch
from cxr_embeddings.input_pipeline.hosts import ALONE
from cxr_embeddings.input_pipeline.store.codecs import STORAGES
from cxr_embeddings.loading import Encoder, open_encoder

GOAL = 0.95
BARE, WHOLE = "bare forward pass", "end to end"


@contextlib.contextmanager
def opened_run(planned: Sequence[output_plan.Output]) -> Iterator[writer.Run]:
    """A run into a folder that goes when it ends."""
    with tempfile.TemporaryDirectory() as folder, writer.open_run(folder, planned, {}, {}) as run:
        yield run


def make_records(network: Encoder, source: FilmSource) -> None:
    """All that embed.py does once its network is ready."""
    with opened_run(source.planned) as run:
        embed_run(run, source, network, network.batch_size, ALONE, shown=False)
        run.finish(source.missing)


def run_bare(network: Encoder, batches: Sequence[Batch]) -> list[np.ndarray]:
    """The forward pass alone: images in memory -> embeddings, batch by batch."""
    infer = network.compiled(network.batch_size)
    return [rows for _, rows in infer((None, batch.image) for batch in batches)]


def make_store(network: Encoder, folder: pathlib.Path, count: int) -> str:
    """Has preprocess.py write a store of so many drawn films for the network."""
    (pictures := folder / "pictures").mkdir()
    random, size = np.random.default_rng(0), network.card.resolution
    y, x = np.mgrid[:size, :size] / size
    for i in range(count):
        waves = np.sin(random.uniform(1, 9) * x + random.uniform(1, 9) * y)
        film = 0.5 + 0.3 * waves + random.normal(0, 0.01, waves.shape)
        data = STORAGES["png16"].encode(np.float32(film.clip(0, 1))[..., None])
        (pictures / f"{i:06d}.png").write_bytes(data)
    made = folder / "store"
    command = [sys.executable, "scripts/preprocess.py"]
    command += [f"--config.input.path={pictures}", f"--config.output.path={made}"]
    command += [f"--config.image.preset={network.card.preset}", f"--config.image.size={size}"]
    command += ["--runner=FnApiRunner", "--direct_running_mode=in_memory"]
    root = pathlib.Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"preprocess.py failed: {done.stderr[-2000:]}")
    return str(made)


def run(
    repeats: int = 10,
    *,
    variant: str = "b0",
    resolution: int = 224,
    engine: str = "jax",
    batch_size: int = 0,
    films: int = 1024,
) -> None:
    """Prints the comparison.

    repeats: rounds that count.
    variant, resolution: of the network.
    engine: jax or openvino.
    batch_size: films a batch; 0: as embed.py chooses.
    films: in the store; with few of them, start and end count for much.
    """
    encoder = EncoderConfig("random", variant, resolution, engine=engine)
    network = open_encoder(encoder, batch_size, say=lambda _: None)
    network = dataclasses.replace(network, batch_size=network.films_a_step(1 << 20))
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(network, pathlib.Path(folder), films)
        config = EmbedConfig(input=InputConfig(store), encoder=encoder)
        source = open_source(config, say=lambda _: None)
        print(f"{films} films; {network.description}, batches of {network.batch_size}\n")
        with opened_run(source.planned) as opened:
            size = network.batch_size
            batches = list(source.batches(opened, network.card, size, lambda *_: None))
        forms = {BARE: lambda: run_bare(network, batches)}
        forms[WHOLE] = lambda: make_records(network, source)
        seconds = timing.interleave(forms, repeats)
    print(timing.report(seconds, BARE))
    kept = statistics.median(b / w for b, w in zip(seconds[BARE], seconds[WHOLE], strict=True))
    print(f"{WHOLE}: {kept:.3f} of the {BARE} (goal: {GOAL})")
