"""TensorFlow checkpoints of the Noisy Student tarballs (Xie et al., arXiv 1911.04252)."""

import functools
import pathlib
import re

import numpy as np

from ..damaged import explained
from .checkpoint import Checkpoint, Leaf, Names, block_places

AVERAGE = "/ExponentialMovingAverage"
STATE = re.compile(r"global_step|.*/(RMSProp(_1)?|Momentum)(/ExponentialMovingAverage)?")
DROPPED = {
    "head/dense, the classifier": lambda name, _: "/head/dense/" in name,
    "state of the optimizer": lambda name, _: STATE.fullmatch(name),
    "values of which the average is taken": lambda name, names: name + AVERAGE in names,
}
NAMES = Names(
    ends="stem/conv2d stem/tpu_batch_normalization head/conv2d head/tpu_batch_normalization",
    block="conv2d tpu_batch_normalization depthwise_conv2d tpu_batch_normalization_1 "
    "se/conv2d se/conv2d_1 conv2d_1 tpu_batch_normalization_2",
    plain="depthwise_conv2d tpu_batch_normalization se/conv2d se/conv2d_1 "
    "conv2d tpu_batch_normalization_1",
    conv="kernel bias",
    batch_norm="gamma beta moving_mean moving_variance",
)


def read(path: pathlib.Path) -> Checkpoint:
    """Reads a checkpoint: its folder (of the unpacked tarball), `.index` file or prefix.

    Where a variable has an exponential moving average, that is taken, as in the published
    evaluations. A name that is not Noisy Student's is refused: AdvProp's checkpoints have the same
    variables and want other images.
    """
    prefix = _prefix(path)
    name = f"{path.name} {prefix.parent.name}"  # of the archive, and of the folder in it
    if not re.search("noisy.?student", name):
        raise ValueError(
            f"{path.name}: expected a Noisy Student checkpoint, with noisy_student in the name of "
            "the archive or folder; other EfficientNets (AdvProp) have the same variables but want "
            "images of another range. Give it its published name, noisy_student_efficientnet-..."
        )
    import tensorflow as tf

    readable = functools.partial(
        explained,
        f"{prefix} cannot be read as a TensorFlow checkpoint",
        "it is damaged, cut off or of another kind; fetch it again",
        # The reader makes an error's type out of the words in its message: any of these.
        (tf.errors.OpError, ValueError, IndexError, KeyError, RuntimeError),
    )
    with readable():
        reader = tf.train.load_checkpoint(str(prefix))

    def values(name: str) -> np.ndarray:
        with readable():
            return np.asarray(reader.get_tensor(name), np.float32)

    shapes = reader.get_variable_to_shape_map()
    kept, dropped = set(shapes), []
    for what, is_it in DROPPED.items():
        names = {name for name in kept if is_it(name, shapes)}
        kept -= names
        dropped += [f"{what} ({len(names)} variables)"] if names else []
    blocks = {name.split("/")[1] for name in kept if re.search(r"/blocks_\d+/", name)}
    places = block_places(len(blocks), prefix)
    leaves = {}
    for variable in sorted(kept):
        plain = variable.removesuffix(AVERAGE)
        leaf = Leaf(variable, tuple(shapes[variable]), functools.partial(values, variable))
        depthwise = plain.endswith("/depthwise_kernel") and len(leaf.shape) == 4
        leaves[our_name(plain, places) or variable] = leaf.swapped() if depthwise else leaf
    return Checkpoint(
        origin=f"tf {prefix.parent.name}/{prefix.name}",
        leaves=leaves,
        dropped=dropped,
        resolution=475 if "l2_475" in name else None,
        training_data="Photographs: ImageNet-1k, and 300 million of JFT without their labels.",
        licence="Apache-2.0",
    )


def _prefix(path: pathlib.Path) -> pathlib.Path:
    """Path of the one checkpoint in a folder, without a suffix."""
    if not path.is_dir():
        return path.with_suffix("") if path.suffix == ".index" else path
    found = sorted(path.rglob("*.index"))
    if len(found) != 1:
        raise ValueError(
            f"{path} holds {len(found)} TensorFlow checkpoints ({', '.join(map(str, found[:5]))}), "
            "expected one file *.index: name the one that you want"
        )
    return found[0].with_suffix("")


def our_name(name: str, places: list[tuple[int, int]]) -> str | None:
    """Our path of a variable, "efficientnet-b0/blocks_3/se/conv2d_1/bias" and so on."""
    layer, _, leaf = name.partition("/")[2].rpartition("/")
    place = None
    if match := re.fullmatch(r"blocks_(\d+)/(.+)", layer):
        number, layer = int(match[1]), match[2]
        if number >= len(places):
            return None
        place = places[number]
    return NAMES.ours(layer, leaf.removeprefix("depthwise_"), place)
