"""Whether a converted ELIXR-C says what the original says, from a PNG file to features."""

import io

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from cxr_embeddings.encoder import weights
from cxr_embeddings.encoder.card import Card
from cxr_embeddings.input_pipeline.films.dicom import read_film
from cxr_embeddings.input_pipeline.films.film import Film
from cxr_embeddings.input_pipeline.films.presets import PRESETS, network_input
from cxr_embeddings.input_pipeline.synthetic.anatomy import draw_patient
from cxr_embeddings.input_pipeline.synthetic.drawing import draw_film

# TensorFlow's own rounding, in averages over 640 x 640 pixels, is 4e-5 in networks of few blocks; a
# wrong leaf shows as 0.05 and more, films cut to 8 bits as 8e-4.
TOLERANCE = 1e-3  # of the largest value
RIVALS = ("cxr_foundation", "cxr_foundation_8bit")


def drawn_film() -> bytes:
    """A drawn chest film, 900 x 700 pixels: a 16-bit PNG that spans the whole range."""
    rng = np.random.default_rng(0)
    film = draw_film(rng, draw_patient(rng), {}, "right", (900, 700), "PA")
    film = (film - film.min()) / np.ptp(film)
    Image.fromarray(np.rint(65535 * film).astype(np.uint16)).save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


def compare(
    card: Card, variables: weights.Variables, png: bytes, expected: Float[np.ndarray, "h w channel"]
) -> float:
    """Largest difference of the features, relative to the largest one.

    Args:
        card, variables: of the converted network.
        png, expected: a film, and the original's `feature_maps_0` for it.

    Raises:
        ValueError: the difference is not below `TOLERANCE`, or is smaller for another preset.
    """
    film, model = read_film(io.BytesIO(png)), weights.model_for(card)
    if not isinstance(film, Film):
        raise ValueError(f"the film to compare by cannot be read: {film.reason}")
    forward = jax.jit(lambda variables, images: model.apply(variables, images)[1]["pooled_map"])
    differences = {}
    for preset in RIVALS:
        image = network_input(film, PRESETS[preset], card.resolution)
        found = np.asarray(forward(variables, np.repeat(image, 3, axis=-1)[None]))[0]
        differences[preset] = float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
    difference = differences[card.preset]
    if not difference < TOLERANCE or difference > min(differences.values()):
        said = ", ".join(f"{value:.1e} with {preset}" for preset, value in differences.items())
        raise ValueError(
            f"{card.source}: the converted network's features differ from the original's by "
            f"{said}; expected less than {TOLERANCE}, and least, with {card.preset}: please report "
            "this"
        )
    return difference
