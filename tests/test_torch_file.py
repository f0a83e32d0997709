"""PyTorch's files, written here opcode by opcode: true ones, malicious ones and broken ones."""

import io
import pathlib
import pickle
import struct
import tracemalloc
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from cxr_embeddings.encoder.sources.torch_file import LEGACY_MAGIC, LEGACY_PROTOCOL, tensors

STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
}


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Global
    arguments: tuple


class Persistent(NamedTuple):
    identity: Any


class Raw(NamedTuple):
    opcodes: bytes


def opcodes(value: Any) -> bytes:
    """What protocol 2 makes of a value; the stand-ins become the opcodes that they are named by."""
    match value:
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            digits = pickle.encode_long(value)
            return b"\x8a" + bytes([len(digits)]) + digits
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case Global():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return opcodes(value.function) + opcodes(value.arguments) + b"R"
        case Persistent():
            return opcodes(value.identity) + b"Q"
        case Raw():
            return value.opcodes
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return (
                b"}(" + b"".join(map(opcodes, [x for pair in value.items() for x in pair])) + b"u"
            )
    raise TypeError(value)


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + opcodes(value) + b"."


def storage(key: str, count: int, kind: str = "FloatStorage") -> Persistent:
    return Persistent(("storage", Global("torch", kind), key, "cpu", count))


def tensor(key: str, values: np.ndarray, **changed: Any) -> Call:
    """What stands in the pickle for values at the beginning of a storage of their own."""
    numbers = [stride // values.itemsize for stride in values.strides]
    fields = {
        "storage": storage(key, values.size, STORAGES[values.dtype.name]),
        **{"offset": 0, "shape": values.shape, "strides": tuple(numbers)},
        **{"requires_grad": False, "hooks": Call(Global("collections", "OrderedDict"), ())},
    }
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), tuple((fields | changed).values()))


def zipped(value: Any, storages: dict[str, bytes], byteorder: bytes = b"little") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        archive.writestr("archive/byteorder", byteorder)
        for key, numbers in storages.items():
            archive.writestr(f"archive/data/{key}", numbers)
    return file.getvalue()


def legacy(value: Any, storages: dict[str, bytes], itemsize: int = 4, little: bool = True) -> bytes:
    header = [LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": little}]
    file = b"".join(map(pickled, [*header, value, sorted(storages)]))
    for _, numbers in sorted(storages.items()):
        file += struct.pack("<q", len(numbers) // itemsize) + numbers
    return file


FORMATS = pytest.mark.parametrize("write", [zipped, legacy])


@pytest.fixture
def file(tmp_path) -> pathlib.Path:
    return tmp_path / "weights.pth"


def read_all(file: pathlib.Path) -> dict[str, np.ndarray]:
    found = {}
    for name, leaf in tensors(file).items():
        values = found[name] = leaf.read()
        assert leaf.name == name and leaf.shape == values.shape and values.dtype == np.float32
    return found


@FORMATS
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int64])
def test_values_of_every_dtype_arrive_as_float32(file, write, dtype):
    values = np.arange(24).astype(dtype).reshape(2, 3, 4)
    numbers = {"0": values.tobytes()}
    size = {"itemsize": values.itemsize} if write is legacy else {}
    file.write_bytes(write({"weight": tensor("0", values)}, numbers, **size))
    assert np.array_equal(read_all(file)["weight"], values.astype(np.float32))


@FORMATS
def test_views_scalars_and_parameters(file, write):
    values = np.arange(12, dtype=np.float32)
    turned = tensor("a", values, shape=(4, 3), strides=(1, 4))
    slice_of_it = tensor("a", values, offset=5, shape=(2,), strides=(3,))
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (turned, True, None))
    scalar = tensor("b", np.float32([7]), shape=(), strides=())
    value = {"turned": turned, "slice": slice_of_it, "parameter": parameter, "scalar": scalar}
    file.write_bytes(write(value, {"a": values.tobytes(), "b": np.float32([7]).tobytes()}))
    found = read_all(file)
    assert np.array_equal(found["turned"], values.reshape(3, 4).T)
    assert np.array_equal(found["parameter"], found["turned"])
    assert found["slice"].tolist() == [5, 8] and found["scalar"] == 7


