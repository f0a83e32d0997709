import base64
import html
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from cxr_embeddings.heads.report import figures, panels
from cxr_embeddings.heads.report.page import write_report
from cxr_embeddings.heads.statistics import metrics
from cxr_embeddings.input_pipeline.synthetic.report_text import LABELS as CHEXPERT

GROUPS = {"sex": ("F", "M"), "age": ("0-39", "40-59", "60-79", "80+"), "view": ("AP", "PA")}
EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a & b 'c' $x^{2$ {{ 7*7 }} \x00\u202e",
    "A finding whose long name has 40 letters",
    "Unbroken_name_of_a_finding_of_40_letters",
)


def of(patients, unknown=0):
    return {"patients": patients, "films_of_unknown_patients": unknown}


def made_up(findings, films=520, undefined=(), trained=True):
    """A head that never was, measured: what `draw` takes, and what `write_report` takes besides."""
    rng = np.random.default_rng(0)
    shape = films, len(findings)
    prevalence, apart = 10 ** rng.uniform(-1.4, -0.35, shape[1]), rng.uniform(0.7, 2.4, shape[1])
    label = (rng.random(shape) < prevalence).astype(np.float32)
    label[0], label[1:3] = 0, 1
    mask = rng.random(shape) < 0.9
    mask[:3] = True
    label[:, [*undefined]] = 0
    signal = apart * label + rng.normal(0, 1, shape)
    logit = apart * signal - apart**2 / 2 + np.log(prevalence / (1 - prevalence))
    scored = metrics.Scored(1.31 * logit, label, mask, np.arange(films).astype(str))
    groups = {column: rng.choice(values, films) for column, values in GROUPS.items()}
    chosen = metrics.choose(findings, scored)
    results = metrics.evaluate(findings, scored, scored, chosen, groups, resamples=20)
    efficiency = made_up_efficiency(results) if results["mean"]["findings"] else None
    both = {"results": results, "data_efficiency": efficiency}
    distances = {"train": rng.gamma(9, 0.05, 90), "tune": rng.gamma(9, 0.07, 60)}
    distances = {split: far.astype(np.float32) for split, far in distances.items()}
    drawn = {"findings": findings, "films": scored, **both, "distances": distances}
    return drawn, made_up_rest(findings, trained) | both


def made_up_efficiency(results):
    def curve(best):
        points = [{"size": 4, "patients": 4.0, "draws": 0, "auroc": None}]
        for size in (8, 16, 32, 64, 128, 430):
            auroc = {"value": best - 1 / size, "low": best - 2 / size, "high": best}
            few = {"size": size, "patients": size - 1, "draws": 18 if size < 16 else 20}
            points.append(few | {"auroc": auroc})
        return points

    defined = {n: found for n, found in results["findings"].items() if not found["undefined"]}
    return {
        "sizes": [4, 8, 16, 32, 64, 128, 430],
        "draws": 20,
        "findings": {name: curve(found["auroc"]["value"]) for name, found in defined.items()},
        "mean": curve(results["mean"]["auroc"]["value"]),
    }


def made_up_rest(findings, trained):
    counts = {
        split: {
            "films": films,
            **of(films - 31),
            "positives": dict.fromkeys(findings, 30),
            "negatives": dict.fromkeys(findings, films - 42),
        }
        for split, films in (("train", 4300), ("tune", 510), ("test", 520))
    }
    compared = {
        "auroc": 0.86, "other_auroc": 0.84, "difference": 0.02, "z": 1.7, "p": 0.089,
        "undefined": None,
    }  # fmt: skip
    comparison = {name: compared for name in findings}
    comparison[findings[0]] = compared | {"z": 4.2, "p": 0.00003, "difference": 0.05}
    if len(findings) > 1:
        comparison[findings[-1]] = {"undefined": "the comparison has 0 positives among 520 films"}
    return {
        "title": "Findings on frontal chest films",
        "provenance": {
            "encoder": {"digest": "9f2c41d07be35a6810c4f7de2b9a4c55e1d0f3a7", "trained": trained},
            "head": {"hidden": [], "tune": 0.0123456789012345, "weight decays": [0.0, 0.01, 0.1]},
        },
        "counts": counts,
        "notes": [
            ("films without a label", 12, ["02aa804e-bde0afdd-112c0b34-7bc16630-4e384014"], False),
            ("films found in labels.csv", 5320, [], True),
        ],
        "out_of_distribution": {
            "train": {"films": 4300, "flagged": 0},
            "tune": {"films": 510, "flagged": 5},
        },
        "comparison": {"other": "logistic regression", "n": 520, "findings": comparison},
    }


