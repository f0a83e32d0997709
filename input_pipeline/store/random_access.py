"""Films for pretraining, at random from stores: the batch of any step, without those before it.

A position in the data is the number of a step and nothing else, so that a run that was stopped
goes on with exactly the films that it would have seen.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import imagecodecs
import numpy as np
from jaxtyping import Float32, Int32, Int64, Shaped

from cxr_embeddings.common import files
from cxr_embeddings.common.workers import in_order

from .. import tfrecord
from .codecs import STORAGES
from .dataset import Store

_AHEAD = 2  # batches that are being read, or wait to be used; bounds the memory
_DECODERS = {"png": imagecodecs.png_decode, "jpeg": imagecodecs.jpeg8_decode}  # as TensorFlow's


class Places(NamedTuple):
    """Where each film's record lies: films in the order of stores, shards and records."""

    image_id: Shaped[np.ndarray, " n"]  # str, in an array of objects
    path: Shaped[np.ndarray, " n"]  # of the shard's file, absolute or an address; likewise
    offset: Int64[np.ndarray, " n"]  # byte of that file where the record begins
    length: Int64[np.ndarray, " n"]  # bytes of the record's payload, without what frames it
    store: Int64[np.ndarray, " n"]  # index of the store


def find_films(stores: Sequence[Store]) -> Places:
    """Lists the films of one or several stores. No shard is read.

    Raises ValueError if the stores are of different presets or sizes, or a film is there twice.
    """
    first = stores[0]
    for other in stores[1:]:
        how = [(s.identity["preset"], s.identity["size"]) for s in (first, other)]
        if how[0] != how[1]:
            raise ValueError(
                f"the images of {other.folder} were prepared by the preset {how[1][0]} at "
                f"{how[1][1]} px, those of {first.folder} by {how[0][0]} at {how[0][1]} px; "
                "expected the same: have scripts/preprocess.py make one of the stores again"
            )
    rows: list[tuple[str, str, int, int, int]] = []
    found: dict[str, str] = {}
    for index, store in enumerate(stores):
        for name, films in store.shards.items():
            path, offset = f"{store.folder}/{name}", 0
            for film, length in zip(films, store.lengths[name], strict=True):
                if film.path in found:
                    raise ValueError(
                        f"the film {film.path} is in {found[film.path]} and again in "
                        f"{store.folder}; expected each film once: leave out one of the stores"
                    )
                found[film.path] = store.folder
                rows.append((film.path, path, offset, length, index))
                offset += length + tfrecord.FRAME
    kinds = (object, object, *3 * [np.int64])
    columns = zip(zip(*rows, strict=True), kinds, strict=True)
    return Places(*(np.array(column, kind) for column, kind in columns))


def steps_per_epoch(films: int, batch_size: int) -> int:
    """Full batches in a pass over the films; the rest of them wait for another pass."""
    return films // batch_size


def make_schedule(
    label: Int32[np.ndarray, "n finding"], batch_size: int, seed: int
) -> Callable[[int], Int64[np.ndarray, " batch"]]:
    """Says which films each step takes.

    An epoch takes each film at most once, in an order drawn from `seed` and the epoch's number.
    Every batch holds the classes, which are films of the same labels, in the shares that they have
    of all films, rounded up or down to whole films. So it does for the values of the first finding,
    and for the classes that share those of the first two, three, ... findings. The films that are
    too few for one more batch are left out, others in each epoch.
    The order is that of the raw bits of a NumPy bit generator, which all versions of NumPy share.

    Args:
        label: what is known of each film, in whole numbers.
        batch_size: films a step.
        seed: 0 or more.

    Returns:
        Number of a step, from 0 on -> indices of its films.

    Raises:
        ValueError: the films fill no batch.
    """
    films = len(label)
    if not 1 <= batch_size <= films:
        raise ValueError(
            f"a batch of {batch_size} cannot be drawn from {films} films; expected a batch of 1 to "
            "as many films as have a label"
        )
    # sorted: the classes that share the values of the first findings are neighbours
    _, kind, sizes = np.unique(label, axis=0, return_inverse=True, return_counts=True)
    members = np.argsort(kind.ravel(), kind="stable")  # films, class by class
    kind = np.sort(kind.ravel())  # of each of them
    steps = steps_per_epoch(films, batch_size)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    place_in_class = np.arange(films) - bounds[kind]

    @functools.lru_cache(maxsize=2)  # two: a step may look ahead into the next epoch
    def epoch_rows(epoch: int) -> Int64[np.ndarray, "steps batch"]:
        bits = np.random.PCG64([seed, epoch])

        def order(*shape: int) -> Int64[np.ndarray, "..."]:
            return np.argsort(bits.random_raw(shape), axis=-1, kind="stable")

        # Systematic sampling, in whole numbers: a batch's classes end at its shares' cumulated
        # sums, each rounded down after adding the batch's own one of evenly spaced fractions.
        # So each count is a share rounded up or down, and since the floor(x + k / steps) add up to
        # floor(steps x), so is each class's sum over the epoch: no class runs out of films.
        fraction = films * order(steps) + int(bits.random_raw()) % films
        ends = (steps * batch_size * bounds + fraction[:, None]) // (films * steps)
        counts = np.diff(ends, axis=1)
        kinds = np.repeat(np.tile(np.arange(len(sizes)), steps), counts.ravel())
        shuffled = members[np.lexsort((bits.random_raw(films), kind))]  # within each class
        rows = np.empty(steps * batch_size, np.int64)
        taken = place_in_class < counts.sum(axis=0)[kind]
        rows[np.argsort(kinds, kind="stable")] = shuffled[taken]
        return np.take_along_axis(rows.reshape(steps, batch_size), order(steps, batch_size), axis=1)

    def schedule(step: int) -> Int64[np.ndarray, " batch"]:
        epoch, place = divmod(step, steps)
        return epoch_rows(epoch)[place]

    return schedule


