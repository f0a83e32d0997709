"""The weights bundle: what is written comes back, and whatever does not fit is named."""

import dataclasses
import json
import operator
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from parity import assert_same_leaves

from cxr_embeddings.configs import demo
from cxr_embeddings.encoder import efficientnet, random_weights, weights
from cxr_embeddings.encoder.card import Card, load_card
from cxr_embeddings.encoder.efficientnet import STAGES, EfficientNet
from cxr_embeddings.encoder.embedding_layers import embedding_widths

TINY_DIGEST = "519f2fb4f74af12fc9d42934d6ea7e2278db2207599f4682530ee9f81248b44b"


@pytest.fixture(scope="module", autouse=True)
def two_stages():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", STAGES[:2])
        yield


@pytest.fixture(scope="module")
def card() -> Card:
    return random_weights.random_card("tiny", None, "imagenet", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


@pytest.fixture(scope="module")
def made(card) -> weights.Variables:
    return random_weights.random_variables(weights.model_for(card), seed=0)


@pytest.fixture
def variables(made) -> weights.Variables:
    return jax.tree.map(np.copy, made)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, made, card):
    folder = tmp_path_factory.mktemp("saved")
    weights.save_bundle(folder / "bundle", made, card)
    return folder / "bundle"


@pytest.fixture
def bundle(tmp_path, saved):
    return shutil.copytree(saved, tmp_path / "bundle")


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def test_random_weights_are_the_same_on_every_machine(variables):
    assert weights.digest(variables) == TINY_DIGEST
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


def test_random_weights_depend_on_the_seed_and_on_the_leafs_name_only(variables):
    headless = random_weights.random_variables(EfficientNet("tiny", head_width=None), seed=0)
    common = flatten_dict(variables, sep="/")
    for path, leaf in flatten_dict(headless, sep="/").items():
        assert np.array_equal(leaf, common[path]), path
    other = random_weights.random_variables(EfficientNet("tiny"), seed=1)
    assert weights.digest(other) != weights.digest(variables)


def test_digest_is_of_the_values_wherever_they_lie(variables, mesh):
    expected = weights.digest(variables)
    assert weights.digest(jax.device_put(variables)) == expected
    assert weights.digest(jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))) == (
        expected
    )

    def split(leaf):  # over both axes where it divides
        axes = ("data", "model") if leaf.shape[-1] % 8 == 0 else None
        spec = PartitionSpec(*[None] * (leaf.ndim - 1), axes)
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    assert weights.digest(jax.tree.map(split, variables)) == expected
    backwards = unflatten_dict(dict(reversed(flatten_dict(variables).items())))
    assert weights.digest(backwards) == expected


def test_digest_sees_values_shapes_dtypes_and_names(variables):
    path = "params/stem_conv/kernel"
    leaves = flatten_dict(variables, sep="/")
    kernel = leaves.pop(path)
    bit = kernel.copy()
    bit.view(np.uint32)[0, 0, 0, 0] ^= 1
    others = [
        {path: bit},
        {path: kernel.reshape(3, 9, 1, 8)},
        {path: kernel.view(np.int32)},
        {"params/stem_convolution/kernel": kernel},
    ]
    digests = {weights.digest(unflatten_dict(leaves | other, sep="/")) for other in others}
    assert len(digests | {weights.digest(variables)}) == 5


def test_a_bundle_comes_back_as_it_was(saved, variables, card):
    found = load_card(saved)
    size = sum(p.stat().st_size for p in (saved / "checkpoint").rglob("*") if p.is_file())
    assert size > 0
    assert found == dataclasses.replace(
        card, digest=weights.digest(variables), checkpoint_bytes=size
    )
    assert_same_leaves(weights.load_variables(saved, found), variables)
    assert [p.name for p in saved.parent.iterdir()] == ["bundle"]


def test_bfloat16_is_for_kernels_only(bundle, variables):
    found = weights.load_variables(bundle, load_card(bundle), dtype=jnp.bfloat16)
    assert_same_leaves(found, weights.cast_kernels(variables, jnp.bfloat16))
    uncast = weights.cast_kernels(variables, jnp.float32)
    assert all(map(operator.is_, jax.tree.leaves(uncast), jax.tree.leaves(variables))), "no copies"
    kinds = {path[-1]: leaf.dtype for path, leaf in flatten_dict(found).items()}
    assert kinds.pop("kernel") == jnp.bfloat16
    assert set(kinds.values()) == {np.dtype("float32")}


