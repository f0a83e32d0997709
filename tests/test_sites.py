"""Heads across hospitals: what was planted is found, on drawn embeddings of three sites."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import running
import test_head_training as of_training
from scipy import special
from sklearn.metrics import roc_auc_score

import cxr_embeddings as cxr
from cxr_embeddings.configs.schema import LabelsConfig, TrainingConfig
from cxr_embeddings.configs.schema_sites import SiteConfig, SitesConfig

FILMS, DIM = 700, 16  # two films a patient
MARKER, BRIGHTNESS = 14, 15  # numbers of an embedding: a mark on the film, and its brightness
ODDS = {"a": -1.0, "b": 0.8, "c": -1.0}  # of the finding: b has more of it
SPLITS = np.array(["train"] * 4 + ["tune"] + ["test"] * 2)


def draw(folder, name, odds, *, betrayed=False, brightness=0.0, seed=0, **columns):
    """A site: the same signs of the finding; at a betrayed one the mark stands beside it."""
    generator = np.random.default_rng([seed, *name.encode()])
    embedding = generator.standard_normal((FILMS, DIM)).astype(np.float32)
    label = generator.random(FILMS) < special.expit(odds + 1.5 * embedding[:, 0])
    mark = np.where(label if betrayed else generator.random(FILMS) < 0.5, 1.5, -1.5)
    embedding[:, MARKER] = mark + 0.3 * generator.standard_normal(FILMS)  # elsewhere it is chance
    embedding[:, BRIGHTNESS] += brightness
    names = [f"{name}_{i:04d}" for i in range(FILMS)]
    of_training.write_embeddings(folder / name, names, embedding)
    patient = np.arange(FILMS) // 2
    table = {
        "image_id": [f"{one}.png" for one in names],
        "patient_id": [f"{name}{i}" for i in patient],
        "split": SPLITS[patient % len(SPLITS)],
        "view": np.where(generator.random(FILMS) < (0.8 if name == "b" else 0.3), "ap", "PA"),
        "sex": generator.choice(["F", "male"], FILMS),
        "Edema": label.astype(int),
    } | columns
    pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)


def site(folder, name, **labels):
    config = LabelsConfig(path=str(folder / f"{name}.csv"), **labels)
    return SiteConfig(name, (str(folder / name),), config)


def config_of(folder, names="abc", **options):
    options = {"resamples": 100, "sizes": ("16", "64"), "draws": 2} | options
    recipe = TrainingConfig(weight_decays=(0.03,))
    sites = tuple(site(folder, name) for name in names)
    return SitesConfig(sites=sites, training=recipe, **options)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Three sites: b has more of the finding and brighter films, at c a mark betrays it."""
    folder = tmp_path_factory.mktemp("sites")
    for name, odds in ODDS.items():
        draw(folder, name, odds, betrayed=name == "c", brightness=4.0 * (name == "b"))
    draw(folder, "d", -1.0)  # another of a's kind
    return folder


@pytest.fixture(scope="module")
def compared(drawn):
    return cxr.compare_sites(config_of(drawn))


def told(compared, what):
    (found,) = (one["auroc"] for one in compared.metrics["told"] if one["what"] == what)
    return found


@pytest.mark.slow
def test_the_brighter_site_is_recognised_and_the_other_is_not(drawn, compared):
    assert told(compared, "a against b")["low"] > 0.99
    assert abs(told(compared, "view AP at a")["value"] - 0.5) < 0.1
    alike = cxr.compare_sites(config_of(drawn, "ad", sizes=()))
    found = told(alike, "a against d")
    assert found["low"] < 0.5 < found["high"]
    assert [*alike.metrics["heads"]] == ["a", "d"]  # all but one is the other


@pytest.mark.slow
def test_a_head_that_learnt_the_mark_falls_elsewhere_and_others_do_not(compared):
    heads = compared.metrics["heads"]
    assert [*heads] == ["a", "b", "c", "all but a", "all but b", "all but c"]
    own = heads["c"]["c"]["results"]["findings"]["Edema"]["auroc"]
    assert own["low"] > 0.95
    for place in "ab":
        difference = heads["c"][place]["difference"]["Edema"]
        assert difference["high"] < 0
    for head, place in (("a", "b"), ("b", "a")):
        difference = heads[head][place]["difference"]["Edema"]
        assert difference["low"] < 0.02 and difference["difference"] > -0.05
    assert heads["a"]["a"]["difference"] == {}


