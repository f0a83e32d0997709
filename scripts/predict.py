"""Scores films by a head, from their embeddings or from the films themselves.

python scripts/predict.py --head heads/heart --embeddings /data/embeddings --output predictions.csv
python scripts/predict.py --head heads/heart --weights /models/cxr-l2 --input /data/films \\
    --output predictions.csv

Writes one row a film: image_id; for each finding NAME_logit (which ranks films), NAME_probability
(the same, calibrated on the head's tune split) and NAME_positive (1 where the probability reaches
the head's threshold: Youden's J on tune); and reason. A film without an embedding has NA in place
of numbers, and its reason. The exit code is 1 if a film failed temporarily: the same command goes
on from the embeddings that it has.
"""

import sys
from collections.abc import Sequence

from cxr_embeddings import cli, prediction, prediction_files
from cxr_embeddings.common import paths

OPTIONS = {
    "head": "folder of a head, from train_head.py",
    "output": "CSV file to be written",
    "embeddings": "folder of embeddings, from embed.py; give the option once for each of several "
    "folders, or a .txt file that lists them",
    "cache": "folder for the table that the embeddings are gathered in; unset: .table in the first "
    "folder of embeddings",
    "weights": "weights bundle, to embed the films of --input",
    "input": "films: a folder, a glob, or a list of files",
}


def predict(
    head: str | None = None,
    output: str | None = None,
    embeddings: Sequence[str] | None = None,
    cache: str | None = None,
    weights: str | None = None,
    input: str | None = None,
) -> int:
    """Writes the predictions; the arguments are `OPTIONS`. Returns the exit code."""
    two_sources = bool(input) == bool(embeddings)
    if not head or not output or bool(weights) != bool(input) or two_sources:
        raise ValueError(
            "expected --head, --output, and either --embeddings or --weights with --input\n\n"
            + (__doc__ or "")
        )
    file = paths.typed_local(output, "--output")
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"{file} cannot be written: expected a file in a folder that exists")
    loaded = prediction.load_head(head)
    if weights and input:
        return 0 if prediction_files.predict_films(loaded, weights, input, file) else 1
    prediction_files.predict_embeddings(loaded, embeddings or (), file, cache)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    stopped = "no prediction was written; the same command continues from the embeddings so far"
    return cli.run_flags(predict, __doc__ or "", stopped, OPTIONS, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
