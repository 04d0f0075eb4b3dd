"""``dense-resnet extract``: features of a folder of images, on disk."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import TYPE_CHECKING

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.errors import InputError
from dense_resnet.planning.variants import USUAL_STRIDE, VARIANTS

from . import options, pace, terminal

if TYPE_CHECKING:
    from dense_resnet.extraction.settings import Settings
    from dense_resnet.planning.plan import Plan

HELP = "Extract features of images to disk: one safetensors file per image, and a manifest."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="folders, image files, quoted globs, or .txt lists")
    parser.add_argument(
        "--model", required=True, metavar="VARIANT", help="such as resnet_v2_152, a model directory, or an exported file"
    )
    options.add_weights_options(parser)
    options.add_plan_options(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="where the features go")
    parser.add_argument("--size", type=int, metavar="N", help="side of the canvas, 32n+1 (default 513, or the export's own)")
    parser.add_argument("--layers", type=int, nargs="+", default=[], metavar="N", help="strides to keep, such as 4 8 16")
    parser.add_argument("--dtype", default="float32", help="float32, float16 or bfloat16 (default float32)")
    options.add_speed_options(parser)
    options.add_shard_options(parser)
    parser.add_argument("--picture", action="store_true", help="also write an alignment picture of each image")


def main(args: argparse.Namespace) -> int:
    from dense_resnet.image_io.discovery import check_apart, find_images
    from dense_resnet.jobs.atomic_files import check_folder
    from segmentation.saving.export.files import is_exported

    found = find_images(args.images, without=args.out, note=terminal.print_note)
    shard = options.shard_of(args.shard)
    options.precision_from_args(args)
    max_pixels = options.max_pixels_from_args(args)
    check_folder(args.out)
    check_apart(found, args.out)
    terminal.print_deep(found[shard[0] :: shard[1]], max_pixels)
    exported = args.model not in VARIANTS and is_exported(args.model)
    if exported:
        if args.weights is not None or args.random_weights is not None or args.multi_grid:
            raise InputError(
                f"{args.model}: an exported file has its own weights: leave --weights, --random-weights and --multi-grid out."
            )
        if outline := options.export_outline_from_args(args):
            _settings(args, outline.plan, outline.side)  # reports mistakes before TensorFlow is imported
    else:
        if args.output_stride is None and not options.is_folder(args.model):
            args.output_stride = USUAL_STRIDE
        planned = options.plan_from_args(args, args.model)
        settings = _settings(args, planned)
    with terminal.stop_signals() as stop:
        options.start_tensorflow()
        from dense_resnet.extraction.extract import Extraction
        from dense_resnet.extraction.settings import PROTOCOL

        if exported:
            opened = options.export_from_args(args)
            settings = _settings(args, opened.plan, opened.side)
            make: pace.Make = opened.runner
        else:
            backbone = options.backbone_from_args(args, args.model, planned)
            make = functools.partial(backbone.runner, strides=settings.strides(planned))
        runner, chosen = pace.start(args, make, settings.size, len(found), PROTOCOL)
        settings = dataclasses.replace(settings, batch=chosen.batch)
        extraction = Extraction(runner, args.out, settings, shard=shard, max_pixels=max_pixels, threads=chosen.threads)
        with terminal.progress_bar() as progress:
            outcome = extraction.run(found, on_error=args.on_error, progress=progress, stop=stop, picture=args.picture)
    return terminal.print_outcome(outcome, args.out, "features")


def _settings(args: argparse.Namespace, planned: Plan, side: int | None = None) -> Settings:
    """Return the checked settings; `side` is that of the only canvas that the network takes, if any."""
    from dense_resnet.extraction.settings import Settings

    size = side if args.size is None else args.size
    asked = {"layers": tuple(args.layers), "dtype": args.dtype}
    settings = Settings(**asked) if size is None else Settings(size=size, **asked)
    settings.check(planned, side)
    return settings
