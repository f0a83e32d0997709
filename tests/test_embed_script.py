"""`scripts/embed.py` on a folder of films: in processes that are killed, and in this one."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import running
from running import tree

from cxr_embeddings.encoder import random_weights, weights
from cxr_embeddings.encoder.card import load_card
from cxr_embeddings.input_pipeline.embeddings.formats import FORMATS


def options(mimic, output, *more):
    return [
        f"--input={mimic}/files",
        "--config.input.views=AP,PA",
        "--config.input.workers=1",
        "--weights=random",
        "--config.encoder.variant=tiny",
        "--config.encoder.resolution=32",
        "--config.encoder.engine=openvino",  # compiles sooner
        "--config.batch_size=8",
        f"--output={output}",
        *more,
    ]


def call(*args):
    """Runs the command in this process."""
    return running.call("embed", *options(*args))


def start(*args):
    """The command in a process of its own."""
    settings = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    settings["cwd"] = running.REPOSITORY
    return subprocess.Popen(running.command("embed", *options(*args)), **settings)


def written(folder):
    """How many embeddings a folder has, also while its folders come and go."""
    return sum(n.endswith(".tfrecord") for *_, names in os.walk(folder) for n in names)


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def whole(mimic, tmp_path_factory):
    """The folder of an uninterrupted run, and what the run printed."""
    folder = tmp_path_factory.mktemp("whole")
    result = call(mimic, folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_a_run_leaves_what_it_says(mimic, whole):
    folder, said = whole
    manifest = manifest_of(folder)
    films = len(list(mimic.rglob("*.dcm")))
    records = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*.tfrecord")}
    assert manifest["complete"]
    assert manifest["embedded"] == len(records) == films - 4 - 2
    assert (manifest["skipped"], manifest["rejected"]) == (4, 2)
    assert manifest["identity"]["trained"] is False
    assert manifest["identity"]["shape"] == [4096]
    assert "untrained" in said
    for name, path in records.items():
        (record,) = FORMATS["tfrecord"].decode(path.read_bytes())
        assert record.image_id == f"{mimic}/files/{name.removesuffix('tfrecord')}dcm"
        assert record.embedding.shape == (4096,) and np.isfinite(record.embedding).all()
    printed = said.splitlines()
    assert printed[0] == f"{films} films in {mimic}/files"
    for name, count in {"embedded": len(records), "already done": 0}.items():
        assert any(line.startswith(f"{name:13}{count:8}   ") for line in printed)
    assert f"{'rejected':13}{2:8}   truncated 1, not_an_image 1" in printed
    assert any(line.startswith(f"{'skipped':13}{4:8}   view L") for line in printed)
    assert str(folder) in printed[-1]


def test_another_engine_goes_on_with_the_same_numbers(mimic, whole, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(whole[0], folder)
    records = [path.relative_to(folder) for path in folder.rglob("*.tfrecord")][:6]
    for name in records:
        (folder / name).unlink()
    result = call(mimic, folder, "--config.encoder.engine=jax")
    assert result.returncode == 0, result.stderr
    assert "float32 by jax on 8 cpu" in result.stdout
    for name in records:
        paths = (folder / name, whole[0] / name)
        found, expected = (FORMATS["tfrecord"].decode(p.read_bytes())[0].embedding for p in paths)
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    runs = manifest_of(folder)["runs"]
    assert [run["config"]["encoder"]["engine"] for run in runs] == ["openvino", "jax"]
    assert ["openvino" in run["versions"] for run in runs] == [True, False]


def assert_finished(folder, expected):
    """Equal in every byte but for the output path in the manifest, and so its checksum."""
    found = tree(folder)
    differing = {
        name for name in found.keys() | expected.keys() if found.get(name) != expected[name]
    }
    assert differing <= {"manifest.json", "SHA256SUMS.txt"}
    manifests = [json.loads(files["manifest.json"]) for files in (found, expected)]
    for manifest in manifests:
        (only_run,) = manifest["runs"]
        del only_run["config"]["output"]["path"]
    assert manifests[0] == manifests[1]


def test_killed_in_the_middle_it_ends_with_the_same_files(mimic, whole, tmp_path):
    folder = tmp_path / "out"
    process = start(mimic, folder)
    while process.poll() is None and written(folder) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "killed too late for this test to mean anything"
    found, expected = tree(folder), tree(whole[0])
    assert all(expected[n] == found[n] for n in found if n.endswith(".tfrecord")), "a partial file"
    result = call(mimic, folder)
    assert result.returncode == 0, result.stderr
    assert re.search(r"already done +[1-9]", result.stdout)
    assert_finished(folder, expected)


def test_a_bundle_says_how_to_use_it(mimic, save_bundle, tmp_path):
    bundle, folder = tmp_path / "bundle", tmp_path / "out"
    shutil.copytree(save_bundle("imagenet", 40, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)), bundle)
    given = (f"--weights={bundle}", "--config.output.layout=sharded", "--config.output.shards=2")
    result = call(mimic, folder, *given)
    assert result.returncode == 1
    assert "config.encoder.resolution is 32, but the card" in result.stderr
    assert "says 40" in result.stderr
    given += ("--config.encoder.resolution=40", "--config.output.format=parquet")
    result = call(mimic, folder, *given)
    assert result.returncode == 0, result.stderr
    manifest = manifest_of(folder)["identity"]
    assert manifest["preset"] == "imagenet"
    assert manifest["weights_digest"] == load_card(bundle).digest
    shards = sorted(folder.glob("embeddings-*.parquet"))
    assert sum(len(FORMATS["parquet"].decode(p.read_bytes())) for p in shards) == 40
    card_file = bundle / "card.json"
    card_file.write_text(card_file.read_text().replace("0.4", "0.3"))  # the same leaves, otherwise
    result = call(mimic, folder, *given)
    assert result.returncode == 1
    assert "mean: [0.4, 0.5, 0.6] there, [0.3, 0.5, 0.6] asked for" in result.stderr


def test_a_bundle_with_a_stranger_preset_or_broken_numbers(mimic, tmp_path):
    card = random_weights.random_card("tiny", 32, "native", (0.0,) * 3, (1.0,) * 3)
    variables = random_weights.random_variables(weights.model_for(card), seed=5)
    variables["params"]["head_bn"]["bias"][7] = np.nan
    weights.save_bundle(tmp_path / "nan", variables, card)
    written = json.loads((tmp_path / "nan/card.json").read_text())
    for change, message in [
        ({}, "is not finite"),
        ({"preset_version": 9}, "card has version 9 of the preset native, this program has 2"),
        ({"preset": "odd"}, "preset is 'odd'; expected one of"),
    ]:
        (tmp_path / "nan/card.json").write_text(json.dumps(written | change))
        given = (f"--weights={tmp_path}/nan", "--config.input.limit=8")
        result = call(mimic, tmp_path / "out", *given)
        assert result.returncode == 1
        assert message in result.stderr
        older = "note: the weights are of version 1 of the preset" in result.stdout
        assert older != bool(change)
    assert not list((tmp_path / "out").rglob("*.tfrecord"))


@pytest.mark.parametrize(
    ("strange", "said", "complete"),
    [
        ("gone.dcm", "1 films failed temporarily", False),
        ("garbage.dcm", "rejected            1   not_an_image 1", True),
    ],
)
def test_films_that_cannot_be_reached_or_none_at_all_are_no_success(
    mimic, tmp_path, strange, said, complete
):
    films = [tmp_path / strange]
    if complete:
        films[0].write_bytes(b"garbage")
    else:
        films += sorted(mimic.rglob("*.dcm"))[:2]
    (tmp_path / "list.txt").write_text("\n".join(map(str, films)))
    result = call(mimic, tmp_path / "out", f"--input={tmp_path}/list.txt")
    assert result.returncode == 1 and said in result.stdout
    assert manifest_of(tmp_path / "out")["complete"] is complete


def test_feature_maps_say_their_shape(mimic, tmp_path):
    result = call(
        mimic, tmp_path, "--config.encoder.embedding=feature_map", "--config.encoder.resolution=40",
        "--config.input.limit=3", "--config.batch_size=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    manifest = manifest_of(tmp_path)
    assert manifest["identity"]["shape"] == [2, 2, 80]
    assert manifest["runs"][0]["batch_size"] == 3, "no more than there are films"
    path = next(tmp_path.rglob("*.tfrecord"))
    assert FORMATS["tfrecord"].decode(path.read_bytes())[0].embedding.shape == (2 * 2 * 80,)
