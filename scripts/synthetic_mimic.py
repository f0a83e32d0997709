"""A drawn stand-in of MIMIC-CXR: `python scripts/synthetic_mimic.py --output demo/mimic`."""

import json
import pathlib
import sys
import time

from absl import app, flags

OUTPUT = flags.DEFINE_string("output", None, "folder to write; new or empty", required=True)
FILMS = flags.DEFINE_integer("films", 56, "readable frontal films, one a study")
LATERALS = flags.DEFINE_integer("laterals", 8, "lateral films, at most one a study")
DAMAGED = flags.DEFINE_integer("damaged", 2, "further frontal films that cannot be read")
SEED = flags.DEFINE_integer("seed", 0, "the same seed draws the same bytes")
SIZES = flags.DEFINE_list("size_range", ["420", "1100"], "shortest and longest side, in pixels")


def write(_: list[str]) -> None:
    """Writes the stand-in, or says that just this one is there already."""
    from cxr_embeddings.input_pipeline.synthetic import mimic_folder

    parameters = {
        "films": FILMS.value,
        "laterals": LATERALS.value,
        "damaged": DAMAGED.value,
        "seed": SEED.value,
        "size_range": [int(side) for side in SIZES.value],
    }
    stamp = pathlib.Path(OUTPUT.value) / mimic_folder.STAMP
    if stamp.is_file():
        found = json.loads(stamp.read_text())
        if found == parameters:
            return print(f"already there: {FILMS.value} frontal films in {OUTPUT.value}")
        sys.exit(
            f"error: {OUTPUT.value} was made with {found}; asked for now: {parameters}. "
            "Choose another folder, or remove that one"
        )
    start = time.monotonic()
    try:
        counts = mimic_folder.write_mimic(OUTPUT.value, **parameters)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    size = counts.pop("bytes") / 1e6
    parts = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{OUTPUT.value}: {parts}; {size:.0f} MB in {time.monotonic() - start:.0f} s")


def main() -> None:
    app.run(write)


if __name__ == "__main__":
    main()