def rendered(drawn):
    return {name: figures.svg(figure) for name, figure in drawn.items()}


def written(path, rest, svgs):
    kept = ("results", "counts", "out_of_distribution", "data_efficiency", "comparison")
    measured = {name: rest[name] for name in kept}
    measured["split"] = "test" if "test" in rest["counts"] else "tune"
    measured["notes"] = [
        dict(zip(("what", "count", "examples", "used"), note, strict=True))
        for note in rest["notes"]
    ]
    write_report(path, rest["title"], rest["provenance"], measured, svgs)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def fourteen(tmp_path_factory):
    path = tmp_path_factory.mktemp("fourteen") / "report.html"
    draws, rest = made_up(CHEXPERT, undefined=(5,))
    drawn = figures.draw(**draws)
    return written(path, rest, rendered(drawn)), drawn, rest


def test_fourteen_findings_are_drawn_and_written_small(fourteen):
    page, drawn, _ = fourteen
    assert len(page) < 3e6
    assert [*drawn] == [
        "roc", "precision_recall", "scores", "calibration", "forest", "subgroups",
        "data_efficiency", "distances",
    ]  # fmt: skip
    for figure in drawn.values():
        assert figure.get_size_inches()[0] <= panels.WIDTH + 1e-9
        assert figure.get_size_inches()[1] <= 9.9  # one A4 page with a caption
        for text in figure.findobj(matplotlib.text.Text):
            assert text.get_fontsize() >= 8 or not text.get_text()


