"""A visit as a radiologist makes it: 40 films labelled by keyboard, and a head taken home."""

import csv
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import running
from sklearn.metrics import roc_auc_score

import cxr_embeddings as cxr
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

pytestmark = pytest.mark.slow

FINDING, FILMS, LABELLED = "Support Devices", 90, 40
SIZES = ((1440, 900), (1024, 768), (390, 844))
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, driven by playwright; skips where one of them is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no browser: install Chromium (Debian's package chromium)")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=program, args=OPTIONS)


@pytest.fixture(scope="module")
def films(save_bundle, tmp_path_factory):
    """Drawn films, their embeddings by a small network, and whether each shows the finding."""
    folder = tmp_path_factory.mktemp("visited")
    write_mimic(folder / "mimic", films=FILMS, laterals=0, damaged=0, seed=8, size_range=(48, 80))
    encoder = cxr.load_encoder(save_bundle())
    table = cxr.embed(folder / "mimic/files", encoder, folder / "embeddings", progress=False)
    said = pd.read_csv(folder / "mimic/mimic-cxr-2.0.0-chexpert.csv.gz", dtype=str)
    positive = {f"s{row.study_id}" for row in said[said[FINDING] == "1.0"].itertuples()}
    shows = {name: name.split("/")[-2] in positive for name in table.image_id}
    return {"folder": folder, "weights": save_bundle(), "shows": shows}


@pytest.fixture
def explorer(films, tmp_path):
    folder = films["folder"]
    page = cxr.explore(
        folder / "embeddings",
        tmp_path / "made",
        films=folder / "mimic/files",
        weights=films["weights"],
        findings=[FINDING],
        port=0,
    )
    yield page
    page.stop()


@pytest.fixture
def page(browser, explorer):
    """The page in a tab, which must have met no error at the end."""
    context = browser.new_context(viewport=dict(zip(("width", "height"), SIZES[0], strict=True)))
    page, wrong = context.new_page(), []
    page.expected = []  # None: errors are what the test is about
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda one: one.type == "error" and wrong.append(one.text))
    page.goto(explorer.url)
    page.wait_for_selector("#legend span")
    yield page
    context.close()
    assert not wrong or page.expected is None


def film_of(page):
    return page.get_attribute("#film-id", "title")


def press(page, key):
    """Presses a key, and waits for the next film."""
    before = film_of(page)
    page.keyboard.press(key)
    page.wait_for_function(
        "before => { const now = document.getElementById('film-id').title;"
        " return now && now !== before && !document.getElementById('positive').disabled; }",
        arg=before,
    )


def test_forty_labels_by_keyboard_make_the_head_of_train_head(page, explorer, films, tmp_path):
    page.select_option("#how", "random")
    press(page, "ArrowRight")
    shows, said = films["shows"], {}
    for _ in range(LABELLED):
        name = film_of(page)
        said[name] = shows[name]
        press(page, "p" if shows[name] else "n")
    with open(explorer.session.labels.path, newline="") as stream:
        written = {row["image_id"]: row[FINDING] == "1" for row in csv.DictReader(stream)}
    assert written == said and len(said) == LABELLED

    page.click("#home-go")
    page.wait_for_selector("#home-said a", timeout=120_000)
    home, embeddings = tmp_path / "made/head-1", films["folder"] / "embeddings"
    title = f"head head-1: {FINDING}"
    page.select_option("#colour", title)
    trained = running.call(
        "train_head",
        f"--labels={home / 'labels.csv'}",
        f"--embeddings={embeddings}",
        f"--findings={FINDING}",
        f"--output={tmp_path / 'again'}",
    )
    assert trained.returncode == 0, trained.stderr
    command = running.call(
        "predict",
        f"--head={home / 'head'}",
        f"--embeddings={embeddings}",
        f"--output={tmp_path / 'predictions.csv'}",
    )
    assert command.returncode == 0, command.stderr
    predicted = pd.read_csv(tmp_path / "predictions.csv").set_index("image_id")
    other = cxr.load_head(tmp_path / "again").predict(embeddings).set_index("image_id")
    of_page = explorer.session.colourings[title].values
    names = explorer.session.embeddings.image_id
    assert np.array_equal(np.float32(predicted.loc[names, f"{FINDING}_logit"]), of_page)
    untouched = [name for name in names if name not in said]
    label = [shows[name] for name in untouched]
    auroc, of_command = (
        roc_auc_score(label, table.loc[untouched, f"{FINDING}_logit"])
        for table in (predicted, other)
    )
    print(f"AUROC on {len(untouched)} untouched films: {auroc:.4f}; train_head.py {of_command:.4f}")
    assert auroc == of_command


