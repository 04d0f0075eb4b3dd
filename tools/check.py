"""``dense-resnet check``: the laws of a dense ResNet on the user's own weights."""

from __future__ import annotations

import argparse

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.errors import InputError
from dense_resnet.planning.geometry import check_aligned
from dense_resnet.planning.variants import USUAL_STRIDE, at_output_stride

from . import options

HELP = "Check on your weights that dense features equal the nominal network's and that cells are exactly on pixels."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("variant", metavar="VARIANT", help="such as resnet_v2_152, or a model directory")
    options.add_weights_options(parser)
    options.add_plan_options(parser)
    parser.set_defaults(output_stride=USUAL_STRIDE)
    parser.add_argument("--size", type=int, default=129, metavar="N", help="side of the noise image, 32n+1 (default 129)")


def main(args: argparse.Namespace) -> int:
    planned = options.plan_from_args(args, args.variant)
    nominal = at_output_stride(planned, None)
    if planned == nominal:
        raise InputError(f"--output-stride {planned.output_stride} is the nominal network itself; check a finer one.")
    check_aligned("--size", args.size, nominal.nominal_stride)
    return 0 if options.check_laws(options.backbone_from_args(args, args.variant, planned), nominal, args.size) else 1
