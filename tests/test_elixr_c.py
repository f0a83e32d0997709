"""The reader of ELIXR-C against SavedModels made as that one is documented, of our own weights.

The true one is gated; these have its signature and its graph, with names that say nothing, in the
forms that TensorFlow 1 and 2 give to the same computation.
"""

import dataclasses
import functools
import io
import math
import pathlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tensorflow as tf
from flax.traverse_util import flatten_dict
from parity import difference, swap_two_leaves, with_statistics
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import function

from cxr_embeddings.encoder import efficientnet
from cxr_embeddings.encoder.efficientnet import VARIANTS, EfficientNet, Variant
from cxr_embeddings.encoder.random_weights import random_variables
from cxr_embeddings.encoder.sources import elixr_c, saved_model
from cxr_embeddings.encoder.weights import abstract_variables, merge
from cxr_embeddings.input_pipeline.films.film import Film
from cxr_embeddings.input_pipeline.films.presets import PRESETS, network_input, toolkit_intensity
from cxr_embeddings.input_pipeline.synthetic.anatomy import Patient
from cxr_embeddings.input_pipeline.synthetic.drawing import draw_film

ALL_STAGES = efficientnet.STAGES
STAGES = ALL_STAGES[:3]  # every kind of layer
FIVE = Variant(0.25, 0.6, 160)  # blocks, two of them residual; `tiny` has three
SIZE = 160
TOLERANCE = 1e-4  # of the largest feature

IN_ANOTHER_PROCESS = saved_model.process
Read = Callable[[str], Any]  # "params/stem_conv/kernel" and so on -> a TensorFlow variable's value


@dataclasses.dataclass
class Style:
    """One way to write ELIXR-C in TensorFlow; and, last, mistakes."""

    fused: bool = True  # BatchNorm as one operation
    bias_add: Callable = tf.nn.bias_add
    swish: Callable = tf.nn.silu
    call: Callable = lambda block: block  # tf.function: blocks are functions
    loop: bool = True  # one image after the other, in tf.map_fn
    explicit_padding: str = ""  # of the stem: "Pad" by an operation, "EXPLICIT" by an attribute
    depth: str = "uint16"

    epsilon: float = 1e-3
    half_pixel_centers: bool = False
    align_corners: bool = False
    padding: tuple[int, int] = (0, 1)  # of the stem, where it is explicit
    size: tuple[int, int] = (SIZE, SIZE)
    pool: int = 5


def film(seed: int) -> Film:
    """A drawn chest film of 16 bits that is not square."""
    rng = np.random.default_rng(seed)
    patient = Patient(size=1.0, heart=1.0 + 0.2 * seed, breast=0.1, bulk=1.0, scoliosis=0.0)
    gray = draw_film(rng, patient, {}, "left", (404, 332), "PA")
    return Film((300 + 40_000 * gray).astype(np.uint16), bits_stored=16)


def png(film: Film) -> bytes:
    """What the toolkit sends to ELIXR-C."""
    Image.fromarray(toolkit_intensity(film)).save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


def prepared(films: list[Film], preset: str = "cxr_foundation") -> np.ndarray:
    images = np.stack([network_input(film, PRESETS[preset], SIZE) for film in films])
    return np.repeat(images, 3, axis=-1)


# ELIXR-C in TensorFlow


def image_of(example: Any, style: Style) -> Any:
    """Serialized tf.Example -> float32 [height width 3] in [0, 1]."""
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/format": tf.io.FixedLenFeature([], tf.string, "png"),
    }
    encoded = tf.io.parse_single_example(example, features)["image/encoded"]
    gray = tf.io.decode_png(encoded, channels=1, dtype=tf.as_dtype(style.depth))
    (gray,) = tf.unstack(
        tf.raw_ops.ResizeBilinear(
            images=gray[None],
            size=style.size,
            align_corners=style.align_corners,
            half_pixel_centers=style.half_pixel_centers,
        ),
        1,
    )
    gray -= tf.reduce_min(gray)
    return tf.tile(gray / tf.reduce_max(gray), [1, 1, 3])


def batch_norm(x: Any, read: Read, name: str, style: Style) -> Any:
    scale, bias = read(f"params/{name}/scale"), read(f"params/{name}/bias")
    mean, var = read(f"batch_stats/{name}/mean"), read(f"batch_stats/{name}/var")
    if not style.fused:
        return tf.nn.batch_normalization(x, mean, var, bias, scale, style.epsilon)
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=scale,
        offset=bias,
        mean=mean,
        variance=var,
        epsilon=style.epsilon,
        is_training=False,
    )[0]


