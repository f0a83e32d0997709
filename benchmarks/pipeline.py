"""From films to embedding records as embed.py makes them: where the time goes, and what is lost.

First from DICOM files, as a whole and stage by stage. Then from the same films made ready, in a
store of preprocess.py, against the bare forward pass, of which at least `GOAL` should be kept: that
the network is not kept waiting. The network is an untrained one, and ready before a clock starts.
"""

import collections
import contextlib
import dataclasses
import io
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from benchmarks import timing
from cxr_embeddings.common import files, machine, paths
from cxr_embeddings.configs.schema import EmbedConfig, EncoderConfig, InputConfig
from cxr_embeddings.embedding import embed_run
from cxr_embeddings.film_sources import FilmSource, open_source
from cxr_embeddings.input_pipeline.embeddings import output_plan, writer
from cxr_embeddings.input_pipeline.films import decode, dicom
from cxr_embeddings.input_pipeline.films.film import Film
from cxr_embeddings.input_pipeline.films.presets import PRESETS, network_input
from cxr_embeddings.input_pipeline.hosts import ALONE
from cxr_embeddings.input_pipeline.store.codecs import STORAGES
from cxr_embeddings.input_pipeline.synthetic import mimic_folder
from cxr_embeddings.loading import Encoder, open_encoder

Result = TypeVar("Result")
SIDES = (2021, 3056)  # of drawn films, in pixels; MIMIC-CXR's are mostly 2544 x 3056
GOAL = 0.95
BARE, WHOLE = "bare forward pass", "end to end"


@contextlib.contextmanager
def opened_run(planned: Sequence[output_plan.Output]) -> Iterator[writer.Run]:
    """A run into a folder that goes when it ends."""
    with (
        tempfile.TemporaryDirectory() as folder,
        writer.open_run(folder, planned, {}, {}) as run,
    ):
        yield run


def make_records(network: Encoder, source: FilmSource) -> None:
    """All that embed.py does once its network is ready."""
    with opened_run(source.planned) as run:
        embed_run(run, source, network, network.batch_size, ALONE, shown=False)
        run.finish(source.missing)


def run_bare(network: Encoder, batches: Sequence[decode.Batch]) -> list[np.ndarray]:
    """The forward pass alone: images in memory -> embeddings, batch by batch."""
    infer = network.compiled(network.batch_size)
    return [rows for _, rows in infer((None, batch.image) for batch in batches)]


def one_by_one(network: Encoder, source: FilmSource) -> dict[str, float]:
    """Does the stages of `make_records` one after another in this process: stage -> seconds."""
    seconds: collections.Counter[str] = collections.Counter()

    def timed(stage: str, function: Callable[..., Result], *arguments: object) -> Result:
        start = time.perf_counter()
        result = function(*arguments)
        seconds[stage] += time.perf_counter() - start
        return result

    preset, size = PRESETS[network.card.preset], network.card.resolution
    ready = []
    for film in (film for output in source.planned for film in output.films):
        data = timed("read the file", files.read_bytes, film.path)
        read = timed("decode the pixels", dicom.read_film, io.BytesIO(data))
        if isinstance(read, Film):
            image = timed("window and resize", network_input, read, preset, size)
            ready.append((film, decode.Prepared(image, None, read.pixels.shape)))
    batches = list(decode.batches(ready, network.batch_size, drop=lambda *_: None))
    rows = np.concatenate(timed("forward pass", run_bare, network, batches))
    embeddings = dict(zip([film for film, _ in ready], rows, strict=False))  # no padded row

    def write() -> None:
        with opened_run(source.planned) as run:
            for film, embedding in embeddings.items():
                run.add(film, embedding)
            run.finish()

    timed("encode and write", write)
    return seconds


def read_batches(network: Encoder, source: FilmSource) -> list[decode.Batch]:
    with opened_run(source.planned) as run:
        return list(source.batches(run, network.card, network.batch_size, lambda *_: None))


