"""PyTorch's files of tensors (.pth, .bin) without PyTorch, and without running what is in them.

Such a file is a pickle beside raw numbers, and unpickling runs any code that the pickle names. Here
nothing is unpickled: its opcodes are walked, the few that a dict of tensors is made of are
interpreted, every other one is refused. Numbers stay in the file until they are asked for.
"""

import io
import math
import pathlib
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..damaged import explained
from .checkpoint import Leaf

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MOST_PICKLED = 16 << 20  # bytes of pickles in a file; L2's take 0.4 MB
MOST_NUMBERS = 1 << 48  # in a storage: arithmetic with lies stays quick
MOST_DIMENSIONS = 8
ADVICE = (
    "expected a dict of tensors as torch.save writes it; fetch the file again from where it was "
    "published"
)
STATE_DICTS = ("state_dict_ema", "state_dict", "model")  # in an outer dict, the best first


class StoredNumbers(NamedTuple):
    """A run of numbers in the file; `length` is what the pickle says, not what the file holds."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """A view of a storage; `offset` and `strides` count numbers, not bytes."""

    storage: StoredNumbers
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Contents(NamedTuple):
    """The pickled object, the bytes that each storage really has, and what reads them by key."""

    pickled: object
    sizes: dict[str, int]
    load: Callable[[str], bytes]


def tensors(path: pathlib.Path) -> dict[str, Leaf]:
    """The tensors of a file that `torch.save` wrote, in today's zip format or in that before 1.6.

    It holds a dict of tensors, or one under one of `STATE_DICTS`. Leaves are in the stored layout.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged or cut off, holds something else, or asks for code to be run; also
            by `read` of a leaf.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == ZIP_MAGIC
    with explained(f"{path} cannot be read", ADVICE):
        contents = _open_zip(path) if is_zip else _open_legacy(path)
        named = _state_dict(contents.pickled)
        return {name: _leaf(path, name, tensor, contents) for name, tensor in named.items()}


def network_leaves(
    tensors: dict[str, Leaf], classifier: str, our_path: Callable[[str], str | None]
) -> tuple[dict[str, Leaf], list[str]]:
    """Leaves of a PyTorch network by our paths and in our layout; and what is left out of them.

    Kernels go from [out in h w] to [h w in out]; depthwise ones, [c 1 h w], to [h w 1 c].

    Args:
        tensors: in PyTorch's layout, by their names.
        classifier: how the names of the classifier's begin.
        our_path: our path of a name, None where there is none: it stays under its own.
    """
    leaves, dropped, counters = {}, [], 0
    for name, leaf in tensors.items():
        if name.startswith(classifier):
            dropped.append(name)
        elif name.endswith(".num_batches_tracked"):
            counters += 1
        else:
            leaves[our_path(name) or name] = _channels_last(leaf)
    if counters:
        dropped.append(f"num_batches_tracked of {counters} BatchNorms")
    return leaves, dropped


def _channels_last(leaf: Leaf) -> Leaf:
    if len(leaf.shape) != 4:
        return leaf
    outputs, inputs, height, width = leaf.shape
    shape = (height, width, inputs, outputs)
    return Leaf(leaf.name, shape, lambda: leaf.read().transpose(2, 3, 1, 0))


def _state_dict(pickled: object) -> dict[str, Tensor]:
    if isinstance(pickled, dict):
        pickled = next((pickled[name] for name in STATE_DICTS if name in pickled), pickled)
    if not isinstance(pickled, dict):
        raise ValueError(f"it holds a {type(pickled).__name__}, no dict")
    for name, value in pickled.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"its dict holds a {type(value).__name__} under {str(name)[:80]!r}")
    return pickled


def _leaf(path: pathlib.Path, name: str, tensor: Tensor, contents: Contents) -> Leaf:
    key, dtype, count = tensor.storage
    if (found := contents.sizes.get(key)) != count * dtype.itemsize:
        said = f"{count * dtype.itemsize} bytes of storage {key[:80]!r}"
        raise ValueError(f"{name} needs {said}, but the file has {found}")

    def read() -> np.ndarray:
        strides = [dtype.itemsize * stride for stride in tensor.strides]
        with explained(f"{path} cannot be read", ADVICE):
            start = dtype.itemsize * tensor.offset
            values = np.ndarray(tensor.shape, dtype, contents.load(key), start, strides)
            return values.astype(np.float32)

    return Leaf(name, tensor.shape, read)


def _open_zip(path: pathlib.Path) -> Contents:
    """torch >= 1.6: <a folder>/data.pkl, and every storage a file in <a folder>/data/."""
    archive = zipfile.ZipFile(path)  # open as long as a leaf is held
    end = path.stat().st_size
    members = {member.filename: member for member in archive.infolist()}
    for name, member in members.items():
        size = member.file_size
        stored = member.compress_type == zipfile.ZIP_STORED and size == member.compress_size
        if not stored or member.header_offset + size > end:
            raise ValueError(f"{name[:80]!r} in it is compressed or longer than the file")
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1 or members[f"{roots[0]}data.pkl"].file_size > MOST_PICKLED:
        raise ValueError(f"it is a zip with {len(roots)} data.pkl, expected one of at most 16 MiB")
    byteorder = f"{roots[0]}byteorder"
    if byteorder in members and archive.read(byteorder) != b"little":
        raise ValueError("its numbers are not little-endian")
    pickled = _walk(io.BytesIO(archive.read(f"{roots[0]}data.pkl")), {})
    folder = f"{roots[0]}data/"
    sizes = {name.removeprefix(folder): member.file_size for name, member in members.items()}
    return Contents(pickled, sizes, lambda key: archive.read(folder + key))


