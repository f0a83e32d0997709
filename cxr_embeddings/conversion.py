"""Published checkpoints to weights bundles, strictly: every array is accounted for."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import TYPE_CHECKING

from cxr_embeddings.common import paths, untrusted
from cxr_embeddings.configs.schema import field

if TYPE_CHECKING:
    from cxr_embeddings.encoder.card import Card
    from cxr_embeddings.encoder.weights import Variables


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a bundle is to be; None, as the checkpoint says."""

    variant: str | None = field(
        None, "the network that is expected, b0 to b7, l2, lite0 to lite4; another one is an error"
    )
    resolution: int | None = field(
        None, "side of the network's input in pixels, where the checkpoint does not say it"
    )
    dtype: str | None = field(
        None, "type of the kernels: float32 or bfloat16; default: float32, or that of a bundle"
    )
    projection: str | None = field(None, "orthonormal:SEED adds an untrained map to 4,096 numbers")


def convert(source: str, path: str, output: str, wanted: Wanted) -> Card:
    """Reads a checkpoint, checks it, writes it as a bundle, and prints its card.

    Args:
        source: a key of `SOURCES`, hf:ORG/NAME, or orbax for a bundle.
        path: the checkpoint, packed or not; with hf: a file or folder of the repository, or "".
        output: folder of the new bundle; "" verifies a bundle and writes nothing.
        wanted: what it is to be.

    Raises:
        ValueError: there is no such source, the checkpoint is damaged or another network, or what
            is wanted cannot be made of it.
        OSError: a file is missing, cannot be read or written, or exists already.
    """
    import jax

    from cxr_embeddings.encoder import convert, weights

    if wanted.dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"--dtype is {wanted.dtype!r}; expected float32 or bfloat16")
    if wanted.resolution is not None and wanted.resolution < 32:
        raise ValueError(f"--resolution is {wanted.resolution}; expected at least 32 pixels")
    start = time.monotonic()
    folder = paths.typed_local(output, "--output") if output else None
    if folder and folder.exists():
        raise FileExistsError(f"{folder} exists already: remove it or choose another name")
    if folder:
        folder.parent.mkdir(parents=True, exist_ok=True)
    elif source != "orbax" or wanted.dtype or wanted.projection:
        raise ValueError("--output is missing: the folder of the new bundle")
    seed = convert.projection_seed(wanted.projection) if wanted.projection else None
    reader, file, origin = find_source(source, path)
    # Everywhere the same numbers, and room enough
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        if folder is None or reader == "orbax":
            card, variables = read_bundle(file, wanted)
        else:
            card, variables = read_checkpoint(reader, file, folder.parent, wanted)
        if origin:
            card = dataclasses.replace(card, source=f"{card.source}, from {origin}")
        if seed is not None:
            card, variables = convert.add_projection(card, variables, seed)
        if wanted.dtype:
            variables = weights.cast_kernels(variables, wanted.dtype)
        numbers = convert.self_check(card, variables)
        if folder:
            card = weights.save_bundle(folder, variables, card)
    print(table(card))
    print("\nself-check, of a fixed image:", *(f"{number:.2f}" for number in numbers[0]))
    done = f"written to {folder}" if folder else "verified, nothing written"
    print(f"{done} in {time.monotonic() - start:.0f} s")
    return card


def find_source(source: str, path: str) -> tuple[str, pathlib.Path, str]:
    """Name of a reader, local path, and where that was downloaded from ("" if it was not)."""
    from cxr_embeddings.encoder import convert

    if source.startswith("hf:"):
        from cxr_embeddings.encoder.sources import hub

        found = hub.download(source.removeprefix("hf:"), path)
        return found.source, found.path, found.origin
    known = (*convert.SOURCES, "orbax")
    if source not in known or not path:
        raise ValueError(
            f"--from is {source!r} and --input {path!r}; expected one of {', '.join(known)} and a "
            "path, or hf:ORG/NAME alone"
        )
    file = paths.typed_local(path, "--input")
    if not any(at.is_file() or at.is_dir() for at in (file, file.with_name(f"{file.name}.index"))):
        raise FileNotFoundError(f"--input is {file}; expected a file or a folder that exists")
    return source, file, ""


def read_bundle(path: pathlib.Path, wanted: Wanted) -> tuple[Card, Variables]:
    """A bundle, which must be what is wanted."""
    from cxr_embeddings.encoder import weights
    from cxr_embeddings.encoder.card import load_card

    card = load_card(path)
    for name in ("variant", "resolution"):
        asked, there = getattr(wanted, name), getattr(card, name)
        if asked not in (None, there):
            raise ValueError(f"{path}: asked for {name} {asked}, but its card says {there}")
    if (wanted.dtype, card.dtype) == ("float32", "bfloat16"):
        raise ValueError(f"{path} is in bfloat16: float32 cannot bring back what was rounded")
    return card, weights.load_variables(path, card)


def read_checkpoint(
    source: str, path: pathlib.Path, scratch: pathlib.Path, wanted: Wanted
) -> tuple[Card, Variables]:
    """A checkpoint, in memory once; archives are unpacked in `scratch`."""
    from tqdm import tqdm

    from cxr_embeddings import elixr_c_check
    from cxr_embeddings.encoder import convert
    from cxr_embeddings.encoder.sources import archive, elixr_c
    from cxr_embeddings.input_pipeline.films.presets import PRESETS

    with archive.unpacked(path, scratch) as unpacked:
        checkpoint = convert.SOURCES[source](unpacked)
        if source == "elixr_c":
            print("running the original on one film ...", flush=True)
            film = elixr_c_check.drawn_film()
            expected = elixr_c.run(unpacked, film)
        card, variables = convert.read(
            checkpoint,
            variant=wanted.variant,
            resolution=wanted.resolution,
            progress=lambda leaves: tqdm(leaves, unit=" arrays", leave=False),
        )
        version = PRESETS[card.preset].version
        card = dataclasses.replace(card, preset_version=version)
        del checkpoint  # and with it what it holds open
    if source == "elixr_c":
        difference = elixr_c_check.compare(card, variables, film, expected)
        print(f"the original's features, from PNG on: the same within {difference:.1e}")
    return card, variables


def table(card: Card) -> str:
    """A card for reading, one field a line."""
    rows = []
    for name, value in dataclasses.asdict(card).items():
        if name == "embeddings":
            value = ", ".join(f"{key} ({width:,})" for key, width in value.items())
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {setting}" for key, setting in value.items()) or "none"
        elif isinstance(value, list | tuple):
            value = ", ".join(map(str, value)) or "nothing"
        elif name == "checkpoint_bytes":
            value = f"{value:,}"
        value = "none" if value in (None, "") else untrusted.printable(str(value))
        rows.append(f"{name.replace('_', ' '):17} {value}")
    return "\n".join(rows)
