"""`scripts/embed.py` as its user runs it: in a process of its own, on a folder of films."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from input_pipeline.embeddings import FORMATS
from input_pipeline.synthetic.mimic import write_mimic

KILLS = 12


@pytest.fixture(scope="session")
def mimic(tmp_path_factory):
    """A stand-in of MIMIC-CXR with tiny films; two are damaged, some are laterals."""
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic(folder, films=40, laterals=4, damaged=2, seed=3, size_range=(48, 80))
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Compiled programs are kept, so that only the first run compiles."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "",
    }


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


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


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
    assert manifest["identity"]["weights"]["trained"] is False
    assert "untrained" in result.stderr + result.stdout
    for name, path in records.items():
        (record,) = FORMATS["tfrecord"].decode(path.read_bytes())
        assert record.image_id == f"{mimic}/files/{name.removesuffix('tfrecord')}dcm"
        assert record.embedding.shape == (4096,) and np.isfinite(record.embedding).all()
    for line in (f"embedded {len(records):12}", "skipped", "rejected", str(folder)):
        assert line.split()[-1] in result.stdout


def test_different_films_have_different_embeddings(whole):
    folder, _ = whole
    rows = [FORMATS["tfrecord"].decode(p.read_bytes())[0] for p in sorted(folder.rglob("*.tfrec*"))]
    matrix = np.stack([r.embedding for r in rows])
    spread = np.linalg.norm(matrix - matrix.mean(axis=0), axis=1) / np.linalg.norm(matrix, axis=1)
    assert np.median(spread) > 0.02


def test_killed_at_random_moments_it_ends_with_the_same_files(
    mimic, environment, whole, tmp_path, record_property
):
    rng = random.Random(0)
    killed = progress = 0
    expected = tree(whole[0])
    while killed < KILLS:
        process = subprocess.Popen(
            command(mimic, tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        more = progress + rng.randint(0, 5)  # records that stand there when it is killed
        deadline = time.monotonic() + (rng.uniform(0.2, 3.0) if rng.random() < 0.3 else 60)
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and len(list(tmp_path.rglob("*.tfrecord"))) <= more
        ):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            break  # it was through before it could be killed
        killed += 1
        found = {n: data for n, data in tree(tmp_path).items() if n.endswith(".tfrecord")}
        assert all(expected[name] == data for name, data in found.items())
        progress = len(found)
    record_property("kills", killed)
    result = run(mimic, tmp_path, environment=environment)
    assert result.returncode == 0, result.stderr
    assert tree(tmp_path) == {
        **expected,
        "manifest.json": tree(tmp_path)["manifest.json"],
        "SHA256SUMS.txt": tree(tmp_path)["SHA256SUMS.txt"],
    }
    assert killed >= 10
    assert progress > 0, "no kill came after a record was written"
