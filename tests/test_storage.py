import io

import numpy as np
import pytest
from PIL import Image

from cxr_embeddings.input_pipeline.store import codecs
from cxr_embeddings.input_pipeline.store.codecs import STORAGES

PNGS = [name for name, each in STORAGES.items() if each.format == "png"]


def film(height=61, width=47, seed=0):
    """A smooth film with grain that reaches 0 and 1."""
    y, x = np.mgrid[:height, :width] / 20
    image = np.sin(x) * np.cos(y) + np.random.default_rng(seed).normal(0, 0.05, (height, width))
    image -= image.min()
    return (image / max(image.max(), 1e-9)).astype(np.float32)[..., None]


def tensorflow(name, data):
    """As TensorFlow Datasets reads a picture: [h w 1] of the storage's dtype."""
    import tensorflow as tf

    return tf.image.decode_image(data, channels=1, dtype=tf.as_dtype(STORAGES[name].dtype)).numpy()


@pytest.mark.parametrize("shape", [(61, 47), (224, 224), (1, 300), (1, 1)])
@pytest.mark.parametrize("name", PNGS)
def test_a_png_keeps_the_nearest_step_exactly(name, shape):
    import tensorflow as tf

    image = film(*shape)
    dtype = STORAGES[name].dtype
    data = STORAGES[name].encode(image)
    found = tensorflow(name, data)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[..., 0], codecs.quantise(image, dtype))
    decoded = tf.io.decode_png(data, channels=1, dtype=tf.as_dtype(dtype)).numpy()
    np.testing.assert_array_equal(decoded, found)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), found[..., 0])
    # Half a step, and a little for the rounding of float32.
    error = np.abs(found - image.astype(np.float64) * np.iinfo(dtype).max)
    assert error.max() <= 0.505
    assert min(shape) == 1 or error.max() > 0.45, "the film must need rounding"


@pytest.mark.parametrize("name", PNGS)
def test_every_step_survives(name):
    highest = np.iinfo(STORAGES[name].dtype).max
    side = 256 if highest == 65535 else 16
    steps = np.arange(highest + 1, dtype=np.float32).reshape(side, side, 1)
    found = tensorflow(name, STORAGES[name].encode(steps / np.float32(highest)))
    np.testing.assert_array_equal(found, steps)


def test_a_jpeg_is_near():
    import tensorflow as tf

    image = film(400, 300)
    data = STORAGES["jpeg95"].encode(image)
    found = tensorflow("jpeg95", data)
    assert found.dtype == np.uint8 and found.shape == image.shape
    np.testing.assert_array_equal(tf.io.decode_jpeg(data, channels=1).numpy(), found)
    error = found / np.float32(255) - image
    assert 0.5 / 255 < np.sqrt(np.mean(error**2)) < 2.5 / 255
    accurate = tf.io.decode_jpeg(data, channels=1, dct_method="INTEGER_ACCURATE").numpy()
    better = accurate / np.float32(255) - image
    assert abs(better.mean()) < 0.05 / 255 < abs(error.mean()) < 1 / 255
    assert better.std() < error.std()
    assert len(data) < 0.7 * len(STORAGES["png8"].encode(image))


@pytest.mark.parametrize("name", STORAGES)
def test_files_are_grey_pictures_that_depend_on_the_film_alone(name):
    image, storage = film(seed=1), STORAGES[name]
    data = storage.encode(image)
    picture = Image.open(io.BytesIO(data))
    assert (picture.format.lower(), picture.size) == (storage.format, (47, 61))
    assert picture.mode == {"uint16": "I;16", "uint8": "L"}[storage.dtype]
    np.testing.assert_array_equal(image, film(seed=1))
    assert storage.encode(np.asfortranarray(image)) == data, "however the film lies in memory"
    assert storage.encode(film(seed=2)) != data
    most = {"png16": 0.95 * 2, "png8": 0.9, "jpeg95": 0.63}[name]  # bytes a pixel
    assert len(storage.encode(film(400, 300))) < most * 400 * 300, "by differences to the row above"


@pytest.mark.parametrize("value", [-0.001, 1.001, 255.0, np.nan, np.inf])
@pytest.mark.parametrize("name", STORAGES)
def test_values_that_would_wrap_around_are_refused(name, value):
    image = film()
    image[3, 4] = value
    with pytest.raises(ValueError, match=r"a film's values run from .* expected 0 to 1"):
        STORAGES[name].encode(image)
