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

from configs import machine

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIBLINGS = ("encoder", "heads", "input_pipeline")
# library -> path prefixes that may import it
ALLOWED = {
    "apache_beam": ("input_pipeline/", "scripts/preprocess.py"),
    "fsspec": ("configs/paths.py",),  # what is remote is decided in one place
    "flax": ("encoder/", "heads/", "scripts/network_forms.py", "scripts/peers.py"),
    "pydicom": ("input_pipeline/", "scripts/bench_preprocess.py"),
    "tensorflow": (
        "input_pipeline/",
        "encoder/sources/",
        "scripts/bench_heads.py",
        "scripts/bench_storage.py",
        "scripts/peer_engines.py",
    ),
    "tensorflow_datasets": ("input_pipeline/",),
    "openvino": ("encoder/openvino_engine.py", "scripts/peer_engines.py"),
    "torch": ("scripts/peers.py", "scripts/peer_engines.py"),
}
ENCODER_MAY_IMPORT = {
    *("encoder", "flax", "jax", "jaxtyping", "numpy", "openvino", "optax", "orbax"),
    *("configs", "typing_extensions"),
}


def sources() -> list[str]:
    folders = (*SIBLINGS, "configs", "scripts")
    return sorted(p.relative_to(ROOT).as_posix() for f in folders for p in (ROOT / f).rglob("*.py"))


def imports(source: str) -> set[str]:
    """Full names of the modules that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source} imports relatively"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("source", sources())
def test_imports_stay_inside_the_house(source):
    packages = {name.split(".")[0] for name in imports(source)}
    room = source.split("/")[0]
    if room in SIBLINGS:
        strangers = {*SIBLINGS, "scripts"} - {room}
        assert not packages & strangers, f"{source} imports {packages & strangers}"
        assert "configs.schema" not in imports(source), "settings come as arguments"
    if room == "configs":
        assert not packages & {*SIBLINGS, "scripts"}
    for library, allowed in ALLOWED.items():
        assert library not in packages or source.startswith(allowed), f"{source} imports {library}"
    if room != "scripts":
        assert "absl" not in packages, f"{source} imports absl"


@pytest.mark.parametrize("source", [s for s in sources() if s.startswith("encoder/")])
def test_the_encoder_needs_little(source):
    packages = {name.split(".")[0] for name in imports(source)} - sys.stdlib_module_names
    if not source.startswith("encoder/sources/"):
        assert packages <= ENCODER_MAY_IMPORT, packages - ENCODER_MAY_IMPORT


def test_what_is_imported_is_declared():
    """Also what another library happens to bring, as TensorFlow does protobuf."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = sum(project["optional-dependencies"].values(), project["dependencies"])
    declared = {re.match(r"[\w.-]+", name)[0].lower().replace("_", "-") for name in needed}
    known = {"configs", *SIBLINGS, "scripts", "weights", *sys.stdlib_module_names}
    distributions = importlib.metadata.packages_distributions()
    for source in sources():
        if source.startswith(("scripts/bench_", "scripts/peer", "scripts/network_forms")):
            continue
        for package in {name.split(".")[0] for name in imports(source)} - known:
            brought_by = {name.lower().replace("_", "-") for name in distributions[package]}
            assert brought_by & declared, f"{source} imports {package} of {brought_by}"


def test_usable_processors_where_linux_is_not(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.processors() == os.cpu_count()
    found = [s for s in sources() if "sched_getaffinity" in (ROOT / s).read_text()]
    assert found == ["configs/machine.py"]


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
        f"from scripts import {script}\n"
        f"try:\n    {script}.main()\n"
        f"finally:\n    print(sorted({HEAVY} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.splitlines()[-1] == "[]", run.stdout + run.stderr
