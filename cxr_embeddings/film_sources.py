"""What is embedded: films, decoded by processes of their own, or a store of prepared ones."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from cxr_embeddings.common import machine, paths, workers
from cxr_embeddings.configs.schema import EmbedConfig, InputConfig

if TYPE_CHECKING:
    from cxr_embeddings.encoder.card import Card
    from cxr_embeddings.input_pipeline.embeddings.output_plan import Output
    from cxr_embeddings.input_pipeline.embeddings.writer import Run
    from cxr_embeddings.input_pipeline.films.decode import Batch, Prepared
    from cxr_embeddings.input_pipeline.films.film import InputFile, Rejected, Skipped
    from cxr_embeddings.input_pipeline.store.dataset import Store

    Say = Callable[[str], object]
    Drop = Callable[[InputFile, Skipped | Rejected], None]


@dataclasses.dataclass(frozen=True)
class FilmSource:
    """Films to be embedded.

    `batches` takes a run, the card, films a batch, and what to do with a film that gives no image.
    It gives batches of the films that the run still has to do; a store's are all of them images.
    """

    planned: Sequence[Output]  # to be made of them
    layout: str  # of these outputs
    identity: Mapping[str, object]  # what the manifest says of the input
    batches: Callable[[Run, Card, int, Drop], Generator[Batch, None, None]]
    missing: int = 0  # films that a store lacks because they failed temporarily
    given_up: int = 0  # films that it lacks because they failed in several runs
    refused: Mapping[InputFile, Rejected] = dataclasses.field(default_factory=dict)

    @property
    def prepared_for(self) -> tuple[str, int] | None:
        """Preset and side in pixels of a store's images; None where films are prepared as asked."""
        store = self.identity.get("store")
        return (store["preset"], store["size"]) if isinstance(store, dict) else None


def open_source(config: EmbedConfig, say: Say) -> FilmSource:
    """Finds the films of a run, and says what it finds.

    Raises:
        ValueError: the options contradict one another or the store.
        OSError: the input is not there.
    """
    from cxr_embeddings.input_pipeline.store import dataset

    folder = paths.typed(config.input.path)
    if dataset.is_store(folder):
        return _store_source(config, dataset.open_store(folder), say)
    if config.distributed:
        raise ValueError(
            f"config.distributed divides the shards of a store, and {folder} is none: make one by "
            "scripts/preprocess.py"
        )
    return _films_source(config, folder, say)


def _films_source(config: EmbedConfig, path: str, say: Say) -> FilmSource:
    from cxr_embeddings.input_pipeline.embeddings import output_plan
    from cxr_embeddings.input_pipeline.films import decode
    from cxr_embeddings.input_pipeline.films.listing import list_inputs

    listing = list_inputs(path, config.input.limit)
    say(f"{len(listing.files)} films in {path}")
    for suffix, count in listing.ignored.items():
        say(f"  ignored {count} {suffix} files")
    if listing.repeated:
        say(f"  ignored {listing.repeated} entries of the list that name a film again")
    layout = config.output.layout or "per_image"
    views, chest_only = config.input.views, config.input.chest_only
    films, refused = _part_out(listing.files, layout, config, say)
    planned = output_plan.plan(films, layout, config.output.format, config.output.shards)
    identity = {"input": path, "views": views, "chest_only": chest_only}
    others: Mapping[InputFile, Skipped] = {}
    if config.input.data_set:
        identity |= {"data_set": config.input.data_set}
        others = _of_other_views(listing.files, config.input, path, say)

    def batches(run: Run, card: Card, size: int, drop: Drop) -> Generator[Batch, None, None]:
        count = config.input.workers or machine.processors()
        for film in [film for film in run.todo if film in others]:
            drop(film, others[film])
        named = ((film, film.path) for film in run.todo if film not in others)
        ahead = 2 * max(size, count)
        with (
            decode.decoders(card.preset, card.resolution, views, count, chest_only) as decoders,
            contextlib.closing(workers.in_order(named, decoders, ahead)) as decoded,
        ):
            yield from decode.batches(_noted(decoded, run), size, drop)

    return FilmSource(planned, layout, identity, batches, refused=refused)


