"""The explorer's probe, what is measured of it, and which film it asks for next."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr_embeddings.common import machine
from cxr_embeddings.explorer import choosing, classifier, standard, validation
from cxr_embeddings.explorer.label_file import FindingLabels
from cxr_embeddings.heads.statistics import operating_points

FILMS, DIM = 300, 40
NOBODY = np.full(FILMS, "", object)


@pytest.fixture(scope="module")
def embedding():
    """Numbers of very different size, as activations have them; the first tells the finding."""
    generator = np.random.default_rng(0)
    scale = generator.uniform(0.01, 5, DIM)
    drawn = generator.standard_normal((FILMS, DIM)) * scale + 10 * scale
    drawn[:, 7] = 3
    return drawn.astype(np.float32)


def answers(embedding, films, chosen="random", noise=0.5, seed=1):
    generator = np.random.default_rng(seed)
    shown = (embedding[:, 0] - embedding[:, 0].mean()) / embedding[:, 0].std()
    label = shown[films] + noise * generator.standard_normal(len(films)) > 0
    said = np.zeros(len(embedding), bool)
    said[films] = True
    how = np.full(len(films), chosen, object)
    return FindingLabels(np.asarray(films), label.astype(np.float32), how, said)


def examples_of(label, patient, gram=None, chosen="random", unknown=0):
    label = np.asarray(label, np.float32)
    gram = np.eye(len(label)) if gram is None else gram
    chosen = np.full(len(label), chosen, object)
    at = np.arange(len(label))
    return classifier.Examples(at, label, chosen, np.asarray(patient), gram, 0, unknown)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("count", "penalty"), [(8, 1.0), (35, 0.01), (100, 1e-4), (200, 10.0)])
def test_the_probe_is_the_full_problems_solution(embedding, count, penalty, dtype):
    embedding = embedding.astype(dtype)
    labels = answers(embedding, np.random.default_rng(count).permutation(FILMS)[:count])
    model = classifier.Classifier(embedding, NOBODY)
    probe = model.train(model.examples(labels), penalty)
    scaled = embedding.astype(np.float64)
    scaled = (scaled - scaled.mean(0)) / np.where(np.arange(DIM) == 7, 1, scaled.std(0))
    theirs = LogisticRegression(C=1 / (penalty * count), tol=1e-12, max_iter=100_000)
    theirs.fit(scaled[labels.film], labels.label)
    assert np.allclose(probe.kernel, theirs.coef_[0], rtol=1e-3, atol=1e-4)
    assert np.allclose(probe.logit, theirs.decision_function(scaled), rtol=1e-3, atol=1e-3)
    assert probe.trained_on == count and probe.logit.dtype == np.float32
    assert np.allclose(scaled @ probe.kernel + probe.bias, probe.logit, atol=1e-3)


def test_labels_one_after_the_other_give_the_same_as_at_once(embedding):
    films = np.random.default_rng(0).permutation(FILMS)[:30]
    whole = answers(embedding, films)
    one, other = (classifier.Classifier(embedding, NOBODY) for _ in range(2))
    for i in [*range(1, 31), 3, 30]:  # with an undo
        part = whole._replace(film=films[:i], label=whole.label[:i], chosen=whole.chosen[:i])
        probe = one.train(one.examples(part))
        assert (probe is None) == (len({*part.label}) < 2)
    at_once = other.train(other.examples(whole))
    assert np.allclose(probe.logit, at_once.logit, atol=1e-4)
    again = other.train(other.examples(whole))
    assert np.array_equal(again.logit, at_once.logit)


def test_separable_labels_and_copies_of_a_film(embedding):
    copies = np.concatenate([embedding, embedding[:10]])
    labels = answers(copies, np.r_[:10, FILMS : FILMS + 10], noise=0)
    model = classifier.Classifier(copies, np.full(len(copies), "", object))
    probe = model.train(model.examples(labels), 1e-6)
    assert np.isfinite(probe.logit).all()
    assert ((probe.logit[labels.film] > 0) == (labels.label > 0)).all()


def test_the_held_out_part_and_too_many_labels(embedding, monkeypatch):
    held_out = np.arange(FILMS) % 5 == 0
    model = classifier.Classifier(embedding, NOBODY, held_out)
    labels = answers(embedding, np.arange(100))
    examples = model.examples(labels)
    assert not held_out[examples.film].any() and len(examples.film) == 80
    without = answers(embedding, np.flatnonzero(~held_out[:100]))
    other = classifier.Classifier(embedding, NOBODY)
    flipped = labels._replace(label=np.where(held_out[:100], 1 - labels.label, labels.label))
    expected = other.train(other.examples(without._replace(label=labels.label[~held_out[:100]])))
    probe = model.train(model.examples(flipped))
    assert np.array_equal(probe.logit, expected.logit), "its labels play no part"

    scored = validation.of_held_out(labels, probe, model.patient, held_out)
    found = validation.measure(scored)
    assert found["labels"] == 20
    auroc = roc_auc_score(labels.label[::5], probe.logit[labels.film[::5]])
    assert found["auroc"]["value"] == pytest.approx(auroc)

    monkeypatch.setattr(classifier, "MOST", 50)
    labels.chosen[:70] = "given"
    kept = model.examples(labels)
    assert len(kept.film) == 50 and kept.left_out == 30
    assert {*range(70, 100)} - {*np.flatnonzero(held_out)} <= {*kept.film}, "all of the readers"
    assert kept.film.tolist() == sorted(kept.film), "in the order in which they were given"
    monkeypatch.setattr(classifier, "MOST", 4)
    assert model.examples(labels).film.tolist() == [96, 97, 98, 99], "the latest"
    monkeypatch.setattr(classifier, "MOST", 50)
    assert any("30 labels are left out" in one for one in validation.warnings(kept))


def test_cross_validation_never_mixes_a_patient():
    """A patient's films are copies with a label at random: only a mixed patient is told."""
    generator = np.random.default_rng(0)
    vectors = np.repeat(generator.standard_normal((40, 500)), 3, axis=0)
    patient = np.repeat(generator.permutation(40), 3)
    label = np.repeat(generator.permutation(np.arange(40) % 2), 3)
    examples = examples_of(label, patient, vectors @ vectors.T)
    scored = validation.cross_validate(examples, 1.0, 0)
    assert roc_auc_score(label, scored.logit) < 0.75
    mixed = validation.cross_validate(examples._replace(patient=np.arange(120)), 1.0, 0)
    assert roc_auc_score(label, mixed.logit) > 0.99, "the test can fail"


