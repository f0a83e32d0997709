"""ELIXR-C from DICOM files to embeddings, against what its SavedModel says."""

import dataclasses
import io
import pathlib
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from parity import calibrate, difference, random_images
from PIL import Image
from test_elixr_c import SIZE, Style, save_1, save_2

import cxr_embeddings as cxr
from cxr_embeddings import conversion, elixr_c_check
from cxr_embeddings.encoder import weights
from cxr_embeddings.encoder.card import load_card
from cxr_embeddings.encoder.efficientnet import EfficientNet
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.sources import elixr_c, saved_model
from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.films.presets import toolkit_intensity
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

TOLERANCE = 1e-4  # of the largest value


@pytest.fixture(scope="module")
def live():
    """Calibrated weights of a small network without head."""
    model = EfficientNet("tiny", None)
    variables = jax.device_put(random_variables(model))
    return jax.device_get(calibrate(model, variables, random_images(64, 8, seed=1)))


def png_of(path: pathlib.Path) -> bytes:
    """What the toolkit would have sent."""
    with path.open("rb") as file:
        Image.fromarray(toolkit_intensity(read_film(file))).save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("save", "depth", "preset"),
    [
        pytest.param(save_2, "uint16", "cxr_foundation", id="TF2, 16 bits"),
        pytest.param(save_1, "uint8", "cxr_foundation_8bit", id="TF1, 8 bits"),
    ],
)
def test_embedding_dicoms_gives_the_originals_features(
    live, save, depth, preset, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(saved_model, "process", lambda: ThreadPoolExecutor(1))
    original, bundle = tmp_path / "saved_model", tmp_path / "bundle"
    save(original, live, Style(depth=depth), variant="tiny")
    conversion.convert("elixr_c", str(original), str(bundle), conversion.Wanted())
    assert "the original's features, from PNG on: the same within" in capsys.readouterr().out
    card = load_card(bundle)
    assert (card.preset, card.resolution) == (preset, SIZE)
    assert next(iter(card.embeddings)) == "pooled" and "developers.google.com" in card.terms_of_use

    film = elixr_c_check.drawn_film()
    expected, variables = elixr_c.run(original, film), weights.load_variables(bundle, card)
    assert elixr_c_check.compare(card, variables, film, expected) < TOLERANCE
    (other,) = {*elixr_c_check.RIVALS} - {preset}
    for mistaken in ((dataclasses.replace(card, preset=other), expected), (card, -expected)):
        with pytest.raises(ValueError, match="features differ from the original's by"):
            elixr_c_check.compare(mistaken[0], variables, film, mistaken[1])

    write_mimic(tmp_path / "mimic", films=2, laterals=0, damaged=0, seed=1, size_range=(300, 700))
    encoder = cxr.load_encoder(bundle, embedding="pooled_map", dtype="float32", engine="jax")
    found = encoder.embed(tmp_path / "mimic" / "files")
    assert encoder.shape == (1, 1, 80) and len(found.image_id) == 2
    expected = [elixr_c.run(original, png_of(pathlib.Path(name))) for name in found.image_id]
    assert difference(expected[0], expected[1]) > 0.01  # the signal is alive
    for embedding, features in zip(found.embedding, expected, strict=True):
        assert difference(embedding.ravel(), features.ravel()) < TOLERANCE
