"""`scripts/convert_weights.py` as its user runs it, and the encoder that loads what it makes."""

import functools
import json
import pathlib
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
import running
from parity import with_statistics
from safetensors.numpy import load_file, save_file
from test_hub import Hub, client

import cxr_embeddings as cxr
from benchmarks.peers import timm_tensors
from cxr_embeddings import card_check
from cxr_embeddings.encoder import efficientnet, weights
from cxr_embeddings.encoder.card import load_card
from cxr_embeddings.encoder.efficientnet import VARIANTS, EfficientNet, Variant
from cxr_embeddings.encoder.random_weights import random_variables

NAME = "tf_efficientnet_b0.ns_jft_in1k.safetensors"


call = functools.partial(running.call, "convert_weights")


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """B0 of two narrow blocks: quick to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])
        patch.setitem(VARIANTS, "b0", Variant(0.25, 0.1, 64))
        yield


def convert(path, output, *more: object, source: str = "timm"):
    return call(f"--from={source}", f"--input={path}", f"--output={output}", *more)


def line(result: subprocess.CompletedProcess, start: str) -> str:
    """The one line of what was printed that starts so."""
    (found,) = [text for text in result.stdout.splitlines() if text.startswith(start)]
    return found


@pytest.fixture(scope="module")
def variables() -> weights.Variables:
    return with_statistics(random_variables(EfficientNet("b0", 1280), seed=3))


@pytest.fixture(scope="module")
def published(variables, tmp_path_factory) -> pathlib.Path:
    """B0 as timm publishes it."""
    path = tmp_path_factory.mktemp("published") / NAME
    save_file(timm_tensors(variables), path)
    return path


@pytest.fixture(scope="module")
def bundle(published, tmp_path_factory) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
    """The bundle made of it, and what was printed."""
    path = tmp_path_factory.mktemp("bundles") / "b0"
    result = convert(published, path)
    assert result.returncode == 0, result.stderr
    return path, result


@pytest.fixture(scope="module")
def projected(bundle) -> pathlib.Path:
    path = bundle[0].with_name("projected")
    options = ("--projection=orthonormal:0", "--dtype=bfloat16")
    result = convert(bundle[0], path, *options, source="orbax")
    assert result.returncode == 0, result.stderr
    return path


def test_a_bundle_has_the_weights_and_says_where_they_are_from(bundle, variables):
    path, result = bundle
    card = load_card(path)
    assert card.digest == weights.digest(variables)
    assert card.source == f"timm tf_efficientnet_b0.ns_jft_in1k, {NAME}"
    assert (card.dtype, card.preset) == ("float32", "imagenet") and "Apache-2.0" in card.licence
    assert "classifier.weight" in card.dropped
    assert f"written to {path}" in result.stdout
    assert line(result, "digest").endswith(card.digest)
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]


def test_two_conversions_and_the_bundle_itself_check_alike(bundle, published, tmp_path):
    path, first = bundle
    again = convert(published, tmp_path / "again")
    verified = call("--from=orbax", f"--input={path}")
    for result in (again, verified):
        assert result.returncode == 0, result.stderr
        assert line(result, "self-check") == line(first, "self-check")
        assert line(result, "digest") == line(first, "digest")
    assert "verified, nothing written" in verified.stdout


def test_weights_of_the_hub_are_converted_when_they_are_first_loaded(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(card_check, "CACHE", tmp_path / "cache")
    with Hub() as server:
        files = running.tree(bundle[0])
        server.repositories["org/b0"] = {f"inside/{name}": data for name, data in files.items()}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with client(f"http://127.0.0.1:{server.server_port}", tmp_path):
            first = cxr.load_encoder("hf:org/b0/inside", engine="jax")
        server.shutdown()
    again = cxr.load_encoder("hf:org/b0/inside", engine="jax")
    assert first.card == again.card and first.card.digest == load_card(bundle[0]).digest
    assert first.card.source.endswith(f"{NAME}, from hf:org/b0@0123456789ab")


def test_options_that_contradict_the_card_are_refused_with_both_values(bundle):
    for options, said in (
        ({"variant": "l2"}, "variant is 'l2', but the card of .* says 'b0'"),
        ({"resolution": 475}, "resolution is 475, but the card of .* says 64"),
        ({"preset": "native"}, "preset is 'native', but the card of .* says 'imagenet'"),
        (
            {"embedding": "head"},
            r"'head', but the card .* own_head \(1,280\), pooled \(8\).* orthonormal:0",
        ),
    ):
        with pytest.raises(cxr.InputError, match=said):
            cxr.load_encoder(bundle[0], **options)


def test_what_was_rounded_stays_so(projected, tmp_path):
    result = convert(projected, tmp_path / "out", "--dtype=float32", source="orbax")
    assert result.returncode == 1
    assert "in bfloat16: float32 cannot bring back what was rounded" in result.stderr


def test_a_projection_is_marked_untrained_wherever_it_goes(projected):
    card = load_card(projected)
    assert card.projection == "orthonormal:0 of own_head (untrained)" and card.dtype == "bfloat16"
    encoder = cxr.load_encoder(projected)
    assert encoder.layer == "projection" and encoder.identity["projection"] == card.projection
    ((_, embeddings),) = encoder.compiled(1, encoder.layer)(
        [(None, np.zeros((1, 64, 64, 1), np.float32))]
    )
    assert embeddings.shape == (1, 4096)
    identity = cxr.load_encoder(projected, embedding="own_head").identity
    assert identity["shape"] == (1280,) and identity["projection"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input=nan"], "its network gives numbers that are not finite"),
        (["--variant=l2"], "asked for variant l2, but it is b0"),
        (["--projection=gaussian"], "expected orthonormal:SEED"),
        (["--output="], "--output is missing"),
        (["--output=", "--from=orbax", "--dtype=bfloat16"], "--output is missing"),
        (["--output=.."], "exists already: remove it or choose another name"),
        (["--from=keras"], "cannot be read as an EfficientNet of Keras 3"),
        (["--from=orbax"], "expected a weights bundle, a folder with card.json"),
        (["--from=onnx"], "expected one of timm, keras, tf, elixr_c, .*orbax and a path"),
        (["--from=timm", "--input=/nowhere"], "is /nowhere; expected a file or a folder"),
        (["--dtype=float16"], "float16"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(
    published, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    if "--input=nan" in options:
        tensors = load_file(published)
        tensors["bn2.weight"][3] = np.nan
        options = [f"--input={NAME}"]
        save_file(tensors, NAME)
    given = {"--from": "timm", "--input": published, "--output": tmp_path / "out" / "bundle"}
    given |= dict(one.split("=") for one in options)
    result = call(*(f"{name}={value}" for name, value in given.items()))
    assert result.returncode == 1, result.stdout
    assert re.search(message, result.stderr), result.stderr
    left = [p for p in (tmp_path / "out").rglob("*")] if (tmp_path / "out").exists() else []
    assert not left


def test_a_bundle_of_another_dtype_than_its_card_says_is_refused(bundle, tmp_path):
    copy = shutil.copytree(bundle[0], tmp_path / "copy")
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps(card | {"dtype": "bfloat16"}))
    result = call("--from=orbax", f"--input={copy}")
    assert result.returncode == 1
    assert "holds float32, but its card says bfloat16" in result.stderr
