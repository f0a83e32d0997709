"""The house rules, read from the imports: who may know whom, and who may know which library."""

import ast
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from cxr_embeddings.common import machine

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIBLINGS = ("encoder", "heads", "input_pipeline")
# library -> path prefixes that may import it
ALLOWED = {
    "apache_beam": ("input_pipeline/", "scripts/preprocess.py"),
    "fsspec": ("common/paths.py",),  # what is remote is decided in one place
    "flax": ("encoder/", "heads/"),
    "pydicom": ("input_pipeline/",),
    "tensorflow": ("input_pipeline/", "encoder/sources/"),
    "tensorflow_datasets": ("input_pipeline/",),
    "openvino": ("encoder/openvino_engine.py",),
    "torch": (),
}
ENCODER_MAY_IMPORT = {
    *("flax", "jax", "jaxtyping", "numpy", "openvino", "optax", "orbax", "typing_extensions")
}
TOP = ("common", "configs", "cxr_embeddings", *SIBLINGS, "scripts", "weights")


def sources() -> list[str]:
    """Each file once, by the folder at the top in which it lies."""
    found = (path for folder in TOP for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def imports(source: str) -> set[str]:
    """Full names of the modules that a file imports anywhere, also inside functions.

    Relative ones are spelt out: `cxr_embeddings.encoder.card`.
    """
    names, place = set(), ["cxr_embeddings", *source.split("/")[:-1]]
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = place[: len(place) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def rooms(source: str) -> set[str]:
    """The folders of this project that a file imports from."""
    ours = (name.split(".") for name in imports(source) if name.startswith("cxr_embeddings."))
    return {parts[1] if parts[1] in TOP else "cxr_embeddings" for parts in ours}


@pytest.mark.parametrize("source", sources())
def test_imports_stay_inside_the_house(source):
    packages, known = {name.split(".")[0] for name in imports(source)}, rooms(source)
    room = source.split("/")[0]
    assert not packages & {*TOP, "benchmarks", "tests"} - {"cxr_embeddings"}
    if room in SIBLINGS:
        assert known <= {room, "common", "configs"}, f"{source} imports {known}"
        settings = {name for name in imports(source) if name.startswith("cxr_embeddings.configs")}
        assert all(name.startswith("cxr_embeddings.configs.schema") for name in settings)
    if room in ("common", "configs"):
        assert known <= {room}
    if room != "scripts":
        assert "scripts" not in known
    for library, allowed in ALLOWED.items():
        assert library not in packages or source.startswith(allowed), f"{source} imports {library}"
    if room not in ("scripts", "cxr_embeddings"):
        assert "absl" not in packages, f"{source} imports absl"


@pytest.mark.parametrize("source", [s for s in sources() if s.startswith("encoder/")])
def test_the_encoder_needs_little(source):
    packages = {name.split(".")[0] for name in imports(source)} - sys.stdlib_module_names
    if not source.startswith("encoder/sources/"):
        strangers = packages - ENCODER_MAY_IMPORT - {"cxr_embeddings"}
        assert not strangers, strangers


def test_what_is_imported_is_declared():
    """Also what another library happens to bring, as TensorFlow does protobuf."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = sum(project["optional-dependencies"].values(), project["dependencies"])
    declared = {re.match(r"[\w.-]+", name)[0].lower().replace("_", "-") for name in needed}
    known = {"cxr_embeddings", *sys.stdlib_module_names}
    distributions = importlib.metadata.packages_distributions()
    for source in sources():
        for package in {name.split(".")[0] for name in imports(source)} - known:
            brought_by = {name.lower().replace("_", "-") for name in distributions[package]}
            assert brought_by & declared, f"{source} imports {package} of {brought_by}"


def test_usable_processors_where_linux_is_not(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.processors() == os.cpu_count()
    found = [s for s in sources() if "sched_getaffinity" in (ROOT / s).read_text()]
    assert found == ["common/machine.py"]


HEAVY = {"apache_beam", "flax", "jax", "matplotlib", "pandas", "pydicom", "sklearn", "tensorflow"}


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("embed", ["--help"]),
        ("embed", ["--config=configs/mimic.py"]),
        ("train_head", ["--help"]),
        ("train_head", ["--config=configs/head.py:mlp"]),
        ("predict", []),
        ("preprocess", ["--help"]),
        ("pretrain", ["--config=configs/pretrain.py:l2"]),
    ],
)
def test_quick_answers_import_nothing_heavy(script, arguments):
    program = (
        f"import sys; sys.argv = {[script, *arguments]}\n"
        f"from cxr_embeddings.scripts import {script}\n"
        f"try:\n    {script}.main()\n"
        f"finally:\n    print(sorted({HEAVY} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.splitlines()[-1] == "[]", run.stdout + run.stderr