@FORMATS
def test_the_state_dict_may_lie_in_another_dict_and_its_average_is_preferred(file, write):
    values = {key: np.full(3, key, np.float32) for key in (0, 1)}
    first, second = ({"weight": tensor(str(key), values[key])} for key in (0, 1))
    numbers = {str(key): value.tobytes() for key, value in values.items()}
    for outer, expected in (
        ({"epoch": 3, "model": second, "names": ["a", first]}, 1),
        ({"state_dict": first, "state_dict_ema": second, "model": None}, 1),
        ({"model": second, "state_dict": first}, 0),
    ):
        file.write_bytes(write(outer, numbers))
        assert read_all(file)["weight"].tolist() == [expected] * 3


def test_attributes_of_ordered_dicts_are_passed_over(file):
    values = np.ones(3, np.float32)
    ordered = opcodes(Call(Global("collections", "OrderedDict"), ()))
    items = b"q\x05(" + opcodes("weight") + opcodes(tensor("0", values)) + b"u"
    attributes = opcodes({"_metadata": {"": {"version": 1}}}) + b"b"
    file.write_bytes(zipped(Raw(ordered + items + attributes), {"0": values.tobytes()}))
    assert [*read_all(file)] == ["weight"]


def test_numbers_are_read_late_and_damage_among_them_is_found(file):
    values = np.linspace(1, 2, 1000, dtype=np.float32)
    whole = zipped({"weight": tensor("0", values)}, {"0": values.tobytes()})
    place = whole.index(values.tobytes()) + 2000
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    leaf = tensors(file)["weight"]
    with pytest.raises(ValueError, match=r"CRC-32 .* fetch the file again"):
        leaf.read()


ONE = np.ones(1, np.float32)
EVIL = {
    "os system": Call(Global("os", "system"), ("touch ran",)),
    "posix system": Call(Global("posix", "system"), ("touch ran",)),
    "builtins eval": Call(Global("builtins", "eval"), ("open('ran', 'w')",)),
    "builtins getattr": Call(Global("builtins", "getattr"), (1, "real")),
    "torch.hub load": Call(Global("torch.hub", "load"), ("a/b", "c")),
    "STACK_GLOBAL": Raw(
        opcodes("os") + opcodes("system") + b"\x93" + opcodes(("touch ran",)) + b"R"
    ),
    "INST": Raw(b"(" + opcodes("touch ran") + b"ios\nsystem\n"),
    "OBJ": Raw(b"(" + opcodes(Global("collections", "OrderedDict")) + b"o"),
    "NEWOBJ": Raw(opcodes(Global("collections", "OrderedDict")) + b")\x81"),
    "EXT1": Raw(b"\x82\x01"),
    "attributes of a Tensor": Raw(opcodes(tensor("0", ONE)) + opcodes({"shape": 1}) + b"b"),
    "attributes of a function": Raw(opcodes(Global("collections", "OrderedDict")) + b"}b"),
    "not a storage": Persistent(("module", "os", "key", "cpu", 1)),
}


