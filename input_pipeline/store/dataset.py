"""A finished store of preprocessed films: its metadata for TFDS and for us, and batches from it."""

import dataclasses
import itertools
import os
import pathlib
import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from cxr_embeddings.common import csv_tables, dicomweb, files, machine, paths, writing

from .. import run_folder, tfrecord
from ..films import decode as pipeline
from ..films.decode import Batch, Prepared
from ..films.film import InputFile, film_key
from ..films.presets import PRESETS
from .codecs import STORAGES
from .shards import Settings, Summary

FILMS = "films.csv"
COLUMNS = ("image_id", "patient_id", "study_id", "view_position", "split", "shard", "bytes")
_HUSH = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}  # TensorFlow talks
_FETCHED = 8 << 20  # bytes that are asked for at once, at least
_SHARDS_AT_ONCE = 8  # read side by side, since a stream from a cloud store is slow


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """A store that can be read."""

    folder: str  # absolute, or an address
    identity: run_folder.Identity  # what made it: preset, size, storage, views, ...
    # Name of each shard's file -> its films in their order, with their image_id as `path`; and the
    # bytes of their records, without what frames them
    shards: Mapping[str, Sequence[InputFile]]
    lengths: Mapping[str, Sequence[int]]
    retryable: int  # films that are missing because they failed temporarily
    given_up: int  # films that are missing because they failed in several runs


def films_table(summaries: Sequence[Summary]) -> bytes:
    """`FILMS`: who is in the store, in which shard, and the bytes of the record's payload."""
    rows = [
        [*film, s.split, s.name, length]
        for s in summaries
        for film, length in zip(s.films, s.lengths, strict=True)
    ]
    return writing.encode_table(COLUMNS, rows)


def features(size: int, storage: str) -> Any:
    """What TFDS calls the features of a store: an image, and texts that say which film it is."""
    os.environ |= _HUSH
    import tensorflow_datasets as tfds

    kept = STORAGES[storage]
    image = tfds.features.Image(
        shape=(size, size, 1), dtype=np.dtype(kept.dtype), encoding_format=kept.format
    )
    texts = ("image_id", "patient_id", "study_id", "view_position")
    return tfds.features.FeaturesDict(
        {"image": image, **{name: tfds.features.Text() for name in texts}}
    )


def tfds_metadata(settings: Settings, summaries: Sequence[Summary]) -> dict[str, bytes]:
    """The files by which TFDS knows the folder: name -> content.

    The version is the last part of the folder's path if that looks like 1.0.0.
    """
    os.environ |= _HUSH
    import tensorflow_datasets as tfds

    last, name = posixpath.basename(settings.folder), settings.name
    version = last if tfds.core.Version.is_valid(last) else "1.0.0"
    scratch = tempfile.TemporaryDirectory()  # TFDS writes to fewer file systems than we do
    template = tfds.core.ShardedFileTemplate(
        data_dir=scratch.name, dataset_name=name, filetype_suffix="tfrecord"
    )
    of_split: dict[str, list[Summary]] = {}
    for summary in sorted(summaries, key=lambda summary: summary.split):
        of_split.setdefault(summary.split, []).append(summary)
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(summary.films) for summary in mine],
            num_bytes=sum(summary.bytes for summary in mine),
            filename_template=template,
        )
        for split, mine in of_split.items()
        if any(summary.films for summary in mine)  # TFDS cannot read a split without films
    ]
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version(version), data_dir=scratch.name, module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=features(settings.size, settings.storage)
    )
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.SplitDict(splits))
    with scratch as written:
        info.write_to_directory(written)
        return {file.name: file.read_bytes() for file in sorted(pathlib.Path(written).iterdir())}


def unpublish(folder: str) -> None:
    """Removes what TFDS would read the folder by, since its shards are about to change."""
    fs, root = paths.file_system(folder)
    if fs.exists(f"{root}/dataset_info.json"):
        fs.rm_file(f"{root}/dataset_info.json")


