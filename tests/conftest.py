"""Guard rails for every test: eight CPU devices, strict promotion, shapes checked at call time."""

import os
import pathlib
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers, and all programs they start, inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jaxtyping
import pytest

SIBLINGS = [f"cxr_embeddings.{name}" for name in ("common", "encoder", "heads", "input_pipeline")]
jaxtyping.install_import_hook(SIBLINGS, "beartype.beartype")

import jax  # noqa: E402  after the flags and the hook

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

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
def environment():
    """Of programs with one device."""
    return os.environ | {"XLA_FLAGS": ""}


@pytest.fixture
def table(tmp_path):
    """Writes a table of labels, given with `;` between its rows."""

    def write(text, name="labels.csv"):
        (tmp_path / name).write_text(text.replace("; ", "\n") + "\n")
        return tmp_path / name

    return write
