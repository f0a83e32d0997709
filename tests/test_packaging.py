"""What an installation holds: one package, with every file of the folders it links to."""

import ast
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from conftest import REPOSITORY

PACKAGE = "cxr_embeddings"
# They are for the machines of a TPU, which have a clone or an image.
NOT_INSTALLED = {f"{PACKAGE}/scripts/tpu_{name}" for name in ("gke.yaml", "vm.sh")}
LINKS = {path.name for path in (REPOSITORY / PACKAGE).iterdir() if path.is_symlink()}


def in_git() -> list[str]:
    """The files of the project as they are now: git's, and new ones that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in names.stdout.split("\0") if name and _exists(REPOSITORY / name)]


def _exists(path: pathlib.Path) -> bool:
    return path.is_symlink() or path.is_file()


def installed_names() -> set[str]:
    """The names under which these files are to be installed."""
    names = (name for name in in_git() if not (REPOSITORY / name).is_symlink())
    places = {name: name.split("/")[0] for name in names}
    ours = {name for name, place in places.items() if place == PACKAGE}
    linked = {f"{PACKAGE}/{name}" for name, place in places.items() if place in LINKS}
    return (ours | linked) - NOT_INSTALLED


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Builds from a clean copy: setuptools packs whatever an earlier build has left."""
    clean, out = tmp_path_factory.mktemp("clean"), tmp_path_factory.mktemp("built")
    for name in in_git():
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, clean / name, follow_symlinks=False)

    def build(kind: str) -> pathlib.Path:
        program = f"from setuptools import build_meta as b; b.build_{kind}({str(out / kind)!r})"
        (out / kind).mkdir()
        subprocess.run([sys.executable, "-c", program], cwd=clean, check=True, capture_output=True)
        return next((out / kind).iterdir())

    return build


def test_a_wheel_holds_every_file_of_the_package_and_nothing_else(build):
    with zipfile.ZipFile(build("wheel")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == installed_names()


def test_a_source_archive_holds_real_files_of_the_same_package(build):
    with tarfile.open(build("sdist")) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert {name for name in names if name.startswith(f"{PACKAGE}/")} == installed_names()
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_an_editable_installation_adds_one_name(build):
    with zipfile.ZipFile(build("editable")) as wheel:
        top = next(name for name in wheel.namelist() if name.endswith("top_level.txt"))
        assert wheel.read(top).split() == [PACKAGE.encode()]
        # a finder of this one package; a plain path would make `import encoder` work
        assert [name for name in wheel.namelist() if name.endswith("_finder.py")]


def test_every_script_is_a_command_and_every_command_a_script():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    scripts = {path.stem: path for path in (REPOSITORY / "scripts").glob("*.py")}
    del scripts["__init__"]
    expected = {
        f"cxr-{name.replace('_', '-')}": f"{PACKAGE}.scripts.{name}:main" for name in scripts
    }
    assert project["scripts"] == expected
    for name, path in scripts.items():
        (main,) = (
            part
            for part in ast.parse(path.read_text()).body
            if isinstance(part, ast.FunctionDef) and part.name == "main"
        )
        needed = len(main.args.args) - len(main.args.defaults)
        assert not needed, f"{name}.main() is to be called without arguments"
