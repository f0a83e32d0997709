"""ELIXR-C from DICOM files through `scripts/embed.py`, against what its SavedModel says."""

import dataclasses
import io
import json
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from parity import calibrate, difference, random_images
from PIL import Image
from test_elixr_c import Style, save_1, save_2

from cxr_embeddings import conversion, elixr_c_check
from cxr_embeddings.configs.schema import EmbedConfig, EncoderConfig, InputConfig, OutputConfig
from cxr_embeddings.encoder import weights
from cxr_embeddings.encoder.card import Card, load_card
from cxr_embeddings.encoder.efficientnet import VARIANTS, EfficientNet, Variant
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.sources import elixr_c, saved_model
from cxr_embeddings.input_pipeline.embeddings.formats import FORMATS
from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.films.presets import toolkit_intensity
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic
from cxr_embeddings.scripts import embed

TOLERANCE = 1e-4  # of the largest value


@pytest.fixture(scope="module")
def live():
    """A small network without head, and calibrated weights of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "tiny", Variant(0.25, 0.1, 320))
        model = EfficientNet("tiny", None)
        variables = jax.device_put(random_variables(model))
        yield jax.device_get(calibrate(model, variables, random_images(64, 8, seed=1)))


def png_of(path) -> bytes:
    """What the toolkit would have sent."""
    with path.open("rb") as file:
        Image.fromarray(toolkit_intensity(read_film(file))).save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("save", "depth"),
    [
        pytest.param(save_2, "uint16", id="TF2, 16 bits"),
        pytest.param(save_1, "uint8", id="TF1, 8 bits"),
    ],
)
def test_embedding_dicoms_gives_the_originals_features(
    live, save, depth, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(saved_model, "process", lambda: ThreadPoolExecutor(1))
    arguments = {"use_resource": True} if save is save_1 else {}
    save(tmp_path / "saved_model", live, Style(depth=depth), **arguments)
    bundle = str(tmp_path / "bundle")
    conversion.convert("elixr_c", str(tmp_path / "saved_model"), bundle, conversion.Wanted())
    assert "the original's features, from PNG on: the same within" in capsys.readouterr().out
    card = load_card(tmp_path / "bundle")
    assert card.preset == {"uint16": "cxr_foundation", "uint8": "cxr_foundation_8bit"}[depth]
    assert next(iter(card.embeddings)) == "pooled" and card.resolution == 320
    assert "developers.google.com" in card.terms_of_use

    film = elixr_c_check.drawn_film()
    expected = elixr_c.run(tmp_path / "saved_model", film)
    variables = weights.load_variables(tmp_path / "bundle", card)
    assert elixr_c_check.compare(card, variables, film, expected) < TOLERANCE
    (other,) = {*elixr_c_check.RIVALS} - {card.preset}
    for mistaken in (dataclasses.replace(card, preset=other), expected[::-1]):
        arguments = (card, variables, film, mistaken)
        if isinstance(mistaken, Card):
            arguments = (mistaken, variables, film, expected)
        with pytest.raises(ValueError, match="features differ from the original's by"):
            elixr_c_check.compare(*arguments)

    write_mimic(tmp_path / "mimic", films=2, laterals=0, damaged=0, seed=1, size_range=(300, 700))
    config = EmbedConfig(
        input=InputConfig(path=str(tmp_path / "mimic" / "files"), workers=2),
        encoder=EncoderConfig(
            weights=str(tmp_path / "bundle"), embedding="pooled_map", dtype="float32"
        ),
        output=OutputConfig(path=str(tmp_path / "out")),
        batch_size=8,
    )
    assert embed.embed(config) == 0
    identity = json.loads((tmp_path / "out" / "manifest.json").read_text())["identity"]
    assert identity["shape"] == [2, 2, 80] and identity["preset"] == card.preset
    differences, seen = [], []
    for dicom in sorted((tmp_path / "mimic" / "files").rglob("*.dcm")):
        record = tmp_path / "out" / dicom.relative_to(tmp_path / "mimic" / "files")
        (found,) = FORMATS["tfrecord"].decode(record.with_suffix(".tfrecord").read_bytes())
        expected = elixr_c.run(tmp_path / "saved_model", png_of(dicom))
        seen.append(expected)
        differences.append(difference(found.embedding.reshape(2, 2, 80), expected))
    assert len(differences) == 2
    assert difference(seen[0], seen[1]) > 0.05  # the signal is alive
    assert max(differences) < TOLERANCE