def test_the_same_input_gives_the_same_bytes(tmp_path):
    draws, rest = made_up(("Edema",), films=120)
    for folder in (tmp_path / "a", tmp_path / "b"):
        with matplotlib.rc_context({"font.size": 20, "axes.grid": folder.name == "b"}):
            drawn = figures.draw(**draws)
            svgs = figures.save(drawn, folder)
        files = {path.name for path in folder.iterdir()}
        assert files == {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
        written(folder / "report.html", rest, svgs)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
        if path.suffix == ".svg":
            assert b"date" not in path.read_bytes()


def test_the_page_has_what_it_should_say(fourteen):
    page, _, rest = fourteen
    text = html.unescape(re.sub("<[^>]*>", " ", page.split("</style>")[1]))
    results = rest["results"]
    for name, found in results["findings"].items():
        if found["undefined"]:
            assert f"\N{EN DASH} {found['undefined']}" in text
            continue
        assert f"{found['auroc']['value']:.3f}" in text
        assert f"[{found['auroc']['low']:.3f}, {found['auroc']['high']:.3f}]" in text
        assert f"{found['operating_points'][0]['threshold']:.3f}" in text
        assert f"{name}: AUROC {panels.interval(found['auroc'])}" in page  # alternative text
    for words in (
        f"{results['intervals']} 20 resamples, seed 0.",
        "Left out of all figures: Fracture (test has 0 positives",
        "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014",
        "9f2c41d07be35a6810c4f7de2b9a4c55e1d0f3a7",
        "0, 0.01, 0.1",
        "0.01235",
        "< 0.001",
    ):
        assert words in text, words
    assert "Warning" not in text
    assert page.count("<caption>") == page.count("<table") == page.count('class="scroll"') - 8
    assert page.count("<img") == page.count("alt=") == 8


@pytest.mark.parametrize(
    ("trained", "test", "words"),
    [
        (False, True, ["encoder is untrained"]),
        (None, True, ["not known whether the encoder was trained"]),
        (True, False, ["There is no test split"]),
        (False, False, ["There is no test split", "encoder is untrained"]),
    ],
)
def test_what_a_reader_must_know_first_is_in_a_warning(tmp_path, trained, test, words):
    _, rest = made_up(("Edema",), trained=trained)
    if not test:
        rest["counts"] = {name: rest["counts"][name] for name in ("train", "tune")}
    page = written(tmp_path / "report.html", rest, {})
    assert page.count("<strong>Warning.</strong>") == len(words) and "over 1 finding" not in page
    assert all(one in page for one in words)
    assert ("on 510 tune films" in page) is not test
    assert ("on 520 test films" in page) is test
    rest["provenance"] = {}
    assert "not known whether" in written(tmp_path / "report.html", rest, {})


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    path = tmp_path_factory.mktemp("evil") / "report.html"
    draws, rest = made_up(EVIL, films=150)
    rest["title"], rest["comparison"]["other"] = EVIL[0], EVIL[1]
    rest["notes"] = [
        (EVIL[1], 1, [EVIL[0], EVIL[2]], False),
        ("unbroken" * 12, 1, ["0123456789" * 12], True),
    ]
    rest["provenance"] = {EVIL[0]: {EVIL[1]: [EVIL[2], None, True, "ab" * 99]}, "lines": "a\nb"}
    results = rest["results"]
    results["intervals"] = EVIL[0]
    results["subgroups"] = {EVIL[0]: {EVIL[1]: results["subgroups"]["sex"]["F"]}}
    results["gaps"] = {EVIL[4]: results["gaps"]["sex"]}
    svgs = rendered(figures.draw(**draws))
    return written(path, rest, svgs), svgs


def test_evil_names_are_only_text(evil):
    page, svgs = evil
    assert "<script" not in page
    assert "<img src=x" not in page
    assert set(re.findall("<([a-z0-9]+)[ >]", page)) <= {
        "html", "head", "meta", "title", "style", "body", "header", "main", "section", "nav", "ul",
        "li", "a", "h1", "h2", "h3", "p", "b", "strong", "small", "abbr", "span", "div", "table",
        "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "img", "dl", "dt",
        "dd",
    }  # fmt: skip
    assert "{{ 7*7 }}" in page
    assert "\x00" not in page
    assert "\u202e" not in page
    for svg in svgs.values():
        ElementTree.fromstring(svg)  # raises where a name broke out of its place


def test_the_page_asks_for_nothing(fourteen):
    page, _, _ = fourteen
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    assert "http:" not in page
    assert "https:" not in page
    assert re.findall(r"url\(|@import|<link|<script|<iframe|<object|\son\w+=", page) == []
    sources = re.findall(r'src="([^"]*)"', page)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    for source in sources:
        root = ElementTree.fromstring(base64.b64decode(source.partition(",")[2]))
        for element in root.iter():
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith("#")


def test_without_any_defined_finding_there_are_tables_and_reasons(tmp_path):
    draws, rest = made_up(CHEXPERT[:2], undefined=(0, 1))
    assert [*figures.draw(**draws)] == ["distances"]
    rest["comparison"], rest["notes"] = None, []
    page = written(tmp_path / "report.html", rest, {})
    assert "No finding has both classes" in page
    assert page.count("\N{EN DASH} test has 0 positives among") == 2
    assert "<img" not in page


def test_values_that_are_undefined_say_why(tmp_path):
    draws, rest = made_up(("Edema", "Fracture"), films=90)
    found = rest["results"]["findings"]["Edema"]
    found["auroc"] |= {"low": None, "high": None}
    found["temperature"] = None
    rest["results"]["findings"]["Fracture"]["temperature_kept"] = "tune is separated: 1 is kept"
    found["calibration"]["after"]["slope"] = None
    found["calibration"]["undefined"] = "one threshold separates the classes"
    found["operating_points"][0] |= {"threshold": None, "tune": None, "test": None}
    found["operating_points"][1]["test"]["ppv"] = None
    rest["data_efficiency"]["findings"]["Edema"] = []
    rest["results"]["subgroups"]["sex"]["F"]["findings"].pop("Edema")
    figures.draw(**draws)
    page = written(tmp_path / "report.html", rest, {})
    for words in (
        "no interval",
        "tune could not give one",
        "tune is separated: 1 is kept",
        "one threshold separates the classes",
        "tune could not give a threshold",
        "no film at or above the threshold",
        "no draw has both classes",
    ):
        assert words in page, words