def squeeze_excite(x: Any, read: Read, name: str, style: Style) -> Any:
    gate = tf.reduce_mean(x, [1, 2], keepdims=True)
    for layer, activation in (("reduce", style.swish), ("expand", tf.nn.sigmoid)):
        gate = tf.nn.conv2d(gate, read(f"params/{name}/{layer}/kernel"), 1, "SAME")
        gate = activation(style.bias_add(gate, read(f"params/{name}/{layer}/bias")))
    return x * gate


def elixr_c_features(examples: Any, read: Read, variant: str, style: Style) -> Any:
    """Serialized tf.Examples [batch] -> feature_maps_0 [batch height width channel]."""

    def conv_bn(x, name, stride=1, padding="SAME"):
        kernel = read(f"params/{name}_conv/kernel")
        if name.endswith("depthwise"):
            x = tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], padding)
        else:
            x = tf.nn.conv2d(x, kernel, stride, padding)
        return batch_norm(x, read, f"{name}_bn", style)

    def block(x, name, stride, expansion):
        inputs = x
        if expansion != 1:
            x = style.swish(conv_bn(x, f"{name}/expand"))
        x = style.swish(conv_bn(x, f"{name}/depthwise", stride))
        x = squeeze_excite(x, read, f"{name}/squeeze_excite", style)
        x = conv_bn(x, f"{name}/project")
        return x + inputs if x.shape[1:] == inputs.shape[1:] else x

    if style.loop:
        x = tf.map_fn(lambda e: image_of(e, style), examples, fn_output_signature=tf.float32)
    else:
        x = image_of(examples[0], style)[None]
    stem_padding = "SAME"
    if style.explicit_padding:
        pads = [[0, 0], [*style.padding], [*style.padding], [0, 0]]
        stem_padding = pads
        if style.explicit_padding == "Pad":
            x, stem_padding = tf.pad(x, pads), "VALID"
    x = style.swish(conv_bn(x, "stem", 2, stem_padding))
    for i, (_, stride, expansion, _, repeats) in enumerate(efficientnet.STAGES, start=1):
        blocks = math.ceil(repeats * VARIANTS[variant].depth)
        for j in range(1, blocks + 1):
            setting = f"stage{i}_block{j}", stride if j == 1 else 1, expansion
            x = style.call(lambda x, setting=setting: block(x, *setting))(x)
    return tf.nn.avg_pool2d(x, style.pool, style.pool, "VALID")


def tensorflow_layout(variables: dict) -> dict[str, np.ndarray]:
    leaves = {path: np.asarray(leaf) for path, leaf in flatten_dict(variables, sep="/").items()}
    for path, leaf in leaves.items():
        if path.endswith("depthwise_conv/kernel"):
            leaves[path] = leaf.swapaxes(2, 3)
    return leaves


def save_2(path: pathlib.Path, variables: dict, style: Style, variant: str = "five") -> None:
    """As TensorFlow 2 saves: functions in functions, variables handed down."""
    leaves = [*tensorflow_layout(variables).items(), ("nothing", np.zeros(3, np.float32))]
    random.Random(0).shuffle(leaves)
    there = {leaf_path: tf.Variable(leaf, name="v") for leaf_path, leaf in leaves}
    module = tf.Module()
    module.them = [*there.values()]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "input_example")])
    def serve(input_example):
        read = lambda leaf_path: there[leaf_path].read_value()  # noqa: E731
        return {elixr_c.OUTPUT: elixr_c_features(input_example, read, variant, style)}

    style = dataclasses.replace(style, call=tf.function)
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def save_1(path: pathlib.Path, variables: dict, style: Style, variant: str = "five") -> None:
    """As TensorFlow 1 saves: one flat graph, of variables that are no resources."""
    leaves = [*tensorflow_layout(variables).items(), ("nothing", np.zeros(3, np.float32))]
    random.Random(1).shuffle(leaves)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        there = {
            leaf_path: tf.compat.v1.get_variable(f"v{i}", initializer=leaf, use_resource=False)
            for i, (leaf_path, leaf) in enumerate(leaves)
        }
        examples = tf.compat.v1.placeholder(tf.string, [None], "input_example")
        features = elixr_c_features(examples, there.__getitem__, variant, style)
        session.run(tf.compat.v1.global_variables_initializer())
        signature = tf.compat.v1.saved_model.predict_signature_def(
            {"input_example": examples}, {elixr_c.OUTPUT: features}
        )
        builder = tf.compat.v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


