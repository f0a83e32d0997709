"""Embedding records and the file formats they travel in; the seam between encoder and heads."""

import dataclasses
import functools
import io
import math
import zipfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from google.protobuf import message
from jaxtyping import Float32

from .. import tfrecord

if TYPE_CHECKING:
    import pyarrow as pa

# What a file may unpack to, by its own size: embeddings hardly shrink, so more is damage, or meant
# to do harm. Readers hold files by their sizes in memory, several at once.
MOST_UNPACKED, ALWAYS_UNPACKED = 32, 1 << 20
_ROW_BYTES = 256  # of a record in memory, besides its numbers


@dataclasses.dataclass(frozen=True)
class EmbeddingRecord:
    """The embedding of one film. Which encoder made it stands once, in the run's manifest."""

    # Path or address of the film; "" where the file does not say, as the published embeddings of
    # MIMIC-CXR and the toolkit's NumPy archives may not
    image_id: str
    embedding: Float32[np.ndarray, " dim"]  # a feature map is flattened in row-major order


def encode_tfrecord(records: Sequence[EmbeddingRecord]) -> bytes:
    """TFRecord framing of one `tf.train.Example` a record, with `image/id` and `embedding`."""
    parts: list[bytes] = []
    for record in records:
        image_id = record.image_id.encode("utf-8", "surrogateescape")
        example = tfrecord.encode_example({"embedding": record.embedding, "image/id": image_id})
        parts += tfrecord.frame(example)
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


def _check_unpacked(unpacked: int, rows: int, packed: int) -> None:
    """Raises ValueError if a file of `packed` bytes would take too much memory."""
    needed, most = unpacked + _ROW_BYTES * rows, ALWAYS_UNPACKED + MOST_UNPACKED * packed
    if needed > most:
        raise ValueError(
            f"it has {packed:,} bytes, and unpacks to {needed:,}; expected at most {most:,}, which "
            f"is {MOST_UNPACKED} times its size and 1 MiB: it is damaged, or meant to do harm"
        )


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of a NumPy archive, whose header is not believed before its size is checked."""
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is packed as NumPy packs nothing")
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
        names = {"embedding.npy", "image_id.npy"} & {*archive.namelist()}
        unpacked = sum(archive.getinfo(name).file_size for name in names)
        _check_unpacked(unpacked, 0, len(data))
        embedding = _read_array(archive, "embedding.npy")
        if embedding.dtype.kind != "f" or embedding.ndim not in (1, 2):
            raise ValueError(
                f"`embedding` is {embedding.dtype} {embedding.shape}; expected floats [n dim]"
            )
        rows = np.atleast_2d(embedding)
        _check_unpacked(max(unpacked, 4 * rows.size), len(rows), len(data))
        has_ids = "image_id.npy" in names
        image_id = _read_array(archive, "image_id.npy") if has_ids else [""] * len(rows)
    if np.ndim(image_id) != 1 or len(image_id) != len(rows):
        raise ValueError(f"{len(image_id)} image ids for {len(rows)} embeddings")
    with np.errstate(over="ignore"):  # a float64 may become infinite, which readers look for
        rows = rows.astype(np.float32, copy=False)
    return [EmbeddingRecord(_text(i), e) for i, e in zip(image_id, rows, strict=True)]


def parquet_table(image_id: Sequence[str], embedding: Float32[np.ndarray, "n dim"]) -> "pa.Table":
    """A table of the columns `image_id` and `embedding` (a list of float32 a row)."""
    import pyarrow as pa

    vector = pa.list_(pa.float32(), embedding.shape[1])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embedding.ravel()), type=vector)
    return pa.table({"image_id": pa.array(image_id), "embedding": vectors})


def encode_parquet(records: Sequence[EmbeddingRecord]) -> bytes:
    """Parquet file of a `parquet_table`."""
    import pyarrow.parquet as pq

    image_id, embedding = _columns(records)
    stream = io.BytesIO()
    pq.write_table(parquet_table(image_id.tolist(), embedding), stream, use_dictionary=False)
    return stream.getvalue()


def decode_parquet(data: bytes) -> list[EmbeddingRecord]:
    import pyarrow.parquet as pq

    names = ["image_id", "embedding"]
    # As a dictionary, a value of many rows is in memory once
    file = pq.ParquetFile(io.BytesIO(data), read_dictionary=names[:1])
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    columns = (g.column(i) for g in groups for i in range(g.num_columns))
    wanted = [c for c in columns if c.path_in_schema.split(".")[0] in names]
    unpacked = sum(max(c.total_uncompressed_size, 4 * c.num_values) for c in wanted)
    _check_unpacked(unpacked, file.metadata.num_rows, len(data))
    table = file.read(names)
    embedding = table["embedding"].combine_chunks()
    image_id = [each for chunk in table["image_id"].chunks for each in _plain(chunk)]
    values = embedding.flatten().to_numpy().astype(np.float32, copy=False)
    rows = values.reshape(len(image_id), embedding.type.list_size)
    return [EmbeddingRecord(_text(i), e) for i, e in zip(image_id, rows, strict=True)]


def _plain(column: Any) -> list[Any]:
    """The values of a column of Arrow."""
    if not hasattr(column, "dictionary"):
        return column.to_pylist()
    values = column.dictionary.to_pylist()
    return [None if i is None else values[i] for i in column.indices.to_pylist()]


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


def is_embedding_file(name: str) -> bool:
    """Whether a file holds embeddings, by its name."""
    return name.lower().endswith(tuple(format.suffix for format in FORMATS.values()))


def format_of(name: str) -> Format:
    """The format of an embedding file, by its name."""
    return next(one for one in FORMATS.values() if name.lower().endswith(one.suffix))
