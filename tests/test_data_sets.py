"""Tables of data sets, made here as they are published, with the rows that programs trip over."""

import pandas as pd
import pytest

from cxr_embeddings.common import data_set_facts, data_sets

CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Pleural Effusion\n"
VIEW = "CheXpert-v1.0-small/{}/patient{}/study{}/view1_{}.jpg"


def read(folder, name, text, encoding="utf-8"):
    (folder / "table.csv").write_bytes(text.encode(encoding))
    return data_sets.read(folder / "table.csv", data_sets.load(name))


def column(found, name):
    return found.rows[name].tolist()


PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,"
    "MethodLabel,Labels\n"
)


def padchest(*lists, birth="1927.0", date="20140915"):
    cells = ('"' + one.replace('"', '""') + '"' for one in lists)
    return PADCHEST + "".join(
        f"{i},{i}.png,0,{date},s{i},p{i},{birth},M,PA,Physician,{cell}\n"
        for i, cell in enumerate(cells)
    )


FILMS = """train 00001 1 frontal Female,68,Frontal,AP,1.0,,
train 00001 2 frontal Male,0,Frontal,PA,,1.0,-1.0
train 00002 1 frontal Unknown,83,Frontal,,,0.0,
train 00002 1 lateral Female,121,Lateral,,,,
valid 64541 1 frontal Female,90,Frontal,LL,,,
valid 64541 2 frontal Female,90,Frontal,RL,0.0,,"""
ROWS = [line.split() for line in FILMS.splitlines()]
LISTS = (
    "['normal'];[' pleural effusion', 'laminar atelectasis ', 'COPD signs'];[\"crohn's\", '', nan];"
    "[];nan;;['exclude', 'pneumonia'];['normal', 'scoliosis'];['normal', 'pacemaker']"
).split(";")
READERS = "a1 0100 0,a2 0101 0,a3 1100 0,b1 0000 1,b2 0000 1,b3 0000 1,c1 1000 0,c2 0000 1"
CHESTXRAY14 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
    "00000001_000.png,Effusion|Pleural_Thickening,0,1,058Y,M,PA\n"
    "00000002_000.png,No Finding,3,2,414,F,AP\n"
)
TIMES = ("21800506,93025.84", "21800506,213014.531", "21801306,0", "x,9x")
# name of the entry -> the table as it is published, columns as they are read, with - for what is
# empty, and the counts of what is unknown
PUBLISHED = {
    "chexpert": (
        "\ufeff" + CHEXPERT + "".join(f"{VIEW.format(*row)},{row[4]}\n" for row in ROWS),
        "image_id " + " ".join(f"patient{p}/study{s}/view1_{v}.jpg" for _, p, s, v, _ in ROWS) + ";"
        "study_id " + " ".join(f"patient{p}:study{s}" for _, p, s, *_ in ROWS) + ";"
        "patient_id " + " ".join(f"patient{p}" for _, p, *_ in ROWS) + ";"
        "split train train train train valid valid;view AP PA - LATERAL LATERAL LATERAL;"
        "sex F M - F F F;age 68 0 83 - 90 90;"
        "Edema - 1 0 - - -;No Finding 1 - - - - 0;Pleural Effusion - -1 - - - -",
        [1, 1],
    ),
    "padchest": (
        padchest(*LISTS),
        f"image_id {' '.join(f'0/{i}.png' for i in range(9))};date{9 * ' 2014-09-15'};"
        f"age{9 * ' 87'};No Finding 1 0 0 - - - - - 1;Pneumonia 0 0 0 - - - 1 0 0;"
        "Pleural Effusion 0 1 0 - - - - 0 0;"
        "Atelectasis 0 1 0 - - - - 0 0;COPD signs 0 1 0 - - - - 0 0;crohn's 0 0 1 - - - - 0 0",
        [1],
    ),
    "vindr_cxr": (
        "image_id,rad_id,Atelectasis,Pleural effusion,Rib fracture,Clavicle fracture,No finding\n"
        + "".join(
            f"{i[0]},R{i[1]},{','.join(i[3:].replace(' ', ''))}\n" for i in READERS.split(",")
        ),
        "image_id a b c;Atelectasis 0 0 -1;Pleural Effusion 1 0 0;Fracture 0 0 0;No Finding 0 1 -1",
        [2],
    ),
    "brax": (
        "DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,StudyDate,No Finding,"
        "Edema,Rows,Columns,ViewPosition\n"
        "d,id_1/Study_2/x.png,id_1,M,85 or more,2,20100203,,1.0,100,3000,\n"
        "d,id_3/Study_4/y.png,id_3,F,40,4,20100203,1.0,,2000,2000,L\n",
        "study_id id_1/2 id_3/4;age 85 40;view - LATERAL;Edema 1 -;Rows 100 2000",
        [1],  # an image that is no whole film
    ),
    "rsna_pneumonia": (
        "patientId,x,y,width,height,Target\na,1,2,3,4,1\na,5,6,7,8,1\nb,,,,,0\n",
        "image_id a b;Pneumonia 1 0",
        [],
    ),
    "rsna_pneumonia, its other table": (
        "patientId,class\na,Lung Opacity\na,Lung Opacity\nb,No Lung Opacity / Not Normal\n",
        "image_id a b;Pneumonia 1 0",
        [],
    ),
    "chestxray14": (
        CHESTXRAY14,
        "Pleural Effusion 1 0;Pleural Thickening 1 0;No Finding 0 1;study_id 1/0 2/3;age 58 -",
        [1],
    ),
    "mimic_cxr": (
        "dicom_id,subject_id,study_id,ViewPosition,StudyDate,StudyTime\n"
        + "".join(f"{i},1,2,LL,{taken}\n" for i, taken in enumerate(TIMES)),
        f"time 09:30:25 21:30:14 00:00:00 -;date 2180-05-06 2180-05-06 - -;view{4 * ' LATERAL'}",
        [1, 2],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_as_they_are_published(tmp_path, name):
    text, expected, counts = PUBLISHED[name]
    found = read(tmp_path, name.partition(",")[0], text)
    for line in expected.split(";"):
        name, *values = line.rsplit(" ", len(found.rows))
        assert values == [value or "-" for value in found.rows[name]]
    assert sorted(found.counts.values()) == counts


def test_findings_have_common_names(tmp_path):
    found = read(tmp_path, "chexpert", PUBLISHED["chexpert"][0])
    assert found.findings == ("Edema", "No Finding", "Pleural Effusion")
    assert [*found.counts] == [
        "rows whose sex is no M or F, taken as unknown",
        "rows whose age is no age of 0 to 120 years, taken as unknown",
    ]
    assert "exclude" not in read(tmp_path, "padchest", padchest(*LISTS)).findings


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Effusion", "Effusoin", "has no finding 'Effusoin'; did you mean 'Effusion'"),
        ("Effusion|", "No Finding|", r"1 rows of .* list No Finding beside a finding"),
    ],
)
def test_lists_that_are_refused(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "chestxray14", CHESTXRAY14.replace(old, new))


