"""How much the embeddings of several encoders tell: the tables of `docs/quality.md`.

An encoder is NAME=BUNDLE, or NAME=PATTERN with {fold} for five bundles that were each trained
without the fold that is tested. NAME=random has random weights, of the variant and resolution of
the first encoder, and NAME=pixels stands for principal components of pixels. The first encoder is
compared with each other one.
"""

import functools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int
from sklearn.decomposition import PCA

import cxr_embeddings as cxr
from benchmarks import quality_tables
from benchmarks.folds import FOLDS
from benchmarks.quality_films import DRAWN, VIEWS, Films, adults, children, drawn, pixels
from cxr_embeddings.configs.schema import TrainingConfig
from cxr_embeddings.heads import data_efficiency, features
from cxr_embeddings.heads import probe as few_films
from cxr_embeddings.heads.statistics import auroc_interval, bootstrap, discrimination
from cxr_embeddings.heads.statistics.bootstrap import Draws, Measured
from cxr_embeddings.pretraining.tune_look import effective_rank

PIXELS, COMPONENTS = "pixels", 256
PENALTIES = sorted(TrainingConfig().weight_decays, reverse=True)
FEW_PENALTY = 0.1  # with few labels nothing is left to choose a penalty by
SIZES = (8, 16, 32, 64, 128, 256)
MOST = 0.55  # of the films of a fold that are labelled in a draw: the others are tested

Part = tuple[Int[np.ndarray, " test"], Float[np.ndarray, " test"]]  # rows of films, and scores
Rows = dict[str, Measured]


@functools.cache
def load(weights: str, like: str) -> cxr.Encoder:
    """An encoder; random weights are of the variant of another one."""
    if weights != "random":
        return cxr.load_encoder(weights)
    card = load(like, like).card
    size = {"variant": card.variant, "resolution": card.resolution, "preset": card.preset}
    return cxr.load_encoder("random", **size)


@functools.lru_cache(4)
def embedded(
    weights: str, like: str, films: pathlib.Path, work: pathlib.Path, name: str
) -> tuple[dict[str, int], Float32[np.ndarray, "film dim"]]:
    """Rows by the names of films, without suffix, and the embeddings, which `work` keeps."""
    encoder = load(weights, like)
    folder = work / encoder.card.digest[:16] / name
    views = VIEWS if name in DRAWN else None
    table = cxr.embed(
        films, encoder, folder, views=views, layout="sharded", shards=4, progress=False
    )
    found = {pathlib.PurePath(one).stem: row for row, one in enumerate(table.image_id)}
    return found, table.embedding


class Source(NamedTuple):
    """An encoder that is compared: one bundle, or one for each fold that is tested."""

    name: str
    bundles: list[str]
    like: str
    work: pathlib.Path

    def arrays(self, k: int, fitted: Films, *others: Films) -> list[np.ndarray]:
        """Embeddings of films, by the bundle k; components of pixels are fitted without fold k."""
        weights = self.bundles[k % len(self.bundles)]
        arrays = [self._array(weights, films) for films in (fitted, *others)]
        if weights != PIXELS:
            return arrays
        rows = arrays[0][fitted.fold != k if fitted.real else fitted.fold == 2]
        pca = PCA(min(COMPONENTS, len(rows)), random_state=0).fit(rows)
        return [pca.transform(array).astype(np.float32) for array in arrays]

    def _array(self, weights: str, films: Films) -> Float32[np.ndarray, "film dim"]:
        if weights == PIXELS:
            found = pixels(films.folder, self.work / f"{films.name}.npz")
            return np.stack([found[stem] for stem in films.stem])
        found, table = embedded(weights, self.like, films.folder, self.work, films.name)
        return table[[found[stem] for stem in films.stem]]

    def described(self) -> list[str]:
        """Its name, weights and digests."""
        if self.bundles == [PIXELS]:
            return [self.name, "principal components", ""]
        cards = [load(weights, self.like).card for weights in self.bundles]
        digests = ", ".join(f"`{card.digest[:16]}`" for card in cards)
        size = f"{cards[0].variant} at {cards[0].resolution} px"
        return [self.name, f"{size}; {cards[0].source}", digests]