@pytest.mark.parametrize("seed", range(20))
def test_folds_have_both_labels_and_whole_patients(seed):
    generator = np.random.default_rng(seed)
    patient = generator.integers(0, 9, 30)
    label = (generator.random(30) < 0.25).astype(np.float32)
    label[:2], patient[:2] = (1, 1), (0, 1)
    folds = min(len({*patient[label == value]}) for value in (0, 1))
    fold = validation.deal(label, patient, folds, seed)
    for one in range(folds):
        assert {*label[fold == one]} == {0, 1}
        assert not {*patient[fold == one]} & {*patient[fold != one]}
    assert np.array_equal(fold, validation.deal(label, patient, folds, seed))


@pytest.mark.slow
def test_the_interval_holds_chance_where_there_is_no_signal():
    """Without the factor it would in 87 %; and scores of small folds are not biased."""
    held, values = 0, []
    with machine.one_blas_thread():
        for seed in range(100):
            generator = np.random.default_rng(seed)
            vectors = generator.standard_normal((48, 200))
            label = generator.permutation(np.arange(48) < 12)
            examples = examples_of(label, np.arange(48), vectors @ vectors.T)
            found = validation.measure(validation.cross_validate(examples, 1.0, seed))["auroc"]
            held += found["low"] <= 0.5 <= found["high"]
            values.append(found["value"])
    assert held >= 93 and abs(np.mean(values) - 0.5) < 0.04


