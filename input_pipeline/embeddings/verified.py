"""A finished folder of embeddings, read file by file, each checked against its checksum."""

import dataclasses
import hashlib
import math
import posixpath
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cxr_embeddings.common import files, paths

from .. import run_folder
from .formats import EmbeddingRecord
from .reader import DECODE, is_embedding_file, list_files

# (films in all, done before) -> a context with `update(films)`
Progress = Callable[[int, int], Any]


@dataclasses.dataclass(frozen=True)
class Source:
    """A finished folder of embeddings.

    Attributes:
        folder: absolute, or an address.
        manifest: what it says of itself.
        sums: name of each embedding file, in order -> its SHA-256 in hex.
    """

    folder: str
    manifest: Mapping[str, Any]
    sums: Mapping[str, str]

    @property
    def count(self) -> int:
        """How many embeddings it says it holds."""
        return self.manifest["embedded"]

    @property
    def given_up(self) -> int:
        """How many films of its input have none because each of several runs failed on them."""
        return self.manifest.get("given_up", {}).get("films", 0)

    @property
    def width(self) -> int:
        """Numbers in each of them."""
        return math.prod(self.manifest["identity"]["shape"])


def open_source(path: str) -> Source:
    """Opens a folder of embeddings, of any layout and format.

    Raises:
        FileNotFoundError: no embeddings are there.
        ValueError: it has no manifest, is not complete, or files are missing or of another run.
    """
    folder = paths.typed(path)
    names = {file.name for file in list_files(folder)[1]}
    manifest = run_folder.read_manifest(folder)
    if manifest is None or "shape" not in manifest["identity"]:
        raise ValueError(
            f"{folder} holds no {run_folder.MANIFEST} that says what made its embeddings; expected "
            "a folder of scripts/embed.py"
        )
    if not manifest.get("complete") or not manifest.get("embedded"):
        raise ValueError(
            f"{folder} is not complete, or holds no embedding: run scripts/embed.py again, with "
            "the same options, and it goes on. A film that fails each time is given up after "
            f"{run_folder.TRIES} runs, and the folder is complete without it: see rejected.csv"
        )
    sums = read_checksums(folder)
    for wrong, what in [
        (names - sums.keys(), f"not in its {run_folder.CHECKSUMS}: remove what is of another run"),
        (sums.keys() - names, "missing: the command that made the folder makes them anew"),
    ]:
        if wrong:
            raise ValueError(
                f"{len(wrong)} embedding files of {folder}, such as {min(wrong)}, are {what}"
            )
    return Source(folder, manifest, dict(sorted(sums.items())))


def read_checksums(folder: str) -> dict[str, str]:
    """Embedding files named in a folder's SHA256SUMS.txt -> their SHA-256; empty without it."""
    try:
        data = files.read_table(f"{folder}/{run_folder.CHECKSUMS}")
    except FileNotFoundError:
        return {}
    sums = run_folder.decode_checksums(data)
    return {name: digest for name, digest in sums.items() if is_embedding_file(name)}


def read_file(source: Source, name: str) -> list[EmbeddingRecord]:
    """The embeddings of one file.

    Raises:
        ValueError: it is not the file that was written, or holds what is no embedding of a film;
            says which file.
    """
    path = f"{source.folder}/{name}"
    data = files.read_bytes(path)
    if hashlib.sha256(data).hexdigest() != source.sums[name]:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is not the one in {run_folder.CHECKSUMS}. Remove it, "
            "and the command that made the folder makes it anew"
        )
    try:
        records = DECODE[posixpath.splitext(name)[1].lower()](data)
    except (ImportError, MemoryError):  # not the file's fault
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        said = str(error) or type(error).__name__
        raise ValueError(f"{path} holds a damaged record: {said}. Embed its films again") from error
    for record in records:
        if not record.image_id:
            raise ValueError(f"{path} holds a record without image id: embed its films again")
        if record.embedding.size != source.width or not np.isfinite(record.embedding).all():
            raise ValueError(
                f"{path} holds {record.embedding.size} numbers for {record.image_id!r}, or some "
                f"that are not finite; expected {source.width} finite ones: embed its films again"
            )
    return records


def read_ids(source: Source, progress: Progress) -> dict[str, list[str]]:
    """Reads the source to its end: name of each file -> the image ids in it.

    Raises:
        ValueError: as `read_file`; or an image id is there twice, or their number is another than
            the manifest's.
    """
    ids: dict[str, list[str]] = {}
    file_of: dict[str, str] = {}
    with progress(source.count, 0) as bar:
        for name in source.sums:
            ids[name] = [record.image_id for record in read_file(source, name)]
            for image_id in ids[name]:
                if image_id in file_of:
                    raise ValueError(
                        f"{image_id} has an embedding in {file_of[image_id]} and another in {name} "
                        f"of {source.folder}; expected one record a film: embed the films again"
                    )
                file_of[image_id] = name
            bar.update(len(ids[name]))
    if len(file_of) != source.count:
        raise ValueError(
            f"{source.folder} holds {len(file_of)} embeddings, but its {run_folder.MANIFEST} says "
            f"{source.count}: run scripts/embed.py again, with the same options"
        )
    return ids
