"""Checkpoints that come packed: `.tar`, `.tar.gz`, and Keras' `.keras`, which is a zip."""

import contextlib
import pathlib
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

MAX_BYTES = 16 << 30  # unpacked; L2 with its averages and its optimizer's state takes 8
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


@contextlib.contextmanager
def unpacked(path: pathlib.Path, scratch: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives the folder with what an archive holds, or `path` itself if it is none.

    Args:
        path: a file or a folder.
        scratch: where to make a temporary folder, removed afterwards. The archive's own folder in
            it has its name, without the suffix.

    Raises:
        ValueError: the archive is damaged, holds too much, or has members outside its own folder.
    """
    is_tar, is_keras = path.name.endswith(TAR_SUFFIXES), path.suffix == ".keras"
    if not (is_tar or is_keras) or path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=scratch) as folder:
        target = pathlib.Path(folder) / path.name.split(".tar")[0].removesuffix(".tgz")
        try:
            if is_tar:
                with tarfile.open(path) as tar:
                    members = tar.getmembers()
                    _check_size(path, sum(member.size for member in members))
                    tar.extractall(target, members, filter="data")
            else:
                with zipfile.ZipFile(path) as archive:
                    members = [archive.getinfo(n) for n in ("config.json", "model.weights.h5")]
                    _check_size(path, sum(member.file_size for member in members))
                    archive.extractall(target, members)
        except (tarfile.TarError, zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path} cannot be unpacked ({error}): it is damaged, cut off or something else; "
                "fetch it again"
            ) from None
        yield target


def _check_size(path: pathlib.Path, size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(
            f"{path} would unpack to {size / 1e9:.1f} GB, expected at most {MAX_BYTES / 1e9:.1f}"
        )
