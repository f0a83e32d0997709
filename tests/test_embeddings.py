import io
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxr_embeddings.input_pipeline.embeddings.formats import FORMATS, EmbeddingRecord


def records(count, dim=5):
    values = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    return [EmbeddingRecord(f"/films/é {i}.dcm", row) for i, row in enumerate(values)]


def assert_same(found, expected):
    assert [r.image_id for r in found] == [r.image_id for r in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.embedding.dtype == np.float32
        np.testing.assert_array_equal(one.embedding, other.embedding)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_back_what_it_took(name, count):
    written = FORMATS[name].encode(records(count))
    assert_same(FORMATS[name].decode(written), records(count))
    assert written == FORMATS[name].encode(records(count))


def test_any_altered_byte_of_a_tfrecord_is_noticed():
    written = FORMATS["tfrecord"].encode(records(1))
    for position in range(len(written)):
        altered = bytearray(written)
        altered[position] ^= 4
        with pytest.raises(ValueError, match="damaged"):
            FORMATS["tfrecord"].decode(bytes(altered))


@pytest.mark.filterwarnings("ignore")
def test_tfrecords_are_read_by_tensorflow_as_the_toolkit_reads_them(tmp_path):
    import tensorflow as tf

    (tmp_path / "x.tfrecord").write_bytes(FORMATS["tfrecord"].encode(records(1)))
    raw = next(iter(tf.data.TFRecordDataset(str(tmp_path / "x.tfrecord"))))
    example = tf.train.Example.FromString(raw.numpy())
    np.testing.assert_array_equal(
        np.array(example.features.feature["embedding"].float_list.value, np.float32),
        records(1)[0].embedding,
    )
    assert example.features.feature["image/id"].bytes_list.value[0].decode() == "/films/é 0.dcm"
    parsed = tf.io.parse_example(raw, {"embedding": tf.io.FixedLenFeature([5], tf.float32)})
    np.testing.assert_array_equal(parsed["embedding"].numpy(), records(1)[0].embedding)


@pytest.mark.filterwarnings("ignore")
def test_tfrecords_written_by_tensorflow_are_read(tmp_path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for record in records(3):
            features = {
                "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"png"])),
                "image/id": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[record.image_id.encode()])
                ),
                "embedding": tf.train.Feature(
                    float_list=tf.train.FloatList(value=record.embedding.tolist())
                ),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    assert_same(FORMATS["tfrecord"].decode((tmp_path / "x.tfrecord").read_bytes()), records(3))


def test_npz_of_one_film_is_what_the_toolkit_reads():
    with np.load(io.BytesIO(FORMATS["npz"].encode(records(1)))) as archive:
        np.testing.assert_array_equal(archive["embedding"], records(1)[0].embedding)


def test_names_that_are_not_utf8_survive():
    odd = EmbeddingRecord(b"/films/\xff.dcm".decode("utf-8", "surrogateescape"), np.ones(2, "f4"))
    assert FORMATS["tfrecord"].decode(FORMATS["tfrecord"].encode([odd]))[0].image_id == odd.image_id


def archive(compression=zipfile.ZIP_STORED, **arrays):
    """A NumPy archive of arrays, or of bytes in the place of an array."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, array in arrays.items():
            content = io.BytesIO()
            if isinstance(array, bytes):
                content.write(array)
            else:
                np.save(content, array)
            file.writestr(f"{name}.npy", content.getvalue())
    return stream.getvalue()


def header(descr, shape):
    stream = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(stream, fields)
    return stream.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0, dtype=">f4"),
        np.arange(6.0),
        np.arange(6, dtype=np.float16),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        header("<f4", (1, 6)) + np.arange(6, dtype="<f4").tobytes(),
    ],
)
def test_npz_of_any_floats_and_without_image_id_are_read(array):
    rows = np.arange(6, dtype=np.float32).reshape(2 if np.ndim(array) == 2 else 1, -1)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = FORMATS["npz"].decode(archive(compression, embedding=array))
        assert_same(found, [EmbeddingRecord("", row) for row in rows])


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([b"a/1.png", b"b\xff.png"], ["a/1.png", "b\udcff.png"]),
        ([7, 10], ["7", "10"]),
        (["x", "y"], ["x", "y"]),
    ],
)
def test_image_ids_of_any_kind_of_column_are_text(column, expected):
    rows, stream = np.ones((2, 3), np.float32), io.BytesIO()
    found = FORMATS["npz"].decode(archive(embedding=rows, image_id=np.array(column)))
    assert [record.image_id for record in found] == expected
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3)
    pq.write_table(pa.table({"image_id": pa.array(column), "embedding": vectors}), stream)
    found = FORMATS["parquet"].decode(stream.getvalue())
    assert [record.image_id for record in found] == expected


def test_float64_beyond_float32_becomes_infinite():
    (record,) = FORMATS["npz"].decode(archive(embedding=np.array([1e300, 1])))
    np.testing.assert_array_equal(record.embedding, [np.inf, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"embedding": header("<f4", (10**12,)) + bytes(4)}, r"\(1000000000000,\), but holds 4 b"),
        ({"embedding": header("<f4", (-1, -1)) + bytes(4)}, r"\(-1, -1\), but holds 4 bytes"),
        ({"embedding": header("<f4", (2,)) + bytes(9)}, r"\(2,\), but holds 9 bytes"),
        ({"embedding": header("|O", (1,)) + bytes(8)}, "says it is object"),
        ({"embedding": b""}, "magic string"),
        ({"embedding": bytes(20_000)}, "magic string"),
        ({"embedding": np.arange(4)}, r"`embedding` is int64 \(4,\); expected floats \[n dim\]"),
        ({"embedding": np.zeros((2, 2, 2))}, r"is float64 \(2, 2, 2\); expected floats"),
        ({"embedding": np.zeros((2, 3)), "image_id": np.array(["a"])}, "1 image ids for 2 emb"),
        ({"embedding": np.zeros(3, "f4"), "image_id": np.array(["a"], object)}, "says it is obj"),
    ],
)
def test_npz_that_are_not_what_they_say(arrays, message):
    with pytest.raises(ValueError, match=message):
        FORMATS["npz"].decode(archive(**arrays))


def parquet(image_id, width, count):
    """Zeros as a table, packed as hard as can be."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * width, "f4")), width)
    stream = io.BytesIO()
    table = pa.table({"image_id": pa.array(image_id), "embedding": vectors})
    pq.write_table(table, stream, compression="zstd", use_dictionary=True)
    return stream.getvalue()


ZIPPED = zipfile.ZIP_DEFLATED
EMPTY = header("<f4", (10**9, 0))  # 4 bytes times 0


@pytest.mark.parametrize(
    ("format", "bomb"),
    [
        ("npz", lambda: archive(ZIPPED, embedding=np.zeros(10**7, "f4"))),
        ("npz", lambda: archive(ZIPPED, embedding=np.ones(9), image_id=np.zeros(10**6, "U9"))),
        ("npz", lambda: archive(embedding=EMPTY)),
        ("npz", lambda: archive(embedding=EMPTY, image_id=header("<U0", (10**9,)))),
        ("npz", lambda: archive(embedding=np.zeros((10**5, 1), "f2"))),  # a record takes more
        ("parquet", lambda: parquet([str(i) for i in range(10**4)], 1000, 10**4)),
        ("parquet", lambda: parquet(["x"] * 10**6, 1, 10**6)),
    ],
)
def test_files_that_unpack_to_more_than_embeddings_do(format, bomb):
    with pytest.raises(ValueError, match=r"unpacks to [\d,]+; expected at most [\d,]+, which"):
        FORMATS[format].decode(bomb())


def test_npz_in_other_packings_are_not_unpacked():
    with pytest.raises(ValueError, match="packed as NumPy packs nothing"):
        FORMATS["npz"].decode(archive(zipfile.ZIP_BZIP2, embedding=np.ones(3, "f4")))


def test_a_long_image_id_of_many_rows_is_in_memory_once():
    found = FORMATS["parquet"].decode(parquet(["x" * 10**5] * 1000, 5, 1000))
    assert {id(record.image_id) for record in found} == {id(found[0].image_id)}
