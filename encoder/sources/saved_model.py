"""A TensorFlow SavedModel: its graph read as data, and run where that is allowed.

A SavedModel is a program, and TensorFlow's own loader runs what it says. Here only that part is
ever run that one output needs, and only if it consists of what image networks need.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from jaxtyping import Float32

from ..damaged import explained

if TYPE_CHECKING:
    from tensorflow.core.framework.attr_value_pb2 import AttrValue
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
    from tensorflow.python.training.py_checkpoint_reader import CheckpointReader
else:  # TensorFlow is imported in a process of its own
    AttrValue = GraphDef = NodeDef = MetaGraphDef = Message
    CheckpointReader = object

Answer = TypeVar("Answer")

PREFIX = "variables/variables"  # of the files with the values
VARIABLES = ("VarHandleOp", "VariableV2")
CALLS = ("PartitionedCall", "StatefulPartitionedCall")
PASSING = ("Identity", "IdentityN", "ReadVariableOp", "Cast", "Enter")  # the values stay
MAX_OPS = 200_000  # L2 and its saver have 23,000

# TensorFlow has ops that read and write files, call Python or the network; a list of those could
# miss one, so here are all that an image network needs.
ALLOWED = {*VARIABLES, *CALLS, *PASSING, *"""
    Placeholder PlaceholderWithDefault Const NoOp StopGradient PreventGradient Snapshot ParseExample
    ParseExampleV2 ParseSingleExample DecodePng DecodeImage ResizeBilinear Conv2D
    DepthwiseConv2dNative BiasAdd FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 AvgPool Pad While
    StatelessWhile If StatelessIf Exit Switch Merge NextIteration LoopCond TensorArrayV3
    TensorArrayReadV3 TensorArrayWriteV3 TensorArrayGatherV3 TensorArrayScatterV3 TensorArraySizeV3
    TensorListFromTensor TensorListReserve TensorListGetItem TensorListSetItem TensorListStack Shape
    Size Rank Reshape ExpandDims Squeeze StridedSlice Slice Pack Unpack Split Concat ConcatV2 Tile
    Fill Range BroadcastTo Transpose GatherV2 ZerosLike OnesLike Select SelectV2 Equal NotEqual Less
    LessEqual Greater GreaterEqual LogicalAnd LogicalOr LogicalNot Assert Min Max Minimum Maximum
    Mean Sum Prod All Any Add AddV2 Sub Mul Div RealDiv DivNoNan FloorDiv FloorMod Neg Square Sqrt
    Rsqrt Reciprocal Exp Tanh Sigmoid
""".split()}  # fmt: skip


@dataclasses.dataclass(eq=False)
class Op:
    """One operation of a graph, as TensorFlow's NodeDef; attributes with default values are absent.

    `functions` are names of those that it may call, `inputs` the ops that it takes values of and
    which of their outputs, `controls` ops that run whenever it does.
    """

    name: str
    kind: str
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    functions: list[str] = dataclasses.field(default_factory=list)
    inputs: list[tuple["Op", int]] = dataclasses.field(default_factory=list)
    controls: list["Op"] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    @property
    def variable(self) -> str:
        """Name of a variable, the same for all ops that stand for it."""
        return self.attributes.get("shared_name", b"").decode() or self.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a variable, as the graph declares it."""
        return tuple(side.size for side in self.attributes["shape"].dim)


class Program(NamedTuple):
    """What computes an output of a SavedModel's signature, and nothing else."""

    graph_def: GraphDef  # the ops needed, as TensorFlow takes them
    input: str  # name of a tensor
    output: str
    ops: list[Op]  # the same, and those of the functions they call, each after its inputs
    keys: dict[str, str]  # `Op.variable` -> what the checkpoint calls it


def process() -> concurrent.futures.Executor:
    """A process for TensorFlow, which takes 0.5 GB; it ends with the last reference to it."""
    spawn = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(1, spawn, _frugal_tensorflow)


def ask(
    process: concurrent.futures.Executor, function: Callable[..., Answer], *arguments: object
) -> Answer:
    """What a function returns or raises in a `process`; ChildProcessError if that was killed."""
    try:
        return process.submit(function, *arguments).result()
    except concurrent.futures.process.BrokenProcessPool:
        raise ChildProcessError("TensorFlow was killed; L2 needs 4.2 GB of memory") from None


