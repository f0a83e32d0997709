"""One picture of the films of a folder, as the preset `native` sees them, sorted by finding.

For example:
python scripts/contact_sheet.py --input demo/mimic --output demo/films.png \\
    --labels demo/mimic/mimic-cxr-2.0.0-chexpert.csv.gz
"""

import sys
from collections.abc import Sequence

from cxr_embeddings import cli

OPTIONS = {
    "input": "films: a folder, a glob, or a list of files",
    "output": "PNG file to be written",
    "labels": "MIMIC-CXR's table of labels, CSV or CSV.gz",
    "limit": "number of films to show, from the start of the sorted list",
    "columns": "number of films in a row",
    "side": "height and width of a film on the sheet in pixels, 64 or more",
}


def contact_sheet(
    input: str,
    output: str,
    labels: str = "",
    limit: int | None = None,
    columns: int = 12,
    side: int = 168,
) -> int:
    """Writes the picture; the arguments are `OPTIONS`. Returns the exit code."""
    from cxr_embeddings import film_sheet

    title = film_sheet.write_contact_sheet(
        input, output, labels=labels, limit=limit, columns=columns, side=side
    )
    print(f"{output}: {title}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_flags(contact_sheet, __doc__, "nothing was written", OPTIONS, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
