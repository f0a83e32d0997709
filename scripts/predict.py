"""Scores films by a head, from their embeddings or from the films themselves.

python scripts/predict.py --head heads/heart --embeddings /data/embeddings --output predictions.csv
python scripts/predict.py --head heads/heart --weights /models/cxr-l2 --input /data/films \\
    --output predictions.csv --heat_maps /data/maps

Writes one row for each film. image_id names it. ood_distance is its distance to the films that the
head was trained on; out_of_distribution is 1 where that is above 1: do not rely on these scores.
For each finding, NAME_logit ranks films, NAME_probability is the same, calibrated on the head's
tune split, and NAME_positive is 1 where it reaches the head's threshold (Youden's J on tune). A
film without an embedding has NA in place of numbers; the column reason says why. The exit code is 1
if a film failed temporarily: the same command then continues with the embeddings that it has.

--heat_maps adds a folder that shows where in each film the head sees each finding: NAME.npy on the
film's pixels, NAME.png over the film, and the places of the maxima in heat_maps.json. --dicom_sr
adds a folder with a DICOM report of each study, and its heat maps; --store sends both to a PACS.
A head with the patient's record needs --covariates. A head with the prior film needs --metadata,
and the prior films among the films.
"""

import dataclasses
import sys
from collections.abc import Sequence

from cxr_embeddings import cli, prediction, prediction_files
from cxr_embeddings.common import paths
from cxr_embeddings.configs.schema import EMBEDDINGS, field


@dataclasses.dataclass(frozen=True)
class Options:
    head: str = field("", "folder of a head, from train_head.py", required=True)
    output: str = field("", "CSV file to be written", required=True)
    embeddings: tuple[str, ...] = field((), EMBEDDINGS, repeated=True)
    cache: str | None = field(
        None, "folder for the table of the embeddings; unset: .table in the first of their folders"
    )
    weights: str = field("", "weights bundle, to embed the films of --input")
    input: str = field("", "films: a folder, a glob, a list of files, or an archive")
    covariates: str = field("", "CSV of the patients' record, for a head that was trained with one")
    metadata: str = field(
        "", "CSV of the dates, times and views of films, for a head that was trained with a prior"
    )
    heat_maps: str = field("", "folder for heat maps of the films of --input")
    dicom_sr: str = field("", "folder for a DICOM Structured Report of each study of --input")
    store: str = field("", "archive for the files of --dicom_sr, dicomweb+https://...")


def predict(options: Options) -> int:
    """Writes the predictions. Returns the exit code."""
    weights, films = options.weights, options.input
    if bool(weights) != bool(films) or bool(films) == bool(options.embeddings):
        raise ValueError(
            "expected --head, --output, and either --embeddings or --weights with --input"
        )
    if options.heat_maps and not films:
        raise ValueError("--heat_maps needs the films: expected --weights with --input")
    if (options.dicom_sr and not films) or (options.store and not options.dicom_sr):
        raise ValueError("--dicom_sr needs --weights with --input, and --store needs --dicom_sr")
    file = paths.typed_file(options.output, "--output")
    loaded = prediction.load_head(options.head)
    beside = prediction.Beside(options.covariates, options.metadata)
    if films:
        maps = paths.typed_local(options.heat_maps, "--heat_maps") if options.heat_maps else None
        reports = paths.typed_local(options.dicom_sr, "--dicom_sr") if options.dicom_sr else None
        went_well = prediction_files.predict_films(
            loaded, weights, films, file, maps, reports, options.store, beside
        )
        return 0 if went_well else 1
    prediction_files.predict_embeddings(loaded, options.embeddings, file, options.cache, beside)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    stopped = "no prediction was written; the same command continues from the embeddings so far"
    return cli.run(predict, Options, __doc__, stopped, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
