"""timm's checkpoints: against timm itself where it is installed, and against its golden numbers."""

import json
import pathlib
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
import parity
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from parity import STAGES, TOLERANCE, compiled, difference, random_images
from safetensors.numpy import save_file

from benchmarks import peers
from cxr_embeddings.encoder import convert, efficientnet, weights
from cxr_embeddings.encoder.card import Card
from cxr_embeddings.encoder.efficientnet import EfficientNet
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.sources import timm
from cxr_embeddings.encoder.sources.checkpoint import IMAGENET_MEAN, IMAGENET_STD

GOLDEN = pathlib.Path(__file__).parent / "golden"
SIZES = {
    "b0": (96, 97),
    "lite0": (96, 97),
    "l2": (64, 65),
}  # even and odd, near the size of the calibration
HALVES = (0.5, 0.5, 0.5)


def converted(path: pathlib.Path) -> tuple[Card, weights.Variables]:
    return convert.read(timm.read(path))


def timm_forward(network: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every stage's output, [batch height width channel]."""
    import torch

    found = {}

    def keep(name: str) -> Callable:
        def hook(layer, inputs, output):
            found[name] = output.permute(0, 2, 3, 1).numpy().copy()

        return hook

    layers = {"stem": network.bn1, "head_map": network.bn2}
    layers |= {f"stage{i}": stage for i, stage in enumerate(network.blocks, start=1)}
    hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    with torch.inference_mode():
        network(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("variant", SIZES)
def test_every_leaf_arrives_and_every_stage_agrees_with_timm(variant, tmp_path):
    """Calibrated weights put into timm, saved by it in all formats, and read."""
    torch = pytest.importorskip("torch", reason="not installed: the golden test stands in")
    from safetensors.torch import save_file

    model = EfficientNet(variant, peers.head_width(variant))
    variables = jax.device_put(random_variables(model, seed=0))
    variables = parity.calibrate(
        model, variables, random_images(SIZES[variant][0], batch=8, seed=1)
    )
    network = peers.timm_network(variant, variables)
    file = tmp_path / f"tf_efficientnet_{variant}-00000000.pth"
    for zip_format in (True, False):
        torch.save(network.state_dict(), file, _use_new_zipfile_serialization=zip_format)
        found = {path: leaf.read() for path, leaf in timm.read(file).leaves.items()}
        parity.assert_same_leaves(found, variables)
    file = file.with_name(f"tf_efficientnet_{variant}.in1k.safetensors")
    save_file(network.state_dict(), file)
    card, found = converted(file)
    assert (card.variant, card.head_width) == (variant, peers.head_width(variant))
    parity.assert_same_leaves(found, variables)

    forward = compiled(model)
    for size in SIZES[variant]:
        images = random_images(size, batch=2, seed=2)
        theirs = timm_forward(network, images)
        parity.assert_stages_agree(forward(found, images), theirs)
        wrong = forward(parity.swap_two_leaves(found), images)
        assert difference(wrong["head_map"], theirs["head_map"]) > 1000 * TOLERANCE


def live_variables(variant: str) -> weights.Variables:
    """Alike on every machine: nothing in them is calibrated, and no two leaves are alike."""
    model = EfficientNet(variant, peers.head_width(variant))
    leaves = flatten_dict(random_variables(model), sep="/")
    ranges = {"scale": (0.2, 0.45), "bias": (-0.1, 0.1), "mean": (-0.1, 0.1), "var": (0.05, 0.2)}
    for path, leaf in leaves.items():
        if (name := path.split("/")[-1]) in ranges:
            low, high = ranges[name]
            generator = np.random.Generator(np.random.SFC64(zlib.crc32(path.encode())))
            values = low + (high - low) * generator.random(leaf.shape)
            leaves[path] = values.astype(np.float32)
    return unflatten_dict(leaves, sep="/")


def statistics(
    stages: dict[str, np.ndarray], names: Sequence[str] = STAGES
) -> dict[str, dict[str, Any]]:
    """The mean, standard deviation, largest size and seven values of every stage."""
    found = {}
    for name in names:
        values = np.asarray(stages[name], np.float64)
        places = np.linspace(0, values.size - 1, 7).astype(int)
        numbers = {"mean": values.mean(), "std": values.std(), "max": np.abs(values).max()}
        found[name] = {key: float(number) for key, number in numbers.items()}
        found[name]["values"] = values.ravel()[places].tolist()
    return found


def departure(found: dict[str, dict[str, Any]], golden: dict[str, dict[str, Any]]) -> float:
    """Largest difference of any statistic, relative to the largest value of its stage."""
    return max(
        np.max(np.abs(np.subtract(found[name][key], golden[name][key]))) / golden[name]["max"]
        for name in found
        for key in ("mean", "std", "max", "values")
    )


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """B0 in timm's form."""
    return peers.timm_tensors(live_variables("b0"))


@pytest.fixture(scope="module")
def published(request, tmp_path_factory) -> tuple[Card, weights.Variables]:
    """What the reader makes of a network in timm's form, by default of B0."""
    variant = getattr(request, "param", "b0")
    file = tmp_path_factory.mktemp(variant) / f"tf_efficientnet_{variant}.in1k.safetensors"
    save_file(peers.timm_tensors(live_variables(variant)), file)
    return converted(file)


@pytest.mark.parametrize(
    ("size", "stages"),
    [(96, 3), *(pytest.param(size, 7, marks=pytest.mark.slow) for size in SIZES["b0"])],
)
@pytest.mark.parametrize("published", ["b0", "lite0"], indirect=True)
def test_it_agrees_with_the_golden_numbers_of_timm(published, size, stages, monkeypatch):
    """Every kind of layer is in the first three stages."""
    model, names = weights.model_for(published[0]), STAGES
    if stages < 7:
        monkeypatch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:stages])
        model, names = model.clone(head_width=None), STAGES[: stages + 1]
    out = compiled(model)(published[1], random_images(size, batch=2, seed=2))
    golden = json.loads((GOLDEN / f"timm_{model.variant}.json").read_text())[str(size)]
    assert departure(statistics(out, names), golden) < TOLERANCE
    assert difference(out["pooled"][0], out["pooled"][1]) > 0.01  # the signal is alive
    assert all(0.1 < np.std(out[name]) < 10 for name in names)


