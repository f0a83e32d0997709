"""TensorFlow checkpoints under the names of the Noisy Student tarballs, written by TensorFlow."""

import pathlib
import re
import tarfile
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from parity import assert_same_leaves, with_statistics

from cxr_embeddings.encoder import convert, efficientnet, weights
from cxr_embeddings.encoder.card import Card
from cxr_embeddings.encoder.efficientnet import (
    STAGES,
    VARIANTS,
    EfficientNet,
    Variant,
    stage_blocks,
)
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.sources import archive, checkpoint, tf

FOLDER = "noisy_student_efficientnet-b0"
AVERAGE = "/ExponentialMovingAverage"
OUTER = {
    "stem_conv": "stem/conv2d",
    "stem_bn": "stem/tpu_batch_normalization",
    "head_conv": "head/conv2d",
    "head_bn": "head/tpu_batch_normalization",
}
BLOCK = {
    "expand_conv": "conv2d",
    "expand_bn": "tpu_batch_normalization",
    "depthwise_conv": "depthwise_conv2d",
    "depthwise_bn": "tpu_batch_normalization_1",
    "squeeze_excite/reduce": "se/conv2d",
    "squeeze_excite/expand": "se/conv2d_1",
    "project_conv": "conv2d_1",
    "project_bn": "tpu_batch_normalization_2",
}
BATCH_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
BLOCK_WITHOUT_EXPANSION = BLOCK | {
    "depthwise_bn": "tpu_batch_normalization",
    "project_conv": "conv2d",
    "project_bn": "tpu_batch_normalization_1",
}


def published_name(path: str, variant: str) -> str:
    """Our path -> what the facts call the variable in the published checkpoints."""
    _, *layer, leaf = path.split("/")
    layer = "/".join(layer)
    if match := re.fullmatch(r"stage(\d)_block(\d+)/(.+)", layer):
        stage, block = int(match[1]), int(match[2])
        number = sum(stage_blocks(variant)[: stage - 1]) + block - 1
        names = BLOCK_WITHOUT_EXPANSION if STAGES[stage - 1][2] == 1 else BLOCK
        place = f"blocks_{number}/{names[match[3]]}"
    else:
        place = OUTER[layer]
    if place.endswith("/depthwise_conv2d"):
        leaf = "depthwise_kernel"
    elif "batch_normalization" in place:
        leaf = BATCH_NORM[leaf]
    return f"efficientnet-{variant}/{place}/{leaf}"


def stored(variables: weights.Variables, variant: str) -> dict[str, np.ndarray]:
    """The variables under their published names and in TensorFlow's layout."""
    found = {}
    for path, leaf in flatten_dict(variables, sep="/").items():
        name, leaf = published_name(path, variant), np.asarray(leaf)
        found[name] = leaf.swapaxes(2, 3) if name.endswith("depthwise_kernel") else leaf
    return found


def write(prefix: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Saves arrays under their names, by the operation of TensorFlow 1's Saver."""
    import tensorflow

    prefix.parent.mkdir(parents=True, exist_ok=True)
    tensorflow.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=[*arrays],
        shape_and_slices=[""] * len(arrays),
        tensors=[tensorflow.constant(array) for array in arrays.values()],
    )


