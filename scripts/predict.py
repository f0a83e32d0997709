"""A head on embeddings, or on films with the weights they are embedded by.

python scripts/predict.py --head heads/heart --embeddings /data/embeddings --output predictions.csv
python scripts/predict.py --head heads/heart --weights /models/cxr-l2 --input /data/films \\
    --output predictions.csv

Writes one row a film: image_id, for each finding NAME_logit (which ranks films), NAME_probability
(the same, calibrated on the head's tune split) and NAME_positive, 1 where that reaches the head's
threshold (Youden's J on tune), and reason.
A film without an embedding has NA in place of numbers, and its reason. The exit code is 1 where
another run may read such a film: the same command goes on from the embeddings that it has.
"""

from __future__ import annotations

import collections
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cxr_embeddings import cli
from cxr_embeddings.common import paths, writing

if TYPE_CHECKING:
    from cxr_embeddings.heads.saved import HeadCard, Saved
    from cxr_embeddings.input_pipeline.embeddings.output_plan import Output
    from cxr_embeddings.input_pipeline.embeddings.table import Embeddings
    from cxr_embeddings.input_pipeline.films.film import InputFile

FLAGS = {
    "head": "folder of a head, from train_head.py",
    "embeddings": "folder of embeddings, from embed.py; of several: once for each, or a .txt list",
    "cache": "folder for the table they are gathered in once; unset: .table in their own",
    "weights": "weights bundle to embed the films of --input with",
    "input": "films: a folder, a glob, or a list of files",
    "output": "CSV to be written",
}
SHARDS = 1000  # of the embeddings of films; a run that is stopped repeats at most one
UNKNOWN = "NA"  # missing for pandas and R; an empty cell would be 0 for a spreadsheet's formulas


def predict(
    head: str | None,
    output: str | None,
    embeddings: str | Sequence[str] | None = None,
    cache: str | None = None,
    weights: str | None = None,
    input: str | None = None,
) -> int:
    """Writes the predictions; the arguments are `FLAGS`. Returns the exit code."""
    two_sources = bool(input) == bool(embeddings)
    if not head or not output or bool(weights) != bool(input) or two_sources:
        raise ValueError(
            "expected --head, --output, and either --embeddings or --weights with --input\n\n"
            + (__doc__ or "")
        )
    file = paths.typed_local(output, "--output")
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"{file} cannot be written: expected a file in a folder that exists")

    from cxr_embeddings.heads import saved as store
    from cxr_embeddings.input_pipeline.embeddings.table import read_table

    saved = store.load(paths.typed_local(head, "--head"))
    if saved.card["per_study"] != "none" and not saved.card["studies_from_paths"]:
        raise ValueError(
            "the head was trained on studies that a table told, and of films alone it cannot be "
            "told which are of one study: train it with labels.per_study=none"
        )
    if weights and input:
        return predict_films(saved, weights, input, file)
    table = read_table(embeddings, cache, saved.card["embeddings_dtype"])
    store.check_encoder(saved.card, table.encoder, table.embedding.shape[1])
    if table.encoder is None:
        print("warning: no manifest.json says which encoder made these embeddings")
    write(saved, table, table.folders, file)
    return 0


def predict_films(saved: Saved, weights: str, input: str, output: pathlib.Path) -> int:
    """Embeds films as those that the head was trained on, of the same views, and predicts.

    The embeddings lie in a hidden folder beside the output until no film is to be tried again.
    """
    from cxr_embeddings.configs.schema import EmbedConfig, EncoderConfig, InputConfig, OutputConfig
    from cxr_embeddings.embedding import run_job
    from cxr_embeddings.input_pipeline import run_folder
    from cxr_embeddings.input_pipeline.embeddings.table import read_table

    encoder = saved.card["encoder"]
    if encoder is None:
        raise ValueError(
            "the head was trained on embeddings without manifest.json: which encoder made them "
            "cannot be told, so films cannot be embedded for it; expected --embeddings"
        )
    if missing := {"views", "embedding", "dtype"} - encoder.keys():
        raise ValueError(
            f"the card of the head does not say {', '.join(sorted(missing))} of its encoder, so "
            "films cannot be embedded for it; expected --embeddings"
        )
    random = weights == "random"
    config = EmbedConfig(
        InputConfig(input, views=encoder["views"]),
        EncoderConfig(
            weights,
            embedding=encoder["embedding"],
            dtype=encoder["dtype"],
            **{name: encoder[name] for name in ("variant", "resolution", "preset") if random},
        ),
        OutputConfig(str(output.parent), layout="sharded", shards=SHARDS),
    )
    folders: list[str] = []

    def place(identity: Mapping[str, Any], planned: Sequence[Output]) -> str:
        folders.append(choose_folder(saved.card, weights, output, identity, planned))
        return folders[0]

    done = run_job(config, place=place)
    manifest, table = run_folder.read_manifest(folders[0]), None
    if manifest["embedded"]:
        table = read_table(folders[0], None, saved.card["embeddings_dtype"])
    write(saved, table, folders, output)
    if manifest["retryable"]:
        print(f"the embeddings are kept in {folders[0]} for the same command")
    else:
        del table  # else NFS would keep the file that it is mapped from
        shutil.rmtree(folders[0], ignore_errors=True)
    return 0 if done.is_success else 1


