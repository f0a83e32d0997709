"""Files that were made to do harm: bounded memory, one sentence, nothing believed unchecked."""

import gzip
import json
import math
import random
import re
import resource

import numpy as np
import pytest
from conftest import REPOSITORY
from orbax import checkpoint

from cxr_embeddings import conversion
from cxr_embeddings.common import files, untrusted, writing
from cxr_embeddings.encoder.card import load_card
from cxr_embeddings.encoder.sources import timm
from cxr_embeddings.heads import predictions, saved
from cxr_embeddings.heads.labels import columns
from cxr_embeddings.input_pipeline import run_folder
from cxr_embeddings.input_pipeline.films import listing
from cxr_embeddings.input_pipeline.mimic import tables as mimic_tables
from cxr_embeddings.input_pipeline.reports import abnormal
from cxr_embeddings.input_pipeline.store import shards
from cxr_embeddings.scripts import convert_weights

DEMO = REPOSITORY / "weights/demo"

BOUNDS = {"MAX_TABLE_BYTES": 100_000, "MAX_ROWS": 1000, "MAX_COLUMNS": 50, "MAX_CELLS": 5000}
READERS = {
    "a list of films": listing.list_inputs,
    "a table of MIMIC-CXR": lambda path: mimic_tables.read_table(path, ("path",)),
    "a label table of a data set": abnormal.read_labels,
    "a label table of a head": columns.read_table,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"path\n" + bytes(10_000_000), "more than 100,000 bytes when unpacked"),
        (b"path\n" + 2000 * b"a\n", "more than 1,000 rows"),
        (b"path\r" + 2000 * b"a\r", "more than 1,000 rows"),
        (b"path" + 60 * b"," + b"\n", "more than 50 columns"),
        (b"path\n" + 5000 * b"," + b"\n", "more than 5,000 values"),
    ],
)
def test_tables_that_unpack_to_more_than_is_read(tmp_path, monkeypatch, reader, content, found):
    for name, value in BOUNDS.items():
        monkeypatch.setattr(files, name, value)
    bomb = tmp_path / "table.csv.gz"
    bomb.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=rf"{bomb} has {found}.*cut it into several"):
        READERS[reader](str(bomb))
    plain = tmp_path / "predictions.csv"
    plain.write_bytes(content)
    with pytest.raises(ValueError, match=f"{plain} has {found}"):
        predictions.read(tmp_path)


# A sound file of each kind, and its reader.
HEAD = {
    "card_version": 2, "findings": ["Edema"], "hidden": [], "width": 4,
    "temperatures": {"Edema": 1.5}, "thresholds": {"Edema": {"youden": 0.5, "none": None}},
    "encoder": {"weights_digest": "abc", "views": None}, "embeddings_dtype": "float32",
    "per_study": "none", "studies_from_paths": False, "of another version": [None],
}  # fmt: skip
MANIFEST = {
    "complete": True, "runs": [], "embedded": 2, "retryable": 0, "given_up": {"films": 1},
    "shards": {"a": {"films": 1, "bytes": 2}},
    "identity": {"shape": [4], "size": 64, "preset": "native", "views": ["PA"], "more": [1, "x"]},
}  # fmt: skip
SUMMARY = {
    "name": "a", "split": "test", "bytes": 0, "sha256": "", "films": [["i", "", "", ""]],
    "lengths": [1], "dropped": [["i", "skipped", "view", "PA"]], "differences": [],
}  # fmt: skip
TIMM = {
    "architecture": "tf_efficientnet_b0",
    "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224]},
}
KINDS = {
    "weights": (json.loads((DEMO / "card.json").read_text()), "card.json", load_card),
    "head": (HEAD, "card.json", saved.read_card),
    "manifest": (MANIFEST, "manifest.json", lambda folder: run_folder.read_manifest(str(folder))),
    "summary": (
        SUMMARY,
        "a.json",
        lambda folder: files.read_json(f"{folder}/a.json", shards.Summary, "get it again"),
    ),
    "timm": (TIMM, "config.json", lambda folder: timm.read_config(folder / "config.json")),
}


def spoilt(value, hostile):
    """The value with one of its parts replaced, for each of its parts."""
    yield hostile
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            for other in spoilt(value[key], hostile):
                copy = value.copy()
                copy[key] = other
                yield copy


def outcome(kind, folder, text):
    """What a file of this kind comes to: None if it is read, else what the ValueError says."""
    _, name, reader = KINDS[kind]
    (folder / name).write_bytes(text)
    try:
        reader(folder)
    except ValueError as error:
        said = str(error)
        assert str(folder / name) in said or "card: " in said
        assert len(said) < 1000 and said.isprintable()
        return said


