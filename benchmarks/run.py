"""Benchmarks, each against its baseline, taking turns: `python benchmarks/run.py encoder`."""

import argparse
import importlib
import pathlib
import sys

BENCHMARKS = {
    "preprocess": "from a DICOM file to 1280 x 1280 network input, against the toolkit's own steps",
    "encoder": "the network's forward pass, against every other engine that is installed",
    "pretrain": "the gradient of a pretraining step, against its plain form in Flax",
    "heads": "training heads, against the toolkit's Keras head and scikit-learn",
    "heads_memory": "training heads on as many films as MIMIC-CXR has: time and peak memory",
    "storage": "storing films: bytes, time, and what 8 bits and JPEG do to embeddings and heads",
    "scale": "a load test: 20,000 films from files to embeddings; memory, file handles, start-up",
    "pipeline": "films to embedding records by stage, and ready ones against the bare forward pass",
}


OPTIONS = {  # of single benchmarks
    "encoder": {
        "cases": "VARIANT:RESOLUTION:BATCH,...",
        "dtype": "float32 or bfloat16",
        "engines": "others to compare with, with commas, or all",
        "output": "folder for encoder.json, encoder.md and roofline.png",
    },
    "pipeline": {
        "variant": "of the network: b0 ... b7 or l2",
        "resolution": "of the network, in pixels",
        "engine": "jax or openvino",
        "batch_size": "films a batch; 0: as embed.py chooses",
        "films": "how many to draw, or to take of --input",
        "input": "folder of films; none: drawn ones",
        "records": "ready films in the store; with few of them, start and end count for much",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, text in BENCHMARKS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--repeats", type=int, default=10, help="rounds that count")
        for option, meaning in OPTIONS.get(name, {}).items():
            command.add_argument(f"--{option}", help=meaning, default=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    importlib.import_module(f"benchmarks.{arguments.pop('benchmark')}").run(**arguments)


if __name__ == "__main__":
    main()
