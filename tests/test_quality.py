"""The numbers on quality: what they are on planted numbers, and the folds that they rest on."""

import pathlib

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import folds, quality, quality_tables
from benchmarks.quality_films import Films
from cxr_embeddings.heads.statistics import bootstrap

TABLES = {
    "kermany": ("patient_key", lambda labels: labels.pneumonia),
    "nih": ("patient_id", lambda labels: 1 - labels.no_finding),
}


@pytest.fixture
def films():
    """200 films of 100 patients in five folds; the first 40 numbers tell the label."""
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(100), 2)
    label = random.integers(2, size=(200, 1)).astype(np.float32)
    fold = patient % folds.FOLDS
    stems = [str(i) for i in range(200)]
    path = pathlib.Path("nowhere")
    films = Films(
        "planted", path, stems, patient.astype(str), fold, patient % 3 > 0, ["it"], label, 1
    )
    x = random.normal(size=(200, 300)).astype(np.float32)
    x[:, :40] += label
    return films, x


@pytest.mark.parametrize("name", TABLES)
def test_no_patient_is_in_two_folds(name):
    table = pd.read_csv(folds.TABLES / f"{name}.csv")
    assert table.groupby("patient_id").fold.nunique().max() == 1
    for tested in range(folds.FOLDS):
        split = folds.split_of(table.fold, tested)
        assert set(table.fold[split == "test"]) == {tested}
        assert set(table.fold[split == "tune"]) == {(tested + 1) % folds.FOLDS}
        assert set(split) == {"train", "tune", "test"}


@pytest.mark.parametrize("name", TABLES)
def test_the_folds_are_scikit_learns(shared_data, name):
    column, label = TABLES[name]
    labels = pd.read_csv(shared_data / name / "labels.csv", dtype={column: str})
    labels["fold"] = -1
    cut = StratifiedGroupKFold(folds.FOLDS, shuffle=True, random_state=0)
    for k, (_, rows) in enumerate(cut.split(labels, label(labels), labels[column])):
        labels.loc[rows, "fold"] = k
    labels["image_id"] = labels.file.str.removeprefix("images/")
    table = pd.read_csv(folds.TABLES / f"{name}.csv", dtype={"patient_id": str})
    both = table.merge(labels, on="image_id", suffixes=("", "_again"))
    assert len(both) == len(table) > 600
    assert (both.fold == both.fold_again).all() and (both.patient_id == both[column]).all()


def test_a_table_of_splits_for_each_fold(tmp_path):
    folds.run(str(tmp_path), fold=4)
    table, written = (pd.read_csv(one / "nih.csv") for one in (folds.TABLES, tmp_path))
    assert (table.image_id == written.image_id).all()
    assert ((written.split == "test") == (table.fold == 4)).all()
    assert ((written.split == "tune") == (table.fold == 0)).all()
    with pytest.raises(SystemExit, match="--fold is 5; expected 0 to 4"):
        folds.run(str(tmp_path), fold=5)


def test_aurocs_of_folds_weigh_by_their_pairs():
    label = np.array([1, 0, 0, 1, 1, 1, 0, 0, 0, np.nan])
    parts = [
        (np.arange(3), np.array([5.0, 1, 9])),  # 1 of 2 pairs
        (np.arange(3, 10), np.array([-3.0, -4, -9, -5, -6, -8, 100])),  # 6 of 9 pairs
    ]
    draws = bootstrap.draw(np.arange(10).astype(str), 50, 0)
    found = quality.pooled(parts, label, draws, None)
    assert found.value == pytest.approx((1 + 6) / (2 + 9))
    for count, value in zip(draws.count, found.of_resamples, strict=True):
        wins = pairs = 0.0
        for rows, score in parts:
            known = np.isfinite(label[rows])
            rows, score, weight = rows[known], score[known], count[rows[known]].astype(float)
            sides = [weight[label[rows] == side].sum() for side in (0, 1)]
            if all(sides):
                pairs += np.prod(sides)
                auroc = roc_auc_score(label[rows], score, sample_weight=weight)
                wins += np.prod(sides) * auroc
        assert value == pytest.approx(wins / pairs) if pairs else np.isnan(value)


def test_differences_are_paired(films):
    films, x = films
    draws = bootstrap.draw(films.patient, 300, 0)
    parts = [
        (rows, x[rows, :9].sum(1)) for k in range(5) for rows in [np.flatnonzero(films.fold == k)]
    ]
    ours = quality.pooled(parts, films.label[:, 0], draws, None)
    again = quality.pooled(parts, films.label[:, 0], draws, None)
    same = bootstrap.defined(quality_tables.minus(ours, again))
    assert same["value"] == same["low"] == same["high"] == 0
    slightly = [(rows, score - 0.5 * films.label[rows, 0]) for rows, score in parts]
    worse = quality.pooled(slightly, films.label[:, 0], draws, None)
    difference = quality_tables.minus(ours, worse)
    assert quality_tables.signed(difference)[:3] == "**+", "by pairs a small difference is told"
    apart = bootstrap.defined(ours)["low"] - bootstrap.defined(worse)["high"]
    assert apart < 0, "without pairs it is not"