def sources(encoders: str, work: pathlib.Path) -> list[Source]:
    """The encoders that the command line names."""
    named = [one.partition("=")[::2] for one in encoders.split(",")]
    like = named[0][1].format(fold=0)
    if like in ("random", PIXELS):
        raise SystemExit(f"the first encoder is {like}; expected a bundle, which the others follow")
    paths = {
        name: [path.format(fold=k) for k in range(FOLDS if "{fold}" in path else 1)]
        for name, path in named
    }
    return [Source(name, bundles, like, work) for name, bundles in paths.items()]


def probe(
    x: Float32[np.ndarray, "film dim"], films: Films, k: int, tested: Sequence[np.ndarray]
) -> list[Float[np.ndarray, "test question"]]:
    """Logits of linear probes, tested on fold k: the penalty is chosen on the next fold.

    All findings have one penalty, that of the best mean AUROC, as heads of `train_head.py` have;
    each other question has its own. With the next fold, real films train again with all folds
    but k; drawn ones keep the demo's three splits.
    """
    tune = films.fold == (k + 1) % FOLDS
    train = (films.fold != k) & ~tune
    logits, best = None, np.zeros(films.label.shape[1], np.int64)
    for rows in (train, train | tune) if films.real else (train,):
        label = films.label[rows]
        known = np.isfinite(label).astype(np.float32)
        found = few_films.fit(x[rows], np.nan_to_num(label), known, PENALTIES)
        if logits is None:
            best = _best(few_films.logits(found, x[tune]), films.label[tune], films.findings)
        every = (few_films.logits(found, one) for one in tested)
        logits = [one[best, :, np.arange(len(best))].T for one in every]
    return logits or []


def _best(logits: np.ndarray, label: np.ndarray, findings: int) -> np.ndarray:
    """Of each question the position of the best penalty [question]; all findings share it."""
    known = np.isfinite(label)
    aurocs = np.array(
        [
            [discrimination.auroc(some[at, j], label[at, j]) for j, at in enumerate(known.T)]
            for some in logits
        ]
    )
    aurocs[:, :findings] = np.nanmean(aurocs[:, :findings], 1, keepdims=True)
    return np.nan_to_num(aurocs, nan=0).argmax(0)


def few_labels(
    x: Float32[np.ndarray, "film dim"], films: Films, pool: np.ndarray, size: int, draws: int
) -> Iterator[Part]:
    """Probes of the first question with so many labels, tested on the pool's other patients."""
    label, seed = films.label[:, 0], 0
    while draws:
        chosen = pool[data_efficiency.draw(films.patient[pool], size, (size, seed))]
        seed += 1
        if len(np.unique(label[chosen])) == 2:
            known = np.ones((size, 1), np.float32)
            found = few_films.fit(x[chosen], films.label[chosen, :1], known, [FEW_PENALTY])
            others = pool[~np.isin(films.patient[pool], films.patient[chosen])]
            yield others, few_films.logits(found, x[others])[0, :, 0]
            draws -= 1


def pooled(
    parts: Sequence[Part], label: np.ndarray, draws: Draws, chance: np.random.Generator | None
) -> Measured:
    """AUROC within each part, weighted by its pairs of a positive and a negative film.

    With `chance` a resample draws the parts with replacement, too.
    """
    wins, pairs, values, sizes = [], [], [], []
    for rows, score in parts:
        known = np.isfinite(label[rows])
        rows, score = rows[known], score[known].astype(np.float64)
        truth = label[rows]
        positives = int(truth.sum())
        sizes.append(positives * (len(truth) - positives))
        values.append(auroc_interval.rank(score, truth).value if sizes[-1] else 0.0)
        columns = {"class": np.stack([truth, 1 - truth], 1).astype(np.float64)}
        resampled = bootstrap.replicates(draws, rows, score, truth, columns)
        pairs.append(resampled["class"].prod(1))
        wins.append(np.nan_to_num(resampled["auroc"]) * pairs[-1])
    times = np.ones((len(draws.count), len(parts)))
    if chance:
        times = chance.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), len(times))
    sums = (np.einsum("bp,pb->b", times, np.stack(one)) for one in (wins, pairs))
    value = float(np.average(values, weights=sizes)) if any(sizes) else None
    return Measured(value, bootstrap.ratio(*sums))


