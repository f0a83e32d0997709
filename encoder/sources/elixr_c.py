"""ELIXR-C, the chest X-ray EfficientNet-L2: `elixr-c-v2-pooled`, a TensorFlow SavedModel.

Its variables' names are not published, but its graph says what each is for. Every convolution,
BatchNorm and bias of an EfficientNet depends on the one before, so the graph allows one order only;
compared with the network's own, step by step, it names every variable. Nothing is run for that.
"""

import functools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from .. import efficientnet
from ..batch_norm import EPSILON
from ..efficientnet import POOLED_MAP_PATCH, VARIANTS
from . import saved_model
from .checkpoint import Checkpoint, Leaf
from .saved_model import VARIABLES, Op, Program, constant, origin

MODEL, OUTPUT = "elixr-c-v2-pooled", "feature_maps_0"
PRESETS = {"uint16": "cxr_foundation", "uint8": "cxr_foundation_8bit"}  # what a PNG is decoded to
DENSE, DEPTHWISE = "Conv2D", "DepthwiseConv2dNative"
# values that TensorFlow leaves out, other than False
DEFAULTS = {"data_format": b"NHWC", "dilations": [1, 1, 1, 1], "is_training": True}


class Layer(NamedTuple):
    """One step of the network; two equal ones differ in nothing but the values they read."""

    kind: str  # DENSE, DEPTHWISE, "BatchNorm", "bias" or "AvgPool"
    shape: tuple[int, ...]  # of what it reads, in TensorFlow's layout; "AvgPool" of its window
    stride: int = 1

    def __str__(self) -> str:
        return f"{self.kind} {'x'.join(map(str, self.shape))} of stride {self.stride}"


class Step(NamedTuple):
    """A layer found in a graph: the op that ends it, and what it reads by the names of leaves."""

    layer: Layer
    op: Op
    variables: dict[str, Op]


class Description(NamedTuple):
    """What a SavedModel's graph says: leaf -> (key of its values, their shape), and the rest."""

    values: dict[str, tuple[str, tuple[int, ...]]]
    dropped: list[str]
    resolution: int
    preset: str


def read(path: pathlib.Path) -> Checkpoint:
    """Reads the folder of a SavedModel, without running any of it.

    Checked are the order of all layers, their kinds, shapes, strides, padding and epsilon, that
    nothing else reads variables, and how the image is decoded, resized and pooled. For the rest,
    such as activations and the stretching of grey values, compare the network with `run`.
    """
    with saved_model.process() as process:
        found = saved_model.ask(process, describe, path)
    values_process = functools.cache(saved_model.process)  # from the first array on

    def leaf(name: str, key: str, shape: tuple[int, ...]) -> Leaf:
        def values() -> np.ndarray:
            return saved_model.ask(values_process(), saved_model.value, path, key, MODEL)

        stored = Leaf(key, shape, values)
        return stored.swapped() if "depthwise_conv" in name else stored

    return Checkpoint(
        origin=f"elixr-c {path.name}",
        leaves={name: leaf(name, *where) for name, where in found.values.items()},
        dropped=found.dropped,
        preset=found.preset,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        resolution=found.resolution,
        training_data="821,544 chest X-rays from India and the US, abnormal against normal "
        "(Sellergren et al., Radiology 2022).",
        licence="Health AI Developer Foundations terms of use",
        terms_of_use="https://developers.google.com/health-ai-developer-foundations/terms; the "
        "prohibited use policy that they name holds for whatever is made from the weights, and "
        "goes with them.",
    )


def describe(path: pathlib.Path) -> Description:
    """What `read` finds out. For a `saved_model.process`."""
    with saved_model.understood(path, MODEL):
        program = saved_model.trace(saved_model.meta_graph(path), OUTPUT)
        resolution, preset = image_preparation(program)
        shapes = saved_model.checkpoint_reader(path).get_variable_to_shape_map()
        values = {}
        for name, op in match(program, resolution).items():
            key = program.keys.get(op.variable)
            if key is None or shapes.get(key) != [*op.shape]:
                raise ValueError(f"{op} {op.shape} is saved as {key!r} {shapes.get(key)}")
            values[name] = key, op.shape
        kept = {key for key, _ in values.values()}
        dropped = sorted(shapes.keys() - kept - {"_CHECKPOINTABLE_OBJECT_GRAPH"})
        return Description(values, dropped, resolution, preset)


def run(path: pathlib.Path, png: bytes) -> Float32[np.ndarray, "h w width"]:
    """What the SavedModel itself says of an image: its `feature_maps_0`, [8 8 1376] of ELIXR-C.

    The image is a grey PNG file of 8 or 16 bits. Raises as `saved_model.run` does, and
    ChildProcessError if TensorFlow was killed.
    """
    features = {"image/encoded": png, "image/format": b"png"}
    with saved_model.process() as process:
        found = saved_model.ask(process, saved_model.run, path, features, OUTPUT, MODEL)
    return found.reshape(found.shape[-3:]).astype(np.float32)