@FORMATS
@pytest.mark.parametrize("named", EVIL)
def test_nothing_in_a_file_is_run(file, write, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file.write_bytes(write({"weight": EVIL[named]}, {"0": ONE.tobytes()}))
    with pytest.raises(ValueError, match=named.replace("a function", "a .*")):
        tensors(file)
    assert [*tmp_path.iterdir()] == [file]


BOMB = opcodes(()) + b"q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
LIES = {
    "a storage larger than the file": tensor("0", ONE, storage=storage("0", 1 << 40)),
    "a storage of more than all": tensor("0", ONE, storage=storage("0", 1 << 400)),
    "a storage of less than none": tensor("0", ONE, storage=storage("0", -1)),
    "a storage that is not there": tensor("1", ONE),
    "a shape larger than the storage": tensor("0", ONE, shape=(2,)),
    "a shape repeated for ever": tensor("0", ONE, shape=(1 << 40, 1 << 40), strides=(0, 0)),
    "a shape below zero": tensor("0", ONE, shape=(-1,)),
    "a stride below zero": tensor("0", ONE, strides=(-1,)),
    "an offset below zero": tensor("0", ONE, offset=-1),
    "an offset behind the end": tensor("0", ONE, offset=1),
    "fewer strides than dimensions": tensor("0", ONE, shape=(1, 1)),
    "too many dimensions": tensor("0", ONE, shape=(1,) * 9, strides=(1,) * 9),
    "a shape that is a word": tensor("0", ONE, shape="word"),
    "a function for a storage": tensor("0", ONE, storage=Global("collections", "OrderedDict")),
    "a memo never written": Raw(b"j\xff\xff\xff\x7f"),
    "a text longer than the file": Raw(b"X\xff\xff\xff\x7f"),
    "a key that takes for ever to hash": Raw(b"}" + BOMB + b"Ns"),
    "no marks": Raw(b"tt"),
}


@FORMATS
@pytest.mark.timeout(20)
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_neither_allocates_nor_hangs(file, write, lie):
    file.write_bytes(write({"weight": LIES[lie]}, {"0": ONE.tobytes()}))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"cannot be read .*fetch the file again"):
        tensors(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20


def test_a_huge_memo_index_takes_no_memory(file):
    value = Raw(opcodes({"weight": tensor("0", ONE)}) + b"r\xff\xff\xff\x7f")
    file.write_bytes(zipped(value, {"0": ONE.tobytes()}))
    assert read_all(file)["weight"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with b''"),
        (b"version https://git-lfs", "begins with b'version https:/"),
        (b"\x93NUMPY", "neither a zip nor torch's older format"),
        (pickled([1, 2]), "neither a zip nor torch's older format"),
        (pickled(LEGACY_MAGIC) + pickled(7), "protocol is not 1001"),
        (legacy({}, {}, little=False), "little-endian"),
        (zipped({}, {}, byteorder=b"big"), "not little-endian"),
        (zipped([], {}), "holds a list, no dict"),
        (zipped({"epoch": 3}, {}), "holds a int under 'epoch'"),
        (zipped({3: tensor("0", ONE)}, {"0": ONE.tobytes()}), "holds a Tensor under '3'"),
        (legacy({}, {"0": b""}), "list of storages"),
        (legacy({"w": tensor("0", ONE)}, {"0": ONE.tobytes()})[:-1], "longer than the file"),
        (zipped({"w": tensor("0", ONE)}, {"0": b"\0" * 8}), "needs 4 bytes .* file has 8"),
    ],
)
def test_what_is_no_state_dict_is_named(file, content, message):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"weights.pth cannot be read .*{message}"):
        tensors(file)


def test_other_zips_are_refused(file):
    for name, compression in (("a.txt", zipfile.ZIP_STORED), ("a/data.pkl", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(file, "w", compression) as archive:
            archive.writestr(name, b"0" * 100)
        with pytest.raises(ValueError, match=r"0 data.pkl|is compressed"):
            tensors(file)


def test_a_missing_file_is_called_missing(file):
    with pytest.raises(FileNotFoundError):
        tensors(file)


@FORMATS
@pytest.mark.timeout(120)
def test_broken_files_raise_nothing_but_value_errors(file, write):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 3)).astype(np.float32)
    value = {"model": {"a": tensor("0", values), "b": tensor("1", values.T)}, "epoch": 7}
    whole = write(value, {"0": values.tobytes(), "1": values.tobytes()})
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError):
            read_all(file)
    refused = 0
    for _ in range(300):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            broken[place] = rng.integers(256)
        cut, length = rng.integers(0, len(whole)), rng.integers(0, 3)
        broken[cut : cut + length] = rng.bytes(rng.integers(0, 3)) if length else b""
        file.write_bytes(broken)
        try:
            read_all(file)
        except ValueError:
            refused += 1
    assert refused > 100
