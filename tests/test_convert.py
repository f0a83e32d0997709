"""From a reader's leaves to a bundle: which variant, the strict merge, projection, self-check."""

import dataclasses
import gzip
import hashlib
import pathlib
import tarfile
import zipfile
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from parity import with_statistics

from cxr_embeddings.encoder import convert, efficientnet, weights
from cxr_embeddings.encoder.card import load_card
from cxr_embeddings.encoder.efficientnet import EfficientNet
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.sources import archive
from cxr_embeddings.encoder.sources.checkpoint import Checkpoint, Leaf

ORTHONORMAL = {  # (inputs, outputs) -> SHA-256 of the map of seed 0, on every machine
    (80, 4096): "2b6f93a3a366b57756c818ee00b683833e2e8d7d34265b6cc4db8a636505b2ea",
    (96, 80): "fca67c88024bb6ddfa5caf90552a0f4513bb6d21c391efe4adfb28052b808ffe",
}


@pytest.fixture(scope="module", autouse=True)
def trained() -> Iterator[weights.Variables]:
    """Weights of two stages, which are compiled in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])
        yield with_statistics(random_variables(EfficientNet("tiny", 48)))


def as_leaves(variables: weights.Variables) -> dict[str, Leaf]:
    return {
        path: Leaf(f"theirs/{path}", leaf.shape, lambda leaf=leaf: leaf)
        for path, leaf in flatten_dict(variables, sep="/").items()
    }


@pytest.fixture
def checkpoint(trained) -> Checkpoint:
    """What a reader gives."""
    return Checkpoint(
        origin="somewhere",
        leaves=as_leaves(jax.tree.map(np.copy, trained)),
        dropped=["classifier"],
        training_data="None.",
        licence="L",
        terms_of_use="T",
    )


def test_card_and_variables_of_a_checkpoint(checkpoint, trained):
    card, variables = convert.read(checkpoint)
    assert weights.digest(variables) == weights.digest(trained)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))
    assert (card.variant, card.head_width, card.resolution) == ("tiny", 48, 32)
    assert (card.licence, card.terms_of_use, card.dropped) == ("L", "T", ["classifier"])
    assert next(iter(card.embeddings.items())) == ("own_head", 48)
    assert card.trained and card.projection is None


@pytest.mark.parametrize(
    ("there", "asked", "found"), [(None, 64, 64), (96, None, 96), (96, 96, 96)]
)
def test_resolution_is_the_checkpoints_else_the_users(checkpoint, there, asked, found):
    card, _ = convert.read(checkpoint._replace(resolution=there), resolution=asked)
    assert card.resolution == found


def test_squeeze_and_excite_tells_b0_from_lite0():
    for variant in ("b0", "lite0"):
        leaves = flatten_dict(weights.abstract_variables(EfficientNet(variant, 1280)), sep="/")
        assert convert.variant_of(leaves, "somewhere") == variant


def test_untrained_weights_are_refused(checkpoint):
    leaves = as_leaves(random_variables(EfficientNet("tiny", 48)))
    with pytest.raises(ValueError, match=r"somewhere is untrained: .* has weights=random"):
        convert.read(checkpoint._replace(leaves=leaves))


def test_leaves_that_do_not_fit_are_named_as_the_checkpoint_names_them(checkpoint):
    leaves = dict(checkpoint.leaves)
    path = "params/stem_conv/kernel"
    leaves[path] = leaves[path]._replace(shape=(3, 3, 1, 8))
    leaves["params/stem_bn/bias"] = Leaf("scalar", (), lambda: np.zeros(()))
    leaves["odd"] = Leaf("odd", (3,), lambda: np.zeros(3))
    with pytest.raises(ValueError) as error:
        convert.read(checkpoint._replace(leaves=leaves))
    said = str(error.value)
    assert f"{path} is (3, 3, 1, 8), expected (3, 3, 3, 8) (there: theirs/{path})" in said
    assert "not expected: odd (3,)" in said


@pytest.mark.parametrize("widths", ORTHONORMAL)
def test_the_map_is_semi_orthonormal_and_the_same_everywhere(widths):
    kernel = convert.orthonormal(*widths, seed=0)
    assert kernel.shape == widths and kernel.dtype == np.float32
    wide = kernel if widths[0] < widths[1] else kernel.T
    some = np.random.default_rng(0).permutation(len(wide))[:200]
    rows = wide[some].astype(np.float64)
    assert np.abs(rows @ rows.T - np.eye(len(rows))).max() < 1e-6
    assert hashlib.sha256(kernel).hexdigest() == ORTHONORMAL[widths]
    few = [convert.orthonormal(80, 96, seed) for seed in (0, 1)]
    assert not np.array_equal(*few)


def test_a_projection_is_untrained_and_comes_first(checkpoint, tmp_path):
    card, variables = convert.add_projection(*convert.read(checkpoint), 7)
    assert card.projection == "orthonormal:7 of own_head (untrained)"
    assert next(iter(card.embeddings.items())) == ("projection", 4096)
    model = weights.model_for(card).clone(conv_general_dilated=jax.lax.conv_general_dilated)
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    embedding, out = jax.jit(model.apply)(variables, images)
    expected = np.asarray(out["own_head"]) @ convert.orthonormal(48, 4096, 7)
    np.testing.assert_allclose(embedding, expected, atol=1e-6)
    inner = out["own_head"] @ out["own_head"].T
    np.testing.assert_allclose(embedding @ embedding.T, inner, rtol=1e-5)
    weights.save_bundle(tmp_path / "bundle", variables, card)
    loaded = weights.load_variables(tmp_path / "bundle", load_card(tmp_path / "bundle"))
    assert weights.digest(loaded) == weights.digest(variables)
    halved = weights.cast_kernels(variables, jnp.bfloat16)["params"]
    assert halved["projection"]["kernel"].dtype == jnp.float32
    assert halved["head_conv"]["kernel"].dtype == jnp.bfloat16


def test_self_check_is_of_the_weights_and_repeats(checkpoint):
    card, variables = convert.read(checkpoint)
    first = convert.self_check(card, variables)
    assert first.shape == (2, 16)
    noise = jax.tree.map(lambda leaf: leaf * np.float32(1 + 1e-7), variables)  # another machine's
    np.testing.assert_allclose(convert.self_check(card, noise), first, atol=1e-3)
    stem = jax.tree.map(lambda leaf: leaf * 1.1, variables["params"]["stem_bn"])
    params = variables["params"] | {"stem_bn": stem}
    other = dataclasses.replace(card, mean=(0.5, 0.5, 0.5))
    for changed in ((card, variables | {"params": params}), (other, variables)):
        assert np.abs(convert.self_check(*changed) - first).max() > 0.01


def test_self_check_finds_dead_and_damaged_networks(checkpoint):
    card, variables = convert.read(checkpoint)
    dead = jax.tree.map(jnp.zeros_like, variables)
    with pytest.raises(ValueError, match="gives the same embedding for two different images"):
        convert.self_check(card, dead)
    stem = jax.tree.map(lambda leaf: leaf * jnp.nan, variables["params"]["stem_bn"])
    params = variables["params"] | {"stem_bn": stem}
    with pytest.raises(ValueError, match="gives numbers that are not finite"):
        convert.self_check(card, variables | {"params": params})


def test_archives_are_unpacked_and_removed(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("content")
    with tarfile.open(tmp_path / "name.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "x", "x")
    with archive.unpacked(tmp_path / "name.tar.gz", tmp_path) as folder:
        assert folder.name == "name" and (folder / "x" / "file").read_text() == "content"
    leftover = tmp_path / ".unpacked.partial-1"
    (leftover / "killed").mkdir(parents=True)
    with archive.unpacked(tmp_path / "name.tar.gz", tmp_path):
        assert not leftover.exists()
    assert not folder.exists() and {p.name for p in tmp_path.iterdir()} == {"x", "name.tar.gz"}
    with archive.unpacked(tmp_path / "x", tmp_path) as folder:
        assert folder == tmp_path / "x"


def test_archives_that_are_damaged_too_large_or_lead_out_are_refused(tmp_path, monkeypatch):
    good = tmp_path / "good.tar.gz"
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(100_000))
    with tarfile.open(good, "w:gz") as tar:
        tar.add(tmp_path / "noise", "noise")
    (tmp_path / "cut.tar.gz").write_bytes(good.read_bytes()[:50_000])
    (tmp_path / "no.keras").write_bytes(b"PK nonsense")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as zip:
        zip.writestr("other", "")
    outside = tarfile.TarInfo("../../outside")
    with tarfile.open(tmp_path / "outside.tar", "w") as tar:
        tar.addfile(outside)
    with tarfile.open(tmp_path / "many.tar", "w") as tar:
        for i in range(archive.MAX_MEMBERS + 1):
            tar.addfile(tarfile.TarInfo(str(i)))
    for name, kind in {"pax.tar.gz": tarfile.XHDTYPE, "sparse.tar": tarfile.GNUTYPE_SPARSE}.items():
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 1 << 28  # a quarter of a gigabyte for one header
        data = info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)
        (tmp_path / name).write_bytes(gzip.compress(data, 1) if "gz" in name else data)
    (tmp_path / "xz.tar").write_bytes(b"\xfd7zXZ\x00" + bytes(99))
    names = ("cut.tar.gz", "no.keras", "empty.keras", "outside.tar", "many.tar", "xz.tar")
    for name in (*names, "pax.tar.gz", "sparse.tar"):
        with pytest.raises(ValueError, match="cannot be unpacked"):
            with archive.unpacked(tmp_path / name, tmp_path):
                pass
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"1 members of 0.0 GB, expected at most 1000 of"):
        with archive.unpacked(good, tmp_path):
            pass
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]
    assert not (pathlib.Path(tmp_path).parent / "outside").exists()