@pytest.mark.parametrize("wrong", ["['a'", "'a'", "['a' 'b']", "[a]", "['a'] + ['b']", "[f('a')]"])
def test_a_damaged_list_is_refused_and_nothing_is_evaluated(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"1 rows of .* have no whole list .* row 3 \("):
        read(tmp_path, "padchest", padchest("['normal']", wrong))


@pytest.mark.parametrize(
    ("birth", "date", "age"),
    [("1950", "20140101", "64"), ("19500601", "20140531", "63"), ("2015.0", "20140101", "")],
)
def test_ages_by_dates_of_birth(tmp_path, birth, date, age):
    found = read(tmp_path, "padchest", padchest("['normal']", birth=birth, date=date))
    assert column(found, "age") == [age] and bool(found.counts) == (not age)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0930", "09:30:00"), ("1230.0", "00:12:30"), ("09:30", "09:30:00"), ("246060", ""), ("", "")],
)
def test_times(text, expected):
    assert data_set_facts.iso_time(text) == expected


def report(uid, terms, films):
    major = "".join(f"<major>{term}</major>" for term in terms)
    images = "".join(f'<parentImage id="{film}"/>' for film in films)
    return f'<eCitation><uId id="{uid}"/><MeSH>{major}</MeSH>{images}</eCitation>'


def test_openi_has_xml(tmp_path):
    for i, (terms, films) in enumerate(
        [
            (["normal"], ["f1", "f2"]),
            (["Pulmonary Atelectasis/base/left", "Opacity/lung", "Opacity/lung/base"], ["f3"]),
            (["No Indexing"], ["f4"]),
            (["normal"], []),
        ]
    ):
        (tmp_path / f"{i}.xml").write_text(report(f"CXR{i}", terms, films))
    found = data_sets.read(tmp_path, data_sets.load("openi"))
    films = found.rows.set_index("image_id")
    seen = films[["study_id", "Atelectasis", "Lung Opacity", "No Finding"]]
    assert seen.loc["f1"].tolist() == seen.loc["f2"].tolist() == ["CXR0", "0", "0", "1"]
    assert seen.loc["f3"].tolist() == ["CXR1", "1", "1", "0"]
    assert films.loc["f4", "study_id"] == "CXR2" and films.loc["f4", [*found.findings]].eq("").all()
    (tmp_path / "1.xml").write_text("<eCitation>")
    with pytest.raises(ValueError, match=r"1\.xml is no whole report of Open-i"):
        data_sets.read(tmp_path, data_sets.load("openi"))


