"""Published weights on the Hugging Face Hub: finds what a reader can read and fetches only that."""

import contextlib
import json
import pathlib
import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from cxr_embeddings.common import untrusted

from ..card import CARD, CHECKPOINT

KINDS = {  # source -> what shows it; of a repository that shows several, the first is read
    "orbax": f"{CARD} beside {CHECKPOINT}/",
    "elixr_c": "saved_model.pb",
    "timm": "model.safetensors or pytorch_model.bin, beside config.json",
    "keras": "*.weights.h5 or *.keras",
    "tf": "*.tar.gz, or *.index beside *.data-*",
}
TIMEOUT = 30  # seconds until the Hub's first answer: behind some firewalls there is none, ever


class Download(NamedTuple):
    """What was fetched, in the cache of huggingface_hub."""

    source: str  # the reader it is for, a key of `KINDS`
    path: pathlib.Path  # what that reader takes: a file or a folder
    origin: str  # "hf:ORG/NAME@" and the first 12 digits of the commit


class _Found(NamedTuple):
    source: str
    mark: str  # the file that shows it
    path: str
    files: list[str]  # needed to read it


def download(repository: str, folder: str = "") -> Download:
    """Fetches the one checkpoint of a repository; files that the cache has are not fetched again.

    Args:
        repository: ORG/NAME.
        folder: of the repository, or file, where the checkpoint is; "" for anywhere.

    Raises:
        ValueError: the name is none, or the repository has no checkpoint there, several of one
            kind, or file names that lead out of it.
        OSError: it is gated, private or missing, the Hub is out of reach, or the disk is full.
    """
    from huggingface_hub import hf_hub_download, model_info  # 0.4 s

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        raise ValueError(
            f"{repository!r} is not a repository; expected ORG/NAME, as in --from hf:timm/NAME"
        )
    with _explained(repository):
        info = model_info(repository, timeout=TIMEOUT)
        commit, names = str(info.sha), sorted(file.rfilename for file in info.siblings or [])
        found = _choose(names, folder, repository)
        local = [hf_hub_download(repository, name, revision=commit) for name in found.files]
    root = pathlib.Path(local[0]).parents[found.files[0].count("/")]
    return Download(found.source, root / found.path, f"hf:{repository}@{commit[:12]}")


def _choose(names: list[str], folder: str, repository: str) -> _Found:
    for name in names:
        path = pathlib.PureWindowsPath(name)  # takes both kinds of slashes
        if path.drive or path.root or ".." in path.parts:
            raise ValueError(
                f"hf:{repository} lists a file {name!r}, which would lie outside of its folder: "
                "nothing was fetched; do not trust this repository"
            )
    inside = posixpath.normpath(folder).strip("/") or "."
    there = [name for name in names if inside in (".", name) or name.startswith(f"{inside}/")]
    found = [match for name in there if (match := _recognise(name, names))]
    for kind in KINDS:
        same = [match for match in found if match.source == kind]
        if len(same) > 1:
            raise ValueError(
                f"hf:{repository} has {len(same)} checkpoints of the kind {kind}: "
                f"{untrusted.some([match.mark for match in same])}; choose one with --input"
            )
        if same:
            return same[0]
    expected = "; ".join(f"{shows} ({kind})" for kind, shows in KINDS.items())
    raise ValueError(
        f"hf:{repository} has no weights that can be converted"
        + (f" in {folder!r}: {untrusted.some(there)}; in all " if folder else ": ")
        + f"{untrusted.some(names)}. Expected one of: {expected}"
    )


def _recognise(name: str, names: list[str]) -> _Found | None:
    """The checkpoint that a file shows to be there, if any."""
    folder, base = posixpath.split(name)

    def starting(text: str) -> list[str]:
        return [other for other in names if other.startswith(posixpath.join(folder, text))]

    if base == CARD and (files := starting(f"{CHECKPOINT}/")):
        return _Found("orbax", name, folder, [name, *files])
    if base == "saved_model.pb":
        return _Found("elixr_c", name, folder, starting(""))
    if base in ("model.safetensors", "pytorch_model.bin"):
        config, safe = (posixpath.join(folder, f) for f in ("config.json", "model.safetensors"))
        if config in names and (name == safe or safe not in names):
            return _Found("timm", name, folder, [config, name])
    if base.endswith((".weights.h5", ".keras")):
        return _Found("keras", name, name, [name])
    if base.endswith(".tar.gz"):
        return _Found("tf", name, name, [name])
    if base.endswith(".index") and (shards := starting(base.removesuffix("index") + "data-")):
        latest = {posixpath.join(folder, "checkpoint")}.intersection(names)
        return _Found("tf", name, name, [name, *shards, *latest])
    return None


@contextlib.contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Says what to do where huggingface_hub, or the HTTP client beneath it, raises this or that."""
    from huggingface_hub import errors

    page, tokens = f"https://huggingface.co/{repository}", "https://huggingface.co/settings/tokens"
    token = f"a token of type Read ({tokens}) by `hf auth login` or the variable HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"hf:{repository} is gated: accept its terms at {page}, give {token}, and run the same "
            "command again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"hf:{repository} was not found, or is private: check the name at {page}; where it is "
            f"private, give {token}"
        ) from error
    except (
        errors.HTTPError,  # of the HTTP client, the base of all its errors
        errors.LocalEntryNotFoundError,
        ConnectionError,
        json.JSONDecodeError,  # a log-in page of the network instead of the Hub's answer
    ) as error:
        wrapped = isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__
        cause = wrapped or error
        reason = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
        if isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code in (401, 403):
            raise PermissionError(
                f"hf:{repository} may not be read with this token ({reason}): give {token}"
            ) from error
        raise ConnectionError(
            f"hf:{repository} cannot be downloaded ({reason}): check the network and run the same "
            "command again, it keeps the files that are complete; or download it by other means "
            "and convert it by scripts/convert_weights.py --from SOURCE --input PATH, "
            f"SOURCE one of {', '.join(KINDS)}"
        ) from error