def _open_legacy(path: pathlib.Path) -> Contents:
    """torch < 1.6: five pickles, then for every storage its count (int64) and its numbers."""
    end, places = path.stat().st_size, {}
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(MOST_PICKLED))
        start = stream.getvalue()[:16]
        if start[:1] != b"\x80" or _walk(stream, {}) != LEGACY_MAGIC:
            raise ValueError(f"it begins with {start!r}, neither a zip nor torch's older format")
        protocol = _walk(stream, {})
        if protocol != LEGACY_PROTOCOL or not _walk(stream, {})["little_endian"]:  # type: ignore[index]
            raise ValueError(f"its protocol is not {LEGACY_PROTOCOL}, little-endian")
        storages: dict[str, StoredNumbers] = {}
        pickled = _walk(stream, storages)
        if _walk(stream, {}) != sorted(storages):
            raise ValueError("its list of storages is not that of its tensors")
        file.seek(stream.tell())
        for key in sorted(storages):
            (count,) = struct.unpack("<q", file.read(8))
            size = storages[key].dtype.itemsize * count
            if not 0 <= size <= end - file.tell():
                raise ValueError(f"storage {key[:80]!r} of {size} bytes is longer than the file")
            places[key] = (file.tell(), size)
            file.seek(size, io.SEEK_CUR)

    def load(key: str) -> bytes:
        start, size = places[key]
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    return Contents(pickled, {key: size for key, (_, size) in places.items()}, load)


def _walk(stream: io.BytesIO, storages: dict[str, StoredNumbers]) -> object:
    """What the pickle at the stream's position describes; leaves the stream behind it.

    `storages` gets all that the pickle refers to, by their keys. An opcode or a global that no dict
    of tensors is made of raises ValueError; opcodes that make no sense raise any error.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[object, Any] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in OPERANDS:
            start = len(stack) - OPERANDS[name] if OPERANDS[name] else marks.pop()
            operands = stack[start:]
            del stack[start:]
        match name:
            case "PROTO":
                pass
            case "MARK":
                marks.append(len(stack))
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(operands))
            case "APPEND" | "APPENDS":
                stack[-1].extend(operands)  # of all that can be there, lists alone have it
            case "SETITEM" | "SETITEMS":
                _set_items(stack[-1], operands)
            case "BUILD":  # attributes of an OrderedDict, such as _metadata: ignored
                _set_items(stack[-1], [])
            case "GLOBAL" if argument in GLOBALS:
                stack.append(GLOBALS[argument])
            case "REDUCE":
                function, arguments = operands
                stack.append(function(*arguments))  # only `GLOBALS` puts functions on the stack
            case "BINPERSID":
                storage = _storage(operands[0])
                storages[storage.key] = storage
                stack.append(storage)
            case "STOP":
                return stack.pop()
            case _:
                asked = f"{name} {argument or ''}".strip()[:80]
                raise ValueError(f"it asks for {asked!r}, which no dict of tensors needs")
    raise ValueError("its pickle has no end")


def _set_items(target: object, operands: list[object]) -> None:
    """Keys are strings or integers: a tuple of tuples of tuples could take for ever to hash."""
    if not isinstance(target, dict) or not all(isinstance(k, str | int) for k in operands[::2]):
        raise ValueError(f"it sets items or attributes of a {type(target).__name__}")
    target.update(zip(operands[::2], operands[1::2], strict=True))


def _storage(identity: object) -> StoredNumbers:
    match identity:
        case ("storage", np.dtype() as dtype, str(key), _, int(count), *view):
            if 0 <= count < MOST_NUMBERS and not any(view):  # views: of torch < 0.4
                return StoredNumbers(key, dtype, count)
    raise ValueError("it refers to something that is not a storage of numbers")


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`; the arguments left out concern gradients."""
    if not isinstance(storage, StoredNumbers):
        raise ValueError(f"a tensor lies in a {type(storage).__name__}, no storage")
    if (
        not isinstance(offset, int)
        or not isinstance(shape, tuple)
        or not isinstance(strides, tuple)
    ):
        raise ValueError("a tensor has no offset, shape or strides")
    numbers = [offset, *shape, *strides]
    if not all(isinstance(n, int) and 0 <= n <= storage.length for n in numbers):
        raise ValueError(f"a tensor does not lie inside its storage of {storage.length} numbers")
    if 0 in shape or not len(shape) == len(strides) <= MOST_DIMENSIONS:
        raise ValueError(f"a tensor has {len(shape)} dimensions, {len(strides)} strides, or a zero")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if last >= storage.length or math.prod(shape) > storage.length:
        raise ValueError(f"a tensor {shape} goes beyond its storage of {storage.length} numbers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


# How many operands an opcode takes from the stack; 0: all down to the last mark.
OPERANDS = {
    **{"APPENDS": 0, "SETITEMS": 0, "TUPLE": 0, "APPEND": 1, "BINPERSID": 1, "BUILD": 1},
    **{"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "SETITEM": 2, "REDUCE": 2},
}
GLOBALS = {
    "collections OrderedDict": lambda: {},
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
    "torch FloatStorage": np.dtype(np.float32),
    "torch HalfStorage": np.dtype(np.float16),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype(np.int64),
}
