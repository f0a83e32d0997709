"""`scripts/quality.py` on two small data sets."""

import csv
import dataclasses
import json
import re

import numpy as np
import published
import pytest
from PIL import Image
from test_training import write_store

from encoder import random_weights
from heads.labels.findings import NIH
from scripts import quality, quality_films

SPLITS = ["train"] * 24 + ["tune"] * 24 + ["test"] * 30
FILMS = len(SPLITS)
DATASETS = {name: [f"{name}{i:02d}.png" for i in range(FILMS)] for name in ("kermany", "nih")}
LABEL = np.arange(FILMS) % 2  # of pneumonia, abnormal and Mass; the other findings are rare
NAMES = ("supcon", "cross_entropy", "random")


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


def embed(folder, name, ids, monkeypatch, **identity):
    """Embeddings of which those called supcon know the label, and the others nothing."""

    def vector(image_id):
        drawn = np.random.default_rng([len(name), *image_id.encode()]).normal(size=6)
        drawn[0] += 8 * LABEL[int(image_id[-6:-4])] * (name == "supcon")
        return drawn.astype(np.float32)

    monkeypatch.setattr(published, "vector", vector)
    facts = {
        "weights": name,
        "weights_digest": hexed(name),
        "trained": name != "random",
        "shape": [6],
    }
    published.make_source(folder, ids, **facts | identity)


def hexed(name):
    """A digest that tells its name to those who read hexadecimal."""
    return (name.encode().hex() * 32)[:64]


