"""The network `tiny`, one block a stage, which is compiled in a second.

The tests know it, and so does a command that is started as `python tests/tiny.py scripts/embed.py`.
"""

import runpy
import sys

from cxr_embeddings.encoder import efficientnet

efficientnet.VARIANTS["tiny"] = efficientnet.Variant(0.25, 0.1, 32)

STAGES = efficientnet.STAGES


def two_stages(patch):
    """Leaves every network two stages, with blocks of both kinds: for what compiles for long."""
    patch.setattr(efficientnet, "STAGES", STAGES[:2])


def one_stage(patch):
    """Leaves every network one stage of blocks that expand: for programs with gradients."""
    patch.setattr(efficientnet, "STAGES", STAGES[1:2])


if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
