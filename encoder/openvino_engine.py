"""The forward pass on CPUs by OpenVINO: the same variables in one graph, BatchNorm folded in.

XLA on CPU multiplies matrices at three quarters of OpenVINO's speed and has no use for a CPU's
bfloat16 instructions, and matrix products are two thirds of the network's time. A batch is computed
in several calls side by side, each of so few films that they do not leave the CPU's caches.
"""

import collections
import functools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, PyTree

from . import batch_norm, efficientnet, embedding_layers
from .card import Card
from .weights import Variables

# Otherwise each import of OpenVINO reports itself to its maker, from a fork of this process.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

Tag = TypeVar("Tag")
Tree = Mapping[str, PyTree[np.ndarray]]
Tensor: TypeAlias = openvino.Node  # of a graph; [b c h w] unless said otherwise
Activation: TypeAlias = Callable[[Tensor], Tensor]

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
FEW_POSITIONS = 100  # of a map: joined, films of 49 are a quarter faster, of 196 no faster
CACHES = pathlib.Path("/sys/devices/system/cpu/cpu0/cache")  # a folder for each level


def _constant(value: np.ndarray) -> Tensor:
    return ops.constant(np.ascontiguousarray(value, np.float32))


def _wide(channels: np.ndarray) -> Tensor:
    return _constant(channels[None, :, None, None])


def _average(x: Tensor, keep_dims: bool = False) -> Tensor:
    return ops.reduce_mean(x, ops.constant(np.array([2, 3])), keep_dims)


def _convolve(x: Tensor, kernel: np.ndarray, stride: int = 1) -> Tensor:
    """Kernel [h w i o]; depthwise where i is 1 and the channels are several."""
    setting = [stride] * 2, [0, 0], [0, 0], [1, 1], "same_upper"  # TensorFlow's SAME
    filters = kernel.transpose(3, 2, 0, 1)
    if x.output(0).shape[1] > kernel.shape[2] == 1:
        return ops.group_convolution(x, _constant(filters[:, None]), *setting)
    return ops.convolution(x, _constant(filters), *setting)


def _in_films(x: Tensor, films: int) -> Tensor:
    """The same rows of pixels as so many films: [b c h w] -> [films c b*h/films w]."""
    _, channels, _, width = x.output(0).shape
    rows = ops.transpose(x, ops.constant(np.array([0, 2, 3, 1])))
    rows = ops.reshape(rows, ops.constant(np.array([films, -1, width, channels])), False)
    return ops.transpose(rows, ops.constant(np.array([0, 3, 1, 2])))


def _conv_bias(
    x: Tensor, kernel: np.ndarray, bias: np.ndarray, activation: Activation, stride: int = 1
) -> Tensor:
    """A convolution, bias and activation; for 1x1 kernels films with small maps are joined to one.

    OpenVINO reads the kernel anew for each film of a call, and waits for it where a film has few
    positions to multiply by it.
    """
    films, _, height, width = x.output(0).shape
    joined = films > 1 and kernel.shape[0] == 1 and height * width <= FEW_POSITIONS
    if joined:
        x = _in_films(x, 1)
    x = activation(_convolve(x, kernel, stride) + _wide(bias))
    return _in_films(x, films) if joined else x