def image_preparation(program: Program) -> tuple[int, str]:
    """The resolution and the preset; ValueError if decoding or resizing are not as in ELIXR-C."""
    import tensorflow as tf

    decode = _only(program, "DecodePng", "DecodeImage")
    depth = tf.as_dtype(decode.attributes.get("dtype", tf.uint8)).name
    _demand(decode, channels=1)
    if depth not in PRESETS:
        raise ValueError(f"{decode} decodes to {depth}, expected {' or '.join(PRESETS)}")
    resize = _only(program, "ResizeBilinear")
    _demand(resize, align_corners=False, half_pixel_centers=False)
    height, width = constant(origin(resize.inputs[1])).tolist()
    if height != width:
        raise ValueError(f"{resize} resizes to {height} x {width}, expected a square")
    return height, PRESETS[depth]


def _only(program: Program, *kinds: str) -> Op:
    found = [op for op in program.ops if op.kind in kinds]
    if len(found) != 1:
        raise ValueError(f"it has {len(found)} of {' or '.join(kinds)}, expected one")
    return found[0]


def _demand(op: Op, **attributes: object) -> None:
    for name, expected in attributes.items():
        if (found := op.attributes.get(name, DEFAULTS.get(name, False))) != expected:
            raise ValueError(f"{op} has {name} {found}, expected {expected}")


def match(program: Program, resolution: int) -> dict[str, Op]:
    """Leaf of the network, an EfficientNet without head convolution -> variable of the SavedModel.

    ValueError if the layers are others, do not each depend on the one before, or share variables.
    """
    steps = _steps(program, resolution)
    networks = {variant: [*_expected(variant)] for variant in VARIANTS}
    nearest = max(networks, key=lambda variant: _agreeing(steps, networks[variant]))
    expected, agreeing = networks[nearest], _agreeing(steps, networks[nearest])
    if not agreeing == len(steps) == len(expected):
        theirs = [*(f"{step.layer} ({step.op})" for step in steps), "missing"][agreeing]
        ours = [*(f"{path} {layer}" for path, layer in expected), "no other"][agreeing]
        raise ValueError(
            f"layer {agreeing + 1} of {len(steps)} is {theirs}; expected {ours}, as in {nearest} "
            f"with {len(expected)} layers, the nearest of {', '.join(VARIANTS)}"
        )
    leaves = {}
    for step, (path, _) in zip(steps, expected, strict=True):
        for leaf, variable in step.variables.items():
            tree = "batch_stats" if leaf in ("mean", "var") else "params"
            leaves[f"{tree}/{path}/{leaf}"] = variable
    used = [op.variable for op in leaves.values()]
    for op in program.ops:
        if op.kind in VARIABLES and (times := used.count(op.variable)) != 1:
            raise ValueError(f"{op} is used by {times} layers, expected 1")
    return leaves


def _agreeing(steps: Sequence[Step], expected: Sequence[tuple[str, Layer]]) -> int:
    """How many layers are as expected before the first that is not."""
    same = [step.layer == layer for step, (_, layer) in zip(steps, expected, strict=False)]
    return [*same, False].index(False)


def _steps(program: Program, size: int) -> list[Step]:
    """All layers in the order of their dependence; `size` is the image's side."""
    rank: dict[Op, int] = {}
    steps: list[Step] = []
    for op in program.ops:
        rank[op] = max((rank.get(source, 0) for source, _ in op.inputs), default=0)
        if step := _step(op, size):
            rank[op] += 1
            if rank[op] <= len(steps):
                last = steps[-1].op
                raise ValueError(f"{op} does not depend on {last}: their order is not certain")
            steps.append(step)
            size = math.ceil(size / step.layer.stride)
    return steps


