"""``dense-resnet describe``: a network's units as a table, without TensorFlow."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.planning.variants import plan_from_config

from . import options

if TYPE_CHECKING:
    from dense_resnet.planning.plan import Plan

HELP = "Print a variant's plan: stride, rate, sizes, receptive field, parameters and MACs of every unit."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("variant", metavar="VARIANT", help="such as resnet_v2_152, a model directory, or a .json of blocks")
    options.add_plan_options(parser)
    parser.add_argument("--size", type=int, nargs="+", default=[513], metavar="N", help="image side, or height and width")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument("--tensorboard", metavar="DIR", help="also write the graph for TensorBoard")


def main(args: argparse.Namespace) -> int:
    from dense_resnet.jobs.atomic_files import check_folder

    if args.tensorboard:
        check_folder(args.tensorboard)
    if options.is_folder(args.variant):
        from segmentation.saving.model_directory import read_plan

        planned = read_plan(args.variant, args.output_stride, multi_grid=args.multi_grid)
    else:
        planned = plan_from_config(options.read_network_config(args.variant), args.output_stride, args.multi_grid)
    analysis = planned.analyze(args.size if len(args.size) > 1 else args.size[0])
    print(json.dumps(analysis.as_dict(), indent=1) if args.json else analysis)
    if args.tensorboard:
        options.start_tensorflow()
        write_graph(planned, analysis.image_size, args.tensorboard)
    return 0


def write_graph(planned: Plan, size: tuple[int, int], folder: str) -> None:
    """Write the graph of `planned` at `size` (height, width) for TensorBoard's Graphs page, under slim's scopes."""
    import tensorflow as tf

    from dense_resnet.backbone import Backbone
    from dense_resnet.jobs.atomic_files import probe_folder

    probe_folder(folder)
    images = tf.TensorSpec([None, *size, planned.in_channels], tf.float32, name="images")
    graph = tf.function(Backbone(planned), autograph=False).get_concrete_function(images).graph
    writer = tf.summary.create_file_writer(folder)
    with writer.as_default():
        tf.summary.graph(graph)
    writer.close()
