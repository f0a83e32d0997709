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


def test_chexpert_has_its_patients_in_the_path_and_views_in_two_columns(tmp_path):
    rows = [
        (("train", "00001", 1, "frontal"), "Female,68,Frontal,AP,1.0,,"),
        (("train", "00001", 2, "frontal"), "Male,0,Frontal,PA,,1.0,-1.0"),
        (("train", "00002", 1, "frontal"), "Unknown,83,Frontal,,,0.0,"),
        (("train", "00002", 1, "lateral"), "Female,121,Lateral,,,,"),
        (("valid", "64541", 1, "frontal"), "Female,90,Frontal,LL,,,"),
        (("valid", "64541", 2, "frontal"), "Female,90,Frontal,RL,0.0,,"),
    ]
    text = "".join(f"{VIEW.format(*path)},{rest}\n" for path, rest in rows)
    found = read(tmp_path, "chexpert", "\ufeff" + CHEXPERT + text)
    assert column(found, "image_id")[:2] == [
        "patient00001/study1/view1_frontal.jpg",
        "patient00001/study2/view1_frontal.jpg",
    ]
    assert column(found, "patient_id")[::2] == ["patient00001", "patient00002", "patient64541"]
    assert column(found, "study_id")[0] == "patient00001:study1"
    assert column(found, "split") == ["train"] * 4 + ["valid"] * 2
    assert column(found, "view") == ["AP", "PA", "", "LATERAL", "LATERAL", "LATERAL"]
    assert column(found, "sex")[:3] == ["F", "M", ""]
    assert column(found, "age") == ["68", "0", "83", "", "90", "90"]
    assert found.findings == ("Edema", "No Finding", "Pleural Effusion")
    assert column(found, "Edema") == ["", "1", "0", "", "", ""]
    assert column(found, "Pleural Effusion")[1] == "-1"
    assert found.counts == {
        "rows whose sex is no M or F, taken as unknown": 1,
        "rows whose age is no age of 0 to 120 years, taken as unknown": 1,
    }


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


def test_padchest_lists_findings_as_a_python_list(tmp_path):
    lists = [
        "['normal']",
        "[' pleural effusion', 'laminar atelectasis ', 'COPD signs']",
        "[\"crohn's\", '', nan]",
        "[]",
        "nan",
        "",
        "['exclude', 'pneumonia']",
        "['normal', 'scoliosis']",
        "['normal', 'pacemaker']",
    ]
    found = read(tmp_path, "padchest", padchest(*lists))
    assert column(found, "image_id")[0] == "0/0.png"
    assert set(column(found, "age")) == {"87"} and set(column(found, "date")) == {"2014-09-15"}
    none = [""] * 3
    assert column(found, "No Finding") == ["1", "0", "0", *none, "", "", "1"]
    assert column(found, "Pleural Effusion") == ["0", "1", "0", *none, "", "0", "0"]
    assert column(found, "Atelectasis")[1] == column(found, "COPD signs")[1] == "1"
    assert column(found, "crohn's") == ["0", "0", "1", *none, "", "0", "0"]
    assert column(found, "Pneumonia")[6] == "1" and "exclude" not in found.findings
    assert list(found.counts.values()) == [1]


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


def test_three_readers_of_vindr(tmp_path):
    text = (
        "image_id,rad_id,Atelectasis,Pleural effusion,Rib fracture,Clavicle fracture,No finding\n"
    )
    for film, reader, *codes in (
        *("a1 0100 0", "a2 0101 0", "a3 1100 0"),
        *("b1 0000 1", "b2 0000 1", "b3 0000 1"),
        *("c1 1000 0", "c2 0000 1"),
    ):
        values = ",".join("".join(codes).replace(" ", ""))
        text += f"{film},R{reader},{values}\n"
    found = read(tmp_path, "vindr_cxr", text)
    assert column(found, "image_id") == ["a", "b", "c"]
    assert column(found, "Atelectasis") == ["0", "0", "-1"]
    assert column(found, "Pleural Effusion") == ["1", "0", "0"]
    assert column(found, "Fracture") == ["0", "0", "0"]
    assert column(found, "No Finding") == ["0", "1", "-1"]
    assert list(found.counts.values()) == [2]