@functools.cache
def shapes_of(variant: str) -> dict[str, tuple[int, ...]]:
    leaves = flatten_dict(abstract_variables(EfficientNet(variant, None)), sep="/")
    return {path: leaf.shape for path, leaf in leaves.items()}


def flat_graph(variant: str, style: Style, spoil: Callable[[Any], Any] = lambda x: x) -> Any:
    """The MetaGraphDef of a variant with shapes of variables but no values: any size is quick."""
    shapes = shapes_of(variant)
    with tf.Graph().as_default() as graph:
        handles = {}

        def read(leaf_path: str) -> Any:
            shape = [*shapes[leaf_path]]
            if leaf_path.endswith("depthwise_conv/kernel"):
                shape[2:] = shape[:1:-1]
            handles[leaf_path] = tf.raw_ops.VarHandleOp(
                dtype=tf.float32, shape=shape, shared_name=f"v{len(handles)}"
            )
            return tf.raw_ops.ReadVariableOp(resource=handles[leaf_path], dtype=tf.float32)

        examples = tf.compat.v1.placeholder(tf.string, [1], "input_example")
        features = spoil(elixr_c_features(examples, read, variant, style))
        signature = tf.compat.v1.saved_model.predict_signature_def(
            {"input_example": examples}, {elixr_c.OUTPUT: features}
        )
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=graph)
    meta_graph.signature_def["serving_default"].CopyFrom(signature)
    return meta_graph


def matched(meta_graph: Any) -> dict[str, Any]:
    program = saved_model.trace(meta_graph, elixr_c.OUTPUT)
    return elixr_c.match(program, elixr_c.image_preparation(program)[0])


# What the reader finds in it


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Iterator[None]:
    """Quick, and in this process, where the tests' own networks are known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_model, "process", lambda: ThreadPoolExecutor(1))
        patch.setattr(efficientnet, "STAGES", STAGES)
        patch.setitem(VARIANTS, "five", FIVE)
        yield


class Case(NamedTuple):
    model: EfficientNet
    variables: dict
    films: list[Film]
    features: Callable[[dict, np.ndarray], jax.Array]  # of variables and images: [batch 4 4 16]


@pytest.fixture(scope="module")
def case() -> Case:
    """A small network with random numbers in every leaf, and two films."""
    model = EfficientNet("five", head_width=None)
    films = [film(seed) for seed in (0, 1)]
    variables = with_statistics(random_variables(model))
    return Case(model, variables, films, jax.jit(lambda v, x: model.apply(v, x)[1]["pooled_map"]))


def plain_swish(x: Any) -> Any:
    return x * tf.nn.sigmoid(x)


STYLES = {
    "TensorFlow 2": (save_2, Style()),
    "TensorFlow 1, in a process of its own": (
        save_1,
        Style(fused=False, bias_add=tf.add, depth="uint8"),
    ),
}


@pytest.mark.parametrize(
    "style", [s if s == "TensorFlow 2" else pytest.param(s, marks=pytest.mark.slow) for s in STYLES]
)
def test_every_leaf_is_found_and_the_features_are_the_same(
    case, style, tmp_path, request, monkeypatch
):
    save, style = STYLES[style]
    save(tmp_path, case.variables, style)
    checkpoint = elixr_c.read(tmp_path)
    preset = {"uint16": "cxr_foundation", "uint8": "cxr_foundation_8bit"}[style.depth]
    assert (checkpoint.resolution, checkpoint.preset) == (SIZE, preset)
    assert (checkpoint.mean, checkpoint.std) == (PRESETS[preset].mean, PRESETS[preset].std)
    assert len(checkpoint.dropped) == 1

    expected = flatten_dict(case.variables, sep="/")
    merged = merge(checkpoint.leaves, abstract_variables(case.model), checkpoint.origin)
    found = jax.tree.map(lambda leaf: leaf.read(), merged, is_leaf=lambda x: hasattr(x, "read"))
    for path, values in flatten_dict(found, sep="/").items():
        assert values.dtype == np.float32 and values.shape == checkpoint.leaves[path].shape
        np.testing.assert_array_equal(values, expected[path], err_msg=path)

    if "process" in request.node.name:
        monkeypatch.setattr(saved_model, "process", IN_ANOTHER_PROCESS)
    theirs = elixr_c.run(tmp_path, png(case.films[0]))
    ours = np.asarray(case.features(found, prepared(case.films[:1], preset)))[0]
    assert theirs.shape == (4, 4, 16) and theirs.dtype == np.float32
    assert difference(ours, theirs) < TOLERANCE


def test_a_mistake_shows_in_the_features(case):
    first, second, wrong = (
        np.asarray(case.features(variables, prepared([film])))
        for variables, film in (
            (case.variables, case.films[0]),
            (case.variables, case.films[1]),
            (swap_two_leaves(case.variables), case.films[0]),
        )
    )
    assert difference(second, first) > 0.1
    assert difference(wrong, first) > 100 * TOLERANCE


@function.Defun(tf.float32, func_name="swish_f32")
def defun_swish(x: Any) -> Any:
    """As in TensorFlow 1.x: the node's kind is the name of a function."""
    return x * tf.nn.sigmoid(x)


