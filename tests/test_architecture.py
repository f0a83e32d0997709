"""The house rules, read from the imports: who may know whom, and who may know which library."""

import ast
import collections
import functools
import importlib
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from cxr_embeddings.common import extras, machine, paths

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIBLINGS = ("encoder", "heads", "input_pipeline")
# library -> path prefixes that may import it
ALLOWED = {
    "apache_beam": ("input_pipeline/", "scripts/preprocess.py"),
    "fsspec": ("common/paths.py",),  # what is remote is decided in one place
    "flax": ("encoder/", "heads/"),
    "pydicom": (
        *("input_pipeline/", "cxr_embeddings/structured_reports.py"),
        "cxr_embeddings/secondary_captures.py",
    ),
    "tensorflow": ("input_pipeline/", "encoder/sources/"),
    "tensorflow_datasets": ("input_pipeline/",),
    "openvino": ("encoder/openvino_engine.py",),
    "torch": (),
}
ENCODER_MAY_IMPORT = {
    *("flax", "jax", "jaxtyping", "numpy", "openvino", "optax", "orbax", "typing_extensions"),
    "cxr_embeddings",
}
TOP = ("common", "configs", "cxr_embeddings", *SIBLINGS, "scripts", "weights")


def sources() -> list[str]:
    """Each file once, by the folder at the top in which it lies."""
    found = (path for folder in TOP for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


@functools.cache
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
        assert known <= {room} | ({"configs"} if room == "common" else set())
    if room != "scripts":
        assert "scripts" not in known
    for library, allowed in ALLOWED.items():
        assert library not in packages or source.startswith(allowed), f"{source} imports {library}"
    if room not in ("scripts", "cxr_embeddings"):
        assert "absl" not in packages, f"{source} imports absl"
    if room == "encoder" and not source.startswith("encoder/sources/"):
        assert packages - sys.stdlib_module_names <= ENCODER_MAY_IMPORT, "the encoder needs little"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def plain(name: str) -> str:
    return re.match(r"[\w.-]+", name)[0].lower().replace("_", "-")


def declared(requirements: list[str]) -> set[str]:
    """The packages that requirements name; an extra that names another has that one's."""
    names = set()
    for requirement in requirements:
        if found := re.match(r"cxr-embeddings\[(.*)\]", requirement):
            for extra in found[1].split(","):
                names |= declared(PROJECT["optional-dependencies"][extra])
        else:
            names.add(plain(requirement))
    return names


def imported() -> dict[str, set[str]]:
    """Package -> the files that import it, of those that are not ours or Python's."""
    users = collections.defaultdict(set)
    for source in sources():
        for package in {name.split(".")[0] for name in imports(source)}:
            users[package].add(source)
    return {p: users[p] for p in users if p not in {"cxr_embeddings", *sys.stdlib_module_names}}


def test_what_is_imported_is_declared():
    """In its extra, or else for all; also what another library happens to bring."""
    distributions = importlib.metadata.packages_distributions()
    for package, users in imported().items():
        brought_by = {plain(name) for name in distributions[package]}
        extra = extras.EXTRA_OF.get(package)
        listed = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
        where = extra or "dependencies"
        assert brought_by & declared(listed), f"{users} import {package}, not in {where}"


def test_every_dependency_is_imported():
    """What nothing imports any more is not installed for all."""
    distributions = importlib.metadata.packages_distributions()
    brought = {plain(name) for package in imported() for name in distributions[package]}
    assert declared(PROJECT["dependencies"]) <= brought


def test_all_extras_of_users_are_in_all():
    extra_of_users = set(extras.EXTRA_OF.values())
    everything = declared(PROJECT["optional-dependencies"]["all"])
    for extra in extra_of_users:
        assert declared(PROJECT["optional-dependencies"][extra]) <= everything


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    from cxr_embeddings import errors

    @errors.translated
    def use():
        importlib.import_module("pyarrow.csv")

    with pytest.raises(errors.MissingPackage, match=r"needs pyarrow.*cxr-embeddings\[tables\]"):
        use()


def test_fsspec_words_its_own_errors(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError) as found:
        paths.file_system("gs://bucket/films")
    assert "cxr-embeddings[gcs]" in extras.advice(found.value)
    assert extras.advice(ImportError("another")) is None


def test_usable_processors_where_linux_is_not(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.processors() == os.cpu_count()
    found = [s for s in sources() if "sched_getaffinity" in (ROOT / s).read_text()]
    assert found == ["common/machine.py"]


HEAVY = {"apache_beam", "flax", "jax", "matplotlib", "pandas", "pydicom", "sklearn", "tensorflow"}


QUICK = (
    ("embed", "--help"),
    ("embed", "--config=configs/mimic.py"),
    ("train_head", "--help"),
    ("train_head", "--config=configs/head.py:mlp"),
    ("predict", "predict"),
    ("preprocess", "--help"),
    ("pretrain", "--config=configs/pretrain.py:l2"),
)


def test_quick_answers_import_nothing_heavy():
    program = f"""
import importlib, sys
for script, word in {QUICK}:
    importlib.import_module(f"cxr_embeddings.scripts.{{script}}").main([script, word])
    print("heavy after", script, *{HEAVY} & {{*sys.modules}})
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    heavy = re.findall("^heavy after .*", run.stdout, re.MULTILINE)
    assert heavy == [f"heavy after {script}" for script, _ in QUICK], run.stdout + run.stderr
