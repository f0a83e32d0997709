"""Published checkpoints to weights bundles, strictly: every array is accounted for.

For example:
python scripts/convert_weights.py --from timm --input tf_efficientnet_l2_ns.pth --output bundles/l2
python scripts/convert_weights.py --from hf:timm/tf_efficientnet_l2.ns_jft_in1k --output bundles/l2
python scripts/convert_weights.py --from orbax --input bundles/l2     verifies a bundle
python scripts/convert_weights.py --describe bundles/l2               prints its card
"""

import dataclasses
import os
import sys
from collections.abc import Sequence

from cxr_embeddings import cli, conversion
from cxr_embeddings.configs.schema import field


@dataclasses.dataclass(frozen=True)
class Options(conversion.Wanted):
    from_: str = field(
        "",
        "the kind of checkpoint: timm, keras, tf, elixr_c, efficientnet_pytorch, hf:ORG/NAME, or "
        "orbax for a bundle",
    )
    input: str = field(
        "", "the checkpoint, packed or not; with hf: a file or folder of the repository"
    )
    output: str = field("", "folder to be made: the new bundle")
    describe: str = field("", "print the card of this bundle, and do nothing else")


def convert_weights(options: Options) -> int:
    """Converts, verifies or describes. Returns the exit code."""
    if options.describe:
        from cxr_embeddings.encoder.card import load_card

        print(conversion.table(load_card(options.describe)))
        return 0
    if not options.from_:
        raise ValueError("expected --from, --input and --output; or --describe: see --help")
    conversion.convert(options.from_, options.input, options.output, options)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}  # TensorFlow: hush
    os.environ["JAX_PLATFORMS"] = "cpu"  # accelerators stay free
    return cli.run(convert_weights, Options, __doc__, "nothing was written", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