def test_leaves_go_straight_to_their_shardings(bundle, variables, mesh):
    whole = NamedSharding(mesh, PartitionSpec())
    columns = NamedSharding(mesh, PartitionSpec(None, None, None, "model"))
    shardings = jax.tree.map(lambda _: whole, variables)
    shardings["params"]["head_conv"]["kernel"] = columns
    found = weights.load_variables(bundle, load_card(bundle), place=lambda _: shardings)
    assert_same_leaves(found, variables)
    for leaf, sharding in zip(jax.tree.leaves(found), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding == sharding
    found = weights.load_variables(bundle, load_card(bundle), place=lambda _: whole)
    assert {leaf.sharding for leaf in jax.tree.leaves(found)} == {whole}


def test_a_bundle_names_no_folder_of_the_machine_that_made_it(saved):
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert not [path for path in files if str(saved.parent).encode() in path.read_bytes()]


def test_the_demos_weights_are_whole_small_and_say_where_they_are_from(monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", STAGES)
    card = load_card(demo.WEIGHTS)
    assert weights.digest(weights.load_variables(demo.WEIGHTS, card)) == card.digest
    assert card.trained and card.dtype == "bfloat16" and "CC BY 4.0" in card.licence
    assert "Kermany" in card.training_data and "ChestX-ray14" in card.training_data
    assert "nihcc.app.box.com" in card.terms_of_use and card.settings["objective"] == "supcon"
    assert sum(path.stat().st_size for path in demo.WEIGHTS.rglob("*") if path.is_file()) < 15e6


def test_nothing_is_overwritten(bundle, variables, card):
    with pytest.raises(FileExistsError, match="exists already: remove it or choose another name"):
        weights.save_bundle(bundle, variables, card)


def test_a_save_that_fails_leaves_nothing(tmp_path, variables, card, monkeypatch):
    def save(expected, message, card=card):
        with pytest.raises(expected, match=message):
            weights.save_bundle(tmp_path / "bundle", variables, card)
        assert not [*tmp_path.iterdir()]

    other = random_weights.random_card("b0", None, "imagenet", card.mean, card.std)
    save(ValueError, r"the variables: .* leaves do not fit the network", other)
    with monkeypatch.context() as patch:
        patch.setattr(weights.json, "dumps", mock.Mock(side_effect=OSError("disk full")))
        save(OSError, "disk full")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _: usage)
    save(OSError, r"bundle needs 0.00 GB, its disk has 0.00 GB left")


def test_merge_names_everything_that_does_not_fit(variables):
    expected = weights.abstract_variables(EfficientNet("tiny"))
    found = flatten_dict(variables, sep="/")
    del found["params/stem_bn/scale"], found["batch_stats/head_bn/mean"]
    found["params/classifier/kernel"] = np.zeros((4096, 1000))
    found["params/stem_conv/kernel"] = np.zeros((3, 3, 1, 8))
    with pytest.raises(ValueError) as error:
        weights.merge(found, expected, "somewhere")
    first, *rest = str(error.value).splitlines()
    assert first.startswith(f"somewhere: 4 of {len(jax.tree.leaves(expected))} leaves do not fit")
    assert sorted(line.strip() for line in rest) == [
        "missing: batch_stats/head_bn/mean (4096,)",
        "missing: params/stem_bn/scale (8,)",
        "not expected: params/classifier/kernel (4096, 1000)",
        "shape: params/stem_conv/kernel is (3, 3, 1, 8), expected (3, 3, 3, 8)",
    ]


def test_a_narrower_head_gives_the_first_channels(variables):
    found = {name: {**tree} for name, tree in variables.items()}
    head = found["params"]["head_conv"]["kernel"]
    found["params"]["head_conv"] = {"kernel": np.full_like(head[..., :5], 7)}
    del found["params"]["head_bn"]
    grafted, kept = weights.graft(found, variables)
    kernel = grafted["params"]["head_conv"]["kernel"]
    assert (kernel[..., :5] == 7).all()
    np.testing.assert_array_equal(kernel[..., 5:], head[..., 5:])
    assert kept == {"head_conv": 5, "head_bn": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version 2, this program reads up to 1: update"),
        ({"trained": 1}, "trained is 1, expected a valid boolean"),
        ({"resolution": 20_000}, "resolution is 20000, expected 1 to 4096"),
        ({"head_width": 10**9}, "head_width is 1000000000, expected 1 to 65536"),
        ({"mean": [0.5]}, r"mean\.1 is missing"),
        ({"std": [1, 1, 0]}, r"std is \(1.0, 1.0, 0.0\), expected it positive, and finite"),
        ({"mean": [1, 1, float("nan")]}, r"mean\.2 is nan, expected a finite number"),
        ({"head_width": 1280}, "tiny with head_width=1280 and projection=None offers"),
        ({"variant": "b9"}, "variant is 'b9', expected one of"),
        ({"licence": ...}, "licence is missing"),  # ...: left out
        ({"digest": "../x"}, "digest is '../x'.*expected 64 hexadecimal digits"),
        ({"projection": "orthonormal:0"}, "projection=orthonormal:0 offers {'projection': 4096"),
    ],
)
def test_cards_are_read_strictly(bundle, changes, message):
    file = bundle / "card.json"
    fields = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))
    with pytest.raises(ValueError, match=message):
        load_card(bundle)


def test_changed_weights_are_found_by_their_digest(bundle):
    wrong = dataclasses.replace(load_card(bundle), digest="0" * 64)
    with pytest.raises(ValueError, match=r"has digest .* but its card says 000.* fetch or convert"):
        weights.load_variables(bundle, wrong)
    weights.load_variables(bundle, wrong, verify=False)


def test_a_checkpoint_that_is_damaged_or_of_another_network_is_said(bundle):
    card = load_card(bundle)
    other = dataclasses.replace(card, variant="b0", embeddings=embedding_widths("b0", 4096))
    with pytest.raises(ValueError, match=r"missing: params/stage2_block2/expand_conv/kernel"):
        weights.load_variables(bundle, other)
    file = bundle / "checkpoint" / "_METADATA"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(ValueError, match=r"cannot be read .* damaged or incomplete; fetch"):
        weights.load_variables(bundle, card)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="missing or cut off; fetch or convert"):
        weights.load_variables(bundle, card)