def _step(op: Op, size: int) -> Step | None:
    """The layer that an op ends, if any; `size` is the side of the feature map there."""
    _demand(op, data_format=b"NHWC")
    kind, stride, variables, epsilon = "BatchNorm", 1, {}, EPSILON
    if op.kind in (DENSE, DEPTHWISE, "AvgPool"):
        kind, stride = op.kind, op.attributes["strides"][1]
        _demand(op, strides=[1, stride, stride, 1], dilations=[1, 1, 1, 1])
        if kind == "AvgPool":
            _demand(op, padding=b"VALID")
            return Step(Layer(kind, tuple(op.attributes["ksize"]), stride), op, {})
        variables = {"kernel": origin(op.inputs[1])}
    elif op.kind.startswith("FusedBatchNorm"):
        _demand(op, is_training=False)
        epsilon = op.attributes.get("epsilon", 1e-4)
        leaves = "scale", "bias", "mean", "var"
        variables = dict(zip(leaves, map(origin, op.inputs[1:5]), strict=True))
    elif op.kind in ("Add", "AddV2", "BiasAdd"):
        operands = first, second = _variable_first(op)
        if first.kind in VARIABLES and second.kind in (DENSE, DEPTHWISE):
            kind, variables = "bias", {"bias": first}
        elif any(x.kind == "Sub" and origin(x.inputs[0]).kind in VARIABLES for x in operands):
            variables, epsilon = _unfused_batch_norm(op)
    if not variables:
        return None
    shapes = [x.shape if x.kind in VARIABLES else str(x) for x in variables.values()]
    if len({*shapes}) > 1 or isinstance(shapes[0], str):
        raise ValueError(f"{op} reads {shapes}, expected variables of one shape")
    if "kernel" in variables:
        _demand_same_padding(op, shapes[0][0], stride, size)
    if not math.isclose(epsilon, EPSILON, rel_tol=1e-6):  # in float32
        raise ValueError(f"{op} has epsilon {epsilon:.3g}, expected {EPSILON}")
    return Step(Layer(kind, shapes[0], stride), op, variables)


def _unfused_batch_norm(op: Op) -> tuple[dict[str, Op], float]:
    """tf.nn.batch_normalization: x f + (bias - mean f) with f = scale / sqrt(var + epsilon)."""
    product, shift = sorted(map(origin, op.inputs), key=lambda operand: operand.kind == "Sub")
    bias, moved = map(origin, shift.inputs)
    mean, factor = _variable_first(moved)
    scale, root = _variable_first(factor)
    var, epsilon = _variable_first(origin(root.inputs[0]))
    kinds = [x.kind for x in (product, moved, factor, root)]
    if kinds != ["Mul", "Mul", "Mul", "Rsqrt"] or factor not in map(origin, product.inputs):
        raise ValueError(f"{op} ends no BatchNorm that is known here")
    return {"scale": scale, "bias": bias, "mean": mean, "var": var}, float(constant(epsilon))


def _variable_first(op: Op) -> list[Op]:
    """The two operands of an op, a variable before anything else."""
    return sorted(map(origin, op.inputs[:2]), key=lambda operand: operand.kind not in VARIABLES)


def _demand_same_padding(op: Op, kernel: int, stride: int, size: int) -> None:
    """Whether a convolution, or a Pad before it, pads as TensorFlow's SAME does."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    same = [total // 2, total - total // 2] * 2
    own = {b"SAME": same, b"VALID": [0] * 4}.get(op.attributes["padding"])
    own = own or op.attributes["explicit_paddings"][2:6]
    if (before := origin(op.inputs[0])).kind == "Pad":
        own = np.add(own, constant(origin(before.inputs[1]))[1:3].ravel()).tolist()
    if own != same:
        raise ValueError(
            f"{op} pads {size} x {size} by {own} at top, bottom, left, right; expected {same}"
        )


def _expected(variant: str) -> Iterator[tuple[str, Layer]]:
    """The layers of encoder/efficientnet.py in their order, with the path of their leaves."""
    width = efficientnet.scale_width(efficientnet.STEM_WIDTH, VARIANTS[variant].width)
    yield "stem_conv", Layer(DENSE, (3, 3, 3, width), 2)
    yield "stem_bn", Layer("BatchNorm", (width,))
    scaled = efficientnet.stage_widths(variant), efficientnet.stage_blocks(variant)
    stages = enumerate(zip(efficientnet.STAGES, *scaled, strict=True), start=1)
    for i, ((side, first_stride, expansion, *_), features, blocks) in stages:
        for j in range(1, blocks + 1):
            block, stride = f"stage{i}_block{j}", first_stride if j == 1 else 1
            reduced, expanded = int(width * efficientnet.SQUEEZE_RATIO), width * expansion
            if expansion != 1:
                yield f"{block}/expand_conv", Layer(DENSE, (1, 1, width, expanded))
                yield f"{block}/expand_bn", Layer("BatchNorm", (expanded,))
            yield f"{block}/depthwise_conv", Layer(DEPTHWISE, (side, side, expanded, 1), stride)
            yield f"{block}/depthwise_bn", Layer("BatchNorm", (expanded,))
            yield f"{block}/squeeze_excite/reduce", Layer(DENSE, (1, 1, expanded, reduced))
            yield f"{block}/squeeze_excite/reduce", Layer("bias", (reduced,))
            yield f"{block}/squeeze_excite/expand", Layer(DENSE, (1, 1, reduced, expanded))
            yield f"{block}/squeeze_excite/expand", Layer("bias", (expanded,))
            yield f"{block}/project_conv", Layer(DENSE, (1, 1, expanded, features))
            yield f"{block}/project_bn", Layer("BatchNorm", (features,))
            width = features
    patch = POOLED_MAP_PATCH
    yield "pooled_map", Layer("AvgPool", (1, patch, patch, 1), patch)
