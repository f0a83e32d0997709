"""MIMIC-CXR built by TFDS: the same shards as make_store's, and TFDS and embed.py read them."""

import csv
import functools
import json
import pathlib
import shutil
import subprocess
import sys

import mimic_store
import numpy as np
import pytest
from conftest import REPOSITORY
from running import is_intact

from cxr_embeddings.input_pipeline.store import dataset
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

# TFDS 4.9.10 asks protobuf for what is deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")

SIZE = 32
make = functools.partial(mimic_store.make, size=SIZE, films_per_shard=4)  # as preprocess.py does


@functools.cache
def builder_class():
    """As `tfds build` imports it. An import would register the name mimic_cxr for tfds.load."""
    import tensorflow_datasets as tfds

    return tfds.core.community.builder_cls_from_module(
        "cxr_embeddings.input_pipeline.mimic_cxr_dataset_builder"
    )


def builder_of(data_dir, **changes):
    settings = {"name": "tiny", "preset": "native", "size": SIZE, "films_per_shard": 4}
    made = builder_class()
    return made(config=made.builder_config_cls(**settings | changes), data_dir=data_dir)


def build(mimic, data_dir, **changes):
    import tensorflow_datasets as tfds
    from apache_beam.options.pipeline_options import PipelineOptions

    builder = builder_of(data_dir, **changes)
    options = PipelineOptions(["--runner=FnApiRunner"])
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=mimic, beam_options=options)
    )
    return pathlib.Path(builder.data_dir)


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def shards_in(folder):
    return {name: data for name, data in files_in(folder).items() if ".tfrecord" in name}


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """A stand-in of MIMIC-CXR; two films are damaged, some are laterals."""
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic(folder, films=12, laterals=2, damaged=2, seed=3, size_range=(48, 60))
    return folder


@pytest.fixture(scope="module")
def built(mimic, tmp_path_factory):
    return build(mimic, tmp_path_factory.mktemp("data"))


@pytest.fixture
def copied(mimic, built, tmp_path):
    """A manual_dir and a data_dir of one's own to change."""
    shutil.copytree(mimic, tmp_path / "mimic")
    shutil.copytree(built.parents[2], tmp_path / "data")
    return tmp_path


@pytest.fixture
def without_beam(monkeypatch):
    """The places of the shards that were written, which Beam did not write."""
    from cxr_embeddings.input_pipeline.store import beam_job

    written = []

    def write(settings, places, options):
        written.extend(places)
        mimic_store.write_here(settings, places)

    monkeypatch.setattr(beam_job, "run", write)
    return written


def test_the_shards_are_those_of_make_store(mimic, built, tmp_path):
    made = tmp_path / "mimic_cxr" / "1.0.0"
    make(mimic, made)
    assert shards_in(built) == shards_in(made)
    assert len(shards_in(built)) > 3
    ours, theirs = files_in(built), files_in(made)
    assert ours.keys() == theirs.keys()
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing == {"dataset_info.json", "manifest.json", "SHA256SUMS.txt"}
    for name, key in (("dataset_info.json", "splits"), ("manifest.json", "identity")):
        assert json.loads(ours[name])[key] == json.loads(theirs[name])[key]
    assert json.loads(ours["dataset_info.json"])["configName"] == "tiny"
    assert is_intact(built), "also after TFDS has written its files"
    assert [path.name for path in built.parent.iterdir()] == ["1.0.0"]
    named = {line.split()[1] for line in (built / "SHA256SUMS.txt").read_text().splitlines()}
    assert ours.keys() - named == {"dataset_info.json", "features.json", "SHA256SUMS.txt"}


