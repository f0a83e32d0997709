"""The labels of the explorer: saved at every key, of two tabs, kept through whatever happens."""

import csv
import os
import signal
import subprocess
import sys
import threading

import label_tables
import numpy as np
import pytest

from cxr_embeddings.explorer.label_file import Conflict, LabelFile
from cxr_embeddings.labelled_films import read_labelled_films

FILMS = np.array([f"p1000000{i}/s5000000{i}/{i}.png" for i in range(6)], object)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.csv"


def start(path, *findings, **options):
    return LabelFile(path, FILMS, findings or ("Edema", "Mass"), **options)


def say(labels, film, said="positive", finding="Edema", **options):
    return labels.say(FILMS[film], finding, said, **{"chosen": "random"} | options)


def rows(path):
    with open(path, newline="") as stream:
        return [*csv.DictReader(stream)]


def known(labels, finding="Edema"):
    found = labels.of(finding)
    return dict(zip(found.film.tolist(), found.label.tolist(), strict=True))


def test_a_key_is_in_the_file_at_once(path):
    labels = start(path)
    assert not path.exists() and labels.state == (0, None)
    assert say(labels, 3, "negative", reader="Ann") == (1, None)
    say(labels, 1, chosen="uncertain", reader="Bo")
    assert say(labels, 3, finding="Mass", chosen="likely", reader="Bo") == (3, None)
    say(labels, 5, "unknown")
    first, second, third = rows(path)
    assert [*first] == ["image_id", "patient_id", "Edema", "Mass", "reader", "time", "chosen",
                        "called_unknown"]  # fmt: skip
    assert (first["image_id"], first["patient_id"]) == (FILMS[3], "10000003")
    assert (first["Edema"], first["Mass"], first["reader"]) == ("0", "1", "Bo")
    assert first["chosen"] == "likely", "it was not drawn at random for all its findings"
    assert (second["Edema"], second["Mass"], second["chosen"]) == ("1", "", "uncertain")
    assert (third["Edema"], third["called_unknown"]) == ("", "Edema")
    assert first["time"].endswith("Z") and len(first["time"]) == 20
    found = labels.of("Edema")
    assert known(labels) == {3: 0, 1: 1} and found.film.tolist() == [3, 1], "in their order"
    assert np.flatnonzero(found.said).tolist() == [1, 3, 5] and found.chosen[1] == "uncertain"


def test_train_head_reads_the_file(path):
    labels = start(path)
    for i, said in enumerate(("positive", "negative", "unknown")):
        say(labels, i, said, reader="Ann")
    table = label_tables.read_labels(path)
    assert table.findings == ("Edema",), "a finding nobody labelled is none of `all`"
    assert table.mask[:, 0].tolist() == [True, True, False] and table.label[0, 0] == 1
    assert label_tables.said(table, "patient") == [["10000000", "10000001", "10000002"]]


def test_started_again_it_goes_on(path):
    labels = start(path, "Edema", 'Pleural, "other"')
    say(labels, 4, chosen="likely")
    say(labels, 2, "unknown", finding='Pleural, "other"')
    again = start(path, "Mass")
    assert again.findings == ["Edema", 'Pleural, "other"', "Mass"] and known(again) == {4: 1}
    assert again.said(FILMS[2], 'Pleural, "other"') == "unknown" and again.undo() is None
    say(again, 0, "negative")
    assert [row["image_id"] for row in rows(path)] == [*FILMS[[4, 2, 0]]]
    assert again.of("Edema").chosen.tolist() == ["likely", "random"]


def test_started_again_on_films_that_were_moved(path):
    say(start(path), 4)
    moved = np.array([f"/new/{name}" for name in FILMS], object)
    labels = LabelFile(path, moved)
    assert known(labels) == {4: 1}
    labels.say(moved[0], "Edema", "negative", chosen="random")
    assert [row["image_id"] for row in rows(path)] == [moved[4], moved[0]]
    with pytest.raises(ValueError, match="none of 1 films"):
        LabelFile(path, np.array(["elsewhere.png"], object))


def test_columns_and_films_that_are_not_ours_stay(path):
    say(start(path), 0)
    text = path.read_text().replace("called_unknown", "called_unknown,note")
    path.write_text(text.replace("random,", "random,,x") + "gone.png,,1,,,,random,,y\n")
    labels = start(path)
    assert labels.findings == ["Edema", "Mass"] and known(labels) == {0: 1}
    say(labels, 1)
    assert [row["note"] + row["Edema"] for row in rows(path)] == ["x1", "y1", "1"]


def test_undo_goes_back_to_the_start(path):
    labels = start(path)
    say(labels, 0)
    before = rows(path)
    say(labels, 0, "negative", reader="Ann")
    say(labels, 0, "unknown", finding="Mass")
    assert labels.undo() == (4, FILMS[0], "Mass", "")
    assert labels.undo() == (5, FILMS[0], "Edema", "positive") and rows(path) == before
    assert labels.undo().said == "" and rows(path) == [] and known(labels) == {}
    assert labels.undo() is None
    say(labels, 2)
    say(labels, 2, "")
    assert known(labels) == {} and labels.undo().said == "positive"


def test_two_tabs_lose_none_of_each_others_labels(path):
    labels = start(path)
    one, two = {"tab": "one", "based_on": 0}, {"tab": "two", "based_on": 0}
    say(labels, 0, **one)
    say(labels, 1, **two)
    with pytest.raises(Conflict, match=f"{FILMS[0]} was called positive meanwhile"):
        say(labels, 0, "negative", **two)
    assert known(labels) == {0: 1, 1: 1} and labels.changes(1) == [
        (2, FILMS[1], "Edema", "positive")
    ]
    say(labels, 0, finding="Mass", **two)
    with pytest.raises(Conflict, match="another tab has labelled"):
        labels.undo("one")
    assert labels.undo("two").finding == "Mass" and labels.undo("two").image_id == FILMS[1]
    assert labels.undo("two") is None and known(labels) == {0: 1}
    say(labels, 0, "negative", tab="two", based_on=labels.state.changes)
    with pytest.raises(Conflict, match="started anew"):
        say(labels, 3, based_on=99)