@pytest.mark.parametrize("kind", KINDS)
def test_json_made_to_do_harm_ends_in_a_sentence(tmp_path, kind):
    """Whatever part is replaced by whatever: it is read, or a ValueError says what is wrong."""
    sound, choose = KINDS[kind][0], random.Random(0)
    assert outcome(kind, tmp_path, json.dumps(sound).encode()) is None
    deep = b"[" * 100_000
    for text in (b"", b"{", b"\xff\xfe", b"null", b"[]", b"3", deep, b'{"a":' + deep, b"{}" + deep):
        assert outcome(kind, tmp_path, text)
    hostile = [None, True, -1, 10**400, 1e308 * 10, math.nan, "\x1b[2J\u202e", "x" * 100_000, [[]]]
    said = [
        outcome(kind, tmp_path, json.dumps(other).encode())
        for one in [*hostile, {"\n": {}}, 0.5, "\udc80"]
        for other in spoilt(sound, one)
        if choose.random() < 0.4
    ]
    assert len([one for one in said if one]) > len(said) // 2


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("head", {"encoder": [["weights_digest", "abc"]]}, "encoder is a list, expected an object"),
        ("head", {"encoder": {"weights_digest": ["abc"]}}, "encoder.weights_digest is a list"),
        ("head", {"encoder": {"more": math.inf}}, "encoder.more is inf, expected a finite number"),
        ("head", {"temperatures": {"Edema": 0}}, "temperatures.Edema is 0.*greater than 0"),
        ("head", {"temperatures": {"Edema": math.inf}}, "temperatures.Edema is inf"),
        ("head", {"temperatures": {}}, "has no temperatures of 'Edema'"),
        ("head", {"thresholds": {"Edema": {"y": math.inf}}}, "thresholds.Edema.y is inf"),
        ("head", {"thresholds": {"Edema": {}}}, "thresholds.Edema is a dict.*at least 1"),
        ("head", {"findings": ["Edema"] * 9, "hidden": [1 << 20] * 3}, "expected at most 268,435"),
        ("head", {"card_version": 1}, "has version 1, expected 2, or .*train the head again"),
        ("manifest", {"embedded": -1}, "embedded is -1"),
        ("manifest", {"identity": {"shape": [-4]}}, r"identity.shape.0 is -4"),
        ("manifest", {"identity": {"size": 20_000}}, "identity.size is 20000.*8192"),
        ("manifest", {"shards": {"a": {"films": 1.5, "bytes": 1}}}, "shards.a.films is 1.5"),
        ("summary", {"films": [["i"]]}, "films.0 is a list.*at least 4"),
        ("timm", {"pretrained_cfg": {"mean": ["1"] * 3}}, r"pretrained_cfg.mean.0 is '1'"),
    ],
)
def test_what_a_schema_refuses(tmp_path, kind, change, message):
    said = outcome(kind, tmp_path, json.dumps(KINDS[kind][0] | change).encode())
    assert said and re.search(message, said), said


def test_json_that_is_too_large_is_not_parsed(tmp_path):
    said = outcome("manifest", tmp_path, b" " * (untrusted.MAX_JSON_BYTES + 1))
    assert "more than 67,108,864 bytes" in said


@pytest.mark.parametrize(
    "text", ["a\udcff", "\\udc80", "\U0001f600 \udc80", "\U0010fc80", "x\\\udc80", 'q"\\\\\udcfe\n']
)
def test_odd_bytes_of_names_are_plain_text_out_of_json(text):
    content, shown = (
        {one: [one, {one: one}]} for one in (text, text.encode(errors="backslashreplace").decode())
    )
    assert untrusted.read_json(json.dumps(content).encode(), dict, "", "") == shown


def test_a_disk_that_is_full_under_orbax_is_one_error(tmp_path, capfd):
    """Orbax logs a traceback in each of its threads."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match="cannot be written") as error:
        with writing.by_orbax("head"), checkpoint.StandardCheckpointer() as checkpointer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
            try:
                checkpointer.save(tmp_path / "c", {"a": np.arange(1e5)})
                checkpointer.wait_until_finished()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == "head" and capfd.readouterr() == ("", "")


def test_what_a_terminal_would_obey_is_printed_with_backslashes(tmp_path, monkeypatch, capfd):
    """A card that is described, a name in an error, and whatever a command prints."""
    card, table = json.loads((DEMO / "card.json").read_text()), conversion.table
    said = {"source": "a\x1b[2J\nlicence b", "licence": "\u202egpl", "settings": {"\x9b1m": "\x07"}}
    (tmp_path / "card.json").write_text(json.dumps(card | said))
    monkeypatch.setattr(conversion, "table", lambda card: table(card) + "\n\x1b[31m\udc80")
    shown = []
    for folder in (tmp_path, tmp_path / "\x1b[2Jno"):
        convert_weights.main(["convert_weights", "--describe", str(folder)])
        shown.append("".join(capfd.readouterr()))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown[-1]), shown
    assert r"source            a\x1b[2J\nlicence b" in shown[0]
    assert r"licence           \u202egpl" in shown[0] and r"\x1b[31m\udc80" in shown[0]
    assert r"error: " in shown[1] and r"/\x1b[2Jno/card.json not found" in shown[1]


def test_fields_of_safetensors_that_its_library_lets_pass(tmp_path):
    fields = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "more": {}}
    header = json.dumps({"a": fields}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.ones(2, "f4").tobytes())
    assert timm.read_safetensors(path)["a"].read().tolist() == [1, 1]
