"""The folders of embeddings that make one table: found, and told to be of one encoder."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cxr_embeddings.common import files, paths
from cxr_embeddings.common.identities import UNSAID, Facts, differences

from .. import run_folder
from ..films.listing import read_list
from .formats import is_embedding_file
from .reader import File, list_files

# What a run's identity says of its films and files, and not of the encoder. Of `weights`, which is
# where they were got, the digest says whether they are the same.
_ABOUT_FILMS = ("input", "views", "store", "layout", "format", "source_digest", "weights")


class Folder(NamedTuple):
    """A folder of embeddings.

    Attributes:
        path: what was asked for: the folder, or a single file in it.
        folder: absolute, or an address.
        files: the embedding files.
        manifest: of the run that made them; None where there is none.
        sums: name of a file -> its SHA-256, as far as the run wrote it down.
    """

    path: str
    folder: str
    files: Sequence[File]
    manifest: run_folder.Manifest | None
    sums: Mapping[str, str]


def open_folders(path: str | Sequence[str]) -> list[Folder]:
    """Finds the embedding files of some folders.

    Args:
        path: folder, file or address; several of them; or a list, a local .txt file with one a
            line, which start at its own folder. Commas are part of a name.

    Raises:
        FileNotFoundError: one of them holds no embedding file.
        ValueError: a folder is there twice, or a manifest is a stranger's.
    """
    places = [each for one in ([path] if isinstance(path, str) else path) for each in _listed(one)]
    if not places:
        raise ValueError(f"found no folder of embeddings in {path}; expected at least one")
    folders, seen = [], dict[str, str]()
    for one in places:
        place = one if paths.is_remote(one) else os.path.realpath(one)
        if place in seen:
            raise ValueError(f"the embeddings {one} and {seen[place]} are one place: name it once")
        seen[place] = one
        folder, found = list_files(one)
        manifest = run_folder.read_manifest(folder)
        folders.append(Folder(one, folder, found, manifest, read_checksums(folder)))
    return folders


def _listed(path: str) -> list[str]:
    path = paths.typed(path)
    if paths.is_remote(path) or not path.lower().endswith(".txt") or not os.path.isfile(path):
        return [path]
    return read_list(path)


def shared_manifest(folders: Sequence[Folder]) -> tuple[Facts | None, bool | None]:
    """What the manifests of folders say of all their embeddings.

    Returns:
        The identity of the encoder, and whether no film is missing; None where no manifest is. Of
        several folders only what is equal in all, and the views of all of them.

    Raises:
        ValueError: another encoder, or an unknown one, made the embeddings of one; says which.
    """
    first, *others = folders
    one = first.manifest and first.manifest["identity"]
    if not others:
        return one, first.manifest and first.manifest["complete"]
    identities = [folder.manifest and folder.manifest["identity"] for folder in folders]
    for folder, other in zip(others, identities[1:], strict=True):
        if (one is None) != (other is None):
            without = first if one is None else folder
            raise ValueError(
                f"no {run_folder.MANIFEST} says which encoder made the embeddings in "
                f"{without.folder}, but other folders have one; expected it in all or in none"
            )
        if one is None or other is None:
            continue
        keys = sorted({*UNSAID, *one, *other} - {*_ABOUT_FILMS})
        if differing := differences(one, other, ("in the first", "in the second"), keys):
            raise ValueError(
                f"the embeddings in {first.folder} and {folder.folder} are of different encoders, "
                "and cannot be one table:\n" + "\n".join(differing)
            )
    if one is None:
        return None, None
    known = [identity for identity in identities if identity]
    views = [identity.get("views") for identity in known]
    shared = {k: v for k, v in (UNSAID | {**one}).items() if all(i.get(k, v) == v for i in known)}
    shared["views"] = sorted({v for some in views for v in some or ()}) if all(views) else None
    return shared, all(folder.manifest and folder.manifest["complete"] for folder in folders)


def read_checksums(folder: str) -> dict[str, str]:
    """Embedding files named in a folder's SHA256SUMS.txt -> their SHA-256; empty without it."""
    try:
        data = files.read_table(f"{folder}/{run_folder.CHECKSUMS}")
    except FileNotFoundError:
        return {}
    sums = run_folder.decode_checksums(data)
    return {name: digest for name, digest in sums.items() if is_embedding_file(name)}