def test_what_is_measured(embedding):
    labels = answers(embedding, np.random.default_rng(2).permutation(FILMS)[:100])
    labels.chosen[:60] = "likely"
    labels.chosen[10:15] = "diverse"
    patients = np.array([f"p{i // 2}" for i in range(FILMS)], object)
    model = classifier.Classifier(embedding, patients)
    examples = model.examples(labels)
    found, scored = validation.validate(examples)
    again, _ = validation.validate(examples)
    assert found == again
    assert found["labels"] == 100 and found["undefined"] is None
    auroc = found["auroc"]
    assert auroc["value"] == pytest.approx(roc_auc_score(scored.label, scored.logit))
    assert auroc["low"] < auroc["value"] < auroc["high"] and auroc["value"] > 0.8
    random = roc_auc_score(scored.label[60:], scored.logit[60:])
    assert found["of_random"]["value"] == pytest.approx(random)

    assert [point["labels"] for point in found["curve"]] == [8, 16, 32, 64, 100]
    half = validation.validate(validation.first(examples, 64))[0]
    assert found["curve"][3]["auroc"] == half["auroc"] and found["curve"][4]["auroc"] == auroc

    false, true, threshold = np.array(found["roc"]).T
    assert np.trapezoid(true, false) == pytest.approx(auroc["value"])
    for at in (0, len(threshold) // 2, -1):
        rates = validation.rates_at(scored, threshold[at])
        assert rates["sensitivity"]["value"] == pytest.approx(true[at])
        assert rates["specificity"]["value"] == pytest.approx(1 - false[at])
        assert rates["sensitivity"]["low"] <= true[at] <= rates["sensitivity"]["high"]
    assert rates["tp"] + rates["fn"] == found["positives"] and rates["npv"] is None
    assert sum(map(sum, found["histogram"].values())) == 100 and len(found["edges"]) == 21
    assert [*found["thresholds"]] == [
        one.removesuffix(" on tune") for one in operating_points.RULES
    ]
    picked = validation.rates_at(scored, found["thresholds"]["sensitivity 0.90"])
    assert picked["sensitivity"]["value"] >= 0.9
    [warning] = found["warnings"]
    assert warning.startswith(
        "60 of 100 films were not drawn at random: 55 chosen by the classifier itself, 5 chosen to"
    )


def test_thresholds_of_huge_logits_are_finite():
    label = np.arange(40) % 2
    logit = np.where(label, 900.0, 800.0) + np.arange(40)
    found = validation.measure(validation.Scored(logit, label.astype(np.float32), np.arange(40)))
    assert 839 <= found["thresholds"]["Youden's J"] <= 901


@pytest.mark.parametrize(
    ("label", "patient", "undefined", "warning"),
    [
        ([], [], "0 patients with the finding and 0 without", "No film with the finding"),
        ([1, 1, 1], [0, 1, 2], "3 patients with the finding and 0", "No film without the finding"),
        ([0, 0, 1], [0, 1, 2], "1 patient with", "Only 1 films with the finding are labelled"),
        ([0, 0, 1, 1], [0, 1, 2, 2], "1 patient with", "Only 2 films"),
    ],
)
def test_too_few_labels_are_said(label, patient, undefined, warning):
    examples = examples_of(label, np.array(patient, np.int64))
    found, scored = validation.validate(examples)
    assert scored is None and found["undefined"].startswith(undefined) and found["roc"] == []
    assert found["auroc"] is None and found["curve"][-1] == {
        "labels": len(label), "positives": sum(label), "auroc": None,
    }  # fmt: skip
    assert found["warnings"][0].startswith(warning)
    unknown = validation.warnings(examples._replace(unknown=2))
    assert any("patients of 2 films are unknown" in one for one in unknown)


def test_which_film_is_next(embedding):
    about = standard.of_table(embedding)
    free, none = np.ones(FILMS, bool), np.empty(0, np.int64)
    chooser = choosing.Chooser(embedding, about, seed=3)
    logit = np.linspace(-3, 5, FILMS).astype(np.float32)
    assert chooser.next("likely", free, none, logit) == FILMS - 1
    uncertain = chooser.next("uncertain", free, none, logit)
    assert uncertain == np.abs(logit).argmin()
    free[[FILMS - 1, uncertain]] = False
    assert chooser.next("likely", free, none, logit) == FILMS - 2
    assert abs(chooser.next("uncertain", free, none, logit) - uncertain) == 1
    assert chooser.next("likely", free, none) == chooser.next("diverse", free, none)
    assert chooser.next("random", np.zeros(FILMS, bool), none) is None
    with pytest.raises(ValueError, match="how is 'best'"):
        chooser.next("best", free, none)

    drawn = []
    for _ in range(FILMS - 2):
        drawn.append(chooser.next("random", free, none))
        free[drawn[-1]] = False
    assert len({*drawn}) == FILMS - 2 and np.abs(np.diff(drawn)).mean() > FILMS / 5
    again = choosing.Chooser(embedding, about, seed=3)
    assert again.next("random", np.ones(FILMS, bool), none) in (drawn[0], FILMS - 1, uncertain)


def test_diverse_films_are_the_farthest_first(embedding):
    about = standard.of_table(embedding)
    scaled = standard.rows(embedding, about, np.arange(FILMS))
    free, labelled = np.ones(FILMS, bool), []
    chooser = choosing.Chooser(embedding, about)
    for step in range(8):
        away = np.linalg.norm(scaled[:, None] - scaled[labelled], axis=2)
        expected = away.min(1).argmax() if labelled else np.linalg.norm(scaled, axis=1).argmin()
        assert chooser.next("diverse", free, np.array(labelled, np.int64)) == expected
        labelled.append(int(expected))
        free[expected] = False
        if step == 4:
            free[labelled.pop(1)] = True  # an undo
    fresh = choosing.Chooser(embedding, about)
    chosen = (one.next("diverse", free, np.array(labelled)) for one in (chooser, fresh))
    assert len({*chosen}) == 1


def test_the_part_that_is_set_aside():
    image = np.array([f"{i}.png" for i in range(3000)], object)
    patient = np.array([f"p{i // 3}" if i < 2700 else "" for i in range(3000)], object)
    aside = choosing.held_out(image, patient, 0.2, seed=1)
    assert 0.15 < aside.mean() < 0.25 and 0.1 < aside[2700:].mean() < 0.3
    whole = aside[:2700].reshape(-1, 3)
    assert (whole.all(1) == whole.any(1)).all(), "whole patients"
    order = np.random.default_rng(0).permutation(3000)[:500]
    assert np.array_equal(choosing.held_out(image[order], patient[order], 0.2, 1), aside[order])
    assert (choosing.held_out(image, patient, 0.2, seed=2) != aside).any()
    with pytest.raises(ValueError, match="set nothing aside where films are few"):
        choosing.held_out(image[:1], patient[:1], 0.2)
    with pytest.raises(ValueError, match=r"a share of 1.0"):
        choosing.held_out(image, patient, 1.0)