def test_kermany_has_file_names_only(tmp_path):
    for name in ("test/NORMAL/NORMAL2-IM-0381-0001.jpeg", "train/PNEUMONIA/person1_virus_6.jpeg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "README.txt").touch()
    found = data_sets.read(tmp_path, data_sets.load("kermany"))
    assert column(found, "patient_id") == ["test:NORMAL2-IM-0381", "train:person1"]
    assert column(found, "Pneumonia") == ["0", "1"] and column(found, "split") == ["test", "train"]


OWN = """
title = "Our hospital"
labels = "Two readers."
absence = "An empty cell is negative."
absent = "negative"
[columns]
image = "{folder}/{film}"
patient = "person"
[names]
water = "Pleural Effusion"
"""


def test_a_data_set_of_the_user(tmp_path):
    entry = tmp_path / "ours.toml"
    entry.write_text(OWN)
    text = "folder,film,person,water,heart\na,1.png,7,1,\n,2.png,8,0,1\nb,3.png,9,,\n"
    found = read(tmp_path, entry, text)
    assert column(found, "image_id") == ["a/1.png", "", "b/3.png"]
    assert found.findings == ("Pleural Effusion", "heart")
    assert column(found, "heart") == ["0", "1", ""]  # a row without any label says nothing
    assert found.rows.attrs["data_set"] == "ours"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("patient =", "pateint =", r"columns.pateint is not expected: its keys are title, labels,"),
        ("absent = ", "rows = 3\nabsent = ", "rows is 3, expected 'one', 'any' or 'majority'"),
        ('title = "Our hospital"', "", "title is missing"),
        ("[names]", "[values.veiw]\na = 'b'\n[names]", "values.veiw is not expected"),
        ("[columns]", "[columns", "is no TOML file"),
    ],
)
def test_entries_that_are_refused(tmp_path, old, new, message):
    (tmp_path / "ours.toml").write_text(OWN.replace(old, new))
    with pytest.raises(ValueError, match=message):
        data_sets.load(tmp_path / "ours.toml")


def test_every_entry_is_whole():
    for name in data_sets.names():
        entry = data_sets.load(name)
        assert entry.absence.endswith(".") and entry.labels.endswith(".")
        assert entry.name == name and entry.films_of in ("", *data_sets.names())
        assert {*entry.devices} <= {*entry.findings} or entry.others
    with pytest.raises(ValueError, match="no data set 'padchset'; expected one of brax, chest"):
        data_sets.load("padchset")


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("Image Index\tFinding Labels\na.png\tEdema\n", "utf-8", "tabs"),
        ("Image Index,Finding Labels\na.png,Edema\n", "utf-16", "not UTF-8 text"),
        ("Finding Labels\nEdema\n", "utf-8", "is no table of ChestX-ray14 .* There are: Finding"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, encoding, message):  # others in test_labels
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "chestxray14", text, encoding)


def test_tables_are_known_by_their_findings():
    assert data_sets.recognise(["", "Image Index", "finding_labels"]).name == "chestxray14"
    assert data_sets.recognise(data_sets.load("chexpert").findings).name == "mimic_cxr"
    assert data_sets.recognise(["", "Edema"]) is None


def site(images, patients):
    return pd.DataFrame({"image_id": images, "patient_id": patients})


def test_sites_that_share_films_or_patients_are_refused():
    a, b = site(["x/1.png", "x/2.png"], ["p1", ""]), site(["y/1.png", "y/2.png"], ["p2", ""])
    data_sets.check_disjoint("A", a, "B", b)
    with pytest.raises(ValueError, match=r"A and B share 1 films, such as x/2; .* leave them out"):
        data_sets.check_disjoint("A", a, "B", site(["2.dcm"], ["p3"]))
    with pytest.raises(ValueError, match="A and B share 1 patients, such as p1; a test on another"):
        data_sets.check_disjoint("A", a, "B", site(["3.dcm"], ["p1"]))
    numbered = site(["7.png"], ["p1"])
    data_sets.check_disjoint("padchest", a, "brax", numbered)  # which number them on their own
    with pytest.raises(ValueError, match=r"same films under other names \(chestxray14\)"):
        data_sets.check_disjoint("rsna_pneumonia", numbered, "chestxray14", b)
    numbered.attrs |= {"data_set": "ours", "films_of": "brax"}
    with pytest.raises(ValueError, match="of C and of brax are the same films"):
        data_sets.check_disjoint("C", numbered, "brax", a)