def test_undo_back_and_other_findings(page, explorer):
    press(page, "ArrowRight")
    first = film_of(page)
    press(page, "p")
    page.keyboard.press("z")
    page.wait_for_function(
        f"() => document.getElementById('film-id').title === {json.dumps(first)}"
    )
    assert explorer.session.counts(FINDING)["positive"] == 0
    press(page, "u")
    press(page, "ArrowLeft")
    assert film_of(page) == first and page.get_attribute("#unknown", "class") == "said"
    page.click("#add")
    page.fill("#add-name", "Mass")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('finding').value === 'Mass'")
    page.wait_for_selector("#positive:not(:disabled)")
    press(page, "n")
    assert explorer.session.counts("Mass")["negative"] == 1
    assert explorer.session.counts(FINDING)["unknown"] == 1


def test_the_heat_map_is_drawn_and_the_film_windowed(page, explorer):
    labels, names = explorer.session.labels, explorer.session.embeddings.image_id
    for i in range(12):
        labels.say(names[i], FINDING, ("positive", "negative")[i % 2], chosen="random")
    press(page, "ArrowRight")
    page.keyboard.press("h")
    page.wait_for_function(
        "() => document.getElementById('film-facts').textContent.startsWith('heat map of')",
        timeout=60_000,
    )
    stage = page.locator("#viewer").bounding_box()
    page.mouse.move(stage["x"] + 200, stage["y"] + 200)
    page.mouse.down()
    page.mouse.move(stage["x"] + 260, stage["y"] + 230)
    page.mouse.up()
    assert page.text_content("#film-facts") == "window 115 %, level 55 %, zoom 1.0"
    page.keyboard.press("r")
    assert page.text_content("#film-facts") == "window 100 %, level 50 %, zoom 1.0"


def test_a_folder_that_cannot_be_written_loses_nothing(page, explorer):
    made = explorer.session.output
    if os.geteuid() == 0:  # whom no permissions stop
        made.rename(made.with_name("moved"))
        made.write_text("in the way")
    else:
        made.chmod(0o500)
    press(page, "ArrowRight")
    press(page, "p")
    page.wait_for_selector("#banner:not([hidden]) button:not([hidden])")
    assert "safe in memory" in page.text_content("#banner")
    if os.geteuid() == 0:
        made.unlink()
        made.with_name("moved").rename(made)
    else:
        made.chmod(0o700)
    page.click("#banner button")
    page.wait_for_selector("#banner", state="hidden")
    with open(explorer.session.labels.path, newline="") as stream:
        assert [row[FINDING] for row in csv.DictReader(stream)] == ["1"]


def test_a_server_that_has_stopped_is_said(page, explorer):
    page.expected = None
    press(page, "ArrowRight")
    explorer.stop()
    page.keyboard.press("p")
    page.wait_for_selector("#banner:not([hidden])")
    assert "does not answer" in page.text_content("#banner")
    assert page.get_attribute("#positive", "class") != "said"


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut_off_at_three_widths(page, size):
    page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    press(page, "ArrowRight")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size[0]
    for name in ("#positive", "#next", "#finding", "#how", "#viewer", "#points", "#home-go"):
        box = page.locator(name).bounding_box()
        assert box["width"] >= 40 and 0 <= box["x"] and box["x"] + box["width"] <= size[0]