def _folded(params: Tree, stats: Tree, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The kernel and bias of a convolution with the BatchNorm after it."""
    norm, found = params[f"{name}_bn"], stats[f"{name}_bn"]
    factor = norm["scale"] / np.sqrt(found["var"] + batch_norm.EPSILON)
    return params[f"{name}_conv"]["kernel"] * factor, norm["bias"] - found["mean"] * factor


def _activation(card: Card) -> Activation:
    """As `efficientnet.activation_of`."""
    lite = efficientnet.VARIANTS[card.variant].lite
    return functools.partial(ops.clamp, min_value=0, max_value=6) if lite else ops.swish


def _stem(grey: Tensor, card: Card, params: Tree, stats: Tree) -> Tensor:
    """The channels' normalisation and the first convolution, exact where numbers are bfloat16.

    The three channels are one grey image and a constant, in different shares. So are, in a
    convolution that pads with zeros, the answers to them: its kernels on the image and on ones,
    where the bias is the middle of a kernel. They are differences of neighbours: rounded, they
    answer to plain grey, and of all roundings in the network that one costs the embedding most. So
    each is the sum of two, the second the rounding error of the first.
    """
    kernel, bias = _folded(params, stats, "stem")
    on_grey = np.einsum("hwio,i->hwo", kernel, 1 / np.array(card.std))
    on_ones = np.einsum("hwio,i->hwo", kernel, -np.array(card.mean) / card.std)
    on_ones[1, 1] += bias
    kernel = np.stack([on_grey, on_ones], axis=2)
    rounded = kernel.astype(jnp.bfloat16).astype(np.float64)
    kernel = np.concatenate([rounded, kernel - rounded], axis=2)
    ones = _constant(np.ones(grey.output(0).shape))
    return _activation(card)(_convolve(ops.concat([grey, ones, grey, ones], 1), kernel, stride=2))


def _conv_bn(
    x: Tensor, params: Tree, stats: Tree, name: str, activation: Activation, stride: int = 1
) -> Tensor:
    """As `efficientnet.conv_bn`."""
    return _conv_bias(x, *_folded(params, stats, name), activation, stride)


def _squeeze_excite(x: Tensor, params: Tree) -> Tensor:
    """As `efficientnet.SqueezeExcite`."""
    gate = _average(x, keep_dims=True)
    for name, activation in {"reduce": ops.swish, "expand": ops.sigmoid}.items():
        layer = params[name]
        gate = _conv_bias(gate, layer["kernel"], layer["bias"], activation)
    return x * gate


def _block(
    inputs: Tensor, params: Tree, stats: Tree, activation: Activation, stride: int
) -> Tensor:
    """As `efficientnet.MBConv`."""
    x = inputs
    if "expand_conv" in params:
        x = _conv_bn(x, params, stats, "expand", activation)
    x = _conv_bn(x, params, stats, "depthwise", activation, stride)
    if "squeeze_excite" in params:
        x = _squeeze_excite(x, params["squeeze_excite"])
    x = _conv_bn(x, params, stats, "project", lambda y: y)
    same = stride == 1 and x.output(0).shape == inputs.output(0).shape
    return x + inputs if same else x


def films_a_call(card: Card, dtype: str, films: int) -> int:
    """How many films of a batch, a divisor, are best computed in one call, beside other calls.

    A call reads the weights once, so more films are faster as long as all cores have one. But where
    the largest maps of all calls fill more than a third of the last cache, they are slower.
    """
    _, cores = openvino.Core().get_property("CPU", "RANGE_FOR_STREAMS")
    calls = min(films, cores)
    numbers = embedding_layers.largest_map(card.variant, card.resolution)
    cached = last_cache_bytes() / 3 / (jnp.dtype(dtype).itemsize * numbers * calls)
    return max(n for n in range(1, films // calls + 1) if films % n == 0 and n <= max(1, cached))


def last_cache_bytes() -> int:
    """The size of this CPU's last cache, as Linux gives it; 0 where it does not."""
    sizes = sorted(CACHES.glob("index*/size"))
    return 1024 * int(sizes[-1].read_text().strip().removesuffix("K")) if sizes else 0


def _build(card: Card, variables: Variables, layer: str, films: int) -> openvino.Model:
    """The program of `inference.make_forward` as a graph of OpenVINO, for so many films."""
    variables = jax.tree.map(np.asarray, variables)
    params, stats = variables["params"], variables["batch_stats"]
    height = width = card.resolution
    images = ops.parameter([films, height, width, 1], np.float32)
    x = ops.reshape(images, ops.constant(np.array([films, 1, height, width])), False)
    x = _stem(x, card, params, stats)
    activation = _activation(card)
    blocks = efficientnet.stage_blocks(card.variant)
    for i, (stage, count) in enumerate(zip(efficientnet.STAGES, blocks, strict=True), start=1):
        for j in range(1, count + 1):
            name = f"stage{i}_block{j}"
            x = _block(x, params[name], stats[name], activation, stage[1] if j == 1 else 1)
    if card.head_width is not None and layer not in ("pooled", "feature_map", "pooled_map"):
        x = _conv_bn(x, params, stats, "head", activation)
    if layer == "pooled_map":
        patch = [efficientnet.POOLED_MAP_PATCH] * 2
        x = ops.avg_pool(x, patch, [0, 0], [0, 0], patch, True)
    if layer.endswith("_map"):
        x = ops.transpose(x, ops.constant(np.array([0, 2, 3, 1])))
    else:
        x = _average(x)
        if layer == "projection":
            x = ops.matmul(x, _constant(params["projection"]["kernel"]), False, False)
    return openvino.Model([ops.reshape(x, ops.constant(np.array([films, -1])), False)], [images])


def compile(
    card: Card, variables: Variables, layer: str, dtype: str, films: int
) -> list[openvino.InferRequest]:
    """The network's program, with requests for as many calls as shall run or wait.

    A request takes images float32 [`films_a_call` h w 1] in [0, 1] to float32 [`films_a_call` dim].

    Args:
        card, variables: float32, of the network.
        layer: an embedding that the card offers, or `head_map`.
        dtype: of the computation, float32 or bfloat16.
        films: of a batch: one alone has all cores, several share them.
    """
    graph = _build(card, variables, layer, films_a_call(card, dtype, films))
    setting = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        "PERFORMANCE_HINT": "THROUGHPUT" if films > 1 else "LATENCY",
    }
    program = openvino.Core().compile_model(graph, "CPU", setting)
    at_once = program.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    return [program.create_infer_request() for _ in range(2 * at_once)]  # one runs, one is ready


def embed(
    requests: Sequence[openvino.InferRequest],
    batches: Iterable[tuple[Tag, Float[np.ndarray, "b h w 1"]]],
) -> Iterator[tuple[Tag, Float32[np.ndarray, "b dim"]]]:
    """As `inference.embed`, with requests of `compile`; they compute while films are fetched."""
    films, width = requests[0].get_output_tensor().shape
    idle = collections.deque(requests)
    running: collections.deque[tuple[openvino.InferRequest, np.ndarray, list]] = collections.deque()

    def finish() -> list[tuple[Tag, np.ndarray]]:
        """The oldest call; returns the batch that it completes, if any."""
        request, rows, completed = running.popleft()
        request.wait()
        rows[:] = request.get_output_tensor().data
        idle.append(request)
        return completed

    for tag, images in batches:
        embeddings = np.empty((len(images), width), np.float32)
        for start in range(0, len(images), films):
            if not idle:
                yield from finish()
            call = slice(start, start + films)
            request = idle.popleft()
            request.start_async({0: images[call]})
            last = call.stop == len(images)
            running.append((request, embeddings[call], [(tag, embeddings)] if last else []))
    while running:
        yield from finish()
