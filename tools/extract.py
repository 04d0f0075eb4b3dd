"""``dense-resnet extract``: features of a folder of images, on disk."""

from __future__ import annotations

import argparse

HELP = "Extract features of images to disk: one safetensors file an image, and a manifest."


def configure(parser: argparse.ArgumentParser) -> None:
    from .cli import add_plan_options, add_shard_options, add_weights_options

    parser.add_argument("images", nargs="+", metavar="IMAGES", help="folders, image files, quoted globs, or .txt lists")
    parser.add_argument("--model", required=True, metavar="VARIANT", help="such as resnet_v2_152, or a model directory")
    add_weights_options(parser)
    add_plan_options(parser)
    parser.set_defaults(output_stride=16)
    parser.add_argument("--out", required=True, metavar="DIR", help="where the features go")
    parser.add_argument("--size", type=int, default=513, metavar="N", help="side of the canvas, 32n+1 (default 513)")
    parser.add_argument("--layers", type=int, nargs="+", default=[], metavar="N", help="strides to keep, such as 4 8 16")
    parser.add_argument("--dtype", default="float32", help="float32, float16 or bfloat16 (default float32)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images at a time (default 1)")
    add_shard_options(parser)
    parser.add_argument("--picture", action="store_true", help="also write an alignment picture of each image")


def main(args: argparse.Namespace) -> int:
    from dense_resnet.images import MAX_PIXELS, find_images

    from .cli import asked_plan, loaded_backbone, print_outcome, progress_bar, shard_of, start_tensorflow, stop_signals

    found = find_images(args.images, without=args.out)
    shard = shard_of(args.shard)
    planned = asked_plan(args, args.model)
    with stop_signals() as stop:
        start_tensorflow()
        from dense_resnet.extraction import Extraction, Settings

        settings = Settings(args.size, tuple(args.layers), args.dtype, args.batch)
        settings.check(planned)
        max_pixels = MAX_PIXELS if args.max_pixels is None else args.max_pixels
        backbone = loaded_backbone(args, args.model, planned)
        extraction = Extraction(backbone, args.out, settings, shard=shard, max_pixels=max_pixels)
        with progress_bar() as progress:
            outcome = extraction.run(found, on_error=args.on_error, progress=progress, stop=stop, picture=args.picture)
    return print_outcome(outcome, args.out, "features")


if __name__ == "__main__":
    import cli

    cli.script(__file__)