def is_store(folder: str) -> bool:
    """Whether a folder is meant to be a store, finished or not."""
    if dicomweb.is_archive(folder):
        return False
    fs, root = paths.file_system(folder)
    return fs.exists(f"{root}/dataset_info.json") or fs.exists(f"{root}/.shards")


def open_store(folder: str) -> Store:
    """Opens a store.

    Raises ValueError if it is not finished, or made by another program or by rules that are no
    longer known; or if a shard or the table of films is not as it was written.
    """
    manifest = run_folder.read_manifest(folder)
    if manifest is None or not {"preset", "size", "storage", "views"} <= {*manifest["identity"]}:
        raise ValueError(
            f"{folder} holds no {run_folder.MANIFEST} that says by which preset its images were "
            "prepared; expected a store made by scripts/preprocess.py"
        )
    identity: run_folder.Identity = {"preset_version": 1, **manifest["identity"]}
    preset, version = identity["preset"], identity["preset_version"]
    if preset in PRESETS and version != PRESETS[preset].version:
        raise ValueError(
            f"the images of {folder} were prepared by version {version} of the preset {preset}; "
            f"expected version {PRESETS[preset].version}, which gives other pixels: have "
            "scripts/preprocess.py make the store again in an empty folder"
        )
    if identity["storage"] not in STORAGES:
        raise ValueError(
            f"the images of {folder} are stored as {identity['storage']!r}; expected one of "
            f"{', '.join(STORAGES)}: update cxr-embeddings, or make the store again"
        )
    if not {"shards", "retryable"} <= manifest.keys():
        raise ValueError(
            f"the store {folder} is not finished: run scripts/preprocess.py again, with the same "
            "options, and it continues"
        )
    expected = manifest["shards"]
    fs, root = paths.file_system(folder)
    fs.invalidate_cache()
    sizes = {posixpath.basename(i["name"]): i["size"] for i in fs.ls(root, detail=True)}
    wrong = [name for name, facts in expected.items() if sizes.get(name) != facts["bytes"]]
    if wrong:
        name, size = wrong[0], expected[wrong[0]]["bytes"]
        found = f"has {sizes[name]} bytes" if name in sizes else "is gone"
        raise ValueError(
            f"{len(wrong)} shards of {folder} are not as they were written: {name} {found}, "
            f"expected {size} bytes: cut short, or of another store. Run scripts/preprocess.py "
            "again, with the same options, to make them again"
        )
    shards: dict[str, list[InputFile]] = {name: [] for name in expected}
    lengths: dict[str, list[int]] = {name: [] for name in expected}
    try:
        for row in csv_tables.read_records(f"{folder}/{FILMS}"):
            film = InputFile(row["image_id"], film_key(row["image_id"]))
            shards[row["shard"]].append(film)
            lengths[row["shard"]].append(int(row["bytes"]))
        whole = all(
            len(some) == expected[name]["films"]
            and sum(some) + tfrecord.FRAME * len(some) == expected[name]["bytes"]
            for name, some in lengths.items()
        )
    except (KeyError, ValueError, FileNotFoundError):  # a shard of another store; half a row
        whole = False
    if not whole:
        raise ValueError(
            f"{folder}/{FILMS} does not list the films that {run_folder.MANIFEST} counts: it is "
            "gone, changed or cut short. Run scripts/preprocess.py again, with the same options"
        )
    ids = (film.path for films in shards.values() for film in films)
    if odd := [(image_id, why) for image_id in ids if (why := paths.why_outside(image_id))]:
        raise ValueError(
            f"{len(odd)} films in {folder}/{FILMS} have an image id that would lie outside their "
            f"folder, such as {odd[0][0]!r}: {odd[0][1]}. scripts/preprocess.py makes no such store"
        )
    given_up = manifest.get("given_up", {}).get("films", 0)  # stores made before do not say it
    return Store(folder, identity, shards, lengths, manifest["retryable"], given_up)


