"""Makes timm_b0.json: what timm's own tf_efficientnet_b0 says, stage by stage, of fixed images.

The weights are `live_variables` of tests/test_timm.py, the same on every machine. Made with timm
1.0.31 and torch 2.13.0 on an x86 CPU, in an environment of the project with both installed:

    pip install torch timm
    PYTHONPATH=.:tests python tests/golden/make_timm_b0.py
"""

import json

from parity import random_images
from test_timm import (
    GOLDEN,
    SIZES,
    import_timm,
    live_variables,
    statistics,
    timm_forward,
    timm_network,
)


def main() -> None:
    torch, timm = import_timm()
    network = timm_network("b0", live_variables())
    golden = {"timm": timm.__version__, "torch": torch.__version__}
    for size in SIZES["b0"]:
        images = random_images(size, batch=2, seed=2)
        golden[str(size)] = statistics(timm_forward(network, images))
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