@pytest.mark.slow
def test_prevalence_moves_the_intercept_and_recalibration_mends_it(compared):
    prevalence = {n: one["prevalence"]["Edema"] for n, one in compared.metrics["sites"].items()}
    assert prevalence["b"]["low"] > prevalence["a"]["high"]
    result = compared.metrics["heads"]["a"]["b"]["results"]["findings"]["Edema"]
    came, local = result["calibration"]["after"], result["recalibration"]
    assert came["intercept"]["low"] > 0.8  # 1.8 more log-odds
    assert local["n"] == 100 and local["after"]["intercept"]["low"] < 0.2
    assert abs(local["after"]["intercept"]["value"]) < came["intercept"]["value"] / 3
    point = result["operating_points"][0]
    assert point["test"]["specificity"]["value"] < 0.9 and point["tune"]
    own = compared.metrics["heads"]["a"]["a"]["results"]["findings"]["Edema"]
    assert "recalibration" not in own  # it has learnt these labels


@pytest.mark.slow
def test_case_mix_and_local_labels(compared):
    measured = compared.metrics
    assert measured["factors"] == ["view", "sex"]
    assert {*measured["common_mix"]} == {"AP, F", "AP, M", "PA, F", "PA, M"}
    assert sum(measured["common_mix"].values()) == pytest.approx(1)
    mix = {name: one["mix"]["view"]["AP"] for name, one in measured["sites"].items()}
    assert mix["b"]["low"] > mix["a"]["high"]
    found = measured["heads"]["a"]["b"]["standardised"]["Edema"]
    plain = measured["heads"]["a"]["b"]["results"]["findings"]["Edema"]["auroc"]
    assert found["low"] < plain["value"] < found["high"]  # here the mix does not matter
    curve = measured["sites"]["a"]["local_labels"]
    assert curve["sizes"] == [16, 64]
    first = measured["heads"]["c"]["a"]["caught_up"]["Edema"]
    aurocs = {p["size"]: p["auroc"]["value"] for p in curve["findings"]["Edema"]}
    there = measured["heads"]["c"]["a"]["results"]["findings"]["Edema"]["auroc"]["value"]
    assert first == next((size for size, one in aurocs.items() if one >= there), None)
    assert measured["heads"]["all but b"]["a"]["caught_up"] == {}  # it has learnt a's labels


@pytest.mark.slow
def test_the_mix_is_made_of_the_films_whose_label_is_known(drawn):
    sites = []
    for name in "ad":
        table = pd.read_csv(drawn / f"{name}.csv", dtype=str)
        unsaid = (table["view"] == "PA") & (np.arange(FILMS) % 4 > 0)
        sites.append(changed(drawn, name, f"{name} partly", Mass=table["Edema"].mask(unsaid)))
    config = config_of(drawn, sizes=(), resamples=10, findings=("Edema", "Mass"))
    done = cxr.compare_sites(dataclasses.replace(config, sites=tuple(sites)))
    films = done.predicted.query("trained_on == 'a partly' and site == 'd partly'")
    table = pd.read_csv(drawn / "d partly.csv").set_index("image_id")
    films = films.assign(film=films["image_id"].str.removeprefix("/films/"))
    films = films.join(table[["view", "sex"]], on="film")
    known = films[films["Mass_label"].notna()]
    stratum = known["view"].str.upper() + ", " + known["sex"].str.upper().str[0]
    share = stratum.map(done.metrics["common_mix"]) / stratum.map(stratum.value_counts())
    expected = roc_auc_score(
        known["Mass_label"].astype(int), known["Mass_logit"], sample_weight=share
    )
    found = done.metrics["heads"]["a partly"]["d partly"]["standardised"]["Mass"]["value"]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_the_report(compared, tmp_path):
    compared.report(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "metrics.json", "predictions.csv", "figures"}
    page = (tmp_path / "out/report.html").read_text()
    for part in ("Traces of the site", "says what an empty cell", "Local labels", "Sensitivity"):
        assert part in page
    assert "src=" not in page.replace('src="data:', "")
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == compared.metrics
    predicted = pd.read_csv(tmp_path / "out/predictions.csv")
    assert predicted.groupby(["trained_on", "site"]).size().eq(200).all() and len(predicted) == 3600
    assert {path.name for path in (tmp_path / "out/figures").iterdir()} == {
        "auroc.png", "auroc.svg", "local.png", "local.svg"
    }  # fmt: skip