def choose_folder(
    card: HeadCard,
    weights: str,
    output: pathlib.Path,
    identity: Mapping[str, Any],
    planned: Sequence[Output],
) -> str:
    """The folder for the embeddings of `output`: that of an earlier attempt, if it was the same.

    Args:
        card: of the head.
        weights: for errors.
        output: the CSV.
        identity: what makes the embeddings.
        planned: files of the run.

    Raises:
        ValueError: it would be the encoder of another head, or the head is of studies and a film
            of no known study.
    """
    import numpy as np

    from cxr_embeddings.heads import saved as store
    from cxr_embeddings.heads.labels import studies

    identity = json.loads(json.dumps(identity))  # with lists for tuples, as cards have them
    try:
        store.check_encoder(card, identity, math.prod(identity["shape"]))
    except ValueError as error:
        raise ValueError(f"nothing was embedded: with the weights {weights} {error}") from None
    films = [film.path for one in planned for film in one.films]
    if films and card["per_study"] != "none":  # what would be refused in the end is refused now
        studies.names_by_path(np.array(films, object))
    made_of = hashlib.sha256(json.dumps([identity, films]).encode()).hexdigest()[:16]
    name = f".{output.name}.embeddings-"
    folder = output.with_name(name + made_of)
    for other in output.parent.iterdir():
        if other != folder and re.fullmatch(re.escape(name) + "[0-9a-f]{16}", other.name):
            shutil.rmtree(other)  # which follows no link
    for one in planned:
        kept = folder / one.name
        if kept.exists() and changed_since(kept.stat().st_mtime_ns, one.films):
            kept.unlink()
    return str(folder)


def changed_since(time: int, films: Sequence[InputFile]) -> bool:
    """Whether a film has changed since a time in ns; remote films and those of stores may have."""
    for film in films:
        try:
            if not os.path.isabs(film.path) or os.stat(film.path).st_ctime_ns >= time:
                return True
        except OSError:  # it is gone, and so it is not another one
            continue
    return False


def write(
    saved: Saved, table: Embeddings | None, folders: Sequence[str], output: pathlib.Path
) -> None:
    """Writes a row for every film.

    Args:
        saved: the head.
        table: the embeddings; None where there is none.
        folders: of the runs that made them, which say what films have none.
        output: the CSV.
    """
    from cxr_embeddings.input_pipeline import run_folder

    columns = [
        f"{finding}_{what}"
        for finding in saved.card["findings"]
        for what in ("logit", "probability", "positive")
    ]
    rows = predicted(saved, table) if table else []
    there = {*table.image_id} if table else set()
    damaged = table.damaged if table else []
    without = {one.image_id: f"damaged embedding: {one.detail}" for one in damaged}
    for folder in folders:
        for row in run_folder.read_dropped(folder, "rejected"):
            kind = "failed" if row["reason"] in run_folder.PASSING else "rejected"
            without[row["image_id"]] = f"{kind}, {row['reason']}: {row['detail']}"
        for row in run_folder.read_dropped(folder, "skipped"):
            without[row["image_id"]] = f"skipped, {row['reason']} {row['detail']}"
    without = {name: why for name, why in without.items() if name not in there}
    unknown = [UNKNOWN] * len(columns)
    left_out = ([name, *unknown, why] for name, why in without.items())
    with writing.whole_file(output) as stream:
        stream.write(writing.encode_table(["image_id", *columns, "reason"], [*rows, *left_out]))
    print(f"{len(rows)} predictions in {output}")
    if without:
        kinds = collections.Counter(re.match(r"\w+", why)[0] for why in without.values())
        said = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        print(f"warning: {len(without)} films have no prediction ({said}): their rows say why")


def predicted(saved: Saved, table: Embeddings) -> list[list[object]]:
    """A row for each embedding, or each study where the head is of studies."""
    import numpy as np

    from cxr_embeddings.heads import predictions, select
    from cxr_embeddings.heads.labels import studies

    card = saved.card
    embedding, image_id = table.embedding, table.image_id
    if card["per_study"] != "none":
        embedding, image_id = studies.merge_by_path(embedding, image_id, card["per_study"])
    logit = select.score(saved.trained, embedding, np.arange(len(embedding)))
    columns = [image_id.tolist()]
    for j, finding in enumerate(card["findings"]):
        found = predictions.scores(finding, logit[:, j], card["temperatures"][finding])
        scores = [one.tolist() for one in found.values()]
        threshold = next(iter(card["thresholds"][finding].values()))
        positive = [UNKNOWN] * len(logit)
        if threshold is not None:
            positive = (found[f"{finding}_probability"] >= threshold).astype(int).tolist()
        columns += [*scores, positive]
    return [[*row, ""] for row in zip(*columns, strict=True)]


def main(argv: Sequence[str] | None = None) -> int:
    stopped = "no prediction was written; the same command goes on from the embeddings so far"
    return cli.run_flags(predict, __doc__ or "", stopped, FLAGS, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
