"""The results of a head: what they hold, what they depend on, and every way to be undefined."""

import json

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_embeddings.heads.statistics import calibration, metrics, operating_points

FINDINGS = ("Edema", "Fracture", "Pneumonia")


def scored(n: int = 240, seed: int = 0, findings: int = 3) -> metrics.Scored:
    """Logits that are twice too large, patients of two films, a tenth of the labels unknown."""
    random = np.random.default_rng(seed)
    true = random.normal(-1, 1.5, (n, findings))
    label = (random.random((n, findings)) < special.expit(true)).astype(np.float32)
    mask = random.random((n, findings)) < 0.9
    patient_id = random.integers(n // 2, size=n).astype(str)
    patient_id[::11] = ""
    return metrics.Scored((2 * true).astype(np.float32), label, mask, patient_id)


def groups(n: int = 240) -> dict[str, np.ndarray]:
    random = np.random.default_rng(9)
    return {
        "sex": random.choice(["F", "M", ""], n),
        "age": random.choice(["40-59", "60-79", "80+"], n, p=[0.5, 0.45, 0.05]).astype(object),
    }


def evaluate(tune, test, of_groups=None, **kwargs):
    names = FINDINGS[: test.logit.shape[1]]
    chosen = metrics.choose(names, tune)
    options = {"resamples": 100} | kwargs
    found = metrics.evaluate(names, tune, test, chosen, of_groups or {}, **options)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


@pytest.fixture(scope="module")
def results():
    return evaluate(scored(400, seed=1), scored(), groups())


def is_interval(found: dict) -> bool:
    return found["low"] <= found["value"] <= found["high"]


def test_results_hold_what_was_agreed(results):
    head = {key: results[key] for key in ("confidence", "resamples", "seed")}
    assert head == {"confidence": 0.95, "resamples": 100, "seed": 0}
    assert "by patient" in results["intervals"]
    assert [*results["findings"]] == [*FINDINGS]
    for found in results["findings"].values():
        assert found["undefined"] is None
        assert is_interval(found["auroc"]) and is_interval(found["auprc"])
        assert found["auroc"]["bootstrap_low"] < found["auroc"]["bootstrap_high"]
        for time in ("before", "after"):
            part = found["calibration"][time]
            assert [*part] == ["brier", "ece", "slope", "intercept"]
            assert all(map(is_interval, part.values()))
        points = found["operating_points"]
        assert [point["rule"] for point in points] == [*operating_points.RULES]
        for point in points:
            test = point["test"]
            assert sum(test[cell] for cell in ("tp", "fp", "tn", "fn")) == found["n"]
            assert all(is_interval(test[rate]) for rate in ("sensitivity", "specificity", "ppv"))
    assert [*results["subgroups"]] == [*results["gaps"]] == ["sex", "age"]
    assert [*results["subgroups"]["sex"]] == ["F", "M"]
    assert {*results["gaps"]["sex"]} == {*FINDINGS}


def test_values_are_those_of_the_known_films(results):
    test = scored()
    for j, found in enumerate(results["findings"].values()):
        known = test.mask[:, j]
        label, logit = test.label[known, j], test.logit[known, j]
        assert found["n"] == known.sum() and found["positives"] == label.sum()
        names = test.patient_id[known]
        assert found["patients"] == len({*names} - {""})
        assert found["films_of_unknown_patients"] == np.count_nonzero(names == "")
        assert found["auroc"]["value"] == pytest.approx(roc_auc_score(label, logit))
        assert found["auprc"]["value"] == pytest.approx(average_precision_score(label, logit))


def test_temperature_is_fitted_on_tune_and_repairs_test(results):
    tune = scored(400, seed=1)
    for j, found in enumerate(results["findings"].values()):
        known = tune.mask[:, j]
        logit, label = tune.logit[known, j].astype(float), tune.label[known, j]
        expected, _ = calibration.temperature(logit, label)
        assert found["temperature"] == pytest.approx(expected) == pytest.approx(2, abs=0.5)
        before, after = (found["calibration"][time] for time in ("before", "after"))
        assert before["slope"]["value"] == pytest.approx(0.5, abs=0.15)
        assert after["slope"]["value"] == pytest.approx(1, abs=0.4)
        assert after["slope"]["high"] == pytest.approx(expected * before["slope"]["high"])
        assert after["intercept"] == before["intercept"]
        assert after["brier"]["value"] < before["brier"]["value"]
        assert after["ece"]["value"] < before["ece"]["value"]


def test_mean_is_over_the_findings(results):
    for name in ("auroc", "auprc", "brier", "ece", "calibration_slope"):
        parts = [one | one["calibration"]["after"] for one in results["findings"].values()]
        each = [part[name.removeprefix("calibration_")] for part in parts]
        mean = results["mean"][name]
        assert mean["value"] == pytest.approx(np.mean([found["value"] for found in each]))
        assert is_interval(mean)
        widest = max(found["high"] - found["low"] for found in each)
        assert 0 < mean["high"] - mean["low"] < 0.9 * widest
    assert results["mean"]["findings"] == 3


def test_masked_labels_and_logits_are_never_looked_at_and_one_seed_gives_one_result(results):
    def changed(split: metrics.Scored) -> metrics.Scored:
        label = np.where(split.mask, split.label, np.float32(-1))
        logit = np.where(split.mask, split.logit, np.float32(np.nan))
        return split._replace(label=label, logit=logit)

    assert evaluate(changed(scored(400, seed=1)), changed(scored()), groups()) == results


def test_test_labels_choose_nothing(results):
    test = scored()
    flipped = evaluate(scored(400, seed=1), test._replace(label=1 - test.label))
    for found, was in zip(flipped["findings"].values(), results["findings"].values(), strict=True):
        assert found["temperature"] == was["temperature"]
        for point, point_was in zip(
            found["operating_points"], was["operating_points"], strict=True
        ):
            assert point["threshold"] == point_was["threshold"]
            assert point["tune"] == point_was["tune"]
            assert point["test"]["tp"] == point_was["test"]["fp"]


def with_column(split: metrics.Scored, **fields) -> metrics.Scored:
    """The split with other values in the first column."""
    parts = {name: getattr(split, name).copy() for name in fields}
    for name, value in fields.items():
        parts[name][:, 0] = value
    return split._replace(**parts)


def test_one_class_in_test_leaves_a_reason_only():
    test = with_column(scored(), label=0)
    found = evaluate(scored(seed=1), test, groups())
    n = test.mask[:, 0].sum()
    assert found["findings"]["Edema"]["undefined"] == f"test has 0 positives among {n} films"
    assert {*found["findings"]["Edema"]} == {
        "n", "positives", "patients", "films_of_unknown_patients", "undefined"
    }  # fmt: skip
    assert found["mean"]["findings"] == 2
    others = [found["findings"][name]["auroc"]["value"] for name in FINDINGS[1:]]
    assert found["mean"]["auroc"]["value"] == pytest.approx(np.mean(others))
    assert found["subgroups"]["sex"]["F"]["mean_auroc"]["findings"] == 2
    assert found["gaps"]["sex"]["Edema"]["auroc"] is None


@pytest.mark.parametrize("change", [{"label": 1}, {"mask": False}])
def test_one_class_in_tune_leaves_no_thresholds_and_no_temperature(change):
    found = evaluate(with_column(scored(seed=1), **change), scored(), groups())
    edema = found["findings"]["Edema"]
    assert edema["undefined"] is None and edema["temperature"] is None
    assert edema["tune"]["undefined"].startswith("tune has ")
    assert edema["calibration"]["before"] == edema["calibration"]["after"]
    for point in edema["operating_points"]:
        assert point["threshold"] is None and point["test"] is None
        assert point["undefined"] == edema["tune"]["undefined"]
    assert found["subgroups"]["sex"]["F"]["findings"]["Edema"]["sensitivity"] is None


def test_no_known_labels():
    test = scored()._replace(mask=np.zeros((240, 3), bool))
    found = evaluate(scored(seed=1), test, groups())
    assert found["findings"]["Edema"]["undefined"] == "test has no film with a known label"
    assert {*found["mean"].values()} == {None, 0}
    evaluate(test, test, groups())
    evaluate(scored(0, seed=1), scored(0), groups(0))


def test_equal_scores():
    split = with_column(scored(), logit=-1)
    found = evaluate(split, split, groups())
    edema = found["findings"]["Edema"]
    assert edema["auroc"]["low"] < edema["auroc"]["value"] == 0.5 < edema["auroc"]["high"]
    assert edema["calibration"]["after"]["slope"] is None
    assert edema["calibration"]["undefined"].startswith("one threshold separates")
    assert edema["operating_points"][2]["threshold"] is None
    assert found["mean"]["calibration_slope"] is None
    assert found["mean"]["auroc"]["value"] < 1


@pytest.mark.parametrize("scale", [0.01, 1000])
def test_perfect_separation(scale):
    test = scored()
    split = with_column(test, logit=scale * (2 * test.label[:, 0] - 1))
    edema = evaluate(split, split, groups())["findings"]["Edema"]
    assert 0.9 < edema["auroc"]["low"] < edema["auroc"]["value"] == edema["auroc"]["high"] == 1
    assert edema["calibration"]["before"]["slope"] is None
    test = edema["operating_points"][0]["test"]
    assert test["fp"] == test["fn"] == 0
    assert 0.9 < test["sensitivity"]["low"] < 1 == test["sensitivity"]["high"]


def test_two_films():
    two = metrics.Scored(
        np.array([[0.1], [0.2]]),
        np.array([[0], [1]]),
        np.ones((2, 1), bool),
        np.array(["a", "b"], dtype=object),
    )
    found = evaluate(two, two, {"sex": np.array(["F", "M"])})["findings"]["Edema"]
    assert found["auroc"]["value"] == 1
    assert found["auroc"]["low"] is None and found["auroc"]["bootstrap_low"] is None
    assert found["auroc"]["no_interval"].startswith("1 patient with the finding and 1 without: an")
    assert found["auroc"]["resamples"] < 95  # the others hold one of the two films twice
    alone = two._replace(patient_id=np.array(["a", "a"]))
    found = evaluate(two, alone)["findings"]["Edema"]
    assert found["patients"] == 1 and found["auroc"]["resamples"] == 100


def test_a_rare_finding_has_no_bootstrap_interval_but_a_wide_one():
    test = scored()
    label = np.zeros(240)
    label[np.flatnonzero(test.mask[:, 0])[:2]] = 1
    found = evaluate(scored(seed=1), with_column(test, label=label))
    edema = found["findings"]["Edema"]
    assert edema["auroc"]["bootstrap_low"] is None and edema["auprc"]["resamples"] < 95
    assert is_interval(edema["auprc"]) and is_interval(edema["auroc"])
    assert found["mean"]["brier"]["low"] is not None and is_interval(found["mean"]["auprc"])


def test_logits_that_are_not_finite_are_refused():
    test = scored()._replace(logit=np.full((240, 3), np.inf))
    with pytest.raises(ValueError, match=r"test: \d+ logits of Edema are not finite"):
        metrics.evaluate(FINDINGS, scored(), test, metrics.choose(FINDINGS, scored()), {})


def test_the_bootstrap_is_by_patient():
    """Ten copies of every film of a patient say nothing new: the interval must not shrink."""
    one, tune = scored(100)._replace(patient_id=np.arange(100).astype(str)), scored(seed=1)
    ten = metrics.Scored(*(np.repeat(part, 10, axis=0) for part in one))
    few, many = (evaluate(tune, split)["findings"]["Edema"] for split in (one, ten))
    for end in ("bootstrap_low", "bootstrap_high"):
        assert many["auroc"][end] == pytest.approx(few["auroc"][end], abs=1e-12)
    for end in ("low", "high", "delong_low", "delong_high"):
        assert many["auroc"][end] == pytest.approx(few["auroc"][end], abs=2e-3)
    alone = evaluate(tune, ten._replace(patient_id=np.full(1000, "")))["findings"]["Edema"]["auroc"]
    assert alone["high"] - alone["low"] < 0.5 * (many["auroc"]["high"] - many["auroc"]["low"])
    assert many["patients"] == few["patients"] and many["n"] == 10 * few["n"]
