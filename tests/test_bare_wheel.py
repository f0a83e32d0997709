"""The wheel in an environment of the base dependencies alone, beside packages named as our folders.

The environment has exactly the packages that `dependencies` in pyproject.toml leads to, as links
to those of the environment that runs the tests: no network is needed. What imports a package of an
extra, or one of ours by a name at the top, fails here.
"""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tomllib

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from test_packaging import LINKS, build  # noqa: F401  a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SIZE = ("--config.image.preset=native", "--config.image.size=64")
PARQUET = ("--config.output.format=parquet", "--config.output.layout=sharded", "--output=tables")


def closure(requirements: list[str]) -> set[str]:
    """The names of all distributions that requirements lead to, in this environment."""
    waiting, seen = [(Requirement(text), "") for text in requirements], set()
    names = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (requirement.name, wanted) not in seen:
                seen.add((requirement.name, wanted))
                needs = importlib.metadata.requires(requirement.name) or []
                waiting += [(Requirement(text), wanted) for text in needs]
        names.add(requirement.name)
    return names


def link(distribution: str, folder: pathlib.Path) -> None:
    for file in importlib.metadata.files(distribution) or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            place = folder / file
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.symlink_to(file.locate())


@pytest.fixture(scope="module")
def bare(build, tmp_path_factory):  # noqa: F811
    """Runs a command of the bare environment in a folder of foreign packages."""
    folder = tmp_path_factory.mktemp("bare")
    environment, work = folder / "environment", folder / "work"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for name in closure(project["dependencies"]):
        link(name, packages)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--quiet", build("wheel")], check=True)
    for name in LINKS:
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text(f"raise RuntimeError('a foreign {name}')\n")

    def run(*command, code=0):
        first, *rest = map(str, command)
        settings = {"PATH": os.defpath, "HOME": str(folder), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [environment / "bin" / first, *rest],
            cwd=work,
            env=settings | {"PYTHONPATH": str(work)},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.work = work
    return run


@pytest.fixture(scope="module")
def films(bare):
    bare("cxr-synthetic-mimic", "--output=mimic", "--films=60")
    return "--input=mimic/files"


@pytest.fixture(scope="module")
def embeddings(bare, films):
    bare("cxr-embed", "--config=configs/demo.py", films, "--output=embeddings")
    return "--embeddings=embeddings"


def test_nothing_else_is_there(bare):
    program = """if True:
        import importlib.util, cxr_embeddings
        names = ("tensorflow", "apache_beam", "pyarrow", "pytest")
        print(cxr_embeddings.__file__, *map(importlib.util.find_spec, names))
    """
    place, *others = bare("python", "-c", program).split()
    assert "site-packages" in place and others == ["None"] * 4


def test_the_demo_needs_no_extra(bare, embeddings, films):
    labels = "--labels=mimic/mimic-cxr-2.0.0-chexpert.csv.gz"
    split = "--config.labels.split_path=mimic/mimic-cxr-2.0.0-split.csv.gz"
    empty = "--config.labels.not_mentioned=negative"
    finding = "--findings=No Finding"
    bare("cxr-train-head", embeddings, labels, split, finding, empty, "--output=head")
    assert (bare.work / "head" / "report.html").is_file()
    bare("cxr-predict", "--head=head", embeddings, "--output=predictions.csv")
    bare("cxr-neighbours", embeddings, labels, films, "--output=neighbours.png")


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        (["cxr-preprocess", *SIZE, "--output=store"], "apache_beam", "store"),
        (["cxr-convert-weights", "--from=keras", "--output=weights"], "h5py", "convert"),
        (["cxr-embed", "--config=configs/demo.py", *PARQUET], "pyarrow", "tables"),
    ],
)
def test_an_extra_that_is_missing_is_named(bare, films, command, package, extra):
    said = bare(*command, films, code=1)
    assert f"error: this needs {package}" in said and f"cxr-embeddings[{extra}]" in said
    assert "Traceback" not in said