def test_tfds_reads_it_with_and_without_this_class(built):
    import tensorflow_datasets as tfds

    root = built.parents[2]
    with open(built / "films.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    by_files = tfds.load("mimic_cxr/tiny", data_dir=root)
    by_class = builder_of(root).as_dataset()
    assert by_files.keys() == by_class.keys() == {row["split"] for row in rows}
    assert "test" not in by_files, "whose one film is damaged, so that TFDS could not read it"
    for split in by_files:
        mine = [row for row in rows if row["split"] == split]
        one, other = (list(data[split].as_numpy_iterator()) for data in (by_files, by_class))
        for column in ("image_id", "patient_id", "study_id", "view_position"):
            assert [film[column].decode() for film in one] == [row[column] for row in mine]
        for film, again in zip(one, other, strict=True):
            assert (film["image"].dtype, film["image"].shape) == (np.uint16, (SIZE, SIZE, 1))
            np.testing.assert_array_equal(film["image"], again["image"])


def test_a_build_that_was_stopped_goes_on(mimic, tmp_path, monkeypatch, built, without_beam):
    write_here = mimic_store.write_here

    def stop_after_two(settings, places):
        write_here(settings, places[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(mimic_store, "write_here", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        build(mimic, tmp_path)
    unfinished = tmp_path / "mimic_cxr" / "tiny" / "unfinished.1.0.0"
    assert len(shards_in(unfinished)) == 2
    assert not (unfinished.parent / "1.0.0").exists()
    monkeypatch.setattr(mimic_store, "write_here", write_here)
    without_beam.clear()
    again = build(mimic, tmp_path)
    assert len(without_beam) == len(shards_in(built)) - 2
    assert shards_in(again) == shards_in(built)
    assert not unfinished.exists()


def test_films_that_failed_temporarily_are_told(copied, capsys, without_beam):
    next((copied / "mimic").rglob("*.dcm")).unlink()
    folder = build(copied / "mimic", copied / "other", views=None)
    assert "warning: 1 films failed temporarily" in capsys.readouterr().out
    assert dataset.open_store(str(folder)).retryable == 1


@pytest.mark.parametrize("kind", ["metadata", "split"])
def test_a_missing_table_is_an_error_at_once(copied, kind):
    (copied / "mimic" / f"mimic-cxr-2.0.0-{kind}.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"found no mimic-cxr-2.0.0-{kind}.csv.gz in .*JPG"):
        build(copied / "mimic", copied / "other")


def test_no_film_at_all_is_an_error(copied, without_beam):
    for film in (copied / "mimic").rglob("*.dcm"):
        film.write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"no film could be prepared: .*/rejected\.csv says why"):
        build(copied / "mimic", copied / "other")


def test_remote_folders_are_refused(mimic, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    builder = builder_of(tmp_path)
    monkeypatch.setattr(builder_class(), "data_dir", "gs://bucket/mimic_cxr/tiny/1.0.0")
    manager = tfds.download.DownloadManager(download_dir=tmp_path, manual_dir=mimic)
    with pytest.raises(ValueError, match=r"expected a local folder.*scripts/preprocess\.py"):
        builder._download_and_prepare(manager, tfds.download.DownloadConfig())


# `tfds build` without the rest of `tfds`, which imports mlcroissant and does not bring it.
COMMAND = """
import sys
from tensorflow_datasets.scripts.cli import build, cli_utils
cli_utils.make_flags_parser(build.Args, description="")(sys.argv).execute()
"""


@pytest.mark.slow
def test_the_command_line(mimic, tmp_path):
    import tensorflow_datasets as tfds

    name = "cxr_foundation_1280_png16"
    run = subprocess.run(
        [
            sys.executable,
            *("-c", COMMAND),
            "input_pipeline/mimic_cxr_dataset_builder.py",
            *(f"--config={name}", f"--manual_dir={mimic}", f"--data_dir={tmp_path}"),
        ],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert run.returncode == 0, run.stderr
    assert "12 films; left out: 4, see skipped.csv" in run.stdout
    assert "films listed" in run.stdout and "377,110" in run.stdout
    loaded = tfds.load(f"mimic_cxr/{name}", data_dir=tmp_path)
    shapes = [film["image"].shape for data in loaded.values() for film in data]
    assert shapes == 12 * [(1280, 1280, 1)]
