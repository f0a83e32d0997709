"""Published checkpoints to weights bundles, strictly: every array is accounted for.

python scripts/convert_weights.py --from timm --input tf_efficientnet_l2_ns.pth --output bundles/l2
python scripts/convert_weights.py --from hf:timm/tf_efficientnet_l2.ns_jft_in1k --output bundles/l2
python scripts/convert_weights.py --from orbax --input bundles/l2     verifies a bundle
python scripts/convert_weights.py --describe bundles/l2               prints its card
"""

import dataclasses
import os
import pathlib
import time
from typing import Any

from absl import flags

from cxr_embeddings import cli
from cxr_embeddings.common import paths, untrusted

FROM = flags.DEFINE_string(
    "from", None, "timm, keras, tf, elixr_c, hf:ORG/NAME, or orbax for a bundle"
)
INPUT = flags.DEFINE_string(
    "input", None, "the checkpoint, packed or not; with hf: a file or folder of the repository"
)
OUTPUT = flags.DEFINE_string("output", None, "folder of the new bundle")
DESCRIBE = flags.DEFINE_string("describe", None, "print the card of this bundle, and nothing else")
VARIANT = flags.DEFINE_string("variant", None, "what it must be, b0 to b7 or l2; else an error")
RESOLUTION = flags.DEFINE_integer(
    "resolution", None, "in pixels, where the checkpoint does not say; unset: the variant's", 32
)
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "of the kernels; unset: float32, or a bundle's own"
)
PROJECTION = flags.DEFINE_string(
    "projection", None, "orthonormal:SEED adds an untrained map to 4,096 numbers"
)


def convert() -> None:
    """Does what the flags say."""
    import jax

    from cxr_embeddings.encoder import convert, weights
    from cxr_embeddings.encoder.card import load_card

    if DESCRIBE.value:
        return print(table(load_card(DESCRIBE.value)))
    jax.config.update("jax_platforms", "cpu")  # everywhere the same numbers, and room enough
    start = time.monotonic()
    output = paths.typed_local(OUTPUT.value, "--output") if OUTPUT.value else None
    if output and output.exists():
        raise FileExistsError(f"{output} exists already: remove it or choose another name")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
    elif FROM.value != "orbax" or DTYPE.value or PROJECTION.value:
        raise ValueError(f"--output is missing: the folder of the new bundle\n\n{__doc__}")
    seed = convert.projection_seed(PROJECTION.value) if PROJECTION.value else None
    source, path, origin = find_source()
    card, variables = read(source, path, output)
    if origin:
        card = dataclasses.replace(card, source=f"{card.source}, from {origin}")
    if seed is not None:
        card, variables = convert.add_projection(card, variables, seed)
    if DTYPE.value:
        variables = weights.cast_kernels(variables, DTYPE.value)
    check = convert.self_check(card, variables)
    if output:
        card = weights.save_bundle(output, variables, card)
    print(table(card))
    numbers = " ".join(f"{number:.2f}" for number in check.numbers[0][:8])
    print(f"\nself-check {check.digest}, of two fixed images: {numbers} ...")
    done = f"written to {output}" if output else "verified, nothing written"
    print(f"{done} in {time.monotonic() - start:.0f} s")


def find_source() -> tuple[str, pathlib.Path, str]:
    """Name of a reader, local path, and where that was downloaded from ("" if it was not)."""
    from cxr_embeddings.encoder import convert

    known = (*convert.SOURCES, "orbax")
    if FROM.value and FROM.value.startswith("hf:"):
        from cxr_embeddings.encoder.sources import hub

        found = hub.download(FROM.value.removeprefix("hf:"), INPUT.value or "")
        return found.source, found.path, found.origin
    if FROM.value not in known or not INPUT.value:
        raise ValueError(
            f"--from is {FROM.value!r} and --input {INPUT.value!r}; expected one of "
            f"{', '.join(known)} and a path, or hf:ORG/NAME alone\n\n{__doc__}"
        )
    path = paths.typed_local(INPUT.value, "--input")
    if not any(at.is_file() or at.is_dir() for at in (path, path.with_name(f"{path.name}.index"))):
        raise FileNotFoundError(f"--input is {path}; expected a file or a folder that exists")
    return FROM.value, path, ""


def read(source: str, path: pathlib.Path, output: pathlib.Path | None) -> tuple[Any, Any]:
    """The card and the variables of a checkpoint or bundle, in memory once."""
    from tqdm import tqdm

    from cxr_embeddings import elixr_c_check
    from cxr_embeddings.encoder import convert, weights
    from cxr_embeddings.encoder.card import load_card
    from cxr_embeddings.encoder.sources import archive, elixr_c
    from cxr_embeddings.input_pipeline.films.presets import PRESETS

    if source == "orbax":
        card = load_card(path)
        for name in ("variant", "resolution"):
            asked, there = flags.FLAGS[name].value, getattr(card, name)
            if asked not in (None, there):
                raise ValueError(f"{path}: asked for {name} {asked}, but its card says {there}")
        if (DTYPE.value, card.dtype) == ("float32", "bfloat16"):
            raise ValueError(f"{path} is in bfloat16: float32 cannot bring back what was rounded")
        return card, weights.load_variables(path, card)
    kind = convert.SOURCES[source]
    with archive.unpacked(path, output.parent) as unpacked:
        checkpoint = kind.read(unpacked)
        if source == "elixr_c":
            print("running the original on one film ...", flush=True)
            film = elixr_c_check.drawn_film()
            expected = elixr_c.run(unpacked, film)
        card, variables = convert.read(
            checkpoint,
            variant=VARIANT.value,
            resolution=RESOLUTION.value,
            licence=kind.licence,
            terms_of_use=kind.terms_of_use,
            progress=lambda leaves: tqdm(leaves, unit=" arrays", leave=False),
        )
        version = PRESETS[card.preset].version
        card = dataclasses.replace(card, preset_version=version)
        del checkpoint  # and with it what it holds open
    if source == "elixr_c":
        difference = elixr_c_check.compare(card, variables, film, expected)
        print(f"the original's features, from PNG on: the same within {difference:.1e}")
    return card, variables


def table(card: Any) -> str:
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


def main() -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}  # TensorFlow: hush
    cli.run_flags(convert, "nothing was written")


if __name__ == "__main__":
    main()
