"""Checkpoints that come packed: `.tar`, `.tar.gz`, and Keras' `.keras`, which is a zip."""

import contextlib
import itertools
import pathlib
import tarfile
import zipfile
from collections.abc import Iterator

from cxr_embeddings.common.untrusted import TarMember
from cxr_embeddings.common.writing import scratch_folder

MAX_BYTES = 16 << 30  # unpacked; L2 with its averages and its optimizer's state takes 8
MAX_MEMBERS = 1000
KERAS_MEMBERS = ("config.json", "model.weights.h5")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


@contextlib.contextmanager
def unpacked(path: pathlib.Path, scratch: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives the folder with what an archive holds, or `path` itself if it is none.

    It has the archive's name without the suffix, lies in `scratch`, and is removed afterwards.
    ValueError if the archive is damaged, holds too much, or has members outside its own folder.
    """
    is_tar, is_keras = path.name.endswith(TAR_SUFFIXES), path.suffix == ".keras"
    if not (is_tar or is_keras) or path.is_dir():
        yield path
        return
    with scratch_folder(scratch / "unpacked") as folder:
        target = folder / path.name.split(".tar")[0].removesuffix(".tgz")
        try:
            if is_tar:
                with tarfile.open(path, tarinfo=TarMember) as tar:
                    members = [*itertools.islice(tar, MAX_MEMBERS + 1)]
                    _check_size(len(members), sum(member.size for member in members))
                    tar.extractall(target, members, filter="data")
            else:
                with zipfile.ZipFile(path) as archive:
                    both = [archive.getinfo(name) for name in KERAS_MEMBERS]
                    _check_size(len(both), sum(member.file_size for member in both))
                    archive.extractall(target, both)
        except Exception as error:  # a damaged archive can fail anywhere
            if isinstance(error, OSError) and error.errno is not None:  # of the disk
                raise
            raise ValueError(
                f"{path} cannot be unpacked ({error}): it is damaged, cut off, too large or "
                "something else; fetch it again"
            ) from None
        yield target


def _check_size(members: int, size: int) -> None:
    if members > MAX_MEMBERS or size > MAX_BYTES:
        raise ValueError(
            f"{members} members of {size / 1e9:.1f} GB, expected at most {MAX_MEMBERS} of "
            f"{MAX_BYTES / 1e9:.1f}"
        )