def test_brax_has_ages_in_steps_and_blank_views(tmp_path):
    text = (
        "DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,StudyDate,No Finding,"
        "Edema,Rows,Columns,ViewPosition\n"
        "d,id_1/Study_2/x.png,id_1,M,85 or more,2,20100203,,1.0,100,3000,\n"
        "d,id_3/Study_4/y.png,id_3,F,40,4,20100203,1.0,,2000,2000,L\n"
    )
    found = read(tmp_path, "brax", text)
    assert column(found, "age") == ["85", "40"] and column(found, "view") == ["", "LATERAL"]
    assert column(found, "Edema") == ["1", ""] and column(found, "Rows") == ["100", "2000"]
    assert found.counts == {"rows of images 3 times as long as wide or more, no whole films": 1}


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("patientId,x,y,width,height,Target", ["a,1,2,3,4,1", "a,5,6,7,8,1", "b,,,,,0"]),
        (
            "patientId,class",
            ["a,Lung Opacity", "a,Lung Opacity", "b,No Lung Opacity / Not Normal"],
        ),
    ],
)
def test_rsna_has_a_row_for_each_box(tmp_path, header, rows):
    found = read(tmp_path, "rsna_pneumonia", "\n".join([header, *rows, ""]))
    assert column(found, "image_id") == ["a", "b"] and column(found, "Pneumonia") == ["1", "0"]


def test_chestxray14_has_bars(tmp_path):
    text = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position\n"
        "00000001_000.png,Effusion|Pleural_Thickening,0,1,058Y,M,PA\n"
        "00000002_000.png,No Finding,3,2,414,F,AP\n"
    )
    found = read(tmp_path, "chestxray14", text)
    assert column(found, "Pleural Effusion") == column(found, "Pleural Thickening") == ["1", "0"]
    assert column(found, "No Finding") == ["0", "1"] and column(found, "study_id")[1] == "2/3"
    assert column(found, "age") == ["58", ""] and len(found.counts) == 1
    with pytest.raises(ValueError, match="has no finding 'Effusoin'; did you mean 'Effusion'"):
        read(tmp_path, "chestxray14", text.replace("Effusion", "Effusoin"))
    with pytest.raises(ValueError, match=r"1 rows of .* list No Finding beside a finding"):
        read(tmp_path, "chestxray14", text.replace("Effusion|", "No Finding|"))


def test_times_of_mimic_cxr(tmp_path):
    text = "dicom_id,subject_id,study_id,ViewPosition,StudyDate,StudyTime\n" + "".join(
        f"{i},1,2,LL,{date},{time}\n"
        for i, (date, time) in enumerate(
            [("21800506", "93025.84"), ("21800506", "213014.531"), ("21801306", "0"), ("x", "9x")]
        )
    )
    found = read(tmp_path, "mimic_cxr", text)
    assert column(found, "time") == ["09:30:25", "21:30:14", "00:00:00", ""]
    assert column(found, "date") == ["2180-05-06"] * 2 + [""] * 2
    assert set(column(found, "view")) == {"LATERAL"}
    assert sorted(found.counts.values()) == [1, 2]


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
    assert films.loc[["f1", "f2", "f3", "f4"], "study_id"].tolist() == [
        f"CXR{i}" for i in (0, 0, 1, 2)
    ]
    assert films.loc["f3", ["Atelectasis", "Lung Opacity", "No Finding"]].tolist() == [
        "1",
        "1",
        "0",
    ]
    assert (
        films.loc["f4", list(found.findings)].eq("").all() and films.loc["f1", "No Finding"] == "1"
    )
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
        ("Image Index;Finding Labels\na.png;Edema\n", "utf-8", "semicolons"),
        ("Image Index\tFinding Labels\na.png\tEdema\n", "utf-8", "tabs"),
        ("Image Index,Finding Labels\nä.png,Edema\n", "latin-1", "not UTF-8 text"),
        ("Image Index,Finding Labels\na.png,Edema\n", "utf-16", "not UTF-8 text"),
        ("Finding Labels\nEdema\n", "utf-8", "is no table of ChestX-ray14 .* There are: Finding"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, encoding, message):
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
