"""`scripts/neighbours.py` on a few films of MIMIC-CXR's form."""

import csv

import numpy as np
import published
import pytest
import running
from PIL import Image

from cxr_embeddings import nearest_films
from cxr_embeddings.input_pipeline.synthetic.report_text import LABELS as CHEXPERT

COUNT = 16


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two films a patient; those with edema have embeddings near one another."""
    ids = [f"files/p10/p100000{i // 2:02d}/s500000{i:02d}/{i:02d}.png" for i in range(COUNT)]

    def vector(image_id):
        i = int(image_id[-6:-4])
        drawn = np.random.default_rng(i).normal(size=6)
        drawn[0] += 20 * (i < 8)
        return drawn.astype(np.float32)

    monkeypatch.setattr(published, "vector", vector)
    published.make_source(tmp_path / "embeddings", [f"/elsewhere/{one}" for one in ids])
    for i, one in enumerate(ids):
        path = tmp_path / one
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((80, 80), 10 * i, np.uint8)).save(path)
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["subject_id", "study_id", *CHEXPERT])
        for i in range(COUNT - 1):  # the last film has no row
            found = {"Edema": "1.0" if i < 8 else "-1.0" if i == 14 else ""}
            found["No Finding"] = "" if found["Edema"] else "1.0"
            row = (found.get(name, "") for name in CHEXPERT)
            writer.writerow([10000000 + i // 2, 50000000 + i, *row])
    return tmp_path


def shown_in(pixels, colour):
    """Where a picture has a colour."""
    return (pixels[..., :3] == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)


def test_what_is_printed_and_drawn(folder):
    picture = folder / "neighbours.png"
    done = running.call(
        "neighbours", f"--embeddings={folder}/embeddings", f"--labels={folder}/labels.csv",
        f"--input={folder}/files", f"--output={picture}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "15 films of 8 patients with labels, of 16 embeddings of 6 numbers"
    assert "warning: it is not known whether the network of these embeddings was trained" in said
    [edema] = [line.split() for line in said if line.startswith("Edema")]
    # 6 of the 12 films of other patients whose edema is known, of 14 known in all
    assert edema[:4] == ["Edema", "8", "1.000", "0.500"]
    assert not [line for line in said if line.startswith("Fracture")], "no film has it"
    assert "pooled: Edema" in said and any(line.startswith("No Finding") for line in said)
    assert "2.00 times as often as films at random" in done.stdout
    with Image.open(picture) as sheet:
        pixels = np.asarray(sheet)
    row = np.diff(np.flatnonzero(shown_in(pixels, nearest_films.SHARED).sum(0) > 100))
    assert (row > 1).sum() >= 9, "the frames of five neighbours stand apart"


def run_with(folder, capsys, header, *rows):
    """What is printed with a table of the first films."""
    lines = [f"{50000000 + i},{row}" for i, row in enumerate(rows)]
    (folder / "labels.csv").write_text("\n".join([header, *lines]))
    nearest_films.compare_neighbours(f"{folder}/embeddings", f"{folder}/labels.csv")
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("header", "rows", "there", "absent"),
    [  # empty is unknown; nobody shares it; there is no other finding; no column of findings
        ("abnormal", ["1"] * 8 + [""] * 4 + ["0"] * 2, "10 films of 5 patients with", "14 films"),
        ("abnormal", ["1"] + ["0"] * 11, "no film of another patient shares one", "times as often"),
        ("No_Finding", ["1"] * 8 + ["0"] * 4, "pooled: No_Finding\n", "no film of another"),
        ("abnormal,age", ["1,"] * 8 + ["0,"] * 4, "12 films of 6 patients with", "age"),
    ],
)
def test_other_tables(folder, capsys, header, rows, there, absent):
    said = run_with(folder, capsys, f"study_id,{header}", *rows)
    assert there in said and absent not in said


def test_films_that_are_gone_leave_a_cross(folder, capsys):
    (folder / "files/p10/p10000000/s50000000/00.png").unlink()
    arguments = [f"{folder}/{name}" for name in ("embeddings", "labels.csv", "files", "sheet.png")]
    nearest_films.compare_neighbours(*arguments)
    with Image.open(folder / "sheet.png") as sheet:
        assert shown_in(np.asarray(sheet), nearest_films.MISSING).any()
    assert "2 films, drawn at random" in capsys.readouterr().out