@pytest.mark.slow
def test_the_golden_numbers_find_deliberate_mistakes(published):
    golden = json.loads((GOLDEN / "timm_b0.json").read_text())[str(SIZES["b0"][0])]
    model, variables = weights.model_for(published[0]), published[1]
    images = random_images(SIZES["b0"][0], batch=2, seed=2)
    for mistake, wrong in parity.mistakes(model, compiled(model), variables, images):
        assert departure(statistics(wrong), golden) > 100 * TOLERANCE, mistake


def write(
    folder: pathlib.Path,
    name: str = "tf_efficientnet_b0.in1k.safetensors",
    tensors: dict[str, np.ndarray] | None = None,
    config: Any = None,
) -> pathlib.Path:
    """A file of safetensors, by default of one leaf, and config.json where one is given."""
    folder.mkdir(exist_ok=True)
    stem = {"conv_stem.weight": np.zeros((32, 3, 3, 3), np.float32)}
    save_file(stem if tensors is None else tensors, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / name


def configuration(architecture: str, tag: str, side: int = 224, **changed: Any) -> dict[str, Any]:
    """As timm writes it on the Hub."""
    given = {"tag": tag, "input_size": [3, side, side], "mean": [*HALVES], "std": [0.1, 0.2, 0.3]}
    return {"architecture": architecture, "num_classes": 1000, "pretrained_cfg": given | changed}


B0 = configuration("tf_efficientnet_b0", "in1k")


def test_names_of_layers_and_layouts_of_kernels(tmp_path):
    """Without expansion the same names mean other layers."""
    names = {
        "conv_stem.weight": "params/stem_conv/kernel",
        "bn1.weight": "params/stem_bn/scale",
        "bn2.bias": "params/head_bn/bias",
        "blocks.0.0.bn1.bias": "params/stage1_block1/depthwise_bn/bias",
        "blocks.0.0.conv_pw.weight": "params/stage1_block1/project_conv/kernel",
        "blocks.0.0.se.conv_reduce.bias": "params/stage1_block1/squeeze_excite/reduce/bias",
        "blocks.5.10.conv_pw.weight": "params/stage6_block11/expand_conv/kernel",
        "blocks.5.10.bn2.running_mean": "batch_stats/stage6_block11/depthwise_bn/mean",
        "blocks.5.10.bn3.running_var": "batch_stats/stage6_block11/project_bn/var",
    }
    shapes = {name: (5, 4, 3, 2) if "conv" in name and "bias" not in name else 8 for name in names}
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shapes[name]).astype(np.float32) for name in names}
    leaves = timm.read(write(tmp_path, tensors=tensors)).leaves
    assert {leaf.name: path for path, leaf in leaves.items()} == names
    for leaf in leaves.values():
        values = tensors[leaf.name]
        if values.ndim == 4:
            values = np.moveaxis(values, (0, 1), (3, 2))
        assert leaf.shape == values.shape and np.array_equal(leaf.read(), values), leaf.name