def measure(source: Source, sets: Sequence[Films], resamples: int, draws: int) -> Rows:
    """All rows of the page for one encoder: what is drawn is the same for all encoders."""
    rows: Rows = {}
    young, grown, *made = sets
    resampled = {one.name: bootstrap.draw(one.patient, resamples, 0) for one in sets}

    def add(name: str, films: Films, parts: Sequence[Part], j: int = 0, few: bool = False) -> None:
        chance = np.random.default_rng(0) if few else None
        rows[name] = pooled(parts, films.label[:, j], resampled[films.name], chance)

    for films, other in ((young, grown), (grown, young)):
        first = films.questions[0]
        own, foreign, few, ranks = [], [], {}, []
        pools = {first: np.ones(len(films.fold), bool), f"{first} new": films.new}
        most = {name: MOST * np.bincount(films.fold[pool]).min() for name, pool in pools.items()}
        for k in range(FOLDS):
            x, y = source.arrays(k, films, other)
            tests = [np.flatnonzero(one.fold == k) for one in (films, other)]
            a, b = probe(x, films, k, [x[tests[0]], y[tests[1]]])
            own.append((tests[0], a))
            foreign.append((tests[1], b[:, 0]))
            for name in (one for one in pools if one in quality_tables.CURVES):
                pool = np.flatnonzero(pools[name] & (films.fold == k))
                for size in SIZES:
                    if size <= most[name]:
                        parts = few_labels(x, films, pool, size, draws)
                        few.setdefault(f"{name} {size}", []).extend(parts)
            if films is grown:
                ranks.append((effective_rank(x), effective_rank(x[tests[0]])))
        for j, name in enumerate(films.questions):
            add(name, films, [(at, logit[:, j]) for at, logit in own], j)
        new = [(at[films.new[at]], logit[films.new[at], 0]) for at, logit in own]
        add(f"{first} new", films, new)
        add(f"{other.questions[0]} by {first}", other, foreign)
        for name in sorted(few, key=lambda name: int(name.rpartition(" ")[2])):
            add(name, films, few[name], few=True)
    rows["findings"] = bootstrap.mean([rows[name] for name in grown.questions[1 : grown.findings]])
    for name, value in zip(quality_tables.RANKS, np.mean(ranks, 0), strict=True):
        rows[name] = Measured(float(value), np.empty(0), (None, None))
    for films in made:
        test = np.flatnonzero(films.fold == 0)
        arrays = [source.arrays(k, films)[0] for k in range(len(source.bundles))]
        logits = [probe(x, films, 0, [x[test]])[0] for x in arrays]
        names = [f"{films.name} {name}" for name in films.questions]
        for j, name in enumerate(names):
            add(name, films, [(test, one[:, j]) for one in logits], j)
        rows[films.name] = bootstrap.mean([rows[name] for name in names])
    return rows


def run(
    encoders: str,
    kermany: str,
    nih: str,
    work: str = "quality",
    resamples: int = 1000,
    draws: int = 10,
) -> None:
    """Measures ENCODERS (NAME=BUNDLE,...) on the folders KERMANY and NIH, and on drawn films.

    Embeddings are kept in `work`, and so are tables.md and curves.png, for docs/quality.md.
    "New" are the films that the first demo weights were not trained on.
    """
    folder = pathlib.Path(work).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    sets = [children(pathlib.Path(kermany).absolute()), adults(pathlib.Path(nih).absolute())]
    sets += [drawn(name, folder) for name in DRAWN]
    compared, found = sources(encoders, folder), {}
    with features.on_cpu():
        for source in compared:
            start = time.monotonic()
            found[source.name] = measure(source, sets, resamples, draws)
            print(f"{source.name}, {time.monotonic() - start:.0f} s", flush=True)
    described = quality_tables.table(
        ["Encoder", "Weights", "Digest"], [one.described() for one in compared]
    )
    text = f"{described}\n\n{quality_tables.tables(found)}\n"
    (folder / "tables.md").write_text(text, "utf-8")
    quality_tables.draw(found, folder / "curves.png")
    print(text)