def training(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a training run stores: averages, raw values of no use, optimizer, classifier, step."""
    variant = next(iter(arrays)).split("/")[0]
    arrays = arrays | {
        f"{variant}/head/dense/kernel": np.zeros((8, 10), np.float32),
        f"{variant}/head/dense/bias": np.zeros(10, np.float32),
    }
    averages = {name + AVERAGE: array for name, array in arrays.items()}
    raw = {name: array + np.float32(1) for name, array in arrays.items()}
    kernel = f"{variant}/stem/conv2d/kernel"
    slots = {f"{kernel}/{slot}": np.zeros(3) for slot in ("RMSProp", "RMSProp_1")}
    return averages | raw | slots | {"global_step": np.int64(7)}


@pytest.fixture(scope="module", autouse=True)
def trained() -> Iterator[weights.Variables]:
    """Two stages, the first of two blocks, so that one without expansion has a residual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", STAGES[:2])
        patch.setitem(VARIANTS, "tiny", Variant(0.25, 1.2, 64))
        yield with_statistics(random_variables(EfficientNet("tiny", 48)))


def read(path: pathlib.Path) -> tuple[Card, weights.Variables]:
    return convert.read(tf.read(path))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tarball"])
def test_averages_of_a_training_run_give_the_network_they_were_made_from(packed, tmp_path, trained):
    path = tmp_path / FOLDER
    write(path / "model.ckpt", training(stored(trained, "tiny")))
    if packed:
        with tarfile.open(tmp_path / f"{FOLDER}.tar.gz", "w:gz") as tar:
            tar.add(path, FOLDER)
        path = tmp_path / f"{FOLDER}.tar.gz"
    with archive.unpacked(path, tmp_path) as folder:
        card, variables = read(folder)
    assert_same_leaves(variables, trained)
    assert (card.variant, card.head_width, card.resolution) == ("tiny", 48, 64)
    assert card.dropped == [
        "head/dense, the classifier (4 variables)",
        "state of the optimizer (3 variables)",
        f"values of which the average is taken ({len(jax.tree.leaves(trained))} variables)",
    ]
    left = {p.name for p in tmp_path.iterdir()}
    assert left <= {FOLDER, f"{FOLDER}.tar.gz"}


def test_without_averages_the_values_themselves_are_taken(tmp_path, trained):
    write(tmp_path / FOLDER / "model.ckpt", stored(trained, "tiny"))
    card, variables = read(tmp_path / FOLDER / "model.ckpt.index")
    assert weights.digest(variables) == weights.digest(trained)
    assert card.dropped == []


def test_names_of_the_facts(monkeypatch):
    """Spelled out: the numbers of a block shift where there is no expansion."""
    monkeypatch.setattr(efficientnet, "STAGES", STAGES)
    places = checkpoint.block_places(88, pathlib.Path("x"))
    for name, path in {
        "stem/conv2d/kernel": "params/stem_conv/kernel",
        "stem/tpu_batch_normalization/gamma": "params/stem_bn/scale",
        "blocks_0/conv2d/kernel": "params/stage1_block1/project_conv/kernel",
        "blocks_0/tpu_batch_normalization/beta": "params/stage1_block1/depthwise_bn/bias",
        "blocks_5/tpu_batch_normalization_1/gamma": "params/stage1_block6/project_bn/scale",
        "blocks_6/conv2d/kernel": "params/stage2_block1/expand_conv/kernel",
        "blocks_6/conv2d_1/kernel": "params/stage2_block1/project_conv/kernel",
        "blocks_6/depthwise_conv2d/depthwise_kernel": "params/stage2_block1/depthwise_conv/kernel",
        "blocks_87/se/conv2d_1/bias": "params/stage7_block6/squeeze_excite/expand/bias",
        "blocks_87/tpu_batch_normalization_2/beta": "params/stage7_block6/project_bn/bias",
        "head/conv2d/kernel": "params/head_conv/kernel",
        "blocks_0/conv2d_1/kernel": None,  # there is nothing to expand in stage 1
        "blocks_88/conv2d/kernel": None,
    }.items():
        assert tf.our_name(f"efficientnet-l2/{name}", places) == path, name


def test_what_does_not_fit_is_named(tmp_path, trained):
    other = {"efficientnet-tiny/blocks_3/se/conv2d_2/bias": np.zeros(2, np.float32)}
    write(tmp_path / FOLDER / "model.ckpt", stored(trained, "tiny") | other)
    with pytest.raises(ValueError, match=f"1 of .*\n +not expected: {next(iter(other))}"):
        read(tmp_path)


def test_other_checkpoints_of_the_same_names_are_refused(tmp_path, trained):
    folder = tmp_path / "noisy_student_bundles" / "efficientnet-b0-l2_475"
    write(folder / "model.ckpt", stored(trained, "tiny"))
    with pytest.raises(ValueError, match="expected a Noisy Student checkpoint, with noisy_student"):
        read(folder)