def _fetch(path: str, lengths: Sequence[int]) -> Iterator[bytes]:
    """The payloads of a shard's records, whose lengths are known, some megabytes a request.

    Raises ValueError if one is damaged, OSError if it cannot be read.
    """
    start = end = 0
    for i, length in enumerate(lengths, 1):
        end += length + tfrecord.FRAME
        if end - start >= _FETCHED or i == len(lengths):
            data = files.read_range(path, start, end - start)
            yield from (payload for _, payload in tfrecord.unframe(data))
            start = end


def batches(
    store: Store, names: Sequence[str], batch_size: int, wanted: Set[InputFile]
) -> Iterator[Batch]:
    """Reads the `wanted` films of some shards, always in the same order; pads the last batch.

    Raises ValueError if a shard is damaged, or holds other films than the store's table says.
    """
    os.environ |= _HUSH
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # they are JAX's
    storage = STORAGES[store.identity["storage"]]
    size, dtype = store.identity["size"], np.dtype(storage.dtype)
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "image_id")}

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert
    def decode(record: Any) -> tuple[Any, Any]:
        example = tf.io.parse_single_example(record, features)
        if storage.format == "png":
            image = tf.io.decode_png(example["image"], channels=1, dtype=storage.dtype)
        else:
            image = tf.io.decode_jpeg(
                example["image"], channels=1, dct_method="INTEGER_ACCURATE"
            )  # the default makes films half a grey step darker
        image = tf.ensure_shape(image, (size, size, 1))
        return example["image_id"], tf.cast(image, tf.float32) / np.iinfo(dtype).max

    def fetched(shard: Any) -> Any:  # TensorFlow itself knows fewer cloud stores than we do
        def fetch(index: int) -> Iterator[bytes]:
            return _fetch(f"{store.folder}/{names[index]}", store.lengths[names[index]])

        record = tf.TensorSpec([], tf.string)
        return tf.data.Dataset.from_generator(fetch, output_signature=record, args=(shard,))

    options = tf.data.Options()
    options.autotune.enabled = False  # the end would wait for it to wake: up to a minute
    is_remote = paths.is_remote(store.folder)
    places = [os.fsencode(f"{store.folder}/{name}") for name in names]
    records = (
        tf.data.Dataset.from_tensor_slices(np.arange(len(names)) if is_remote else places)
        .interleave(
            fetched if is_remote else tf.data.TFRecordDataset,
            cycle_length=_SHARDS_AT_ONCE,
            num_parallel_calls=_SHARDS_AT_ONCE,
            deterministic=True,
        )
        .map(decode, num_parallel_calls=machine.processors(), deterministic=True)
        .batch(batch_size)  # one by one they take a fifth more of a processor
        .prefetch(1)
        .with_options(options)
    )
    missing = {film.path: film for name in names for film in store.shards[name]}

    def prepared() -> Iterator[tuple[InputFile, Prepared]]:
        rows = (zip(*batch, strict=True) for batch in records.as_numpy_iterator())
        for name, image in itertools.chain.from_iterable(rows):
            image_id = name.decode("utf-8", "surrogateescape")
            film = missing.pop(image_id, None)
            if film is None:
                raise ValueError(f"{store.folder} holds {image_id} twice, or should not hold it")
            if film in wanted:
                yield film, Prepared(image, None, (size, size))

    try:
        yield from pipeline.batches(prepared(), batch_size, drop=lambda *_: None)
    except tf.errors.OpError as error:
        raise ValueError(
            f"a shard of {store.folder} cannot be read ({type(error).__name__}): run `sha256sum -c "
            f"--quiet {run_folder.CHECKSUMS}` in that folder to see which one, remove it, and run "
            "scripts/preprocess.py again, with the same options"
        ) from error
    if missing:
        raise ValueError(f"{len(missing)} films of {store.folder} are missing in its shards")
