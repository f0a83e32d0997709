"""The folder of a training: of one run, held by one process, and seen alike by all hosts."""

import contextlib
import dataclasses
import importlib.metadata
import pathlib

import numpy as np

from cxr_embeddings.common import files
from cxr_embeddings.configs.schema_pretraining import BundleConfig, PretrainConfig
from cxr_embeddings.encoder import weights
from cxr_embeddings.encoder.card import Card
from cxr_embeddings.encoder.weights import Variables
from cxr_embeddings.input_pipeline import run_folder
from cxr_embeddings.input_pipeline.hosts import Hosts, together

LIBRARIES = ("cxr-embeddings", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
WEIGHTS = "weights"


def open_folder(
    stack: contextlib.ExitStack,
    hosts: Hosts,
    folder: pathlib.Path,
    config: PretrainConfig,
    identity: dict[str, str],
) -> bool:
    """Makes the folder, or sees that it is of this run; holds it while the stack does.

    Returns:
        Whether there is something left to do.

    Raises:
        ValueError: it is of another run, or holds other things.
        OSError: it cannot be written, another process holds it, or the hosts do not share it.
    """

    def claim() -> None:
        if hosts.index:
            return
        scratch = stack.enter_context(run_folder.claim(str(folder)))
        runs = run_folder.earlier_runs(str(folder), identity)
        found = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
        if runs is None and found:
            raise ValueError(
                f"{folder} holds {found[0]} and no {run_folder.MANIFEST}: it is not a run of "
                "this command: choose another output.path"
            )
        if WEIGHTS in found:
            return
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        facts = {"config": dataclasses.asdict(config), "versions": versions}
        data = run_folder.encode_manifest(identity, [*(runs or ()), facts], complete=False)
        files.write_whole(str(folder / run_folder.MANIFEST), data, scratch)

    def see() -> None:
        if run_folder.earlier_runs(str(folder), identity) is None:
            raise OSError(f"{folder} is empty here; expected a folder that all hosts share")

    together(hosts, claim)
    together(hosts, see)
    return not agreed(hosts, folder, int((folder / WEIGHTS).exists()))


def agreed(hosts: Hosts, folder: pathlib.Path, number: int) -> int:
    """A number read off the folder. Raises OSError where the hosts have not all found the same."""
    found = hosts.gather(np.array([number]))[:, 0]
    if (found != number).any():
        raise OSError(
            f"the hosts do not see the same files in {folder}; expected a folder that all share"
        )
    return number


def save(
    hosts: Hosts,
    folder: pathlib.Path,
    variables: Variables,
    card: Card,
    given: BundleConfig,
    identity: dict[str, str],
) -> None:
    """Writes the trained weights as a bundle, from the first host; all hosts call it.

    The card says what is given, and else what the card of the first weights said; its settings are
    added to those of the identity.
    """
    source = f"scripts/pretrain.py, cxr-embeddings {importlib.metadata.version(LIBRARIES[0])}"
    data = f"films: {identity['films']}"
    licence, terms_of_use = "not said", ""
    if card.digest:  # of the bundle that it started from
        source, data = f"{source}, from {card.source}", f"{data}; before: {card.training_data}"
        licence, terms_of_use = card.licence, card.terms_of_use
    card = dataclasses.replace(
        card,
        source=source,
        licence=given.licence or licence,
        terms_of_use=given.terms_of_use or terms_of_use,
        training_data=given.training_data or data,
        settings=identity | card.settings,
    )

    def write() -> None:
        if hosts.index:
            return
        weights.save_bundle(folder / WEIGHTS, variables, card)
        runs = run_folder.earlier_runs(str(folder), identity) or ()
        data = run_folder.encode_manifest(identity, runs, complete=True)
        files.write_whole(str(folder / run_folder.MANIFEST), data)

    together(hosts, write)
