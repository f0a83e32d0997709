"""A drawn stand-in of MIMIC-CXR, without patients: folders, films, tables and reports.

For example:
python scripts/synthetic_mimic.py --output demo/mimic
"""

import dataclasses
import sys
import time
from collections.abc import Sequence

from cxr_embeddings import cli
from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import field


@dataclasses.dataclass(frozen=True)
class Options:
    output: str = field("", "folder to be made; it may exist and be empty", required=True)
    films: int = field(56, "number of readable frontal films, one a study")
    laterals: int = field(8, "number of lateral films, at most one a study")
    damaged: int = field(2, "number of further frontal films that cannot be read")
    seed: int = field(0, "the same seed draws the same bytes")
    size_range: tuple[int, ...] = field(
        (420, 1100), "shortest and longest side of the films in pixels"
    )
    courses: bool = field(
        False,
        "effusions grow and resolve over 4 to 7 studies a patient; changes.csv.gz has the labels",
    )
    mimic_iv: bool = field(False, "also draw the patients' record, as tables of MIMIC-IV")
    site: str = field(
        "", "a, b or c: one of three hospitals that differ in known ways (docs/sites.md)"
    )


def synthetic_mimic(options: Options) -> int:
    """Writes the stand-in. Returns the exit code."""
    from cxr_embeddings.input_pipeline.synthetic import mimic_folder

    start = time.monotonic()
    folder = paths.typed_local(options.output, "--output")
    parameters = dataclasses.asdict(options)
    del parameters["output"]
    counts = mimic_folder.write_mimic(folder, **parameters)
    if not counts:
        print(f"already there: {options.films} frontal films in {folder}")
        return 0
    size = counts.pop("bytes") / 1e6
    parts = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{folder}: {parts}; {size:.0f} MB in {time.monotonic() - start:.0f} s")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(synthetic_mimic, Options, __doc__, "the folder is not whole", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
