"""``dense-resnet benchmark``: time our folded network in turn with others, and the limits of the machine."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.errors import InputError, pluralize
from dense_resnet.planning.geometry import positive_integer
from dense_resnet.planning.variants import USUAL_STRIDE, plan

from . import options, terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dense_resnet.planning.plan import Plan

    from .benchmarking.contest import Timing

HELP = "Time the forward pass; --versus runs others in turn with it, each in its own process, and prints the ratios."
NETWORKS = ("function", "slim", "keras", "timm", "openvino", "onnxruntime")  # that run the same forward pass
EXTRACT, CONFUSION, EVALUATE, TRAIN = "extract", "confusion", "evaluate", "train"
LABEL_MAPS = [(size, classes) for size in ((513, 513), (1024, 2048)) for classes in (21, 150)]  # for confusion matrices


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="resnet_v2_152", metavar="VARIANT", help="default resnet_v2_152")
    options.add_plan_options(parser)
    parser.set_defaults(output_stride=USUAL_STRIDE)
    parser.add_argument("--size", type=int, default=513, metavar="N", help="side of the image (default 513)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images per run (default 1)")
    parser.add_argument("--classes", type=int, metavar="N", help="compute the logits of N classes, not the features")
    parser.add_argument("--burn-in", type=int, default=3, metavar="N", help="runs that are not timed (default 3)")
    parser.add_argument("--batches", type=int, default=20, metavar="N", help="timed runs (default 20)")
    parser.add_argument(
        "--versus",
        nargs="+",
        default=[],
        choices=(*NETWORKS, EXTRACT, CONFUSION, EVALUATE, TRAIN),
        metavar="NAME",
        help="networks (function, which is ours in a tf.function; slim, keras, timm, openvino, onnxruntime), each at the "
        "precisions it supports, or other work (extract, evaluate, train, confusion)",
    )
    parser.add_argument("--images", type=int, default=64, metavar="N", help="files for extract and evaluate (default 64)")
    parser.add_argument("--crop", type=int, default=257, metavar="N", help="side of the images for train (default 257)")
    parser.add_argument("--json", metavar="FILE", help="also write every figure, every single time and the machine to a file")
    parser.add_argument("--chart", metavar="FILE.png", help="also draw the medians (needs matplotlib)")


def main(args: argparse.Namespace) -> int:
    from rich.console import Console

    from dense_resnet.extraction.settings import Settings
    from dense_resnet.jobs import atomic_files

    from .benchmarking import chart, hardware

    for name in ("size", "batch", "batches", "images", "crop"):
        positive_integer(f"--{name}", getattr(args, name))
    if args.burn_in < 0:
        raise InputError(f"--burn-in must be at least 0 (not {args.burn_in}).")
    planned = plan(args.model, args.output_stride, multi_grid=args.multi_grid, num_classes=args.classes)
    if {EXTRACT, EVALUATE} & {*args.versus}:
        Settings(args.size).check(planned)
    if args.chart:
        chart.check()
    for path in filter(None, (args.json, args.chart)):
        atomic_files.probe_file(path)

    options.start_tensorflow()
    from .benchmarking import contest

    networks = [name for name in NETWORKS if name in args.versus]
    contest.check(planned, networks)

    load = hardware.load()
    with terminal.progress_bar() as progress:
        result = contest.contest(
            planned, args.size, args.batch, networks, runs=args.batches, burn_in=args.burn_in, progress=progress
        )
    figures = result.as_dict() | contest.surroundings(vars(args), load)
    console = Console()
    _print_networks(console, figures)
    _print_limits(console, figures)

    work, figures["other_work"] = _other_work(args, planned)
    for timing in work:
        one = timing.as_dict()
        seconds = f"{one['mean']:.3f} +/- {one['sd']:.3f} s a run, median {one['median']:.3f}"
        speed = f"{one['images_per_second']:.2f} images/s; ready after {one['build_seconds']:.1f} s"
        print(f"  {timing.name:<13} {seconds}, {speed}")
    for name, value in figures["other_work"]["ratios"].items():
        print(f"  {name}: {value:.3f}")

    if args.json:
        atomic_files.write_bytes(args.json, (json.dumps(figures, indent=1) + "\n").encode())
    if args.chart:
        atomic_files.write_bytes(args.chart, chart.draw(figures))
    return 0


def _table(*headings: str, title: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number > 1 and heading != "implementation" else "left")
    return table


def _print_networks(console: Console, figures: dict[str, Any]) -> None:
    what = f"logits of {pluralize(figures['classes'], 'class')}" if figures["classes"] else "features"
    print(
        f"{figures['model']}, {what}, output_stride {figures['output_stride']}, {figures['size']}x{figures['size']}, "
        f"batch {figures['batch']}: {figures['gmac']:.1f} GMAC"
    )
    times = _table("", "precision", "median", "minimum", "mean", "sd", "images/s", "GMAC/s", title="seconds a run")
    headings = "x float32", "x bfloat16", "error", "ready s", "peak MiB"
    ratios = _table("", "precision", *headings, title="times as long as ours, median of pairs")
    for one in figures["timings"]:
        name = one["competitor"], one["precision"]
        seconds = (f"{one[figure]:.4f}" for figure in ("median", "minimum", "mean", "sd"))
        times.add_row(*name, *seconds, f"{one['images_per_second']:.2f}", f"{one['gmac_per_second']:.0f}")
        against = (f"{others[one['name']]:.3f}" if one["name"] in others else "" for others in figures["ratios"].values())
        error = "" if one["relative_error"] is None else f"{one['relative_error']:.1e}"
        ratios.add_row(*name, *against, error, f"{one['build_seconds']:.1f}", f"{one['peak_memory_bytes'] / 2**20:.0f}")
    console.print(times, ratios)
    print("error: the largest, relative to the standard deviation of our float32 output; empty if the weights differ")
    for name, why in figures["skipped"].items():
        print(f"skipped: {name}: {why}")


def _print_limits(console: Console, figures: dict[str, Any]) -> None:
    limits = _table("", "limit", "GFLOP/s", "best", "seconds", "ours / limit", title="limits, in the same rounds")
    operations = _table("", "", "implementation", "count", "ms", "share", title="where ours spends its time")
    for precision, limit in figures["limits"].items():
        products, onednn = limit["matrix_products"], limit["onednn"]
        rates = f"{products['gflop_per_second']:.0f}", f"{products['best_gflop_per_second']:.0f}"
        limits.add_row(precision, "matrix products", *rates, f"{limit['least_seconds']:.4f}", f"{limit['ours / least']:.3f}")
        if "skipped" in onednn:
            print(f"skipped: oneDNN's own times in {precision}: {onednn['skipped']}")
            continue
        rate = f"{2 * figures['gmac'] / onednn['median']:.0f}"
        ratio = f"{onednn['ours / convolutions']:.3f}"
        limits.add_row(precision, "its convolutions", rate, "", f"{onednn['median']:.4f}", ratio)
        run = onednn["run_milliseconds"]
        rows = [(one["kind"], one["implementation"], one["count"], one["milliseconds"]) for one in onednn["operations"]]
        rest = run - sum(milliseconds for *_, milliseconds in rows)
        for kind, implementation, count, milliseconds in (*rows, ("all the rest", "", "", rest)):
            share = f"{milliseconds / run:.1%}"
            operations.add_row(precision, kind, implementation, str(count), f"{milliseconds:.2f}", share)
    console.print(limits, operations)


def _other_work(args: argparse.Namespace, planned: Plan) -> tuple[list[Timing], dict[str, Any]]:
    """Time what is not a forward pass; return (timings, figures)."""
    from .benchmarking import contest, segmentation

    timings: list[Timing] = []
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"ratios": ratios}
    if EXTRACT in args.versus:
        bare, job, peaks = contest.against_extraction(planned, args.size, args.images)
        timings += [bare, job]
        share = contest.ratio(bare.seconds, job.seconds)
        ratios["forward / extract (images/s of extract over those of the forward)"] = share
        figures["peak_memory_bytes_after_each_extraction"] = peaks
    if EVALUATE in args.versus:
        bare, job, peaks = segmentation.against_evaluation(planned, args.size, args.images)
        timings += [bare, job]
        ratios["evaluate / (forward + enlarging + argmax)"] = contest.ratio(job.seconds, bare.seconds)
        figures["peak_memory_bytes_after_each_evaluation"] = peaks
    if TRAIN in args.versus:
        own, *others = segmentation.training_timings(planned, args.crop, args.batch, steps=4, runs=args.batches)
        timings += [own, *others]
        ratios |= {f"{one.name} / our training step in float32": contest.ratio(one.seconds, own.seconds) for one in others}
    if CONFUSION in args.versus:
        for (height, width), classes in LABEL_MAPS:
            found, figures["not_compared"] = segmentation.confusion_ratios(height, width, classes, args.batches)
            what = f"confusion matrix, {height}x{width}, {classes} classes"
            ratios |= {f"{what}: {name} / dense_resnet": value for name, value in found.items()}
    figures["timings"] = [timing.as_dict() for timing in timings]
    return timings, figures