def _frugal_tensorflow() -> None:
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # with it, L2 takes 0.4 GB more
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def run(path: pathlib.Path, features: dict[str, bytes], output: str, model: str) -> np.ndarray:
    """What a SavedModel gives for one tf.Example, with an axis of batches if it has one.

    It runs only what `trace` found and allowed. For a `process`. `model` is for messages. Raises
    FileNotFoundError or, if it is damaged or might do what no image network does, ValueError.
    """
    sys.modules.setdefault("jax", None)  # type: ignore[arg-type]  # or TensorFlow imports it: 0.1 GB
    import tensorflow as tf

    example = tf.train.Example()
    for key, value in features.items():
        example.features.feature[key].bytes_list.value.append(value)
    options = tf.compat.v1.ConfigProto()  # no optimizer, for one swaps functions for others
    options.graph_options.rewrite_options.disable_meta_optimizer = True
    session = tf.compat.v1.Session(graph=tf.Graph(), config=options)
    with understood(path, model), session:
        program = trace(meta_graph(path), output)
        tf.graph_util.import_graph_def(program.graph_def, name="")
        variables = [op for op in program.ops if op.kind in VARIABLES]
        values = tf.raw_ops.RestoreV2(
            prefix=str(path / PREFIX),
            tensor_names=[program.keys[op.variable] for op in variables],
            shape_and_slices=[""] * len(variables),
            dtypes=[tf.as_dtype(op.attributes["dtype"]) for op in variables],
        )
        restored = []
        for op, value in zip(variables, values, strict=True):
            there = session.graph.get_tensor_by_name(f"{op.name}:0")
            if op.kind == "VarHandleOp":
                restored.append(tf.raw_ops.AssignVariableOp(resource=there, value=value))
            else:
                restored.append(tf.raw_ops.Assign(ref=there, value=value).op)
        session.run(restored)
        batch = [example.SerializeToString()]
        single = session.graph.get_tensor_by_name(program.input).shape.rank == 0
        return session.run(program.output, {program.input: batch[0] if single else batch})


@functools.cache
def checkpoint_reader(path: pathlib.Path) -> CheckpointReader:
    """TensorFlow's reader of the values of a SavedModel."""
    import tensorflow as tf

    return tf.train.load_checkpoint(str(path / PREFIX))


def value(path: pathlib.Path, key: str, model: str) -> Float32[np.ndarray, "..."]:
    """One array of a SavedModel, for a `process`; damage raises ValueError."""
    with understood(path, model):
        return np.asarray(checkpoint_reader(path).get_tensor(key), np.float32)


def understood(path: pathlib.Path, model: str) -> AbstractContextManager[None]:
    """Raises ValueError with what to do in place of what a damaged or foreign file leads to."""
    import tensorflow as tf

    damages = ArithmeticError, AttributeError, LookupError, TypeError, ValueError
    return explained(
        f"{path} is not understood",
        f"it is damaged, or another model than {model}; fetch that one again",
        (*damages, DecodeError, tf.errors.OpError),
    )


