"""Guard rails for every test: eight CPU devices, strict promotion, shapes checked at call time."""

import functools
import os
import pathlib
import shutil
import sys
import tempfile
import typing

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # small programs, run once
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers, and all programs they start, inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jaxtyping
import pytest

SIBLINGS = [f"cxr_embeddings.{name}" for name in ("encoder", "explorer", "heads", "input_pipeline")]
jaxtyped = jaxtyping.jaxtyped


def says_shapes(hint):
    """Whether an annotation holds one of jaxtyping, as `list[Float32[Array, "n dim"]]` does."""
    if isinstance(hint, list | tuple):  # the arguments of a callable
        return any(map(says_shapes, hint))
    is_shape = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return is_shape or any(map(says_shapes, typing.get_args(hint)))


def jaxtyped_if_shapes(function=None, **options):
    """`jaxtyping.jaxtyped` for what has shapes; the wrapping of all else took most of the time."""
    if function is None:
        return functools.partial(jaxtyped_if_shapes, **options)
    hints = [*getattr(function, "__annotations__", {}).values()]
    is_open = any(isinstance(hint, str) for hint in hints)
    return jaxtyped(function, **options) if is_open or says_shapes(hints) else function


jaxtyping.jaxtyped = jaxtyped_if_shapes
jaxtyping.install_import_hook(SIBLINGS, "beartype.beartype")
find_checked = sys.meta_path[0].find_spec


def find_spec(name, path=None, target=None):
    """Finds a module that is checked; those that it imports are read from their own caches.

    While the hook runs a module, Python looks for the caches of all modules under another name: it
    would compile SciPy, Matplotlib and TensorFlow anew in every process.
    """
    spec = find_checked(name, path, target)
    if spec is not None:
        loader = spec.loader
        code = loader.source_to_code(loader.get_data(loader.path), loader.path)
        loader.exec_module = lambda module: exec(code, vars(module))
    return spec


sys.meta_path[0].find_spec = find_spec

import jax  # noqa: E402  after the flags and the hook
import tiny  # noqa: E402, F401  has every test know the network of this name

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

QUICK = os.environ["XLA_FLAGS"].split()[0]
REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def pytest_unconfigure(config):
    """Removes the compiled programs when the last worker has ended."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real films beside the checkout; tests that need it skip where it is missing."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real films not found: {folder} is missing (they are not part of the project)")
    return folder


@pytest.fixture(scope="session")
def mimic(tmp_path_factory) -> pathlib.Path:
    """A stand-in of MIMIC-CXR, only to be read: small films, two of them damaged, four laterals."""
    from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

    folder = tmp_path_factory.mktemp("mimic")
    write_mimic(folder, films=40, laterals=4, damaged=2, seed=3, size_range=(48, 80))
    return folder


@pytest.fixture(scope="session")
def save_bundle(tmp_path_factory):
    """Writes a bundle of random weights of `tiny`; gives its folder, only to be read."""
    from cxr_embeddings.encoder import random_weights, weights

    @functools.cache
    def save(preset="native", resolution=32, mean=(0.4,) * 3, std=(0.3,) * 3, seed=0):
        card = random_weights.random_card("tiny", resolution, preset, mean, std)
        variables = random_weights.random_variables(weights.model_for(card), seed)
        folder = tmp_path_factory.mktemp("weights") / "tiny"
        weights.save_bundle(folder, variables, card)
        return folder

    return save


@pytest.fixture(scope="session")
def environment():
    """The environment of programs with one device."""
    return os.environ | {"XLA_FLAGS": QUICK}


@pytest.fixture
def table(tmp_path):
    """Writes a table of labels, given with `;` between its rows."""

    def write(text, name="labels.csv"):
        (tmp_path / name).write_text(text.replace("; ", "\n") + "\n")
        return tmp_path / name

    return write
