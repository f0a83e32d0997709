"""Benchmarks, each against its baseline, taking turns: `python scripts/bench.py encoder`."""

import argparse
import importlib

BENCHMARKS = {
    "preprocess": "from a DICOM file to 1280 x 1280 network input, against the toolkit's own steps",
    "encoder": "the network's forward pass, against its plain form in Flax",
    "pretrain": "the gradient of a pretraining step, against its plain form in Flax",
    "heads": "training heads, against the toolkit's Keras head and scikit-learn",
    "heads_memory": "training heads on as many films as MIMIC-CXR has: time and peak memory",
    "storage": "storing films: bytes, time, and what 8 bits and JPEG do to embeddings and heads",
    "scale": "a load test: 20,000 films from files to embeddings; memory, file handles, start-up",
    "loop": "the embedding loop with ready images, against the bare forward pass",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, text in BENCHMARKS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--repeats", type=int, default=10, help="rounds that count")
    arguments = parser.parse_args()
    importlib.import_module(f"scripts.bench_{arguments.benchmark}").run(arguments.repeats)


if __name__ == "__main__":
    main()