def test_nothing_is_chosen_on_the_fold_that_is_tested(films):
    films, x = films
    test = np.flatnonzero(films.fold == 1)
    (logits,) = quality.probe(x, films, 1, [x[test]])
    assert roc_auc_score(films.label[test, 0], logits[:, 0]) > 0.8
    turned = films.label.copy()
    turned[test] = 1 - turned[test]
    (again,) = quality.probe(x, films._replace(label=turned), 1, [x[test]])
    np.testing.assert_array_equal(logits, again)


@pytest.mark.parametrize("numbers", [150, 300])
def test_probes_are_logistic_regressions(films, numbers, monkeypatch):
    films, x = films[0], films[1][:, :numbers]  # fewer numbers than films, or more
    monkeypatch.setattr(quality, "PENALTIES", [0.3])
    test, train = (np.flatnonzero(one) for one in (films.fold == 1, films.fold != 1))
    (logits,) = quality.probe(x, films, 1, [x[test]])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.3 * len(train)), tol=1e-6))
    expected = model.fit(x[train], films.label[train, 0]).decision_function(x[test])
    assert np.abs(logits[:, 0] - expected).max() < 0.01 * expected.std()


def test_patients_with_few_labels_are_not_tested(films):
    films, x = films
    pool = np.flatnonzero(films.new)
    tested = [rows for rows, _ in quality.few_labels(x, films, pool, 8, 5)]
    assert len(tested) == 5
    for rows in tested:
        assert {*rows} <= {*pool} and len(pool) - 16 <= len(rows) <= len(pool) - 8
    assert len({tuple(rows) for rows in tested}) > 1
    again = quality.few_labels(x, films, pool, 8, 5)
    assert all((a == b).all() for a, (b, _) in zip(tested, again, strict=True))


class Planted:
    """Stands for an encoder: so many numbers tell the first label of each set."""

    bundles = ("one",)

    def __init__(self, telling):
        self.telling = telling

    def arrays(self, k, *sets):
        return [self.array(films) for films in sets]

    def array(self, films):
        x = np.random.default_rng(0).normal(size=(len(films.stem), 30)).astype(np.float32)
        x[:, : self.telling] += films.label[:, :1]
        return x


@pytest.mark.slow
def test_from_encoders_to_the_tables(films, tmp_path, monkeypatch):
    films, _ = films
    random = np.random.default_rng(1)
    label = random.integers(2, size=(200, 6)).astype(np.float32)
    sets = {
        "kermany": ["pneumonia", "a", "b", "c", "d", "e"],
        "nih": ["abnormal", "Mass", "Edema", "sex", "view", "age"],
        "drawn400": ["Edema", "No Finding", "a", "b", "c", "d"],
        "drawn1200": ["Edema", "No Finding", "a", "b", "c", "d"],
    }
    sets = [
        films._replace(
            name=name, questions=questions, label=label, findings=3 if name == "nih" else 6
        )
        for name, questions in sets.items()
    ]
    monkeypatch.setattr(quality, "PENALTIES", [0.1, 1.0])
    names = {"new": 12, "old": 0, "cross_entropy": 0}
    found = {
        name: quality.measure(Planted(telling), sets, 60, 2) for name, telling in names.items()
    }
    assert found["new"]["pneumonia"].value > 0.9 > 0.65 > found["old"]["pneumonia"].value
    assert found["new"]["abnormal by pneumonia"].value > 0.9, "both are told by the same numbers"
    rank, rank_of_a_fold = (found["old"][name] for name in quality_tables.RANKS)
    assert 10 < rank_of_a_fold.value < rank.value < 30
    assert "[" not in quality_tables.cell(rank), "a rank has no interval"
    mass, edema = (found["new"][name].value for name in ("Mass", "Edema"))
    assert found["new"]["findings"].value == pytest.approx((mass + edema) / 2)
    text = quality_tables.tables(found)
    value = f"{found['new']['pneumonia'].value:.3f}"
    assert f"| pneumonia | {value} [" in text and "| pneumonia | **+0." in text
    tables = [one.splitlines() for one in text.split("\n\n")]
    assert [len({line.count("|") for line in table}) for table in tables] == [1, 1, 1]
    quality_tables.draw(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_an_encoder_may_have_a_bundle_for_each_fold(tmp_path):
    new, old = quality.sources("new=runs/{fold}/weights,old=random", tmp_path)
    assert new.bundles == [f"runs/{fold}/weights" for fold in range(5)]
    assert old.bundles == ["random"] and old.like == new.bundles[0]
