"""A drawn stand-in of MIMIC-CXR, without patients: folders, films, tables and reports.

For example:
python scripts/synthetic_mimic.py --output demo/mimic
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from cxr_embeddings import cli
from cxr_embeddings.common import paths

OPTIONS = {
    "output": "folder to be made; it may exist and be empty",
    "films": "number of readable frontal films, one a study",
    "laterals": "number of lateral films, at most one a study",
    "damaged": "number of further frontal films that cannot be read",
    "seed": "the same seed draws the same bytes",
    "size_range": "shortest and longest side of the films in pixels",
}


def synthetic_mimic(
    output: str,
    films: int = 56,
    laterals: int = 8,
    damaged: int = 2,
    seed: int = 0,
    size_range: tuple[int, ...] = (420, 1100),
) -> int:
    """Writes the stand-in; the arguments are `OPTIONS`. Returns the exit code."""
    from cxr_embeddings.input_pipeline.synthetic import mimic_folder

    if len(size_range) != 2:
        raise ValueError(f"--size_range is {size_range}; expected two numbers, such as 420,1100")
    folder = paths.typed_local(output, "--output")
    parameters: dict[str, Any] = {
        "films": films,
        "laterals": laterals,
        "damaged": damaged,
        "seed": seed,
        "size_range": list(size_range),
    }
    stamp = folder / mimic_folder.STAMP
    if stamp.is_file():
        found = json.loads(stamp.read_text())
        if found != parameters:
            raise ValueError(
                f"{folder} was made with {found}; asked for now: {parameters}. Choose another "
                "folder, or remove that one"
            )
        print(f"already there: {films} frontal films in {folder}")
        return 0
    start = time.monotonic()
    counts = mimic_folder.write_mimic(folder, **parameters)
    size = counts.pop("bytes") / 1e6
    parts = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{folder}: {parts}; {size:.0f} MB in {time.monotonic() - start:.0f} s")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_flags(synthetic_mimic, __doc__, "the folder is not whole", OPTIONS, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
