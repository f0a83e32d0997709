"""Benchmarks, run by hand from a checkout: `python benchmarks/run.py SUBJECT --help`.

Each subject is a file beside this one with a function `run`. What `run` takes are the options: a
parameter without a default has no dashes, as in `python benchmarks/run.py folds splits`.
"""

import argparse
import importlib
import inspect
import pathlib
import sys
from collections.abc import Callable

SUBJECTS = {
    "encoder": "the network's forward pass, against timm where it is installed",
    "explorer": "the explorer's page: first picture, frames while dragging, time of a label",
    "mimic_iv": "films linked to tables of the size of MIMIC-IV: time and memory",
    "quality": "what embeddings tell of films that no training saw: docs/quality.md",
    "service": "the service: throughput, latency and memory, beside embed.py",
    "default_recipe": "does the recipe of pretraining keep what it starts from? on drawn films",
    "localisation": "heat maps against boxes: hit rate and overlap, as CheXlocalize has them",
    "folds": "tables of splits without one of the five folds of weights/splits",
    "mutated_films": "damaged films: is each a film or a rejection with a reason?",
}


def arguments_of(run: Callable[..., object], name: str, argv: list[str]) -> dict[str, object]:
    """The options of a subject from its command line, by the signature of its `run`."""
    text = inspect.getdoc(run)
    parser = argparse.ArgumentParser(
        f"run.py {name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option in inspect.signature(run).parameters.values():
        if option.default is option.empty:
            parser.add_argument(option.name)
        else:
            kind, default = type(option.default), option.default
            parser.add_argument(f"--{option.name}", type=kind, default=default, help=f"{default!r}")
    return vars(parser.parse_args(argv))


def main(argv: list[str] | None = None) -> None:
    """Runs the subject that is named first."""
    shown = "\n".join(f"  {name:15}{text}" for name, text in SUBJECTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nSubjects:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subject", choices=SUBJECTS, metavar="SUBJECT")
    argv = sys.argv[1:] if argv is None else argv
    name = parser.parse_args(argv[:1]).subject
    run = importlib.import_module(f"benchmarks.{name}").run
    run(**arguments_of(run, name, argv[1:]))


if __name__ == "__main__":
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    main()