def test_what_is_left_out_is_listed(published):
    card, _ = published
    assert sorted(card.dropped) == [
        "classifier.bias",
        "classifier.weight",
        "num_batches_tracked of 49 BatchNorms",
    ]
    assert card.source == "timm tf_efficientnet_b0.in1k, tf_efficientnet_b0.in1k.safetensors"
    assert card.preset == "imagenet"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    values = np.arange(8).astype(dtype)
    file = write(tmp_path, tensors={"bn1.bias": values})
    found = timm.read(file).leaves["params/stem_bn/bias"].read()
    assert found.dtype == np.float32 and np.array_equal(found, np.arange(8))


@pytest.mark.parametrize(
    ("name", "normalisation", "resolution", "training_data"),
    [
        ("tf_efficientnet_l2_ns_475-bebbd00a", "imagenet", 475, "JFT-300M by Noisy Student"),
        ("tf_efficientnet_l2.ns_jft_in1k_475", "imagenet", 475, "JFT-300M by Noisy Student"),
        ("tf_efficientnet_l2.ns_jft_in1k", "imagenet", None, "JFT-300M by Noisy Student"),
        ("tf_efficientnet_b7_ap-ddb28fec", "halves", None, "AdvProp"),
        ("tf_efficientnet_b7.ap_in1k", "halves", None, "AdvProp"),
        ("tf_efficientnet_b5_ra-9a3e5369", "imagenet", None, "RandAugment"),
        ("tf_efficientnet_b0-0af12548", "imagenet", None, "ImageNet-1k.$"),
        ("tf_efficientnet_lite0-0aa007d2", "halves", None, "ImageNet-1k.$"),
        ("tf_efficientnet_lite4.in1k", "halves", None, "ImageNet-1k.$"),
        ("tf_efficientnet_b0.chexpert", "imagenet", None, "Not known: .* 'chexpert'"),
    ],
)
def test_without_config_the_name_says_what_it_is(
    tmp_path, name, normalisation, resolution, training_data
):
    checkpoint = timm.read(write(tmp_path, f"{name}.safetensors"))
    expected = (IMAGENET_MEAN, IMAGENET_STD) if normalisation == "imagenet" else (HALVES, HALVES)
    assert (checkpoint.mean, checkpoint.std) == expected
    assert checkpoint.resolution == resolution
    assert re.search(training_data, checkpoint.training_data)


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_b0.ra_in1k",  # the very same leaves, but padded and normalised otherwise
        "tf_efficientnet_b8.ra_in1k",
        "efficientnet_lite0.ra_in1k",
        "tf_efficientnetv2_s.in1k",
    ],
)
def test_other_efficientnets_are_refused_by_name(tmp_path, name):
    architecture, _, tag = name.partition(".")
    with pytest.raises(ValueError, match=f"is {architecture[:15]}.*silently give wrong"):
        timm.read(write(tmp_path, f"{name}.safetensors"))
    config = configuration(architecture, tag)
    with pytest.raises(ValueError, match=f"is {architecture}.*silently give wrong"):
        timm.read(write(tmp_path, "model.safetensors", config=config))
    with pytest.raises(ValueError, match="silently give wrong"):  # contradicts its config
        timm.read(write(tmp_path, f"{name}.safetensors", config=B0))


def test_broken_safetensors_are_refused(tmp_path):
    file = write(tmp_path)
    whole = file.read_bytes()
    lies = b"\xff" * 8 + whole[8:]
    for broken in (b"", whole[:7], whole[:40], whole[:-1], lies, b"version http"):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"cannot be read .* fetch it again"):
            timm.read(file)


def test_what_does_not_fit_is_named(tensors, tmp_path):
    other = {"blocks.3.1.conv_rep.weight": np.ones((1, 2, 3, 4), np.float32)}
    with pytest.raises(ValueError, match=f"1 of 309 leaves.*\n +not expected: {next(iter(other))}"):
        converted(write(tmp_path, tensors=tensors | other))
    with pytest.raises(ValueError, match=r"bn1.weight is I8, expected one of F32, F16"):
        timm.read(write(tmp_path, tensors={"bn1.weight": np.ones(32, np.int8)}))
    with pytest.raises(ValueError, match=r"expected one of .safetensors, .pth, .pt, .bin"):
        timm.read(tmp_path / "tf_efficientnet_b0.onnx")
    with pytest.raises(FileNotFoundError):
        timm.read(tmp_path / "tf_efficientnet_b1.safetensors")
