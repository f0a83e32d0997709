"""Headers that say another body part or modality: what counts, what becomes of such films."""

import csv
import json
import struct

import mimic_store
import numpy as np
import pydicom
import pytest
from test_dicom import dicom_file, film_pixels, read

import cxr_embeddings as cxr
from cxr_embeddings.input_pipeline.films.chest import other_than_chest
from cxr_embeddings.input_pipeline.films.film import Film, Skipped

# BodyPartExamined of Open-i's chest films, of other archives, and of other parts of the chest
CHESTS = (
    ";CHEST;NON GRID CHEST;PORTABLE CHEST;EXTREMETY;RIBCAGE;CHEST_TO_PORTABLE_ONE_VIEW;CHEST PA;"
    "THORAX;TORAX;LUNG;RIBS;STERNUM;CLAVICLE;TSPINE;T SPINE;HEART;CHESTABDOMEN;CHEST\\ABDOMEN;"
    "CHEST_ABDOMEN;NECK CHEST;LEFT;PA;LOWER;SPINE;ARMENIA;HIPPOKRATES;HIP T\ufffdRAX;LEG 7;-;\\"
).split(";")


def test_no_chest_film_counts_by_its_spelling():
    assert [said for said in CHESTS if other_than_chest("DX", said)] == []
    for modality in ("", *"CR DX DR RG RF XA OT SC HC".split(), "CT CHEST", "M\ufffd"):
        assert other_than_chest(modality, "CHEST") is None


@pytest.mark.parametrize(
    ("body_part", "expected"),
    [("LEG", "LEG"), ("hip", "HIP"), ("Left Knee", "KNEE"), ("L-SPINE", "LSPINE"),
     ("FOOT_LAT", "FOOT"), ("LUMBAR SPINE", "LUMBAR"), ("HEAD\\NECK", "HEAD")],
)  # fmt: skip
def test_other_body_parts(body_part, expected):
    assert other_than_chest("", body_part) == ("body part", expected)
    assert other_than_chest("ct", body_part) == ("modality", "CT")


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_films_are_kept_unless_only_chests_are_asked_for():
    leg = dicom_file(film_pixels(8), Modality="CR", BodyPartExamined="Leg")
    assert read(leg).not_chest == ("body part", "LEG")
    assert read(leg, chest_only=True) == Skipped("body part", "LEG")
    chest = dicom_file(film_pixels(8), Modality="DX", BodyPartExamined="LEG OF JOHN DOE")
    assert isinstance(read(chest, chest_only=True), Film)
    slice = dicom_file(film_pixels(8), Modality="CT")
    assert read(slice, chest_only=True) == Skipped("modality", "CT")
    ends = struct.pack("<IHHIHHI", 0xFFFFFFFF, 0xFFFE, 0xE000, 0, 0xFFFE, 0xE0DD, 0)
    odd = slice.replace(b"CS\2\0CT", b"SQ\0\0" + ends)  # a sequence says nothing
    assert odd != slice and isinstance(read(odd, chest_only=True), Film)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for name, header in {
        "chest": {"BodyPartExamined": "CHEST"},
        "hip": {"BodyPartExamined": "HIP", "ViewPosition": "AP"},
        "slice": {"Modality": "CT", "BodyPartExamined": "CHEST"},
        "unsaid": {},
    }.items():
        pixels = np.random.default_rng(len(name)).integers(0, 4096, (48, 40), np.uint16)
        (folder / f"{name}.dcm").write_bytes(dicom_file(pixels, **header))
    return folder


def rows(folder, name):
    with open(folder / f"{name}.csv", newline="") as file:
        return [[*row.values()] for row in csv.DictReader(file)]


OTHERS = [["hip", "body part", "HIP"], ["slice", "modality", "CT"]]


def test_embedded_films_are_counted_and_listed_or_skipped(films, tmp_path, capsys):
    encoder = cxr.load_encoder("random", variant="tiny", resolution=32, preset="native")
    expected = [[f"{films}/{name}.dcm", *why] for name, *why in OTHERS]
    out, only = tmp_path / "out", tmp_path / "only"
    for new in (4, 1):  # the second time goes on
        cxr.embed(films, encoder, out, workers=1, progress=True)
        said = capsys.readouterr().out
        assert f"embedded{new:13}" in said
        assert (
            "2 headers name another body part or modality: body part HIP 1, modality CT 1" in said
        )
        assert rows(out, "not_chest") == expected
        manifest = json.loads((out / "manifest.json").read_text())
        assert (manifest["embedded"], manifest["not_chest"], manifest["skipped"]) == (4, 2, 0)
        (out / "slice.tfrecord").unlink()
    table = cxr.embed(films, encoder, only, chest_only=True, workers=1, progress=True)
    said = capsys.readouterr().out
    assert f"{'skipped':13}{2:8}   body part HIP 1, modality CT 1" in said and "warning" not in said
    assert [i.rpartition("/")[2] for i in table.image_id] == ["chest.dcm", "unsaid.dcm"]
    assert rows(only, "skipped") == expected and not (only / "not_chest.csv").exists()
    with pytest.raises(cxr.InputError, match="chest_only: True there, False asked for"):
        cxr.embed(films, encoder, only)


@pytest.mark.parametrize("chest_only", [False, True])
def test_a_store_counts_them_when_it_is_made(films, tmp_path, chest_only):
    folder = tmp_path / "store"
    outcome = mimic_store.make(
        films, folder, None, size=24, films_per_shard=8, chest_only=chest_only
    )
    kind, other = ("skipped", "not_chest") if chest_only else ("not_chest", "skipped")
    assert [[i.removesuffix(".dcm"), *why] for i, *why in rows(folder, kind)] == OTHERS
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["written"], manifest[kind], manifest[other]) == (4 - 2 * chest_only, 2, 0)
    assert len(outcome.not_chest) == 2 * (not chest_only)


def test_the_real_leg_and_no_real_chest(shared_data):
    for path in sorted((shared_data / "dicom").rglob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        found = other_than_chest(str(header.Modality), str(header.get("BodyPartExamined", "")))
        expected = {"nema_RG3_J2KI_extremity": "EXTREMITY", "nih_udacity_test5": "CT"}
        assert (found or [None])[-1] == expected.get(path.stem), path.name
    profiles = shared_data / "openi_header_profiles" / "header_profiles.csv"
    for row in csv.DictReader(profiles.read_text().splitlines()):
        assert other_than_chest(row["Modality"], row["Body Part Examined"]) is None
