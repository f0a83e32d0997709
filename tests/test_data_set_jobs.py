"""Films and labels of data sets in the commands: views from a table, findings by common names."""

import numpy as np
import pytest
import running
from label_tables import counts, ids, join, read_labels
from PIL import Image
from test_data_sets import CHEXPERT, ROWS, VIEW, padchest

from cxr_embeddings.input_pipeline.mimic.counts import counts_rows
from cxr_embeddings.input_pipeline.mimic.selection import list_films


@pytest.fixture
def chexpert(tmp_path):
    """The folder of CheXpert as it is when unpacked, with one film that no table has."""
    rows = {"train": CHEXPERT, "valid": CHEXPERT}
    for *path, rest in ROWS:
        place = tmp_path / VIEW.format(*path)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(place)
        rows[path[0]] += f"{VIEW.format(*path)},{rest}\n"
    Image.open(place).save(place.with_name("view2_frontal.jpg"))
    folder = tmp_path / "CheXpert-v1.0-small"
    for name, text in rows.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_films_have_the_views_and_patients_of_the_table(chexpert):
    listed = list_films(str(chexpert), data_set="chexpert", views=("AP", "PA"))
    kept = {film.image_id: film for film in listed.films}
    assert sorted(kept) == [
        "train/patient00001/study1/view1_frontal.jpg",
        "train/patient00001/study2/view1_frontal.jpg",
        "train/patient00002/study1/view1_frontal.jpg",
        "valid/patient64541/study2/view2_frontal.jpg",
    ]
    assert [film.view for film in kept.values()] == ["AP", "PA", "", None]
    assert kept["train/patient00002/study1/view1_frontal.jpg"].patient_id == "patient00002"
    assert {why.detail for _, why in listed.skipped} == {"LATERAL"} and len(listed.skipped) == 3
    assert "1 films have no row in valid.csv." in listed.notes
    assert not any(row[2] for row in counts_rows(listed.counts, "chexpert")[1:])
    alone = list_films(
        str(chexpert / "train"),
        data_set="chexpert",
        metadata_path=str(chexpert / "train.csv"),
        no_view="drop",
    )
    assert len(alone.films) == 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text + text.splitlines()[1] + ",\n", "row 6 of .* has 9 values"),
        (lambda text: text + text.splitlines()[1].replace(",AP,", ",PA,") + "\n",
         "more than one row for 1 films, the first of them 'patient00001/study1/view1_frontal'"),
        (lambda text: text.replace("patient0", "patient9"), "none of 7 films has a row in"),
        (lambda text: text.replace("Path", "Where"), "no table of CheXpert: expected the column"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(chexpert, edit, message):
    table = chexpert / "train.csv"
    table.write_text(edit(table.read_text()))
    with pytest.raises(ValueError, match=message):
        list_films(str(chexpert), data_set="chexpert", metadata_path=str(table))
    with pytest.raises(FileNotFoundError, match=r"no table of BRAX in .* expected master_spread"):
        list_films(str(chexpert), data_set="brax")


@pytest.mark.slow
def test_embed_skips_films_of_other_views(chexpert, tmp_path):
    result = running.call(
        "embed", f"--input={chexpert}", "--config.input.data_set=chexpert", "--weights=random",
        "--config.input.views=AP,PA", "--config.encoder.variant=tiny", "--config.batch_size=4",
        "--config.encoder.resolution=32", f"--output={tmp_path / 'out'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "6 have a row in" in result.stdout and "views: 1 AP, 3 LATERAL, 1 PA, 1 not said" in (
        result.stdout
    )
    assert len(list((tmp_path / "out").rglob("*.tfrecord"))) == 4
    skipped = (tmp_path / "out" / "skipped.csv").read_text()
    assert skipped.count("LATERAL") == 3 and "view1_lateral" in skipped


def test_labels_of_a_data_set_by_its_own_names_or_the_common_ones(table, tmp_path):
    lists = ["['pleural effusion']", "['normal']", "['laminar atelectasis']", "[]"]
    (tmp_path / "p.csv").write_text(padchest(*lists))
    for asked in ("pleural effusion", "Pleural Effusion"):
        found = read_labels(tmp_path / "p.csv", (asked,), data_set="padchest", subgroups=("age",))
        assert found.findings == ("Pleural Effusion",)
        assert found.label[:, 0].tolist() == [1, 0, 0, 0]
        assert found.mask[:, 0].tolist() == [True, True, True, False]
    assert found.facts.values["age"].tolist() == ["87"] * 4
    assert "A finding that is not listed is taken as negative." in found.definitions[1]
    assert found.definitions[-1] == (
        "Pleural Effusion is 'pleural effusion' or 'loculated pleural effusion' or "
        "'loculated fissural effusion' or 'empyema' or 'hemothorax' there."
    )
    assert read_labels(tmp_path / "p.csv", data_set="padchest").findings == (
        "Atelectasis", "Pleural Effusion",
    )  # fmt: skip
    with pytest.raises(ValueError, match="no finding 'Edema'"):
        read_labels(tmp_path / "p.csv", ("Edema",), data_set="padchest")


def test_no_finding_is_unknown_where_a_list_does_not_tell(tmp_path):
    lists = ["['normal']", "['exclude', 'pacemaker']", "['normal', 'nodule']", "['nodule']"]
    (tmp_path / "p.csv").write_text(padchest(*lists))
    for policy in ("ignore", "negative"):
        options = {"data_set": "padchest", "not_mentioned": policy}
        found = read_labels(tmp_path / "p.csv", ("No Finding", "nodule"), **options)
        assert found.mask.tolist() == [[True, True], [False, False], [False, True], [True, True]]
        assert found.label.tolist() == [[1, 0], [0, 0], [0, 1], [0, 1]]


def test_a_split_and_the_patients_of_chexpert(chexpert):
    text = (chexpert / "train.csv").read_text() + "".join(
        f"{VIEW.format(split, i, 1, 'frontal')},Male,1,Frontal,AP,,{edema}.0,\n"
        for split, i, edema in (
            ("train", "00003", -1),
            *(("valid", 70_000 + k, k % 2) for k in range(4)),
        )
    )
    (chexpert / "all.csv").write_text(text)
    found = read_labels(chexpert / "all.csv", ("Edema",), data_set="chexpert", uncertain="ones")
    films = ids(*(f"/d/train/patient0000{i}/study1/view1_frontal.jpg" for i in (1, 2, 3)))
    films = np.append(
        films, [f"/d/valid/patient{i}/study1/view1_frontal" for i in range(70_000, 70_004)]
    )
    examples = join(films, found)
    assert examples.split.tolist() == ["train"] * 2 + ["tune"] * 4
    assert examples.patient_id[:2].tolist() == ["patient00002", "patient00003"]
    assert examples.definitions[0].startswith("CheXpert: The CheXpert labeller")
    assert "does not mention the finding" in examples.definitions[1]
    assert counts(examples)["films without a known label"] == 1


def test_a_table_that_is_known_by_its_columns_says_what_absence_means(table):
    known = read_labels(table("Image Index,Finding Labels; a.png,Edema; b.png,No Finding"))
    assert known.definitions == [
        "The table has the columns of ChestX-ray14 (NIH Clinical Center).",
        "A finding that is not listed is taken as negative.",
    ]
    other = read_labels(table("image_id,x; a,1; b,"))
    assert other.definitions == ["No entry of a data set says what an empty cell or -1 means here."]


def test_the_example_of_the_docs_is_read(tmp_path):
    page = (running.REPOSITORY / "docs/data_sets.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    (tmp_path / "ours.toml").write_text(example)
    text = "folder,film,person,born,taken,reading\na,1.png,7,1950,20200102,fluid;device\n"
    (tmp_path / "t.csv").write_text(text + "a,2.png,8,1990-12-31,20200102,clear\n")
    found = read_labels(tmp_path / "t.csv", data_set=tmp_path / "ours.toml", subgroups=("age",))
    assert found.findings == ("Pleural Effusion", "Pneumothorax", "Support Devices")
    assert found.label.tolist() == [[1, 0, 1], [0, 0, 0]] and found.mask.all()
    assert found.facts.values["age"].tolist() == ["70", "29"]