def batches(
    stores: Sequence[Store],
    places: Places,
    rows_of_step: Callable[[int], Int64[np.ndarray, " batch"]],
    first_step: int,
    last_step: int,
    workers: int,
) -> Iterator[tuple[int, Float32[np.ndarray, "batch height width 1"]]]:
    """Reads the films of the steps `range(first_step, last_step)` ahead, in threads.

    Args:
        stores: as given to `find_films`.
        places: all films of the stores, from there.
        rows_of_step: number of a step -> indices of its films in `places`.
        workers: threads; about as many as processors, and some more where the stores are remote.

    Yields:
        The number of each step, and its films in the order of the rows: values in [0, 1], the same
        as `dataset.batches` gives.

    Raises:
        ValueError: a record is damaged, or of another film than the store's table says.
        OSError: a shard cannot be read.
    """
    size = stores[0].identity["size"]
    decoders = [_DECODERS[STORAGES[store.identity["storage"]].format] for store in stores]

    def read(film: tuple[int, np.ndarray]) -> None:
        row, image = film
        image_id, path, offset, length, index = (column.item(row) for column in places)
        pixels = decoders[index](_read_picture(image_id, path, offset, length))
        np.divide(pixels, np.iinfo(pixels.dtype).max, out=image, dtype=np.float32)

    steps = ((step, rows_of_step(step).tolist()) for step in range(first_step, last_step))
    first: tuple[int, list[int]] = next(steps, (0, []))

    def films() -> Iterator[tuple[tuple[int, np.ndarray | None], tuple[int, np.ndarray]]]:
        """Of each film its row and its place; with the last one of a step all of its images."""
        for step, rows in itertools.chain([first], steps):
            images = np.empty((len(rows), size, size, 1), np.float32)
            for i, row in enumerate(rows, 1):
                yield (step, images if i == len(rows) else None), (row, images[i - 1, ..., 0])

    ahead = _AHEAD * len(first[1])
    with contextlib.closing(in_order(films(), [read] * workers, ahead)) as done:
        yield from ((step, images) for (step, images), _ in done if images is not None)


def _read_picture(image_id: str, path: str, offset: int, length: int) -> bytes:
    """The picture file in a film's record."""
    data = files.read_range(path, offset, length + tfrecord.FRAME)
    remedy = "remove that file, and run scripts/preprocess.py again, with the same options"
    try:
        [(_, payload)] = tfrecord.unframe(data)
    except ValueError as error:
        raise ValueError(
            f"the record of {image_id} in {path} from byte {offset} on was altered or cut short: "
            f"{remedy}"
        ) from error
    features = tfrecord.Example.FromString(payload).features.feature
    values = {feature.key: feature.value.bytes_list.value[0] for feature in features}
    found = values["image_id"].decode("utf-8", "surrogateescape")
    if found != image_id:
        raise ValueError(f"{path} holds {found} at byte {offset}; expected {image_id}: {remedy}")
    return values["image"]
