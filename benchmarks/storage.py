"""Storing prepared films: bytes and time, and what 8 bits and JPEG do to embeddings and heads.

Films are drawn, and labelled as drawn. Real ones count too where they lie in `shared/data` beside
the checkout.
"""

import concurrent.futures
import csv
import functools
import itertools
import pathlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import imagecodecs
import jax
import numpy as np
import tensorflow as tf

from benchmarks import timing
from benchmarks.preprocess import read
from cxr_embeddings.encoder import random_weights
from cxr_embeddings.encoder.efficientnet import EfficientNet
from cxr_embeddings.heads import logistic
from cxr_embeddings.heads.features import select, standardisation
from cxr_embeddings.heads.statistics import discrimination
from cxr_embeddings.input_pipeline.films.film import Film
from cxr_embeddings.input_pipeline.films.png_jpeg import read_picture
from cxr_embeddings.input_pipeline.films.presets import PRESETS, network_input
from cxr_embeddings.input_pipeline.store.codecs import STORAGES, quantise
from cxr_embeddings.input_pipeline.synthetic import anatomy, drawing

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = ("original/nih_udacity_test3.dcm", "derived/nih12_mono1_explicit_le.dcm")  # 8 and 12 bits
SIZE = 1280  # of the films that are timed
RESOLUTION, BATCH = 224, 20  # of those that are embedded
LAYERS = ("pooled", "head")
FINDING, STRENGTH = "Lung Opacity", 0.4  # fainter than the stand-in of MIMIC-CXR draws it
DRAWN, DRAWN_SIZE = (300, 300), 1024  # train and test films, which hold it in turn
KERMANY = (600, 300)
PENALTY = 0.01
ACCURATE = "jpeg95, accurate"


class Codec(NamedTuple):
    """A way to store a film and to read it in TensorFlow: to values of `dtype`, [h w 1]."""

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], Any]
    dtype: str


def reader(dtype: str) -> Callable[[bytes], Any]:
    """As TensorFlow Datasets reads pictures."""
    return functools.partial(tf.image.decode_image, channels=1, dtype=tf.as_dtype(dtype))


def codecs() -> dict[str, Codec]:
    """What the project stores, and what it might have stored."""
    found = {
        name: Codec(storage.encode, reader(storage.dtype), storage.dtype)
        for name, storage in STORAGES.items()
    }
    accurate = functools.partial(tf.io.decode_jpeg, channels=1, dct_method="INTEGER_ACCURATE")
    found[ACCURATE] = found["jpeg95"]._replace(decode=accurate)
    png = imagecodecs.PNG
    options = {
        "uncompressed": {"level": 0, "filter": png.FILTER.NONE},
        "libpng, level 1": {"level": 1},
        "libpng, level 6": {"level": 6},
        "level 1, UP": {"level": 1, "filter": png.FILTER.UP},
        "run lengths, PAETH": {"strategy": png.STRATEGY.RLE, "filter": png.FILTER.PAETH},
    }

    def encode(image: np.ndarray, dtype: str, option: dict[str, int]) -> bytes:
        return imagecodecs.png_encode(quantise(image, dtype), **option)

    for name, dtype in (("png16", "uint16"), ("png8", "uint8")):
        for text, option in options.items():
            one = functools.partial(encode, dtype=dtype, option=option)
            found[f"{name}, {text}"] = Codec(one, reader(dtype), dtype)
    return found


def decoded(data: bytes, codec: Codec) -> np.ndarray:
    """float32 [h w 1] in [0, 1]."""
    return codec.decode(data).numpy() / np.float32(np.iinfo(codec.dtype).max)


def draw(number: int, height: int, width: int) -> np.ndarray:
    """A film in [0, 1] of a patient of its own; those of odd number have the finding."""
    rng = np.random.default_rng(number)
    patient = anatomy.draw_patient(rng)
    findings = {FINDING: STRENGTH} if number % 2 else {}
    return drawing.draw_film(rng, patient, findings, "left", (height, width), "PA")


def twelve_bits(film: np.ndarray) -> Film:
    return Film(np.rint(film * 4095).astype(np.uint16), bits_stored=12)


def sizes_and_times(name: str, films: Sequence[Film], repeats: int) -> None:
    """The codecs on the network inputs of two presets, all in turn; times are those of one film."""
    inputs = [
        network_input(film, PRESETS[preset], SIZE)
        for film in films
        for preset in ("cxr_foundation", "native")
    ]
    table = codecs()
    files = {text: [codec.encode(image) for image in inputs] for text, codec in table.items()}
    seconds = timing.interleave(
        {
            (text, step): functools.partial(lambda f, items: [f(x) for x in items], function, items)
            for text, codec in table.items()
            for step, function, items in (
                ("encode", codec.encode, inputs),
                ("decode", codec.decode, files[text]),
            )
        },
        repeats,
    )
    print(f"{name}: {len(inputs)} inputs of {SIZE} px, a film's mean; ratios to png16")
    print(f"{'':26}    KiB  encode ms  ratio  decode ms  ratio  RMS error")
    for text, codec in table.items():
        numbers = [np.mean([len(data) for data in files[text]]) / 1024]
        for step in ("encode", "decode"):
            values, baseline = seconds[text, step], seconds["png16", step]
            numbers.append(1e3 * statistics.median(values) / len(inputs))
            ratios = (v / b for v, b in zip(values, baseline, strict=True))
            numbers.append(statistics.median(ratios))
        pairs = zip(inputs, files[text], strict=True)
        error = np.mean([np.square(decoded(data, codec) - image).mean() for image, data in pairs])
        print(
            "{:26} {:6.0f} {:10.1f} {:6.2f} {:10.1f} {:6.2f}".format(text, *numbers)
            + f"    {np.sqrt(error):.1e}"
        )
    print()


