"""The folders of embeddings that make one table: found, and told to be of one encoder."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cxr_embeddings.common import paths
from cxr_embeddings.common.identities import UNSAID, Facts, differences

from .. import run_folder
from ..films.listing import read_list
from .formats import is_embedding_file
from .reader import File, list_files

# What a run's identity says of its films and files, and not of the encoder. Of `weights`, which is
# where they were got, the digest says whether they are the same.
_ABOUT_FILMS = {*"input views chest_only store layout format source_digest weights".split()}


class Folder(NamedTuple):
    """A folder of embeddings."""

    path: str  # what was asked for: the folder, or a single file in it
    folder: str  # absolute, or an address
    files: Sequence[File]
    manifest: run_folder.Manifest | None  # of the run that made them
    sums: Mapping[str, str]  # name of a file -> its SHA-256, as far as the run wrote it down


def open_folders(path: str | Sequence[str]) -> list[Folder]:
    """Finds the embedding files of some folders.

    Args:
        path: folder, file or address; several of them; or a list, a local .txt file with one a
            line, which start at its own folder. Commas are part of a name.

    Raises:
        FileNotFoundError: one of them holds no embedding file.
        ValueError: a folder is there twice, or a manifest is not of this program.
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
        manifest, every = run_folder.read_manifest(folder), run_folder.read_checksums(folder)
        sums = {name: digest for name, digest in every.items() if is_embedding_file(name)}
        folders.append(Folder(one, folder, found, manifest, sums))
    return folders


def _listed(path: str) -> list[str]:
    path = paths.typed(path)
    if paths.is_remote(path) or not path.lower().endswith(".txt") or not os.path.isfile(path):
        return [path]
    return read_list(path)


def shared_manifest(folders: Sequence[Folder]) -> tuple[dict[str, object] | None, bool | None]:
    """The identity of the encoder, and whether no film is missing; None where no manifest is.

    The identity of several folders has what is equal in all, and the views of all of them.

    Raises:
        ValueError: another encoder, or an unknown one, made the embeddings of one; says which.
    """
    made = [folder.manifest for folder in folders if folder.manifest]
    identities: list[Facts] = [manifest["identity"] for manifest in made]
    if not made:
        return None, None
    if len(made) < len(folders):
        without = next(folder.folder for folder in folders if not folder.manifest)
        raise ValueError(
            f"no {run_folder.MANIFEST} says which encoder made the embeddings in {without}, but "
            "other folders have one; expected it in all or in none"
        )
    one, *others = identities
    complete = all(manifest["complete"] for manifest in made)
    if not others:
        return {**one}, complete
    for folder, other in zip(folders[1:], others, strict=True):
        keys = sorted({*UNSAID, *one, *other} - _ABOUT_FILMS)
        if differing := differences(one, other, ("in the first", "in the second"), keys):
            raise ValueError(
                f"the embeddings in {folders[0].folder} and {folder.folder} are of different "
                "encoders, and cannot be one table:\n" + "\n".join(differing)
            )
    said = UNSAID | {**one}
    shared = {
        k: v for k, v in said.items() if all((UNSAID | {**i}).get(k) == v for i in identities)
    }
    views = [manifest["identity"].get("views") for manifest in made]
    shared["views"] = sorted({v for some in views for v in some or ()}) if all(views) else None
    return shared, complete