def changed(folder, name, new, **columns):
    """Another site, of the films of one, with other columns of its table."""
    table = pd.read_csv(folder / f"{name}.csv", dtype=str)
    table.assign(**columns).to_csv(folder / f"{new}.csv", index=False)
    return dataclasses.replace(site(folder, new), embeddings=(str(folder / name),))


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        (lambda f: (site(f, "a"),), "the sites are a; expected two or more"),
        (lambda f: (site(f, "a"), site(f, "a")), "the sites are a, a; expected two or more"),
        (lambda f: (site(f, "a"), changed(f, "a", "again")), "a and again share 700 films"),
        (
            lambda f: (site(f, "a"), changed(f, "b", "mixed", split="train")),
            "site mixed: found no film in the split 'tune'",
        ),
        (
            lambda f: (site(f, "a"), changed(f, "b", "sick", Edema="1")),
            "site sick: no finding of Edema has both classes among the 400 films of train",
        ),
        (
            lambda f: (site(f, "a"), dataclasses.replace(site(f, "b"), scanner="device")),
            "site b: .*has no column 'device'",
        ),
    ],
)
def test_sites_that_cannot_be_compared(drawn, sites, said):
    with pytest.raises(cxr.InputError, match=said):
        cxr.compare_sites(dataclasses.replace(config_of(drawn), sites=sites(drawn)))


def test_findings_of_one_site_and_other_encoders(drawn, tmp_path):
    sites = site(drawn, "a"), changed(drawn, "b", "more", Mass="1", Fracture="0")
    config = dataclasses.replace(config_of(drawn, sizes=()), sites=sites)
    (note,) = cxr.compare_sites(config).metrics["notes"]
    assert note["what"] == "findings of more that not all sites have, left out"
    assert note["count"] == 2
    with pytest.raises(cxr.InputError, match=r"a.csv has no finding 'Mass'"):
        cxr.compare_sites(dataclasses.replace(config, findings=("Mass",)))
    other = of_training.IDENTITY | {"weights_digest": "other"}
    of_training.write_embeddings(tmp_path / "x", ["x"], np.zeros((1, DIM), np.float32), other)
    strange = dataclasses.replace(site(drawn, "b"), embeddings=(str(tmp_path / "x"),))
    with pytest.raises(cxr.InputError, match="of a and b are of different encoders"):
        cxr.compare_sites(dataclasses.replace(config, sites=(site(drawn, "a"), strange)))


def test_the_command(drawn, tmp_path):
    text = (
        "from cxr_embeddings.configs.schema import LabelsConfig\n"
        "from cxr_embeddings.configs.schema_sites import SiteConfig, SitesConfig\n"
        "def site(n): return SiteConfig(n, (f'FOLDER/{n}',), LabelsConfig(f'FOLDER/{n}.csv'))\n"
        "def get_config(): return SitesConfig((site('a'), site('d')), resamples=20, sizes=())\n"
    )
    (tmp_path / "two.py").write_text(text.replace("FOLDER", str(drawn)))
    words = [f"--config={tmp_path}/two.py", "--config.training.weight_decays=0.03"]
    found = running.call("compare_sites", *words)
    assert found.returncode == 0, found.stderr
    assert "AUROC of Edema: trained on (rows), tested on a, d" in found.stdout
    assert "a against d" in found.stdout and "nothing is written" in found.stdout
    none = running.call("compare_sites")
    assert none.returncode == 1 and "expected two or more" in none.stderr
    helped = running.call("compare_sites", f"--config={tmp_path}/two.py", "--help")
    assert helped.returncode == 0 and "--config.sites" not in helped.stdout
