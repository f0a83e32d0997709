"""Makes timm_VARIANT.json: what timm's own networks say, stage by stage, of fixed images.

The weights are `live_variables` of tests/test_timm.py, the same on every machine. Each file says by
which timm and torch it was made, on an x86 CPU in an environment of the project with both:

    pip install torch timm
    PYTHONPATH=.:tests python tests/golden/make_timm.py lite0
"""

import json
import sys

from parity import random_images
from test_timm import GOLDEN, SIZES, live_variables, statistics, timm_forward

from benchmarks import peers


def main(variants: list[str]) -> None:
    import timm
    import torch

    for variant in variants:
        network = peers.timm_network(variant, live_variables(variant))
        golden = {"timm": timm.__version__, "torch": torch.__version__}
        for size in SIZES[variant]:
            images = random_images(size, batch=2, seed=2)
            golden[str(size)] = statistics(timm_forward(network, images))
        (GOLDEN / f"timm_{variant}.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
