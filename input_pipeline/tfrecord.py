"""TFRecord files and the `tf.train.Example` in their records, without TensorFlow."""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

# What `tf.train.Example` is on the wire (tensorflow/core/example/{example,feature}.proto): protobuf
# alone then writes and reads it, and nobody waits for TensorFlow. A map is a repeated entry. Packed
# floats are bytes on the wire, little endian; taken as such they never become Python numbers.
_EXAMPLE_SCHEMA = {
    "BytesList": [("value", 1, "bytes", "repeated")],
    "FloatList": [("value", 1, "bytes", "repeated")],
    "Feature": [("bytes_list", 1, "BytesList", ""), ("float_list", 2, "FloatList", "")],
    "Entry": [("key", 1, "string", ""), ("value", 2, "Feature", "")],
    "Features": [("feature", 1, "Entry", "repeated")],
    "Example": [("features", 1, "Features", "")],
}
FRAME = 16  # bytes around each payload: its length, and checksums of both


def _message_classes() -> dict[str, type[message.Message]]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    for type_name, fields in _EXAMPLE_SCHEMA.items():
        made = file.message_type.add(name=type_name)
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


Example: Any = _message_classes()["Example"]  # its fields are known when it is made


def encode_example(values: Mapping[str, bytes | np.ndarray]) -> bytes:
    """A `tf.train.Example` of one bytes value, or a float32 vector, for each feature, by name."""
    example = Example()
    for name, value in sorted(values.items()):
        feature = example.features.feature.add()
        feature.key = name
        if isinstance(value, bytes):
            feature.value.bytes_list.value.append(value)
        else:
            feature.value.float_list.value.append(value.astype("<f4").tobytes())
    return example.SerializeToString()


def _masked_crc(data: bytes) -> bytes:
    """The checksum of TFRecord files: CRC-32C, rotated by 15 bits and offset, little endian."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(payload: bytes) -> tuple[bytes, ...]:
    """The parts of a record that holds `payload`, to be written one after another."""
    length = struct.pack("<Q", len(payload))
    return length, _masked_crc(length), payload, _masked_crc(payload)


def unframe(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each record of a TFRecord file begins, and its payload.

    Raises:
        ValueError: the file is cut or altered; the records before that place came first.
    """
    offset = 0
    while offset < len(data):
        length = data[offset : offset + 8]
        if len(length) < 8 or data[offset + 8 : offset + 12] != _masked_crc(length):
            raise ValueError(f"records from byte {offset} on are lost: a damaged length")
        start = offset + 12
        end = start + struct.unpack("<Q", length)[0]
        payload = data[start:end]
        if data[end : end + 4] != _masked_crc(payload):
            raise ValueError(f"records from byte {offset} on are lost: cut short or damaged")
        yield offset, payload
        offset = end + 4
