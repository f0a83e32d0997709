"""One picture of the films of a folder, as the preset `native` sees them, sorted by finding.

For example:
python scripts/contact_sheet.py --input demo/mimic --output demo/films.png \\
    --labels demo/mimic/mimic-cxr-2.0.0-chexpert.csv.gz
"""

import dataclasses
import sys
from collections.abc import Sequence

from cxr_embeddings import cli
from cxr_embeddings.configs.schema import field


@dataclasses.dataclass(frozen=True)
class Options:
    input: str = field("", "films: a folder, a glob, or a list of files", required=True)
    output: str = field("", "PNG file to be written", required=True)
    labels: str = field("", "MIMIC-CXR's table of labels, CSV or CSV.gz")
    limit: int | None = field(None, "number of films to show, from the start of the sorted list")
    columns: int = field(12, "number of films in a row")
    side: int = field(168, "height and width of a film on the sheet in pixels, 64 or more")


def contact_sheet(options: Options) -> int:
    """Writes the picture. Returns the exit code."""
    from cxr_embeddings import film_sheet

    given = dataclasses.asdict(options)
    title = film_sheet.write_contact_sheet(given.pop("input"), **given)
    print(f"{options.output}: {title}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(contact_sheet, Options, __doc__, "nothing was written", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
