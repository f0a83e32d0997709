"""The Python face: films in memory and in folders to embeddings, errors of one family, any main."""

import dataclasses
import gc
import importlib
import inspect
import io
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

import cxr_embeddings as cxr
from cxr_embeddings import engines, errors
from cxr_embeddings.configs.schema import EncoderConfig, InputConfig, OutputConfig
from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

RANDOM = {"variant": "tiny", "resolution": 32, "preset": "cxr_foundation"}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder of five small films and a damaged one."""
    folder = tmp_path_factory.mktemp("films")
    write_mimic(folder, films=5, laterals=0, damaged=1, seed=3, size_range=(48, 64))
    return folder / "files"


@pytest.fixture(scope="module")
def encoder():
    return cxr.load_encoder("random", batch_size=4, **RANDOM)


@pytest.fixture(scope="module")
def table(films, encoder):
    return encoder.embed(films)


def test_every_public_name_is_there_and_documented():
    assert {*cxr.__all__} <= {*dir(cxr)}
    for name in cxr.__all__:
        value = getattr(cxr, name)
        assert inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        cxr.embedd  # noqa: B018


def test_a_folder_of_films_is_embedded_in_memory(films, encoder, table):
    paths = sorted(map(str, films.rglob("*.dcm")))
    (damaged,) = table.rejected
    assert damaged.image_id in paths and damaged.reason and damaged.detail
    assert table.image_id.tolist() == [path for path in paths if path != damaged.image_id]
    assert table.embedding.shape == (5, 4096) and table.embedding.dtype == np.float32
    assert table.encoder["weights_digest"] == encoder.card.digest and not table.encoder["trained"]
    assert table.complete
    assert repr(table) == "<Embeddings of 5 films, 4,096 numbers each; 1 rejected>"


def test_the_job_gives_the_same_and_goes_on_where_it_ended(films, encoder, table, tmp_path, capsys):
    done = cxr.embed(films, encoder, tmp_path / "out", progress=True)
    assert "6 films in" in capsys.readouterr().out
    again = cxr.read_embeddings(tmp_path / "out")
    for one in (done, again):
        assert one.image_id.tolist() == table.image_id.tolist()
        np.testing.assert_allclose(one.embedding, table.embedding, rtol=1e-5, atol=1e-6)
        assert one.rejected == table.rejected and one.complete
        facts = {name: one.encoder[name] for name in table.encoder if name != "views"}
        assert facts == {k: v for k, v in table.encoder.items() if k != "views"}
    manifest = (tmp_path / "out/manifest.json").read_bytes()
    assert cxr.embed(films, encoder, tmp_path / "out").digest == done.digest
    assert (tmp_path / "out/manifest.json").read_bytes() == manifest
    assert capsys.readouterr() == ("", ""), "unasked, and not in a terminal"
    with pytest.raises(cxr.InputError, match="its limit or the number") as found:
        cxr.embed(films, encoder, tmp_path / "out", limit=2)
    assert isinstance(found.value.__cause__, ValueError)


def test_films_of_every_kind(encoder, tmp_path):
    rng = np.random.default_rng(0)
    small, large = rng.integers(0, 256, (40, 30), np.uint8), rng.integers(0, 2**16, (30, 50), "u2")
    for name, pixels in {"a": small, "b": large}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "a.png", str(tmp_path / "b.png")]
    expected = encoder.embed(paths)
    assert expected.image_id.tolist() == [str(path) for path in paths]
    with open(paths[0], "rb") as stream:
        given = [stream, large.astype(">u2"), small, (tmp_path / "b.png").read_bytes()]
        found = encoder.embed([*given, io.BytesIO(b"nonsense")])
    assert found.image_id.tolist() == [str(paths[0]), "1", "2", "3"]
    assert [(one.image_id, one.reason) for one in found.rejected] == [("4", "not_an_image")]
    np.testing.assert_allclose(found.embedding, expected.embedding[[0, 1, 0, 1]], rtol=1e-5)
    assert encoder.embed(small, image_ids=["film"]).image_id.tolist() == ["film"]
    gone = encoder.embed([tmp_path / "gone.dcm"])
    assert gone.embedding.shape == (0, 4096) and not gone.complete
    assert gone.rejected[0][1:] == ("unreadable", "No such file or directory")


@pytest.mark.parametrize(
    ("films", "options", "message"),
    [
        ([], {}, "no film is given"),
        ([np.zeros((3, 3))], {}, r"a film is an array of float64 \[3, 3\]; expected a path"),
        ([io.StringIO("text")], {}, "a film is a str; expected a path, a file opened in binary"),
        (["/a.png", "/a.png"], {}, "two films have the image id /a.png"),
        (["/a.png"], {"image_ids": ["a", "b"]}, "2 image_ids for 1 films"),
    ],
)
def test_what_is_no_film_is_said(encoder, films, options, message):
    with pytest.raises(cxr.InputError, match=message):
        encoder.embed(films, **options)


def test_errors_are_of_one_family(monkeypatch, tmp_path, encoder, caplog):
    with pytest.raises(cxr.FileError, match=r"weights/b0 do not exist; .* demo for those in"):
        cxr.load_encoder("weights/b0")
    with pytest.raises(cxr.FileError, match="/nowhere does not exist") as found:
        cxr.embed("/nowhere", encoder, tmp_path / "out")
    assert isinstance(found.value, cxr.Error) and isinstance(found.value, OSError)
    with pytest.raises(cxr.InputError, match="expected one of auto, jax"):
        cxr.load_encoder(engine="tensorrt")
    with pytest.raises(cxr.FileError, match="no embeddings in"):
        cxr.read_embeddings(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(cxr.MissingPackage, match="pip install"):
        cxr.load_encoder(engine="openvino")
    with pytest.raises(cxr.InputError, match="random weights of variant None"):
        cxr.load_encoder("random", engine="jax")
    assert "untrained network" in caplog.text


@errors.translated
def fail(error):
    raise error


def test_an_error_of_ours_is_no_error_of_the_user():
    with pytest.raises(KeyError):
        fail(KeyError("a bug"))
    with pytest.raises(cxr.FileError, match=r"^No space left on device: /full$"):
        fail(OSError(28, "No space left on device", "/full"))


def test_the_engine_is_the_fastest_that_is_installed(monkeypatch):
    monkeypatch.setattr(engines.platform, "machine", lambda: "x86_64")
    chosen = [engines.choose(EncoderConfig())[0].engine]
    chosen.append(engines.choose(EncoderConfig(model_parallel=2))[0].engine)
    monkeypatch.setattr(engines.platform, "machine", lambda: "arm64")
    chosen.append(engines.choose(EncoderConfig())[0].engine)
    monkeypatch.setattr(engines.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    chosen.append(engines.choose(EncoderConfig())[0].engine)
    assert chosen == ["openvino", "jax", "jax", "jax"]


def test_the_shipped_weights_load_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = cxr.load_encoder()
    assert encoder.card.trained and encoder.shape == (4096,)
    assert repr(encoder).startswith("Encoder(lite0 at 224 px, head (4,096), float32 by openvino")


def test_decoders_stay_for_the_next_call_and_go_with_the_encoder(encoder, films):
    own = dataclasses.replace(encoder, lock=threading.Lock())
    first = sorted(films.rglob("*.dcm"))[:1]
    own.embed(first)
    (process,) = (one.process for one in own.decoders if one.process)
    own.embed(first)
    assert process.poll() is None
    del own
    gc.collect()
    assert process.returncode is not None


# As a user writes it: nothing guards the main module
PROGRAM = """
import os, sys
import cxr_embeddings as cxr
heavy = {{"jax", "flax", "numpy", "pandas", "pydicom", "tensorflow", "absl"}} & {{*sys.modules}}
print("started", heavy)
import tiny
encoder = cxr.load_encoder("random", variant="tiny", resolution=32)
table = cxr.embed({films!r}, encoder, sys.argv[1], workers=1, progress=False)
same = encoder.embed({films!r}).image_id.tolist() == table.image_id.tolist()
print(table.embedding.shape, len(table.rejected), same)
"""


@pytest.mark.parametrize(
    "form", ["script", pytest.param("stdin", marks=pytest.mark.slow)]
)  # for `-c` there is no file either
def test_it_works_in_any_main_module(films, tmp_path, environment, form):
    program, script = PROGRAM.format(films=str(films)), tmp_path / "script.py"
    script.write_text(program)
    result = subprocess.run(
        [sys.executable, str(script) if form == "script" else "-", str(tmp_path / "out")],
        input=None if form == "script" else program,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": os.path.dirname(__file__)},
        timeout=120,
    )
    assert result.stdout == "started set()\n(5, 4096) 1 True\n", result.stdout + result.stderr
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("function", "config"),
    [(cxr.load_encoder, EncoderConfig), (cxr.embed, InputConfig), (cxr.embed, OutputConfig)],
)
def test_every_setting_is_an_argument(function, config):
    settings = {field.name for field in dataclasses.fields(config)} - {"path"}
    assert settings <= {*inspect.signature(function).parameters}