def make_store(
    batches: Sequence[decode.Batch], network: Encoder, folder: pathlib.Path, count: int
) -> str:
    """Has preprocess.py write a store of so many films, of which these are the images in turn."""
    pictures = folder / "pictures"
    pictures.mkdir()
    encode = STORAGES["png16"].encode
    encoded = [encode(image) for batch in batches for image in batch.image[: len(batch.films)]]
    for i in range(count):
        (pictures / f"{i:06d}.png").write_bytes(encoded[i % len(encoded)])
    made, card = folder / "store", network.card
    command = [sys.executable, "scripts/preprocess.py", "--config=configs/preprocess.py"]
    command += [f"--config.input.path={pictures}", f"--config.output.path={made}"]
    command += [f"--config.image.preset={card.preset}", f"--config.image.size={card.resolution}"]
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
    films: int = 24,
    input: str = "",
    records: int = 1024,
) -> None:
    """Prints the two comparisons.

    repeats: rounds that count.
    variant, resolution: of the network.
    engine: jax or openvino.
    batch_size: films a batch; 0: as embed.py chooses.
    films: how many to draw, or to take from --input.
    input: folder of films; without one they are drawn.
    records: films in the store; with few of them, start and end count for much.
    """
    encoder = EncoderConfig("random", variant, resolution, engine=engine)
    network = open_encoder(encoder, batch_size, say=lambda _: None)
    network = dataclasses.replace(network, batch_size=network.films_a_step(1 << 20))
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        if not input:
            drawn = {"films": films, "laterals": 0, "damaged": 0, "size_range": SIDES}
            mimic_folder.write_mimic(scratch / "films", **drawn)
        folder = paths.typed(input or str(scratch / "films"))
        config = EmbedConfig(input=InputConfig(folder, limit=films), encoder=encoder)
        source = open_source(config, say=lambda _: None)
        batches = read_batches(network, source)
        count = sum(len(batch.films) for batch in batches)
        if not count:
            raise SystemExit(f"error: no film in {folder} gives an image; expected chest films")
        print(
            f"{count} {'films' if input else 'drawn films'}; {network.description}, batches of "
            f"{network.batch_size}\n"
        )
        from_files(network, source, count, repeats)
        store = make_store(batches, network, scratch, records)
        config = dataclasses.replace(config, input=InputConfig(store))
        source = open_source(config, say=lambda _: None)
        from_store(network, source, records, repeats)


def from_files(network: Encoder, source: FilmSource, count: int, repeats: int) -> None:
    """Prints where the time goes between the files of `count` films and their records."""
    rounds: list[dict[str, float]] = []
    forms = {"stages": lambda: rounds.append(one_by_one(network, source))}
    forms[WHOLE] = lambda: make_records(network, source)
    whole = statistics.median(timing.interleave(forms, repeats)[WHOLE])  # after a warm-up round
    stages = {name: statistics.median(r[name] for r in rounds[-repeats:]) for name in rounds[0]}
    total = sum(stages.values())
    print(f"{'stage, one after another':28} {'ms a film':>10} {'share':>9}")
    for name, seconds in (stages | {"sum": total, WHOLE: whole}).items():
        print(f"{name:28} {1e3 * seconds / count:10.1f} {seconds / total:9.0%}")
    print(
        f"{WHOLE}, {machine.processors()} processes, one a processor, read, decode, window "
        "and resize at the\nsame time, beside the forward pass and the writing; to start them "
        "counts too\n"
    )


def from_store(network: Encoder, source: FilmSource, count: int, repeats: int) -> None:
    """Prints what the way from `count` ready records keeps of the bare forward pass."""
    batches = read_batches(network, source)
    forms = {BARE: lambda: run_bare(network, batches)}
    forms[WHOLE] = lambda: make_records(network, source)
    seconds = timing.interleave(forms, repeats)
    print(f"{count} ready records of the same films, in a store\n{timing.report(seconds, BARE)}")
    kept = statistics.median(b / w for b, w in zip(seconds[BARE], seconds[WHOLE], strict=True))
    print(f"{WHOLE} from ready records: {kept:.3f} of the {BARE} (goal: {GOAL})")
