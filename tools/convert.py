"""``dense-resnet convert``: convert weights between slim, DeepLab, Keras, PyTorch and safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.errors import escape_control, pluralize
from dense_resnet.planning.variants import USUAL_STRIDE, at_output_stride

from . import options, terminal

if TYPE_CHECKING:
    from segmentation.data.label_space import LabelSpace
    from segmentation.saving.conversion import Network

HELP = "Convert weights of slim, DeepLab, Keras, PyTorch or a model directory; --check compares them with their framework."
CHECKED_SIZE = 129  # side of the noise image that the laws are checked on
FORMATS = ("slim", "safetensors", "keras", "model-dir")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help=options.WEIGHTS_HELP)
    add("--to", required=True, choices=FORMATS, help="what to write")
    add("--out", required=True, metavar="PATH", help="the file (.ckpt, .safetensors, .keras) or folder")
    add("--model", metavar="VARIANT", help="the network, if the weights do not identify it; or a .json with blocks")
    add("--root", metavar="NAME", help="slim, symmetric, keras or beta (default: what the weights come from)")
    add("--no-classifier", action="store_true", help="drop the ImageNet classifier")
    add("--classes", metavar="NAMES", help="of a segmentation head: voc, cityscapes, ade20k, or a dataset.json")
    options.add_plan_options(parser)
    add("--check", action="store_true", help="verify the laws on these weights, and compare with the framework they come from")


def main(args: argparse.Namespace) -> int:
    from segmentation.saving import conversion
    from segmentation.saving.model_directory import is_model_directory

    described = options.read_network_config(args.model) if args.model else None
    conversion.check_out(args.to, args.out)
    space = _space(args.classes)
    stride = args.output_stride
    if stride is None and args.to == conversion.MODEL_DIRECTORY and not is_model_directory(args.source):
        stride = USUAL_STRIDE
    conversion.check_request(args.source, described, stride, multi_grid=args.multi_grid, root=args.root)
    options.start_tensorflow()
    network = conversion.open_network(
        args.source, described, stride, multi_grid=args.multi_grid, root=args.root, classifier=not args.no_classifier
    )
    print(escape_control(str(network.report)))
    _print_network(network)
    if args.check and not _check(args.source, network):
        print(f"{args.out}: not written")
        return 1
    for sentence in conversion.write(network, args.to, args.out, space=space):
        print(sentence)
    print(f"{args.out}: {pluralize(len(network.weights), 'array')}, read back and equal bit for bit")
    return 0


def _space(named: str | None) -> LabelSpace | None:
    from segmentation.data.description import read_dataset_description
    from segmentation.saving.conversion import find_known_space

    if named is None:
        return None
    return read_dataset_description(Path(named)).space if named.endswith(".json") else find_known_space(named)


def _print_network(network: Network) -> None:
    plan, known = network.plan, network.origin
    rows: list[tuple[str, object]] = [
        ("weights of", known.framework if known else "?"),
        ("network", plan.name),
        ("root block", plan.root_name),
        ("output_stride", plan.output_stride),
        ("preprocessing", (known and known.preprocessing) or plan.preprocessing),
        ("classifier", pluralize(plan.num_classes, "class") if plan.num_classes else "none"),
        ("head", f"{network.head.type}, {pluralize(network.head.num_classes, 'class')}" if network.head else "none"),
        ("values", f"{sum(value.size for value in network.weights.values()):,}"),
    ]
    terminal.print_table(rows)


def _check(source: str, network: Network) -> bool:
    """Return whether laws 2 and 3 hold and features agree with the weights' own framework; print the figures."""
    from dense_resnet.verification import laws, parity

    plan = network.plan
    finest = min(plan.output_stride, plan.nominal_stride // 2)
    dense = laws.backbone_with(at_output_stride(plan, finest), network.weights)
    holds = options.check_laws(dense, at_output_stride(plan, None), CHECKED_SIZE)
    try:
        framework, error = parity.compare(source)
    except parity.NotComparableError as reason:
        print(f"not compared with another framework: {reason}")
        return holds
    agrees = error <= laws.TOLERANCE
    verdict = "agree with" if agrees else "DIFFER from"
    print(f"features {verdict} those of {framework} on the same weights: largest error {error:.1e} of their std")
    return holds and agrees
