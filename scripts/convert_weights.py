"""Published checkpoints to weights bundles, strictly: every array is accounted for.

For example:
python scripts/convert_weights.py --from timm --input tf_efficientnet_l2_ns.pth --output bundles/l2
python scripts/convert_weights.py --from hf:timm/tf_efficientnet_l2.ns_jft_in1k --output bundles/l2
python scripts/convert_weights.py --from orbax --input bundles/l2     verifies a bundle
python scripts/convert_weights.py --describe bundles/l2               prints its card
"""

import os
import sys
from collections.abc import Sequence
from typing import Literal

from cxr_embeddings import cli, conversion

OPTIONS = {
    "from_": "the kind of checkpoint: timm, keras, tf, elixr_c, hf:ORG/NAME, or orbax for a bundle",
    "input": "the checkpoint, packed or not; with hf: a file or folder of the repository",
    "output": "folder to be made: the new bundle",
    "describe": "print the card of this bundle, and do nothing else",
    "variant": "the network that is expected, b0 to b7 or l2; another one is an error",
    "resolution": "side of the network's input in pixels, where the checkpoint does not say it",
    "dtype": "type of the kernels: float32 or bfloat16; default: float32, or that of a bundle",
    "projection": "orthonormal:SEED adds an untrained map to 4,096 numbers",
}


def convert_weights(
    from_: str = "",
    input: str = "",
    output: str = "",
    describe: str = "",
    variant: str | None = None,
    resolution: int | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    projection: str | None = None,
) -> int:
    """Converts, verifies or describes; the arguments are `OPTIONS`. Returns the exit code."""
    if describe:
        from cxr_embeddings.encoder.card import load_card

        print(conversion.table(load_card(describe)))
        return 0
    if not from_:
        raise ValueError("expected --from, --input and --output; or --describe: see --help")
    wanted = conversion.Wanted(variant, resolution, dtype, projection)
    conversion.convert(from_, input, output, wanted)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}  # TensorFlow: hush
    return cli.run_flags(convert_weights, __doc__, "nothing was written", OPTIONS, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
