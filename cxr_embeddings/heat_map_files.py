"""Heat maps as files, a folder for each film: `scripts/predict.py --heat_maps`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxr_embeddings.common import paths, writing
from cxr_embeddings.heat_maps import HeatMap, with_maps
from cxr_embeddings.loading import Encoder, open_encoder

if TYPE_CHECKING:
    from PIL import Image

    from cxr_embeddings.configs.schema import EncoderConfig
    from cxr_embeddings.heads.saved import Saved
    from cxr_embeddings.input_pipeline.films.film import InputFile
    from cxr_embeddings.input_pipeline.films.presets import Place

FACTS = "heat_maps.json"
SIDE = 1024  # of a picture, at most
COLOURS = "viridis"  # even steps for the eye, also for colour-blind eyes and in grey
OPACITY = 0.6  # of the map where it is highest; a quarter of that where it is half as high


def names_of(findings: Sequence[str]) -> list[str]:
    """Names for files, one for each finding: as it is called, where that is a safe name."""
    safe = [re.sub(r"[^\w-]+", "_", name)[:40] for name in findings]
    if len({name.casefold() for name in safe}) < len(safe):
        safe = [f"{i}-{name}" for i, name in enumerate(safe)]
    return safe


def check(folder: pathlib.Path, films: Sequence[InputFile], findings: Sequence[str]) -> None:
    """Raises ValueError where two films would have one folder, or a name would be too long."""
    longest = paths.longest_name(str(folder))
    longest_file = max([FACTS, *(f"{name}.npy" for name in names_of(findings))], key=len)
    path_of: dict[str, str] = {}
    for film in films:
        if path_of.setdefault(film.key, film.path) != film.path:
            raise ValueError(
                f"the heat maps of {path_of[film.key]} and {film.path} would lie in one folder, "
                f"{film.key}: rename one of them"
            )
        place = paths.inside(str(folder), film.key)
        if why := paths.why_too_long(f"{place}/{longest_file}", longest):
            raise ValueError(f"the heat maps of {film.path} would have {why}: rename it")
        if pathlib.Path(film.path).is_relative_to(folder):
            raise ValueError(
                f"{film.path} lies in {folder}, the folder for heat maps: choose another folder"
            )


@contextlib.contextmanager
def mapping_encoder(config: EncoderConfig, saved: Saved, folder: pathlib.Path) -> Iterator[Encoder]:
    """The encoder that a config asks for. Before it embeds a film, it writes its heat maps.

    For each finding these are FOLDER/KEY/NAME.npy, the map on the film's pixels, and NAME.png, the
    film with the map over it. KEY is the place of the film below the input. KEY/heat_maps.json has
    the rest, and is written last.

    Raises:
        ValueError: as `heat_maps.with_maps`; or as `open_encoder`.
    """
    from cxr_embeddings.input_pipeline.films import decode

    encoder = open_encoder(config)
    with decode.decoders(encoder.card.preset, SIDE, None, 1) as (read,):

        def write(film: InputFile, maps: list[HeatMap], image: np.ndarray) -> None:
            again, place = read(film.path), maps[0].place
            if isinstance(again, decode.Prepared) and again.place:  # sharper than the input
                image, place = again.image, again.place
            _write_film(pathlib.Path(paths.inside(str(folder), film.key)), maps, image, place)

        yield dataclasses.replace(encoder, compiled=with_maps(encoder, saved, write))


def _write_film(
    folder: pathlib.Path, maps: Sequence[HeatMap], image: np.ndarray, place: Place
) -> None:
    """Writes what belongs to a film, which is `image` at `place`."""
    height, width = place.film_height, place.film_width
    facts: dict[str, object] = {"image_id": maps[0].image_id, "height": height, "width": width}
    names = names_of([one.finding for one in maps])
    for one, name in zip(maps, names, strict=True):
        on_film = one.map
        with writing.whole_file(folder / f"{name}.npy") as stream:
            np.save(stream, on_film)
        with writing.whole_file(folder / f"{name}.png") as stream:
            draw(on_film, image, place).save(stream, "PNG")
    facts["findings"] = {
        one.finding: {
            "file": name,
            "logit": one.logit,
            "probability": one.probability,
            "bias": one.bias,
            "maximum": dict(zip("xy", one.maximum, strict=True)),
        }
        for one, name in zip(maps, names, strict=True)
    }
    with writing.whole_file(folder / FACTS) as stream:
        stream.write((json.dumps(facts, indent=2) + "\n").encode())


def draw(on_film: np.ndarray, image: np.ndarray, place: Place) -> Image.Image:
    """The film with a map over it, in colour, at most `SIDE` pixels long.

    Args:
        on_film: a map on the film's pixels, [height width].
        image: the film as network input of some size, [side side 1], and
        place: where it lies there.
    """
    import matplotlib
    from PIL import Image

    height, width = on_film.shape
    shrink = min(1, SIDE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))

    def resized(values: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))

    rows, columns = (
        slice(place.top, place.top + place.height),
        slice(place.left, place.left + place.width),
    )
    film = resized(np.ascontiguousarray(image[rows, columns, 0]))[..., None]
    high = resized(on_film)
    high = (high - high.min()) / (np.ptp(high) or 1)
    colour = matplotlib.colormaps[COLOURS](high)[..., :3]
    opacity = OPACITY * np.square(high)[..., None]
    mixed = (1 - opacity) * film + opacity * colour
    return Image.fromarray((255 * mixed.clip(0, 1) + 0.5).astype(np.uint8))
