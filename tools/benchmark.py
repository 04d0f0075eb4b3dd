"""``dense-resnet benchmark``: time our folded network in turn with others, and the limits of the machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.errors import InputError, pluralize
from dense_resnet.inference.engines import TENSORFLOW
from dense_resnet.jobs.resumable import never
from dense_resnet.planning.geometry import positive_integer
from dense_resnet.planning.variants import USUAL_STRIDE, plan

from . import options, terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dense_resnet.planning.plan import Plan

    from .benchmarking import jobs
    from .benchmarking.timing import Timing

HELP = "Time the forward pass; --versus runs others in turn with it, each in its own process, and prints the ratios."
NETWORKS = (  # that run the same forward pass, besides ours in TensorFlow and OpenVINO
    "openvino-int8", "function", "slim", "keras", "timm", "torchvision", "onnxruntime", "onnxruntime-int8",
    "openvino-from-onnx", "openvino-from-onnx-int8",
)  # fmt: skip
EXTRACT, CONFUSION, EVALUATE, TRAIN = "extract", "confusion", "evaluate", "train"
WORDS = ("", "limit", "implementation", "of")  # headings of columns that do not hold figures
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
        help="networks, each at the precisions it supports (ours in 8 bits: openvino-int8, and in a tf.function: function; "
        "others: slim, keras, timm, torchvision, onnxruntime, onnxruntime-int8, openvino-from-onnx, openvino-from-onnx-int8), "
        "or other work (extract, evaluate, train, confusion). Ours in TensorFlow and OpenVINO always take part",
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
    if not (result.rounds and result.entries):
        if result.stopped and result.entries:
            print("stopped before the first round was finished; nothing was measured")
            return terminal.STOPPED
        raise RuntimeError("\n".join(["no network could be timed", *result.failed.values()]))
    figures = result.as_dict() | contest.surroundings(vars(args), load)
    console = Console()
    _print_networks(console, figures)
    _print_limits(console, figures)
    _write(args, figures)  # the other work may fail

    with terminal.stop_signals() as signalled:

        def is_stopped() -> bool:
            return result.stopped or signalled()

        timings, figures["other_work"] = _other_work(args, planned, is_stopped)
        figures["stopped"] = is_stopped()
    _print_other_work(timings, figures["other_work"])

    _write(args, figures)
    if figures["stopped"]:
        print(f"stopped; these are the figures of what was finished, {pluralize(result.rounds, 'round')} of the networks")
        return terminal.STOPPED
    return 0


def _write(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    from dense_resnet.jobs import atomic_files

    from .benchmarking import chart

    if args.json:
        atomic_files.write_bytes(args.json, (json.dumps(figures, indent=1) + "\n").encode())
    if args.chart:
        atomic_files.write_bytes(args.chart, chart.draw(figures))


def _table(*headings: str, title: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        words = heading in WORDS
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words)  # words wrap where room is short
    return table


def _print_networks(console: Console, figures: dict[str, Any]) -> None:
    what = f"logits of {pluralize(figures['classes'], 'class')}" if figures["classes"] else "features"
    machine = figures["machine"]
    print(f"{machine['processor']}, {pluralize(machine['cores'], 'core')} ({machine['short_name']})")
    print(
        f"{figures['model']}, {what}, output_stride {figures['output_stride']}, {figures['size']}x{figures['size']}, "
        f"batch {figures['batch']}: {figures['gmac']:.1f} GMAC"
    )
    times = _table("", "median", "minimum", "sd", "images/s", "GMAC/s", title="seconds a run")
    headings = "x ours", "error", "ready", "cached", "MiB", "imports"
    costs = _table("", *headings, title="times as long as the fastest of ours, and costs")
    slowest_first = sorted(figures["timings"], key=lambda one: -one["median"])
    fastest = {one["precision"]: one for one in slowest_first if one["ours"]}
    for one in figures["timings"]:
        seconds = (f"{one[figure]:.4f}" for figure in ("median", "minimum", "sd"))
        times.add_row(one["name"], *seconds, f"{one['images_per_second']:.2f}", f"{one['gmac_per_second']:.0f}")
        ours = fastest.get(one["precision"])
        against = f"{figures['ratios'][ours['name']].get(one['name'], 1):.3f}" if ours else ""
        error = "" if one["relative_error"] is None else f"{one['relative_error']:.1e}"
        cached = "" if one["cached_build_seconds"] is None else f"{one['cached_build_seconds']:.1f}"
        memory = (f"{one[figure] / 2**20:.0f}" for figure in ("peak_memory_bytes", "imported_memory_bytes"))
        costs.add_row(one["name"], against, error, f"{one['build_seconds']:.1f}", cached, *memory)
    console.print(times, costs)
    print("error: the largest, relative to the standard deviation of our float32 output; empty if the weights differ")
    print("ready: seconds from imported packages to the first answer; cached: the same where an earlier start kept its graph")
    print("MiB: the peak of the process's resident memory, weights and images included; imports: after importing its packages")
    for name, why in figures["skipped"].items():
        print(f"skipped: {name}: {why}")
    for name, why in figures["failed"].items():
        print(f"failed: {name}: {why.strip().splitlines()[-1]}")
    for one in figures["fastest"]:
        ours, precision, others, faster = (one[key] for key in ("ours", "precision", "others_precision", "times_as_fast"))
        other = one["other"] if others == precision else f"{one['other']}, {others}"
        print(f"ours ({ours}, {precision}) is {faster:.2f}x as fast as the fastest of the others ({other})")


def _print_limits(console: Console, figures: dict[str, Any]) -> None:
    limits = _table("", "limit", "GFLOP/s", "best", "seconds", "of", "ours / limit", title="limits, in the same rounds")
    operations = _table("", "", "implementation", "count", "ms", "share", title="where ours spends its time")
    for precision, limit in figures["limits"].items():
        products, onednn = limit["matrix_products"], limit["onednn"]
        rates = f"{products['gflop_per_second']:.0f}", f"{products['best_gflop_per_second']:.0f}"
        for name, value in limit["ours / least"].items():
            limits.add_row(precision, "matrix products", *rates, f"{limit['least_seconds']:.4f}", name, f"{value:.3f}")
        if "skipped" in onednn:
            print(f"skipped: oneDNN's own times in {precision}: {onednn['skipped']}")
            continue
        rate = f"{2 * figures['gmac'] / onednn['median']:.0f}"
        if onednn["ours / convolutions"] is not None:
            ratio = f"{onednn['ours / convolutions']:.3f}"
            limits.add_row(precision, "its convolutions", rate, "", f"{onednn['median']:.4f}", TENSORFLOW, ratio)
        run = onednn["run_milliseconds"]
        rows = [(one["kind"], one["implementation"], one["count"], one["milliseconds"]) for one in onednn["operations"]]
        rest = run - sum(milliseconds for *_, milliseconds in rows)
        for kind, implementation, count, milliseconds in (*rows, ("all the rest", "", "", rest)):
            share = f"{milliseconds / run:.1%}"
            operations.add_row(precision, kind, implementation, str(count), f"{milliseconds:.2f}", share)
    console.print(limits, operations)


def _other_work(
    args: argparse.Namespace, planned: Plan, stopped: Callable[[], bool] = never
) -> tuple[list[Timing], dict[str, Any]]:
    """Time what is not a forward pass; return (timings, figures). What a stop leaves without a finished round is left out."""
    from .benchmarking import jobs, segmentation
    from .benchmarking.timing import ratio

    timings: list[Timing] = []
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"ratios": ratios, "systems": {}}

    def may_start(work: str) -> bool:
        return work in args.versus and not stopped()

    def add_job(work: str, ratio_name: str, job: jobs.Job, *, inverse: bool = False) -> None:
        figures["systems"][work] = job.system
        figures[f"peak_memory_bytes_after_each_{work}"] = job.peaks
        if job.bare.seconds:
            pair = (job.bare, job.job) if inverse else (job.job, job.bare)
            timings.extend((job.bare, job.job))
            ratios[ratio_name] = ratio(*(timing.seconds for timing in pair))

    if may_start(EXTRACT):
        job = jobs.against_extraction(planned, args.size, args.images, stopped)
        add_job(EXTRACT, "forward / extract (images/s of extract over those of the forward)", job, inverse=True)
    if may_start(EVALUATE):
        job = jobs.against_evaluation(planned, args.size, args.images, stopped)
        add_job(EVALUATE, "evaluate / (forward + enlarging + argmax)", job)
    if may_start(TRAIN):
        own, *others = segmentation.training_timings(planned, args.crop, args.batch, 4, args.batches, stopped)
        if own.seconds:
            timings += [own, *others]
            ratios |= {f"{one.name} / our training step in float32": ratio(one.seconds, own.seconds) for one in others}
    for (height, width), classes in LABEL_MAPS:
        if may_start(CONFUSION):
            found, figures["not_compared"] = segmentation.confusion_ratios(height, width, classes, args.batches, stopped)
            what = f"confusion matrix, {height}x{width}, {classes} classes"
            ratios |= {f"{what}: {name} / dense_resnet": value for name, value in found.items()}
    figures["timings"] = [timing.as_dict() for timing in timings]
    return timings, figures


def _print_other_work(timings: Sequence[Timing], figures: dict[str, Any]) -> None:
    for timing in timings:
        one = timing.as_dict()
        seconds = f"{one['mean']:.3f} +/- {one['sd']:.3f} s a run, median {one['median']:.3f}"
        speed = f"{one['images_per_second']:.2f} images/s; ready after {one['build_seconds']:.1f} s"
        print(f"  {timing.name:<13} {seconds}, {speed}")
    for name, value in figures["ratios"].items():
        print(f"  {name}: {value:.3f}")
