"""Embedding records and the file formats they travel in; the seam between encoder and heads."""

import dataclasses
import functools
import io
import math
import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from google.protobuf import message
from jaxtyping import Float32

from input_pipeline import tfrecord

MAX_ARRAY_BYTES = 4_000_000_000  # larger ones in a NumPy archive are damage, or meant to do harm


@dataclasses.dataclass(frozen=True)
class EmbeddingRecord:
    """The embedding of one film. Which encoder made it stands once, in the run's manifest.

    Attributes:
        image_id: path or address of the film; "" where the file does not say, as the published
            embeddings of MIMIC-CXR and the toolkit's NumPy archives may not.
        embedding: float32 vector; a feature map is flattened in row-major order.
    """

    image_id: str
    embedding: Float32[np.ndarray, " dim"]


def encode_tfrecord(records: Sequence[EmbeddingRecord]) -> bytes:
    """TFRecord framing of one `tf.train.Example` a record, with `image/id` and `embedding`."""
    parts = []
    for record in records:
        example = tfrecord.Example()
        embedding, image_id = example.features.feature.add(), example.features.feature.add()
        embedding.key, image_id.key = "embedding", "image/id"
        embedding.value.float_list.value.append(record.embedding.astype("<f4").tobytes())
        image_id.value.bytes_list.value.append(record.image_id.encode("utf-8", "surrogateescape"))
        parts += tfrecord.frame(example.SerializeToString())
    return b"".join(parts)


def decode_example(payload: bytes) -> EmbeddingRecord:
    """The record in a `tf.train.Example`. Raises ValueError if there is none."""
    try:
        features = {f.key: f.value for f in tfrecord.Example.FromString(payload).features.feature}
    except message.DecodeError as error:
        raise ValueError("no tf.train.Example") from error
    values = b"".join(features["embedding"].float_list.value) if "embedding" in features else b""
    if not values:
        raise ValueError(f"no floats `embedding` among {', '.join(sorted(features)) or 'nothing'}")
    image_id = [*features["image/id"].bytes_list.value, b""][0] if "image/id" in features else b""
    return EmbeddingRecord(
        image_id.decode("utf-8", "surrogateescape"), np.frombuffer(values, "<f4")
    )


def decode_tfrecord(data: bytes) -> list[EmbeddingRecord]:
    return [decode_example(payload) for _, payload in tfrecord.unframe(data)]


def _columns(records: Sequence[EmbeddingRecord]) -> tuple[np.ndarray, np.ndarray]:
    """image_id as text [n] and embedding as float32 [n dim]; an empty shard has a dim of 1."""
    embeddings = np.stack([r.embedding for r in records] or [np.zeros(1, np.float32)])
    return np.array([r.image_id for r in records], np.str_), embeddings[: len(records)]


def encode_npz(records: Sequence[EmbeddingRecord]) -> bytes:
    """NumPy archive with `embedding` and `image_id`; of a single record [dim], else [n dim]."""
    image_id, embedding = _columns(records)
    if len(records) == 1:
        embedding = embedding[0]
    stream = io.BytesIO()
    np.savez(stream, embedding=embedding, image_id=image_id)
    return stream.getvalue()


@functools.lru_cache  # it runs Python's parser, and the headers of a folder are nearly all alike
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of a NumPy archive, whose header is not believed before its size is checked."""
    size = archive.getinfo(name).file_size
    if size > MAX_ARRAY_BYTES:
        raise ValueError(f"{name} has {size} bytes; expected at most {MAX_ARRAY_BYTES}")
    data = archive.read(name)
    start = data.find(b"\n", 12, 10_012) + 1  # the end of the header, whose text starts by byte 12
    shape, fortran_order, dtype = _parse_header(data[:start])
    expected = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or expected != len(data) - start:
        raise ValueError(f"{name} says it is {dtype} {shape}, but holds {len(data) - start} bytes")
    return np.ndarray(shape, dtype, data, start, order="F" if fortran_order else "C")


def _text(image_id: object) -> str:
    """An image id as text, whatever kind of column it stood in."""
    if isinstance(image_id, bytes):
        return image_id.decode("utf-8", "surrogateescape")
    return "" if image_id is None else str(image_id)


def decode_npz(data: bytes) -> list[EmbeddingRecord]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        embedding = _read_array(archive, "embedding.npy")
        if embedding.dtype.kind != "f" or embedding.ndim not in (1, 2):
            raise ValueError(
                f"`embedding` is {embedding.dtype} {embedding.shape}; expected floats [n dim]"
            )
        rows = np.atleast_2d(embedding)
        has_ids = "image_id.npy" in archive.namelist()
        image_id = _read_array(archive, "image_id.npy") if has_ids else [""] * len(rows)
    if len(image_id) != len(rows):
        raise ValueError(f"{len(image_id)} image ids for {len(rows)} embeddings")
    with np.errstate(over="ignore"):  # a float64 may become infinite, which readers look for
        rows = rows.astype(np.float32, copy=False)
    return [EmbeddingRecord(_text(i), e) for i, e in zip(image_id, rows, strict=True)]


def encode_parquet(records: Sequence[EmbeddingRecord]) -> bytes:
    """Parquet table with the columns `image_id` and `embedding` (a list of float32 a row)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image_id, embedding = _columns(records)
    width = pa.list_(pa.float32(), embedding.shape[1])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embedding.ravel()), type=width)
    stream = io.BytesIO()
    table = pa.table({"image_id": pa.array(image_id.tolist()), "embedding": vectors})
    pq.write_table(table, stream, use_dictionary=False)
    return stream.getvalue()


def decode_parquet(data: bytes) -> list[EmbeddingRecord]:
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data), columns=["image_id", "embedding"])
    image_id, embedding = (table[name].combine_chunks() for name in table.column_names)
    values = embedding.flatten().to_numpy().astype(np.float32, copy=False)
    rows = values.reshape(len(image_id), embedding.type.list_size)
    return [EmbeddingRecord(_text(i), e) for i, e in zip(image_id.to_pylist(), rows, strict=True)]


class Format(NamedTuple):
    """A file format: its suffix, and records to bytes and back (ValueError on damaged bytes)."""

    suffix: str
    encode: Callable[[Sequence[EmbeddingRecord]], bytes]
    decode: Callable[[bytes], list[EmbeddingRecord]]


FORMATS = {
    "tfrecord": Format(".tfrecord", encode_tfrecord, decode_tfrecord),
    "npz": Format(".npz", encode_npz, decode_npz),
    "parquet": Format(".parquet", encode_parquet, decode_parquet),
}
