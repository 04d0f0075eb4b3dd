"""``dense-resnet predict``: labels of a folder of images."""

from __future__ import annotations

import argparse
from pathlib import Path

if __name__ == "__main__":
    import script

    script.run(__file__)

from . import options, pace, terminal

HELP = "Label images: one index PNG per image, and with --overlay a picture of it; the same command resumes after a stop."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="folders, image files, quoted globs, or .txt lists")
    parser.add_argument("--model", required=True, metavar="DIR", help="a model directory, or an exported file")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the labels go")
    parser.add_argument("--overlay", action="store_true", help="also write a picture of the labels over each image")
    parser.add_argument(
        "--save-probs", action="store_true", help="also write every class's probability, float16 in safetensors: large files"
    )
    options.add_inference_options(parser)
    options.add_speed_options(parser)
    options.add_shard_options(parser)


def main(args: argparse.Namespace) -> int:
    from dense_resnet.image_io.discovery import find_images
    from segmentation.prediction.label_images import PROTOCOL, Labeling, check_targets

    found = find_images(args.images, without=args.out, note=terminal.print_note)
    shard = options.shard_of(args.shard)
    options.precision_from_args(args)
    max_pixels = options.max_pixels_from_args(args)
    check_targets(found, Path(args.out))
    terminal.print_deep(found[shard[0] :: shard[1]], max_pixels)
    if outline := options.model_outline_from_args(args):
        options.inference_from_args(args, outline)  # reports mistakes before TensorFlow is imported
    with terminal.stop_signals() as stop:
        options.start_tensorflow()
        model = options.model_from_args(args)
        inference = options.inference_from_args(args, model)
        runner, chosen = pace.start(args, model.runner, inference.tile or inference.size, len(found), PROTOCOL)
        labeling = Labeling(
            model, runner, args.out, inference, shard=shard, overlay=args.overlay, probabilities=args.save_probs,
            max_pixels=max_pixels, batch=chosen.batch, threads=chosen.threads,
        )  # fmt: skip
        if labeling.tiling_note:
            terminal.print_note(f"near seams, labels may differ from those of whole images: {labeling.tiling_note}")
        with terminal.progress_bar() as progress:
            outcome = labeling.run(found, on_error=args.on_error, progress=progress, stop=stop)
    return terminal.print_outcome(outcome, args.out, "labels")
