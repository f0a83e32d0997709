"""Predictions in a CSV file, from folders of embeddings or from films: `scripts/predict.py`."""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cxr_embeddings.common import dicomweb, files, writing
from cxr_embeddings.embedding import read_embeddings, run_job
from cxr_embeddings.prediction import FILMS_ALONE, Beside, Head, check_unit, predictions_of

if TYPE_CHECKING:
    import pandas as pd

    from cxr_embeddings.heads.saved import HeadCard
    from cxr_embeddings.input_pipeline.embeddings.output_plan import Output
    from cxr_embeddings.input_pipeline.films.film import InputFile
    from cxr_embeddings.loading import Encoder

SHARDS = 1000  # for the embeddings of films; a run that is stopped repeats at most one
UNKNOWN = "NA"  # missing for pandas and R; an empty cell would be 0 for a spreadsheet's formulas


def write(predicted: pd.DataFrame, output: pathlib.Path) -> None:
    """Writes predictions.csv, and prints how many there are, and how many films are flagged."""
    from cxr_embeddings.heads import predictions

    with writing.whole_file(output) as stream:
        stream.write(predictions.encode(predicted, UNKNOWN))
    without = predicted["reason"][predicted["reason"] != ""]
    for note in predicted.attrs["notes"]:
        print(f"  {note['count']:8} {note['what']}")
    print(f"{len(predicted) - len(without)} predictions in {output}")
    if len(without):
        kinds = collections.Counter(why.split()[0].rstrip(",:") for why in without)
        said = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        print(f"warning: {len(without)} films have no prediction ({said}): their rows say why")
    far = int((predicted["out_of_distribution"] == 1).sum())
    said = f"{far} films are out of distribution: unlike those that the head was trained on"
    print(f"warning: {said}; look at them before you use their predictions" if far else said)


def predict_embeddings(
    head: Head,
    embeddings: str | Sequence[str],
    output: pathlib.Path,
    cache: str | None,
    beside: Beside = FILMS_ALONE,
) -> None:
    """Writes what a head says of folders of embeddings."""
    check_unit(head.saved.card)
    dtype = head.saved.card["embeddings_dtype"]
    table = read_embeddings(embeddings, cache=cache, dtype=dtype, progress=True)
    predicted = predictions_of(head.saved, table, table.folders, beside)
    if table.encoder is None:
        print("warning: no manifest.json says which encoder made these embeddings")
    write(predicted, output)