def test_many_threads(path):
    labels = start(path)

    def work(film):
        for said in ("positive", "negative", "unknown", "negative"):
            say(labels, film, said, tab=str(film))

    threads = [threading.Thread(target=work, args=(film,)) for film in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert labels.state == (24, None) and known(labels) == dict.fromkeys(range(6), 0.0)
    assert known(start(path)) == known(labels)


def test_a_folder_that_cannot_be_written_loses_nothing(tmp_path):
    folder = tmp_path / "folder"
    labels = start(folder / "labels.csv")
    say(labels, 0)
    os.rename(folder, tmp_path / "away")
    folder.write_text("no folder")
    assert "safe in memory" in say(labels, 1).problem and "folder" in labels.state.problem
    assert labels.retry().problem and known(labels) == {0: 1, 1: 1}
    folder.unlink()
    os.rename(tmp_path / "away", folder)
    assert labels.retry().problem is None and len(rows(folder / "labels.csv")) == 2


def test_what_another_program_writes_is_kept(path):
    labels = start(path)
    say(labels, 0)
    path.write_text("theirs")
    for film in (1, 2):
        assert "another program has changed" in say(labels, film).problem
    assert path.read_text() == "theirs"
    assert labels.retry().problem is None and len(rows(path)) == 3
    assert path.with_name("labels.changed-1.csv").read_text() == "theirs"
    path.unlink()
    assert say(labels, 3).problem is None and len(rows(path)) == 4, "a lost file is written again"


def test_a_kill_at_any_moment_loses_at_most_the_last_key(path):
    program = (
        "import sys, numpy as np\n"
        "from cxr_embeddings.explorer.label_file import LabelFile\n"
        "names = np.array([f'{i}.png' for i in range(5000)], object)\n"
        "labels = LabelFile(sys.argv[1], names, ['A'])\n"
        "for i in range(5000):\n"
        "    labels.say(f'{i}.png', 'A', 'positive', chosen='random')\n"
        "    print(i, flush=True)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
    for said in run.stdout:
        if int(said) >= 20:
            run.send_signal(signal.SIGKILL)
            break
    told = [int(line) for line in (said, *run.communicate()[0].split())]
    again = LabelFile(path, np.array([f"{i}.png" for i in range(5000)], object))
    assert known(again, "A").keys() >= {*range(told[-1] + 1)} and len(rows(path)) <= told[-1] + 2


def test_a_given_table_is_shown_and_never_written(path, table):
    text = f"dicom_id,Edema,Nodule; {FILMS[0]},1,0; {FILMS[1]},0,; {FILMS[2]},1,-1; x.png,1,1"
    given = table(text, "given.csv")
    before = given.read_bytes(), given.stat().st_mtime_ns
    labels = start(path, given=read_labelled_films(FILMS, str(given)))
    assert labels.findings == ["Edema", "Nodule", "Mass"] and known(labels, "Nodule") == {0: 0}
    assert known(labels) == {0: 1, 1: 0, 2: 1}
    say(labels, 5)
    say(labels, 1)
    say(labels, 2, "unknown")
    found = labels.of("Edema")
    assert known(labels) == {0: 1, 5: 1, 1: 1}, "the readers' labels win"
    assert found.chosen.tolist() == ["given", "random", "random"]
    assert np.flatnonzero(found.said).tolist() == [0, 1, 2, 5]
    labels.undo()
    assert known(labels) == {0: 1, 2: 1, 5: 1, 1: 1}
    assert before == (given.read_bytes(), given.stat().st_mtime_ns)
    with pytest.raises(ValueError, match="was not made by the explorer"):
        start(given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"film": "x.png"}, "image_id is 'x.png'"),
        ({"finding": "Hernia"}, "finding is 'Hernia'"),
        ({"said": "1"}, "said is '1'"),
        ({"chosen": "given"}, "chosen is 'given'"),
        ({"reader": "1"}, "reader is '1'; expected a name"),
        ({"reader": "a\nb"}, "expected a name"),
    ],
)
def test_wrong_changes_are_refused(path, change, message):
    labels = start(path)
    given = {"film": FILMS[0], "finding": "Edema", "said": "positive", "chosen": "random"} | change
    film, finding, said = (given.pop(name) for name in ("film", "finding", "said"))
    with pytest.raises(ValueError, match=message):
        labels.say(film, finding, said, **given)
    assert labels.state == (0, None) and not path.exists()


@pytest.mark.parametrize(
    "name", ["", " Edema", "a|b", "time", "Patient ID", "split", "edema", "a\nb"]
)
def test_names_that_a_table_of_labels_would_mistake_are_refused(path, name):
    with pytest.raises(ValueError, match=r"cannot name a finding|would be taken for"):
        start(path).add_finding(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",1,,Ann", ",yes,,Ann", "have 'yes' for Edema; expected 1, 0 or nothing"),
        ("random", "by hand", "'by hand' in the column chosen"),
        (FILMS[1], FILMS[0], "names a film twice"),
    ],
)
def test_damaged_files_are_refused(path, old, new, message):
    labels = start(path)
    say(labels, 0, reader="Ann")
    say(labels, 1, reader="Ann")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        start(path)