def _of_other_views(
    films: Sequence[InputFile], config: InputConfig, path: str, say: Say
) -> Mapping[InputFile, Skipped]:
    """The films that the data set's table says are of no view to be kept."""
    from cxr_embeddings.input_pipeline.films.film import Skipped, known_view
    from cxr_embeddings.input_pipeline.mimic import tables

    table = tables.read_data_set(config.data_set, path, config.metadata_path)
    rows = table.rows_of([film.key for film in films])
    views = [known_view(view, config.views) for view in rows["ViewPosition"].fillna("")]
    found = collections.Counter(
        view or "not said" for view, row in zip(views, rows.index, strict=True) if row >= 0
    )
    said = ", ".join(f"{count} {view}" for view, count in sorted(found.items()))
    say(f"  {found.total()} have a row in {table.path}; views: {said}")
    others = {film: view for film, view in zip(films, views, strict=True) if view}
    asked = config.views or tuple(others.values())
    return {film: Skipped("view", view) for film, view in others.items() if view not in asked}


def _noted(
    decoded: Iterable[tuple[InputFile, Prepared | Skipped | Rejected]], run: Run
) -> Iterator[tuple[InputFile, Prepared | Skipped | Rejected]]:
    """The same; tells the run of films that are no chest films by their headers, but kept."""
    for film, outcome in decoded:
        if said := getattr(outcome, "not_chest", None):
            run.not_chest[film.path] = said
        yield film, outcome


def _part_out(
    films: Iterable[InputFile], layout: str, config: EmbedConfig, say: Say
) -> tuple[Sequence[InputFile], Mapping[InputFile, Rejected]]:
    """As `output_plan.part_out`; says how many cannot be written."""
    from cxr_embeddings.input_pipeline.embeddings import output_plan

    folder = paths.typed(config.output.path)
    kept, refused = output_plan.part_out(films, folder, layout, config.output.format)
    for reason, count in collections.Counter(why.reason for why in refused.values()).items():
        say(f"  {count} are rejected from the start ({reason}): see rejected.csv")
    return kept, refused


def _store_source(config: EmbedConfig, opened: Store, say: Say) -> FilmSource:
    from cxr_embeddings.input_pipeline.embeddings import output_plan
    from cxr_embeddings.input_pipeline.store import dataset

    made = opened.identity
    films = sum(map(len, opened.shards.values()))
    say(f"{films} films in the store {opened.folder}")
    say(f"  preset {made['preset']}, {made['size']} px, {made['storage']}")
    if not films:
        raise ValueError("the store holds no film: its skipped.csv and rejected.csv say why")
    if opened.retryable:
        say(
            f"warning: the store lacks {opened.retryable} films that failed temporarily: "
            "scripts/preprocess.py tries them again"
        )
    views = tuple(made["views"]) if made["views"] else None
    if config.input.views not in (None, views):
        raise ValueError(
            f"input.views is {config.input.views}, but the store was made with {views}: leave the "
            "option out, or make another store"
        )
    chest_only = made.get("chest_only", False)
    if config.input.chest_only and not chest_only:
        raise ValueError(
            "input.chest_only is true, but the store was made without it: leave the option out, or "
            "make another store"
        )
    if config.input.limit is not None:
        raise ValueError("input.limit is for films; a store is embedded whole")
    layout = config.output.layout or "sharded"
    names = list(opened.shards)
    _, refused = _part_out(itertools.chain(*opened.shards.values()), layout, config, say)
    # mimic_cxr-train.tfrecord-00000-of-00010 -> embeddings-train-00000-of-00010
    pieces = {
        name.partition("-")[2].replace(".tfrecord", ""): [f for f in films if f not in refused]
        for name, films in opened.shards.items()
    }
    planned = output_plan.plan_pieces(pieces, layout, config.output.format)

    def batches(run: Run, card: Card, size: int, drop: Drop) -> Generator[Batch, None, None]:
        parts = {run.output_of[film].part for film in run.todo}
        with_work = [names[part] for part in sorted(parts)]
        if run.todo:  # else TensorFlow need not be there
            yield from dataset.batches(opened, with_work, size, wanted=set(run.todo))

    facts: Mapping[str, object] = {**made}
    kept = {name: facts[name] for name in ("preset", "size", "storage", "no_view", "films")}
    identity = {"input": made["input"], "views": views, "chest_only": chest_only, "store": kept}
    return FilmSource(
        planned,
        layout,
        identity,
        batches,
        missing=opened.retryable,
        given_up=opened.given_up,
        refused=refused,
    )


def check_store(source: FilmSource, card: Card) -> None:
    """Raises ValueError where a store's images are not those that the weights expect."""
    made = source.prepared_for
    if made not in (None, (card.preset, card.resolution)):
        raise ValueError(
            f"the store holds images of the preset {made[0]} at {made[1]} px, but these weights "
            f"expect {card.preset} at {card.resolution} px: make a store for them by "
            "scripts/preprocess.py --config.image.weights, or choose other weights"
        )
