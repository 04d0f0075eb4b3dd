"""``dense-resnet predict``: labels of a folder of images."""

from __future__ import annotations

import argparse

HELP = "Label images: an index PNG each, and a picture of it with --overlay; the same command goes on after a stop."


def configure(parser: argparse.ArgumentParser) -> None:
    from .cli import add_inference_options, add_shard_options

    parser.add_argument("images", nargs="+", metavar="IMAGES", help="folders, image files, quoted globs, or .txt lists")
    parser.add_argument("--model", required=True, metavar="DIR", help="a model directory")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the labels go")
    parser.add_argument("--overlay", action="store_true", help="also a picture of the labels over each image")
    parser.add_argument(
        "--save-probs", action="store_true", help="also every class's probability, float16 in safetensors: large files"
    )
    add_inference_options(parser)
    add_shard_options(parser)


def main(args: argparse.Namespace) -> int:
    from dense_resnet.images import MAX_PIXELS, find_images

    from .cli import asked_inference, print_outcome, progress_bar, shard_of, start_tensorflow, stop_signals

    found = find_images(args.images, without=args.out)
    shard = shard_of(args.shard)
    with stop_signals() as stop:
        start_tensorflow()
        from segmentation.labelling import Labelling
        from segmentation.model_directory import load_model

        labelling = Labelling(
            load_model(args.model, args.output_stride),
            args.out,
            asked_inference(args),
            shard=shard,
            overlay=args.overlay,
            probabilities=args.save_probs,
            max_pixels=MAX_PIXELS if args.max_pixels is None else args.max_pixels,
        )
        if labelling.seams:
            print(f"note: near seams, labels may differ from the images run whole: {labelling.seams}")
        with progress_bar() as progress:
            outcome = labelling.run(found, on_error=args.on_error, progress=progress, stop=stop)
    return print_outcome(outcome, args.out, "labels")


if __name__ == "__main__":
    import cli

    cli.script(__file__)
