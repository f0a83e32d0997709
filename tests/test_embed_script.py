"""`scripts/embed.py` on a folder of films: in processes that are killed, and in this one."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import running
from running import tree

from cxr_embeddings.encoder import random_weights, weights
from cxr_embeddings.input_pipeline.embeddings.formats import FORMATS
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

KILLS = 6


@pytest.fixture(scope="session")
def mimic(tmp_path_factory):
    """A stand-in of MIMIC-CXR with tiny films; two are damaged, some are laterals."""
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic(folder, films=40, laterals=4, damaged=2, seed=3, size_range=(48, 80))
    return folder


def command(mimic, output, *options, config="configs/demo.py"):
    return [
        sys.executable,
        "scripts/embed.py",
        f"--config={config}",
        f"--config.input.path={mimic}/files",
        "--config.input.views=AP,PA",
        "--config.input.workers=2",
        "--config.encoder.weights=random",
        "--config.encoder.resolution=32",
        "--config.batch_size=4",
        f"--config.output.path={output}",
        *options,
    ]


def run(*args, environment, **options):
    return subprocess.run(
        command(*args, **options), capture_output=True, text=True, env=environment, timeout=120
    )


def written(folder):
    """How many embeddings a folder has, also while its folders come and go."""
    return sum(n.endswith(".tfrecord") for *_, names in os.walk(folder) for n in names)


def call(mimic, output, *options):
    """Runs the command in this process, by the engine that compiles sooner."""
    given = command(mimic, output, "--config.encoder.engine=openvino", *options)
    return running.call("embed", *given[2:])


@pytest.fixture(scope="session")
def whole(mimic, environment, tmp_path_factory):
    """The folder of an uninterrupted run, and what the run printed."""
    folder = tmp_path_factory.mktemp("whole")
    result = run(mimic, folder, environment=environment)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_a_run_leaves_what_it_says(mimic, whole):
    folder, result = whole
    manifest = json.loads((folder / "manifest.json").read_text())
    films = len(list(mimic.rglob("*.dcm")))
    records = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*.tfrecord")}
    assert manifest["complete"]
    assert manifest["embedded"] == len(records)
    assert manifest["embedded"] + manifest["skipped"] + manifest["rejected"] == films
    assert (manifest["skipped"], manifest["rejected"]) == (4, 2)
    assert manifest["identity"]["trained"] is False
    assert manifest["identity"]["shape"] == [4096]
    assert "untrained" in result.stderr + result.stdout
    for name, path in records.items():
        (record,) = FORMATS["tfrecord"].decode(path.read_bytes())
        assert record.image_id == f"{mimic}/files/{name.removesuffix('tfrecord')}dcm"
        assert record.embedding.shape == (4096,) and np.isfinite(record.embedding).all()
    printed = result.stdout.splitlines()
    assert printed[0] == f"{films} films in {mimic}/files"
    for name, count in {"embedded": len(records), "already done": 0}.items():
        assert any(line.startswith(f"{name:13}{count:8}   ") for line in printed)
    assert f"{'rejected':13}{2:8}   truncated 1, not_an_image 1" in printed
    assert any(line.startswith(f"{'skipped':13}{4:8}   view L") for line in printed)
    assert str(folder) in printed[-1]


def test_another_engine_goes_on_with_the_same_numbers(mimic, whole, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(whole[0], folder)
    records = {p.relative_to(folder): p for p in folder.rglob("*.tfrecord")}
    for path in records.values():
        path.unlink()
    result = call(mimic, folder, "--config.encoder.engine=auto")
    assert result.returncode == 0, result.stderr
    assert "float32 by openvino on 1 cpu" in result.stdout
    assert len(records) > 0
    for name, path in records.items():
        rows = [FORMATS["tfrecord"].decode(p.read_bytes())[0] for p in (path, whole[0] / name)]
        found, expected = (row.embedding for row in rows)
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    runs = json.loads((folder / "manifest.json").read_text())["runs"]
    assert [run["config"]["encoder"]["engine"] for run in runs] == ["jax", "openvino"]
    assert [*runs[1]["versions"]][-1] == "openvino"


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


def test_killed_in_the_middle_it_ends_with_the_same_files(mimic, environment, whole, tmp_path):
    expected, folder = tree(whole[0]), tmp_path / "out"
    process = subprocess.Popen(
        command(mimic, folder),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and written(folder) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "killed too late for this test to mean anything"
    result = run(mimic, folder, environment=environment)
    assert result.returncode == 0, result.stderr
    assert re.search(r"already done +[1-9]", result.stdout)
    assert_finished(folder, expected)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_files(
    mimic, environment, whole, tmp_path, record_property
):
    rng = random.Random(0)
    expected = tree(whole[0])
    kills, progress = 0, []
    while kills < KILLS:
        folder = tmp_path / str(len(progress) // 6)
        process = subprocess.Popen(
            command(mimic, folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        started = written(folder)
        enough = started + rng.randint(1, 6)  # new records at which it is killed, or a time
        deadline = time.monotonic() + (rng.uniform(0.2, 3) if rng.random() < 0.3 else 60)
        while process.poll() is None and time.monotonic() < deadline and written(folder) < enough:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        found = {n: data for n, data in tree(folder).items() if n.endswith(".tfrecord")}
        assert all(expected[name] == data for name, data in found.items()), "a partial file"
        progress.append(len(found) - started)
    record_property("kills", kills)
    record_property("records written before each", str(progress))
    for folder in tmp_path.iterdir():
        result = run(mimic, folder, environment=environment)
        assert result.returncode == 0, result.stderr
        assert_finished(folder, expected)
    assert sum(new > 0 for new in progress) >= 3, "too few kills came in the middle of writing"


def test_a_finished_run_does_nothing_again(mimic, environment, whole):
    before = {p: p.stat().st_mtime_ns for p in whole[0].rglob("*.tfrecord")}
    result = run(mimic, whole[0], environment=environment)
    assert result.returncode == 0
    assert {p: p.stat().st_mtime_ns for p in whole[0].rglob("*.tfrecord")} == before
    assert f"already done {len(before):8}" in result.stdout


def test_a_bundle_says_how_to_use_it(mimic, tmp_path):
    card = random_weights.random_card("b0", 40, "imagenet", (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    variables = random_weights.random_variables(weights.model_for(card), seed=5)
    weights.save_bundle(tmp_path / "bundle", variables, card)
    shards = ("--config.output.layout=sharded", "--config.output.shards=2")
    options = (f"--config.encoder.weights={tmp_path}/bundle", *shards)
    result = call(mimic, tmp_path / "out", *options)
    assert result.returncode == 1
    assert "config.encoder.resolution is 32, but the card" in result.stderr
    assert "says 40" in result.stderr
    options += ("--config.encoder.resolution=40", "--config.output.format=parquet")
    result = call(mimic, tmp_path / "out", *options)
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())["identity"]
    assert manifest["preset"] == "imagenet"
    assert manifest["weights_digest"] == weights.digest(variables)
    shards = sorted((tmp_path / "out").glob("embeddings-*.parquet"))
    assert sum(len(FORMATS["parquet"].decode(p.read_bytes())) for p in shards) == 40
    card_file = tmp_path / "bundle/card.json"
    card_file.write_text(card_file.read_text().replace("0.4", "0.3"))  # the same leaves, otherwise
    result = call(mimic, tmp_path / "out", *options)
    assert result.returncode == 1
    assert "mean: [0.4, 0.5, 0.6] there, [0.3, 0.5, 0.6] asked for" in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--config.input.path="], 2, "--input: a store"),
        (["--config.input.path=/nowhere"], 1, "/nowhere does not exist"),
        (["--config.input.pth=x"], 1, "did you mean --config.input.path?"),
        (["--config.batch_size=many"], 1, "batch_size is 'many'; expected a whole"),
        (
            ["--config.encoder.engine=tensorrt"],
            1,
            "engine is 'tensorrt'; expected one of auto, jax",
        ),
        (["--config.batch_size=-1"], 1, "batch_size is -1; expected a positive multiple of 8"),
        (["--config.encoder.weights=/nowhere"], 1, "the weights /nowhere do not exist"),
        (["--config.encoder.embedding=tail"], 1, "offers head (4,096), pooled (320)"),
        (["--config.encoder.preset=nice"], 1, "expected one of cxr_foundation, cxr_foundation_8"),
        (["--config.input.workers=-1"], 1, "input.workers is -1; expected 0 or more"),
        (["--config.encoder.dtype=half"], 1, "expected bfloat16 or float32"),
        (["--config.output.path=/proc/out"], 1, "No such file or directory: /proc/out"),
        (["stray"], 1, "'stray' is not an option"),
        (["--help"], 0, "--config.encoder.weights=random"),
    ],
)
def test_what_is_wrong_is_said(mimic, tmp_path, options, code, message):
    given = command(mimic, tmp_path / "out", "--config.batch_size=8", *options)[2:]
    result = running.call("embed", *given)
    assert message in result.stderr + result.stdout
    assert result.returncode == code


def test_a_bundle_with_a_stranger_preset_or_broken_numbers(mimic, tmp_path):
    card = random_weights.random_card("b0", 32, "native", (0.0,) * 3, (1.0,) * 3)
    variables = random_weights.random_variables(weights.model_for(card), seed=5)
    variables["params"]["head_bn"]["bias"][7] = np.nan
    weights.save_bundle(tmp_path / "nan", variables, card)
    weights.save_bundle(tmp_path / "odd", variables, dataclasses.replace(card, preset="odd"))
    weights.save_bundle(tmp_path / "new", variables, dataclasses.replace(card, preset_version=9))
    for name, message in {
        "nan": "is not finite",
        "new": "card has version 9 of the preset native, this program has 2: update",
        "odd": "preset is 'odd'; expected one of",
    }.items():
        bundle = f"--config.encoder.weights={tmp_path}/{name}"
        result = call(mimic, tmp_path / "out", bundle)
        assert result.returncode == 1
        assert message in result.stderr
        assert ("note: the weights are of version 1 of the preset" in result.stdout) == (
            name == "nan"
        )
    assert not list((tmp_path / "out").rglob("*.tfrecord"))


def test_films_that_cannot_be_reached_are_no_success(mimic, tmp_path):
    films = sorted(mimic.rglob("*.dcm"))[:6]
    (tmp_path / "list.txt").write_text("\n".join(map(str, [*films, tmp_path / "gone.dcm"])))
    given = f"--config.input.path={tmp_path}/list.txt"
    result = call(mimic, tmp_path / "out", given)
    assert result.returncode == 1
    assert "1 films failed temporarily" in result.stdout
    assert json.loads((tmp_path / "out/manifest.json").read_text())["complete"] is False


def test_no_embedding_at_all_is_no_success(mimic, tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"garbage")
    given = f"--config.input.path={tmp_path}/x.dcm"
    result = call(mimic, tmp_path / "out", given)
    assert result.returncode == 1
    assert "rejected            1   not_an_image 1" in result.stdout


def test_feature_maps_say_their_shape(mimic, tmp_path):
    options = ("--config.encoder.embedding=feature_map", "--config.encoder.resolution=40")
    few = ("--config.input.limit=3", "--config.batch_size=0")
    result = call(mimic, tmp_path, *options, *few)
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["identity"]["shape"] == [2, 2, 320]
    assert manifest["runs"][0]["batch_size"] == 3, "no more than there are films"
    path = next(tmp_path.rglob("*.tfrecord"))
    assert FORMATS["tfrecord"].decode(path.read_bytes())[0].embedding.shape == (2 * 2 * 320,)


def test_nothing_said_is_answered_with_an_example():
    result = running.call("embed")
    assert result.returncode == 2
    for name in ("input", "weights", "output"):
        assert f"  --{name}: " in result.stderr
    assert "/data/mimic-cxr/files" in result.stderr