def embedder() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Images [n h w 1] -> embeddings [n dim] by layer, of an untrained B0."""
    model = EfficientNet("b0", head_width=4096)
    variables = random_weights.random_variables(model)

    @jax.jit
    def forward(images: jax.Array) -> dict[str, jax.Array]:
        _, out = model.apply(variables, images.repeat(3, axis=-1))
        return {layer: out[layer] for layer in LAYERS}

    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        found = [forward(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return {layer: np.concatenate([batch[layer] for batch in found]) for layer in LAYERS}

    return embed


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row of `a` with the same row of `b`, [n dim] both."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a.astype(np.float64) * b).sum(axis=1) / lengths


def probe(embedding: np.ndarray, label: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A linear probe trained on these films: embeddings [n dim] -> logits [n 1]."""
    rows = np.arange(len(label))
    mean, scale = standardisation(embedding, rows)
    features = select(embedding, rows, mean, scale)
    weight = np.ones_like(label)[:, None]
    kernel = np.asarray(logistic.fit(features, label[:, None], weight, [PENALTY]).kernel[0, 0])
    return lambda embedding: ((embedding - mean) / scale @ kernel)[:, None]


def embeddings_and_heads(name: str, images: np.ndarray, label: np.ndarray, train: int) -> None:
    """Cosines with the exact embeddings, and linear probes; the first `train` films train."""
    embed, table = embedder(), codecs()
    found = {
        text: embed(np.stack([decoded(table[text].encode(image), table[text]) for image in images]))
        for text in (*STORAGES, ACCURATE)
    }
    exact, truth = embed(images), label[train:, None]
    print(f"{name}: {train} train and {len(truth)} test films, {truth.mean():.0%} positive")
    print(f"{'':21} cosine: median       min  centred      min    AUROC", end="")
    print("  minus exact (95 %)         on exact films")
    for layer in LAYERS:
        whole = exact[layer]
        center = whole.mean(axis=0)
        best = probe(whole[:train], label[:train])(whole[train:])
        auroc = float(discrimination.auroc(best[:, 0], truth[:, 0]))
        print(f"{layer + ', exact':21} {'':44}{auroc:.4f}")
        for text, by_layer in found.items():
            ours = by_layer[layer]
            cosines = (cosine(ours, whole)[train:], cosine(ours - center, whole - center)[train:])
            numbers = [f(values) for values in cosines for f in (np.median, np.min)]
            judge = probe(ours[:train], label[:train])
            mask = np.ones(truth.shape, bool)
            films = truth, mask, best, judge(ours[train:]), np.arange(len(truth))
            test = discrimination.compare([""], *films)[""]
            across = float(discrimination.auroc(judge(whole[train:])[:, 0], truth[:, 0]))
            interval = f"{test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f})"
            print(
                "  {:19} {:14.7f} {:9.7f} {:8.5f} {:8.5f}".format(text, *numbers)
                + f"   {test['auroc_b']:.4f}  {interval:26} {across:.4f}"
            )
    print()


def kermany() -> Iterator[tuple[Film, float]]:
    """Films of children, one a patient in random order, and whether they show pneumonia."""
    with (DATA / "kermany" / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    order = np.random.default_rng(0).permutation(len(rows))
    of_patient = {rows[i]["patient_key"]: rows[i] for i in order if not rows[i]["duplicate_of"]}
    for row in of_patient.values():
        film = read_picture((DATA / "kermany" / row["file"]).read_bytes())
        yield film, float(row["pneumonia"])


def run(repeats: int) -> None:
    """Prints a table of codecs for each kind of film, and of embeddings for each data set."""
    sizes_and_times("drawn, 12 bits", [twelve_bits(draw(0, 2544, 2048))], repeats)
    if all((DATA / "dicom" / name).is_file() for name in REAL):
        for name in REAL:
            sizes_and_times(f"real, {name}", [read(DATA / "dicom" / name)], repeats)
    else:
        print(f"no real films: {DATA / 'dicom'} is missing\n")

    def prepare(number: int) -> tuple[np.ndarray, np.ndarray]:
        film = draw(number, DRAWN_SIZE, DRAWN_SIZE)
        narrow = 0.45 + 0.1 * film  # as when a file without a window uses few of its values
        native = PRESETS["native"]
        return tuple(network_input(twelve_bits(f), native, RESOLUTION) for f in (film, narrow))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        films, narrow = map(np.stack, zip(*pool.map(prepare, range(sum(DRAWN))), strict=True))
    label = np.arange(len(films), dtype=np.float32) % 2
    embeddings_and_heads("drawn, faint opacities", films, label, DRAWN[0])
    embeddings_and_heads("drawn, in a tenth of the range", narrow, label, DRAWN[0])

    if not (DATA / "kermany" / "labels.csv").is_file():
        return print(f"no films of children: {DATA / 'kermany'} is missing")
    films, label = zip(*itertools.islice(kermany(), sum(KERMANY)), strict=True)
    preset = PRESETS["cxr_foundation"]
    images = np.stack([network_input(film, preset, RESOLUTION) for film in films])
    embeddings_and_heads("Kermany, 8-bit JPEGs", images, np.float32(label), KERMANY[0])


if __name__ == "__main__":
    run(repeats=10)