@pytest.mark.parametrize(
    "style",
    [
        Style(fused=False, explicit_padding="EXPLICIT", loop=False),
        Style(swish=defun_swish),
        Style(swish=plain_swish, explicit_padding="Pad"),
    ],
    ids=["unfused", "Defun", "Pad"],
)
def test_other_ways_to_write_it(style):
    tf.compat.v1.disable_control_flow_v2()  # tf.map_fn gives a loop of Enter, Merge, Switch, Exit
    try:
        found = matched(flat_graph("tiny", style))
    finally:
        tf.compat.v1.enable_control_flow_v2()
    assert found.keys() == shapes_of("tiny").keys()


@pytest.mark.slow
def test_all_leaves_of_l2_are_found(monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", ALL_STAGES)
    found = matched(flat_graph("l2", Style(swish=plain_swish, loop=False)))
    assert found.keys() == shapes_of("l2").keys()
    # `flat_graph` numbers variables as it reads them: stem first, then block after block.
    order = [int(op.attributes["shared_name"][1:]) for op in found.values()]
    assert order == list(range(len(order)))


# What it refuses


def with_variable(x: Any) -> Any:
    handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="scale")
    return x * tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


def with_a_second_branch(x: Any) -> Any:
    handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[5, 5, 16, 16], shared_name="kernel")
    kernel = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
    return x + tf.nn.conv2d(tf.zeros([1, 4, 4, 16]), kernel, 1, "SAME")


def with_a_file(x: Any) -> Any:
    with tf.control_dependencies([tf.io.write_file("written", "by the SavedModel")]):
        return tf.identity(x)


@pytest.mark.parametrize(
    "style, spoil, message",
    [
        (Style(epsilon=1e-5), None, r"FusedBatchNormV3 .* has epsilon 1e-05, expected 0.001"),
        (Style(epsilon=1e-5, fused=False), None, r"AddV2 .* has epsilon 1e-05, expected 0.001"),
        (Style(half_pixel_centers=True), None, "has half_pixel_centers True, expected False"),
        (Style(align_corners=True), None, "has align_corners True, expected False"),
        (Style(size=(SIZE, 128)), None, "resizes to 160 x 128, expected a square"),
        (
            Style(explicit_padding="Pad", padding=(1, 1)),
            None,
            r"Conv2D .* pads 160 x 160 by \[1, 1, 1, 1\] .* expected \[0, 1, 0, 1\]",
        ),
        (Style(pool=4), None, "AvgPool 1x4x4x1 of stride 4 .* expected pooled_map AvgPool 1x5x5x1"),
        (Style(swish=tf.nn.relu), None, "Relu .* is none of the operations"),
        (Style(), with_variable, "VarHandleOp .* is used by 0 layers, expected 1"),
        (Style(), with_a_second_branch, "does not depend on .*: their order is not certain"),
        (Style(), with_a_file, "WriteFile .* is none of the operations"),
        (Style(), tf.function(with_a_file), "WriteFile .* is none of the operations"),
    ],
)
def test_other_networks_are_refused(style, spoil, message):
    style = dataclasses.replace(style, loop=False)
    with pytest.raises(ValueError, match=message):
        matched(flat_graph("tiny", style, spoil or tf.identity))


