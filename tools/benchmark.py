"""``dense-resnet benchmark``: forward time, and ratios against plain slim and the extraction."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

HELP = "Time the forward pass; --versus runs others in turn with what is ours and prints the ratio."
SLIM, EXTRACT, CONFUSION, EVALUATE, TRAIN = "slim", "extract", "confusion", "evaluate", "train"
COMPILED = {"compiled": "float32", "compiled-bfloat16": "bfloat16"}  # our own, frozen for inference: its precision
LABEL_MAPS = [(size, classes) for size in ((513, 513), (1024, 2048)) for classes in (21, 150)]  # that matrices are counted of


def configure(parser: argparse.ArgumentParser) -> None:
    from .cli import add_plan_options

    parser.add_argument("--model", default="resnet_v2_152", metavar="VARIANT", help="default resnet_v2_152")
    add_plan_options(parser)
    parser.set_defaults(output_stride=16)
    parser.add_argument("--size", type=int, default=513, metavar="N", help="side of the image (default 513)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images a run (default 1)")
    parser.add_argument("--burn-in", type=int, default=3, metavar="N", help="runs that are not timed (default 3)")
    parser.add_argument("--batches", type=int, default=20, metavar="N", help="runs that are (default 20)")
    parser.add_argument(
        "--versus",
        nargs="+",
        default=[],
        choices=(SLIM, *COMPILED, EXTRACT, CONFUSION, EVALUATE, TRAIN),
        help="what to compare with",
    )
    parser.add_argument("--images", type=int, default=64, metavar="N", help="files for extract and evaluate (default 64)")
    parser.add_argument("--crop", type=int, default=257, metavar="N", help="side of the images for train (default 257)")
    parser.add_argument("--json", metavar="FILE", help="also write every figure there")


def main(args: argparse.Namespace) -> int:
    from dense_resnet.geometry import positive_integer
    from dense_resnet.variants import plan

    from .cli import start_tensorflow

    for name in ("size", "batch", "batches", "images", "crop"):
        positive_integer(f"--{name}", getattr(args, name))
    positive_integer("--burn-in", args.burn_in + 1)
    planned = plan(args.model, args.output_stride, multi_grid=args.multi_grid)

    start_tensorflow()
    from dense_resnet import benchmark, files, parity
    from dense_resnet.backbone import Backbone
    from dense_resnet.extraction import Settings

    if SLIM in args.versus:
        parity.slim_network(planned)
    if {EXTRACT, EVALUATE} & {*args.versus}:
        Settings(args.size).check(planned)
    if args.json:
        files.probe_folder(Path(args.json).parent)

    images = benchmark.noise_images(planned, args.size, args.batch)
    backbone = Backbone(planned, seed=0)
    own = benchmark.prepared("dense_resnet", lambda: benchmark.backbone_forward(backbone, images), args.batch)
    peak = benchmark.peak_memory()
    competitors = [own]
    if SLIM in args.versus:
        slim = benchmark.prepared("tf_slim", lambda: benchmark.slim_forward(planned, images), args.batch)
        competitors.append(slim)
    for name, precision in COMPILED.items():
        if name in args.versus:

            def make(precision: str = precision) -> benchmark.Run:
                return benchmark.compiled_forward(backbone, images, precision)

            competitors.append(benchmark.prepared(name, make, args.batch))
    benchmark.alternate(competitors, args.batches, args.burn_in)
    timings = [timing for timing, _ in competitors]
    ratios = {f"{timing.name} / dense_resnet": benchmark.ratio(timing, timings[0]) for timing in timings[1:]}
    gmacs = planned.macs(args.size) * args.batch / 1e9
    result = {
        "model": planned.name,
        "output_stride": planned.output_stride,
        "size": args.size,
        "batch": args.batch,
        "gmac": gmacs,
        "peak_memory_bytes": peak,
    }
    if EXTRACT in args.versus:
        bare, extract, peaks = benchmark.against_extraction(planned, args.size, args.images, runs=3)
        timings += [bare, extract]
        ratios["forward / extract (images/s of extract over those of the forward)"] = benchmark.ratio(bare, extract)
        result["peak_memory_bytes_after_each_extraction"] = peaks
    if EVALUATE in args.versus:
        from segmentation.benchmark import against_evaluation

        bare, evaluate, peaks = against_evaluation(planned, args.size, args.images, runs=3)
        timings += [dataclasses.replace(bare, name="logits + argmax"), evaluate]
        ratios["evaluate / (forward + enlarging + argmax)"] = benchmark.ratio(evaluate, bare)
        result["peak_memory_bytes_after_each_evaluation"] = peaks
    if TRAIN in args.versus:
        from segmentation.benchmark import training_timings

        training = training_timings(planned, args.crop, args.batch, steps=4, runs=args.batches)
        timings += training
        for other in training[1:]:
            ratios[f"{other.name} / our training step in float32"] = benchmark.ratio(other, training[0])
    if CONFUSION in args.versus:
        from segmentation.benchmark import confusion_timings

        for (height, width), classes in LABEL_MAPS:
            comparison = confusion_timings(height, width, classes, args.batches)
            for name, value in comparison.ratios.items():
                ratios[f"confusion matrix, {height}x{width}, {classes} classes: {name} / dense_resnet"] = value
            result["not_compared"] = comparison.missing
    result |= {"timings": [timing.as_dict() for timing in timings], "ratios": ratios}
    result["gmac_per_second"] = gmacs / result["timings"][0]["median"]

    print(f"{planned.name}, output_stride {planned.output_stride}, {args.size}x{args.size}, batch {args.batch}")
    for timing in timings:
        figures = timing.as_dict()
        rate = f", {gmacs / figures['median']:.0f} GMAC/s" if timing.images == args.batch else ""
        print(
            f"  {timing.name:<13} {figures['mean']:.3f} +/- {figures['sd']:.3f} s a run, median {figures['median']:.3f}, "
            f"{figures['images_per_second']:.2f} images/s{rate}; ready after {figures['build_seconds']:.1f} s"
        )
    for name, value in ratios.items():
        print(f"  {name}: {value:.3f}")
    print(f"  peak memory {peak / 2**20:.0f} MiB, TensorFlow included")
    if args.json:
        files.write_bytes(args.json, (json.dumps(result, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    import cli

    cli.script(__file__)