def predict_films(
    head: Head,
    weights: str,
    input: str,
    output: pathlib.Path,
    heat_maps: pathlib.Path | None = None,
    reports: pathlib.Path | None = None,
    archive: str = "",
    beside: Beside = FILMS_ALONE,
) -> bool:
    """Embeds films as those that the head was trained on, of the same views, and predicts.

    The embeddings lie in a hidden folder beside the output until no film is to be tried again.
    With `heat_maps`, a folder, the same forward pass gives the films' heat maps. With `reports`,
    a folder, each study gets a DICOM Structured Report, which `archive`, an address, is sent; with
    both, the reports refer to the heat maps as secondary captures.

    Returns:
        Whether all went well: whether no film failed that another run may read.
    """
    from cxr_embeddings import heat_map_files
    from cxr_embeddings.configs.schema import EmbedConfig, EncoderConfig, InputConfig, OutputConfig
    from cxr_embeddings.heads import inputs

    card = head.saved.card
    check_unit(card)
    inputs.of_card(card.get("inputs"), card["per_study"], *beside)
    made_by = card["encoder"]
    if made_by is None:
        raise ValueError(
            "the head was trained on embeddings without manifest.json, so nothing says which "
            "encoder films must be embedded with; expected --embeddings"
        )
    if missing := {"views", "embedding", "dtype"} - made_by.keys():
        raise ValueError(
            f"the card of the head does not say {', '.join(sorted(missing))} of its encoder, so "
            "films cannot be embedded for it; expected --embeddings"
        )
    views, random = made_by["views"], weights == "random"
    config = EmbedConfig(
        InputConfig(
            input,
            views=None if views is None else tuple(views),
            chest_only=bool(made_by.get("chest_only")),
        ),
        EncoderConfig(
            weights,
            embedding=made_by["embedding"],
            dtype=made_by["dtype"],
            variant=made_by["variant"] if random else None,
            resolution=made_by["resolution"] if random else None,
            preset=made_by["preset"] if random else None,
        ),
        OutputConfig(str(output.parent), layout="sharded", shards=SHARDS),
    )

    map_of: dict[str, pathlib.Path] = {}  # folders of heat maps, by image_id

    def place(identity: Mapping[str, object], planned: Sequence[Output]) -> str:
        if heat_maps:  # written with the embeddings: those of a run without maps are of no use
            films = [film for one in planned for film in one.films]
            heat_map_files.check(heat_maps, films, card["findings"])
            map_of.update((film.path, heat_maps / film.key) for film in films)
            identity = {**identity, "heat_maps": str(heat_maps)}
        return choose_folder(card, weights, output, identity, planned)

    maps: contextlib.AbstractContextManager[Encoder | None] = contextlib.nullcontext()
    if heat_maps:
        maps = heat_map_files.mapping_encoder(config.encoder, head.saved, heat_maps)
    with maps as encoder:
        done, table = run_job(config, encoder=encoder, place=place), None
    if done.counts["embedded"]:
        table = read_embeddings(done.folder, dtype=card["embeddings_dtype"], progress=True)
    predicted = predictions_of(head.saved, table, [done.folder], beside)
    write(predicted, output)
    if reports:
        _report(reports, archive, predicted, card, map_of)
    if heat_maps and done.counts["embedded"]:
        print(f"heat maps in {heat_maps}")
    if done.counts["retryable"]:
        print(f"the embeddings are kept in {done.folder} for the same command")
    else:
        del table  # else NFS would keep the file that it is mapped from
        shutil.rmtree(done.folder, ignore_errors=True)
    return done.is_success


def _report(
    folder: pathlib.Path,
    archive: str,
    predicted: pd.DataFrame,
    card: HeadCard,
    heat_maps: Mapping[str, pathlib.Path],
) -> None:
    """Writes Structured Reports, and sends them where an archive is given."""
    from cxr_embeddings import structured_reports

    digest = str((card["encoder"] or {}).get("weights_digest"))
    found = structured_reports.write_reports(folder, predicted, card, digest, heat_maps)
    for one in found if archive else ():
        files.retry(functools.partial(dicomweb.store, archive, one.read_bytes()))
    reports = sum(one.parent == folder for one in found)
    maps = f" and {len(found) - reports} heat maps" if heat_maps else ""
    sent = f", sent to {archive}" if archive else ""
    print(f"{reports} Structured Reports{maps} in {folder}{sent}")


def choose_folder(
    card: HeadCard,
    weights: str,
    output: pathlib.Path,
    identity: Mapping[str, object],
    planned: Sequence[Output],
) -> str:
    """The folder for the embeddings of `output`: that of an earlier attempt, if it was the same.

    `identity` is what makes the embeddings, `planned` are the files of the run.

    Raises:
        ValueError: the encoder is not the head's, or the head is of studies and the study of a
            film is unknown.
    """
    import numpy as np

    from cxr_embeddings.heads import saved as store
    from cxr_embeddings.heads.labels import studies

    made_by: dict[str, Any] = json.loads(json.dumps(identity))  # with lists for tuples, as in cards
    try:
        store.check_encoder(card, made_by, math.prod(made_by["shape"]))
    except ValueError as error:
        raise ValueError(f"the weights {weights} cannot be used with this head: {error}") from None
    films = [film.path for one in planned for film in one.films]
    if films and card["per_study"] != "none":  # what would be refused in the end is refused now
        studies.names_by_path(np.array(films, object))
    made_of = hashlib.sha256(json.dumps([made_by, films]).encode()).hexdigest()[:16]
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
    """Whether a film has changed since a time in ns; remote films and those of stores may have.

    An instance of an archive has its UID for good.
    """
    for film in films:
        if dicomweb.is_archive(film.path):
            continue
        try:
            if not os.path.isabs(film.path) or os.stat(film.path).st_ctime_ns >= time:
                return True
        except OSError:  # it is gone, and so it is not another one
            continue
    return False