def meta_graph(path: pathlib.Path) -> MetaGraphDef:
    """The MetaGraphDef for serving; raises as `run` does."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    if not file.is_file():
        raise FileNotFoundError(f"{file} not found: expected the folder of a SavedModel")
    for found in saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs:
        if "serve" in found.meta_info_def.tags:
            return found
    raise ValueError(f"{file.name} has no graph with the tag serve")


def trace(meta_graph: MetaGraphDef, output: str) -> Program:
    """Finds what an output of `serving_default` depends on, through all calls of functions.

    Raises:
        ValueError: the signature is not of one string in, or needs an op that is not `ALLOWED`.
    """
    signature = meta_graph.signature_def["serving_default"]
    inputs = [f"{key}: {value.name}" for key, value in signature.inputs.items()]
    if len(inputs) != 1 or output not in signature.outputs:
        raise ValueError(
            f"its serving_default takes {inputs} and gives {[*signature.outputs]}, expected one "
            f"serialized tf.Example and {output}"
        )
    (source,), result = signature.inputs.values(), signature.outputs[output].name
    graph, everything = _inlined(meta_graph.graph_def)
    ops = _in_order(graph[result.split(":")[0]])
    for op in ops:
        if op.kind not in ALLOWED:
            raise ValueError(f"{op} is none of the operations that an image network needs")
    keys = {}
    for op in everything:  # the saver itself says under which key it saves a variable
        if op.kind == "SaveV2":
            for key, saved in zip(constant(origin(op.inputs[1])), op.inputs[3:], strict=True):
                keys[origin(saved).variable] = key.decode()
    needed = {op.name for op in ops if graph.get(op.name) is op}
    kept = type(meta_graph.graph_def)(
        node=[node for node in meta_graph.graph_def.node if node.name in needed],
        versions=meta_graph.graph_def.versions,
    )
    called = {name for op in ops for name in op.functions}
    library = meta_graph.graph_def.library.function
    kept.library.function.extend(one for one in library if one.signature.name in called)
    return Program(kept, source.name, result, ops, keys)


def _inlined(graph_def: GraphDef) -> tuple[dict[str, Op], list[Op]]:
    """The ops of a graph by name, and all of them with those of the functions they call.

    A call becomes the identity of what its function returns. A loop or a condition depends on what
    its functions return as well as on its own inputs.
    """
    library = {function.signature.name: function for function in graph_def.library.function}
    graph = _linked(graph_def.node, {})
    everything = [*graph.values()]
    for op in everything:  # which grows on the way
        given = op.inputs[1:] if op.kind.endswith("If") else op.inputs
        returned = []
        for function in (library[name] for name in op.functions if name in library):
            names = [argument.name for argument in function.signature.input_arg]
            body = _linked(function.node_def, dict(zip(names, given, strict=True)))
            results = (function.ret[result.name] for result in function.signature.output_arg)
            returned += [_reference(body, result) for result in results]
            op.controls += body.values()  # TensorFlow runs these whether they are used or not
            everything += body.values()
        if op.kind in CALLS or op.kind in library:
            op.kind, op.inputs = "IdentityN", returned
        else:
            op.inputs = op.inputs + returned
        if len(everything) > MAX_OPS:
            raise ValueError(f"its graph has more than {MAX_OPS} ops")
    return graph, everything


def _linked(nodes: Iterable[NodeDef], given: dict[str, tuple[Op, int]]) -> dict[str, Op]:
    """The NodeDefs of one graph or function as ops by name; arguments are what is given."""
    ops = {name: Op(name, "Identity", inputs=[source]) for name, source in given.items()}
    for node in nodes:
        attributes = {key: _value(attribute) for key, attribute in node.attr.items()}
        functions = [value.func.name for value in node.attr.values() if value.HasField("func")]
        ops[node.name] = Op(node.name, node.op, attributes, [*functions, node.op])
    for node in nodes:
        for reference in node.input:
            if reference.startswith("^"):
                ops[node.name].controls.append(ops[reference[1:]])
            else:
                ops[node.name].inputs.append(_reference(ops, reference))
    return ops


def _reference(ops: dict[str, Op], reference: str) -> tuple[Op, int]:
    """The node and output that "name", "name:1" or, in a function, "name:output:1" means."""
    name, _, output = reference.partition(":")
    return ops[name], int(output.split(":")[-1] or 0)


def _value(attribute: AttrValue) -> Any:
    """A number, bytes, a list of numbers or another message: what its kind says."""
    kind = attribute.WhichOneof("value")
    return list(attribute.list.i) if kind == "list" else kind and getattr(attribute, kind)


def _in_order(output: Op) -> list[Op]:
    """All that an op depends on, depth first: each after its inputs, unless they loop."""
    order, seen, stack = [], set(), [(output, False)]
    while stack:
        op, inputs_done = stack.pop()
        if inputs_done:
            order.append(op)
        elif op not in seen:
            seen.add(op)
            stack.append((op, True))
            stack += [(source, False) for source in (*op.controls, *(op for op, _ in op.inputs))]
    return order


def origin(source: tuple[Op, int]) -> Op:
    """The op that made an input of another, past those that only pass it on."""
    op, index = source
    for _ in range(MAX_OPS):
        if op.kind not in PASSING:
            return op
        op, index = op.inputs[index if op.kind == "IdentityN" else 0]
    raise ValueError(f"{op} depends on itself")


def constant(op: Op) -> np.ndarray:
    """The value of a Const; raises ValueError if it is none."""
    import tensorflow as tf

    if op.kind != "Const":
        raise ValueError(f"{op} stands where a constant is expected")
    return tf.make_ndarray(op.attributes["value"])