def test_another_architecture_is_compared_with_the_nearest(monkeypatch):
    meta_graph = flat_graph("tiny", Style(loop=False))
    monkeypatch.delitem(VARIANTS, "tiny")
    message = r"layer \d+ of \d+ is .* expected stage2_block2/depthwise_conv .* as in five "
    with pytest.raises(ValueError, match=message):
        matched(meta_graph)


def test_a_signature_with_another_output_is_refused():
    meta_graph = flat_graph("tiny", Style(loop=False))
    meta_graph.signature_def["serving_default"].outputs["embedding"].CopyFrom(
        meta_graph.signature_def["serving_default"].outputs.pop(elixr_c.OUTPUT)
    )
    with pytest.raises(ValueError, match=r"gives \['embedding'\], expected .* feature_maps_0"):
        saved_model.trace(meta_graph, elixr_c.OUTPUT)


def save_graph(path: pathlib.Path, meta_graph: Any) -> None:
    meta_graph.meta_info_def.tags.append("serve")
    model = saved_model_pb2.SavedModel(meta_graphs=[meta_graph])
    (path / "saved_model.pb").write_bytes(model.SerializeToString())


def test_nothing_is_run_that_could_write_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_graph(tmp_path, flat_graph("tiny", Style(loop=False), tf.function(with_a_file)))
    with pytest.raises(ValueError, match="WriteFile"):
        elixr_c.read(tmp_path)
    with pytest.raises(ValueError, match="WriteFile"):
        elixr_c.run(tmp_path, b"")
    assert not (tmp_path / "written").exists()


def test_a_function_that_is_not_called_cannot_take_the_place_of_one_that_is(tmp_path, monkeypatch):
    """TensorFlow's optimizer swaps functions that claim to implement the same."""
    monkeypatch.chdir(tmp_path)

    def implementation(body: Callable, device: str) -> Any:
        attributes = {"api_implements": "same", "api_preferred_device": device}
        spec = [tf.TensorSpec([None], tf.float32)]
        options = {"experimental_attributes": attributes, "autograph": False}
        return tf.function(body, input_signature=spec, **options)

    def harmful(x: Any) -> Any:
        with tf.control_dependencies([tf.raw_ops.WriteFile(filename="written", contents="x")]):
            return x + 2.0

    with tf.Graph().as_default() as graph:
        examples = tf.compat.v1.placeholder(tf.string, [None], "examples")
        implementation(harmful, "CPU").get_concrete_function().add_to_graph(graph)
        with tf.device("/device:CPU:0"):
            ones = implementation(lambda x: x + 0.0, "GPU")(tf.fill(tf.shape(examples), 1.0))
        output = tf.identity(ones, "output")
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=graph)
    signature = meta_graph.signature_def["serving_default"]
    signature.inputs["examples"].name, signature.outputs["output"].name = examples.name, output.name
    assert "WriteFile" in str(meta_graph.graph_def.library)
    program = saved_model.trace(meta_graph, "output")
    assert "WriteFile" not in str(program.graph_def.library)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        tf.graph_util.import_graph_def(program.graph_def, name="")
        assert session.run(program.output, {program.input: [b""]}).tolist() == [1.0]
    assert not (tmp_path / "written").exists()


def test_broken_folders_are_explained(case, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the folder of a SavedModel"):
        elixr_c.read(tmp_path)
    save_1(tmp_path, case.variables, Style(loop=False))
    good = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    graph, data = tmp_path / "saved_model.pb", next(tmp_path.rglob("*.data-*"))

    graph.write_bytes(good[graph][:-1000])
    with pytest.raises(ValueError, match=r"Error parsing message.*damaged.*fetch that one again"):
        elixr_c.read(tmp_path)
    graph.write_bytes(b"")
    with pytest.raises(ValueError, match="no graph with the tag serve"):
        elixr_c.read(tmp_path)
    graph.write_bytes(good[graph])
    data.write_bytes(good[data][: len(good[data]) // 2])
    saved_model.checkpoint_reader.cache_clear()
    checkpoint = elixr_c.read(tmp_path)
    with pytest.raises(ValueError, match="damaged"):
        for leaf in checkpoint.leaves.values():
            leaf.read()
    with pytest.raises(ValueError, match="damaged"):
        elixr_c.run(tmp_path, png(case.films[0]))
    for file in tmp_path.rglob("*.index"):
        file.unlink()
    saved_model.checkpoint_reader.cache_clear()
    with pytest.raises(ValueError, match="damaged"):
        elixr_c.read(tmp_path)
