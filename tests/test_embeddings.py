import io

import numpy as np
import pytest

from input_pipeline.embeddings import FORMATS, EmbeddingRecord


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


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_never_reads_as_whole(name):
    written = FORMATS[name].encode(records(3))
    for cut in (1, 7, len(written) // 2, len(written) - 1):
        with pytest.raises(Exception):  # noqa: B017  each library has its own
            assert_same(FORMATS[name].decode(written[:cut]), records(3))


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