def write_bundles(folder, digest="", **settings):
    """Cards of two trainings, of which cross-entropy's may have another digest and settings."""
    card = random_weights.random_card("b0", 64, "native", (0.0,) * 3, (1.0,) * 3)
    for name in NAMES[:2]:
        digest_of = hexed(digest if digest and name == "cross_entropy" else name)
        one = {"objective": name, "temperature": "0.1", "steps": "12", "batch_size": "32",
               "learning_rate": "0.001", "optimizer": "adamw", "first_weights": digest_of * 2,
               "films": f"48, digest {'0123456789abcdef' * 4}"}  # fmt: skip
        one |= settings if name == "cross_entropy" else {}
        (folder / f"{name}-weights").mkdir()
        written = dataclasses.replace(card, trained=True, digest=digest_of, settings=one)
        text = json.dumps(dataclasses.asdict(written))
        (folder / f"{name}-weights/card.json").write_text(text)
    return {name: f"{folder}/{name}-weights" for name in NAMES[:2]}


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Arguments of a run; the labels of ChestX-ray14 have a column for No Finding."""
    for name, ids in DATASETS.items():
        rows = [{"file": one, "pneumonia": LABEL[i]} for i, one in enumerate(ids)]
        if name == "nih":
            rows = [
                {"file": one, "no_finding": 1 - LABEL[i]}
                | {finding: LABEL[i] if finding == "Mass" else int(i == 0) for finding in NIH}
                for i, one in enumerate(ids)
            ]
        write_rows(tmp_path / f"{name}.csv", rows)
        patients = (f"p{i}" if name == "nih" else f"p{i - i % 4 + i % 2}" for i in range(FILMS))
        split = [
            {"image_id": one, "patient_id": patient, "split": SPLITS[i]}
            for i, (one, patient) in enumerate(zip(ids, patients, strict=True))
        ]
        write_rows(tmp_path / f"splits/{name}.csv", split)
        write_store(tmp_path / f"stores/{name}", ids)
        for encoder in NAMES:
            embed(tmp_path / encoder / name, encoder, ids, monkeypatch)
    for module, name, value in (
        (quality_films, "SIDE", 8),
        (quality_films, "COMPONENTS", 6),
        (quality_films, "FREQUENT", 10),
        (quality, "SIZES", ("8", "all")),
        (quality, "DRAWS", 3),
        (quality, "RESAMPLES", 60),
    ):
        monkeypatch.setattr(module, name, value)
    return {
        "labels": ",".join(f"{name}={tmp_path}/{name}.csv" for name in DATASETS),
        "splits": f"{tmp_path}/splits",
        "stores": ",".join(f"{name}={tmp_path}/stores/{name}" for name in DATASETS),
        "embeddings": ",".join(f"{name}={tmp_path}/{name}" for name in NAMES),
        "weights": ",".join(f"{k}={v}" for k, v in write_bundles(tmp_path).items()),
        "output": f"{tmp_path}/docs",
    }


def cells(page, start):
    """The cells of the first row that starts so, after the first one."""
    [line, *_] = [line for line in page.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_page_says_what_the_numbers_say(given, tmp_path):
    quality.quality(**given)
    page = (tmp_path / "docs/quality.md").read_text()
    assert "{" not in page and "nan" not in page
    assert cells(page, "pneumonia (Kermany)")[:3] == [
        "12 of 24 (12)", "12 of 24 (12)", "15 of 30 (16)"
    ]  # fmt: skip
    assert cells(page, "abnormal (ChestX-ray14)")[2] == "15 of 30 (30)"
    assert "Hernia" not in page, "it is rare"
    auroc = page[page.index("## AUROC with all labels") :]
    for title in ("pneumonia (Kermany)", "abnormal (ChestX-ray14)", "Mass",
                  "pneumonia (Kermany, by ChestX-ray14's head)"):  # fmt: skip
        count, contrastive, *others = cells(auroc, title)
        assert count == "15 / 30" and contrastive.startswith("1.000 ")
        assert all(float(other.split()[0]) < 0.9 for other in others)
    better = re.search(r"- against cross-entropy: better for (.*)\.\n", page)[1]
    assert better.count("(") == 5 and "not told apart" not in better
    assert "**The claim holds here (every question).**" in page
    assert cells(page, "objective") == ["supcon", "cross_entropy"]
    assert cells(page, "films") == ["48, digest 0123456789abcdef"] * 2
    ends = re.search(r"above reach (0\.\d{3}) to (0\.\d{3}) to either side", page).groups()
    assert 0 < float(ends[0]) < float(ends[1]) < 0.5
    assert re.search(r"of how many: .*weight_decays \(.*contrastive: 3", page)
    numbers = json.loads((tmp_path / "docs/quality.json").read_text())
    assert numbers["auroc"][0][0] == "pneumonia (Kermany)"
    assert numbers["curves"]["pneumonia (Kermany)"]["supcon"]["24"]["value"] == 1
    assert "3 draws of each number of labels; one of all.\n" in page
    assert "The test part of ChestX-ray14 has 30 films, 15 of them normal." in page
    assert "short: 12 films of Kermany and" in page
    for name in ("quality_auroc.png", "quality_labels.png"):
        with Image.open(tmp_path / "docs" / name) as picture:
            assert name in page and picture.width == 1050


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"output": None},
            "expected --labels, --splits, --stores, --embeddings, --weights, --output",
        ),
        ({"labels": "kermany=a"}, r"--labels is 'kermany=a'; expected kermany=...,nih=..."),
        ({"stores": "kermany=a,nih="}, "--stores is 'kermany=a,nih='"),
        ({"weights": "supcon=a"}, "--weights is 'supcon=a'; expected supcon=...,cross_entropy=..."),
        ({"output": __file__}, "File exists"),
        ({"embeddings": "supcon=a,random=b"}, "expected supcon=...,cross_entropy=...,random=..."),
    ],
)
def test_command_lines_that_cannot_work(change, message):
    fine = {name: "x" for name in quality.FLAGS} | {"labels": "kermany=a,nih=b"}
    fine |= {"stores": "kermany=a,nih=b", "embeddings": "supcon=a,cross_entropy=b,random=c"}
    fine |= {"weights": "supcon=a,cross_entropy=b"}
    with pytest.raises((ValueError, FileExistsError), match=message):
        quality.quality(**fine | change)


@pytest.mark.parametrize(
    ("name", "identity", "films", "message"),
    [
        ("random", {"trained": True}, 9, "is called random, and its manifest says trained: True"),
        ("cross_entropy", {"trained": False}, 9, "says trained: False; expected True"),
        ("cross_entropy", {"resolution": 32}, 9, "differs in resolution from the embeddings"),
        ("cross_entropy", {}, 8, "holds 8 films, 1 of them .* not in both; expected the same"),
    ],
)
def test_embeddings_that_cannot_be_compared(tmp_path, monkeypatch, name, identity, films, message):
    for encoder in NAMES:
        for dataset, ids in DATASETS.items():
            mine = encoder == name
            chosen = ids[: films if mine else 9]
            more = identity if mine else {}
            embed(tmp_path / encoder / dataset, encoder, chosen, monkeypatch, **more)
    with pytest.raises(ValueError, match=message):
        quality_films.read_embeddings({encoder: f"{tmp_path}/{encoder}" for encoder in NAMES})


@pytest.mark.parametrize(
    ("digest", "settings", "message"),
    [
        (
            "other",
            {},
            "digest 6f746865726f7468, and the embeddings called cross_entropy are of 63726f73",
        ),
        ("", {"objective": "supcon"}, "and its card says objective: supcon; expected"),
        ("", {"steps": "13", "films": "x"}, "the trainings differ in steps, films; expected"),
        ("", {"seed": "1"}, "the trainings differ in seed; expected"),
    ],
)
def test_trainings_that_cannot_be_compared(tmp_path, digest, settings, message):
    encoders = {name: {"weights_digest": hexed(name)} for name in NAMES}
    with pytest.raises(ValueError, match=message):
        quality_films.read_trainings(write_bundles(tmp_path, digest, **settings), encoders)


def test_embeddings_may_be_named_in_any_order():
    assert [*quality.named("b=/1,a=/2", "x", ("a", "b")).items()] == [("a", "/2"), ("b", "/1")]


def test_half_of_tune_is_drawn_from_and_the_other_half_chooses(given, tmp_path):
    folders = {name: f"{tmp_path}/{name}" for name in NAMES}
    image_id, vectors, _ = quality_films.read_embeddings(folders)
    tables = {name: f"{tmp_path}/{name}.csv" for name in DATASETS}
    examples = quality_films.read_examples(image_id, tables, f"{tmp_path}/splits")
    tasks, unseen = quality_films.make_tasks(examples)
    assert tasks["findings"].findings == ("Mass",)
    for name in ("pneumonia", "abnormal"):
        seen, new = tasks[name], unseen[f"{name}_unseen"]
        halves = [{*new.films[split].row} for split in ("train", "tune")]
        assert halves[0] | halves[1] == {*seen.films["tune"].row}
        assert {*new.patient_id["train"]}.isdisjoint(new.patient_id["tune"])
        np.testing.assert_array_equal(new.films["test"].row, seen.films["test"].row)
        rows = np.concatenate([films.row for films in seen.films.values()])
        known = np.concatenate([films.label[:, 0] for films in seen.films.values()])
        truth = [LABEL[int(image_id[seen.dataset][row][-6:-4])] for row in rows]
        np.testing.assert_array_equal(known, truth)
        for of_set in vectors.values():
            assert len(of_set[seen.dataset]) == FILMS
