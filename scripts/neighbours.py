"""How often films that lie near each other in embedding space share their findings; and a picture.

For example:
python scripts/neighbours.py --embeddings demo/embeddings \\
    --labels demo/mimic/mimic-cxr-2.0.0-chexpert.csv.gz \\
    --input demo/mimic/files --output demo/neighbours.png

The neighbours of a film are the five films of other patients whose embeddings have the largest
cosine with its own. The table shows for each finding: among the neighbours of the films that have
it, the share that has it too. Chance is the share among films of other patients drawn at random.

An empty cell counts as absent in a table of CheXpert or NegBio, and as unknown in other tables. An
uncertain finding (-1) is unknown, too. A film is left out of a finding that is unknown for it. The
pooled line is for all findings but No Finding.

--input and --output draw some films with their neighbours: for each of the most frequent findings
one film, chosen at random.
"""

import dataclasses
import sys
from collections.abc import Sequence

from cxr_embeddings import cli
from cxr_embeddings.configs.schema import EMBEDDINGS, field


@dataclasses.dataclass(frozen=True)
class Options:
    embeddings: tuple[str, ...] = field((), EMBEDDINGS, required=True, repeated=True)
    labels: str = field("", "CSV of labels, as for train_head.py", required=True)
    input: str = field(
        "", "the films that were embedded, for the picture: a folder, a glob, or a list of files"
    )
    output: str = field("", "PNG file to be written")


def neighbours(options: Options) -> int:
    """Prints the table and draws the picture. Returns the exit code."""
    from cxr_embeddings import nearest_films

    nearest_films.compare_neighbours(**dataclasses.asdict(options))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(neighbours, Options, __doc__, "nothing was written", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
