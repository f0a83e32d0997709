"""Embedding records and the file formats they travel in; the seam between encoder and heads."""

import dataclasses
import io
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from jaxtyping import Float32


@dataclasses.dataclass(frozen=True)
class EmbeddingRecord:
    """The embedding of one film. Which encoder made it stands once, in the run's manifest.

    Attributes:
        image_id: path or address of the film.
        embedding: float32 vector; a feature map is flattened in row-major order.
    """

    image_id: str
    embedding: Float32[np.ndarray, " dim"]


# What `tf.train.Example` is on the wire (tensorflow/core/example/{example,feature}.proto): protobuf
# alone then writes and reads it, and nobody waits for TensorFlow. A map is a repeated entry.
_EXAMPLE_SCHEMA = {
    "BytesList": [("value", 1, "bytes", "repeated")],
    "FloatList": [("value", 1, "float", "repeated")],
    "Feature": [("bytes_list", 1, "BytesList", ""), ("float_list", 2, "FloatList", "")],
    "Entry": [("key", 1, "string", ""), ("value", 2, "Feature", "")],
    "Features": [("feature", 1, "Entry", "repeated")],
    "Example": [("features", 1, "Features", "")],
}


def _message_classes() -> dict[str, type]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    for message, fields in _EXAMPLE_SCHEMA.items():
        made = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            one = made.field.add(name=name, number=number)
            one.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in _EXAMPLE_SCHEMA:
                one.type, one.type_name = field.TYPE_MESSAGE, f".tf.{kind}"
            else:
                one.type = field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tf.{name}"))
        for name in _EXAMPLE_SCHEMA
    }


_EXAMPLE = _message_classes()["Example"]


def _masked_crc(data: bytes) -> bytes:
    """The checksum of TFRecord files: CRC-32C, rotated by 15 bits and offset, little endian."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def encode_tfrecord(records: Sequence[EmbeddingRecord]) -> bytes:
    """TFRecord framing of one `tf.train.Example` a record, with `image/id` and `embedding`."""
    parts = []
    for record in records:
        example = _EXAMPLE()
        embedding, image_id = example.features.feature.add(), example.features.feature.add()
        embedding.key, image_id.key = "embedding", "image/id"
        embedding.value.float_list.value.extend(record.embedding.tolist())
        image_id.value.bytes_list.value.append(record.image_id.encode("utf-8", "surrogateescape"))
        data = example.SerializeToString()
        length = struct.pack("<Q", len(data))
        parts += [length, _masked_crc(length), data, _masked_crc(data)]
    return b"".join(parts)


def _unframe(data: bytes) -> Iterator[bytes]:
    """The payloads of TFRecord framing. Raises ValueError on a cut or altered file."""
    offset = 0
    while offset < len(data):
        length = data[offset : offset + 8]
        if len(length) < 8 or data[offset + 8 : offset + 12] != _masked_crc(length):
            raise ValueError(f"record at byte {offset} has a damaged length")
        start = offset + 12
        end = start + struct.unpack("<Q", length)[0]
        if data[end : end + 4] != _masked_crc(data[start:end]):
            raise ValueError(f"record at byte {offset} is cut short or damaged")
        yield data[start:end]
        offset = end + 4


def decode_tfrecord(data: bytes) -> list[EmbeddingRecord]:
    records = []
    for payload in _unframe(data):
        features = {f.key: f.value for f in _EXAMPLE.FromString(payload).features.feature}
        image_id = features["image/id"].bytes_list.value[0].decode("utf-8", "surrogateescape")
        embedding = np.array(features["embedding"].float_list.value, np.float32)
        records.append(EmbeddingRecord(image_id, embedding))
    return records


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


def decode_npz(data: bytes) -> list[EmbeddingRecord]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        image_id, embedding = archive["image_id"], archive["embedding"]
    rows = zip(image_id, np.atleast_2d(embedding), strict=True)
    return [EmbeddingRecord(str(i), e) for i, e in rows]


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
    rows = embedding.flatten().to_numpy().reshape(len(image_id), embedding.type.list_size)
    return [EmbeddingRecord(i, e) for i, e in zip(image_id.to_pylist(), rows, strict=True)]


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
