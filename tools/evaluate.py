"""``dense-resnet evaluate``: mean IoU and related figures, of a model or of predictions on disk."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.errors import InputError, escape_control, pluralize

from . import options, pace, terminal

if TYPE_CHECKING:
    from segmentation.data.samples import Dataset
    from segmentation.evaluation.systems import System
    from segmentation.metrics.presets import Switches
    from segmentation.saving.description import OpenedModel

HELP = "Score a model, or a folder of predicted label PNGs, on a dataset; the same command resumes after a stop."
INCLUDE, EXCLUDE = "include", "exclude"
MOST_NAMED = 3  # classes in a line


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_dataset_options(parser)
    parser.add_argument("--split", metavar="NAME", help="default val, or the only one")
    parser.add_argument("--ignore-label", metavar="N", help="default: the dataset's; or none")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the result and its page go")
    system = parser.add_mutually_exclusive_group(required=True)
    system.add_argument("--model", metavar="DIR", help="a model directory, or an exported file")
    system.add_argument(
        "--predictions", metavar="DIR",
        help="label PNGs under the images' names instead, on the pixels as stored (EXIF undone), as predict writes them",
    )  # fmt: skip
    options.add_inference_options(parser)
    switches = parser.add_argument_group("conventions")
    switches.add_argument(
        "--preset", metavar="NAME", help="voc, cityscapes, mmseg, keras, tf, detectron2, ade20k, torchmetrics, deeplab"
    )
    switches.add_argument("--absent", metavar="WORD", help="exclude, gt_only, zero, one or nan (default exclude)")
    switches.add_argument("--scope", metavar="WORD", help="dataset, image or image_class (default dataset)")
    switches.add_argument("--background", choices=(INCLUDE, EXCLUDE), help="class 0 in the mean (default include)")
    switches.add_argument("--score", metavar="WORD", help="native, or input: the network's padded canvas (default native)")
    switches.add_argument("--upsample", metavar="WORD", help="align_corners, half_pixel or legacy (default align_corners)")
    options.add_speed_options(parser)
    options.add_shard_options(parser)
    parser.add_argument("--merge", action="store_true", help="only join shards, without scoring what is missing")
    parser.add_argument("--no-report", action="store_true", help="write no report page")


def main(args: argparse.Namespace) -> int:
    from dense_resnet.jobs.atomic_files import check_folder
    from segmentation.data.layouts import VALIDATION, open_layout, recognize, usual_split
    from segmentation.evaluation.evaluate import Evaluation
    from segmentation.evaluation.systems import SavedPredictions

    switches = _switches(args)
    shard, precision = options.shard_of(args.shard), options.precision_from_args(args)
    max_pixels = options.max_pixels_from_args(args)
    check_folder(args.out)
    layout = recognize(args.dataset, classes=args.classes, label_map=args.label_map)
    for note in layout.notes:
        terminal.print_note(note)
    if layout.is_records:
        options.start_tensorflow()
    split = args.split or usual_split(layout, VALIDATION)
    dataset = _with_ignore_label(open_layout(layout, split, exif=args.exif), args.ignore_label)
    for note in dataset.notes:
        terminal.print_note(note)
    terminal.print_deep((sample.image for sample in dataset.samples[shard[0] :: shard[1]]), max_pixels)
    dataset.check_apart(Path(args.out))
    system: System | None = None
    threads = 1
    if args.predictions is None:
        _check_model(args, switches, dataset)
    else:
        _check_predictions(args, precision)
        system = SavedPredictions(args.predictions, dataset.space, dataset.samples, max_pixels)  # needs no TensorFlow
    with terminal.stop_signals() as stop:
        if system is None:
            options.start_tensorflow()
            system, threads = _system(args, switches, dataset, precision)
        evaluation = Evaluation(system, dataset, args.out, switches, shard=shard, max_pixels=max_pixels, threads=threads)
        if system.tiling_note:
            terminal.print_note(f"near seams, figures may differ from those of whole images: {system.tiling_note}")
        with terminal.progress_bar() as progress:
            outcome = evaluation.run(
                on_error=args.on_error, merge=args.merge, progress=progress, stop=stop, note=terminal.print_note,
                report=not args.no_report,
            )  # fmt: skip
    terminal.print_skipped(outcome.failed)
    if outcome.stopped:
        images = pluralize(len(dataset.samples), "image")
        print(f"stopped with {outcome.total:,} of {images}; the same command resumes from here")
        return terminal.STOPPED
    if outcome.result is None:
        images = pluralize(outcome.total, "image")
        print(f"{args.out}: {images} of shard {args.shard}; the command without --shard joins the shards")
        return 0
    print_result(outcome.result)
    out = Path(args.out)
    print(out / "evaluation.json", *([] if args.no_report else [out / "report" / "index.html"]), sep=", ")
    return 0 if outcome.result["counts"]["scored"] else 1


def print_result(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    rows = []
    for one in result["classes"]:
        iou, accuracy, boundary_iou = (number(one[figure]) for figure in ("iou", "accuracy", "boundary_iou"))
        rows.append((one["name"], iou, _interval(one["interval"]), accuracy, boundary_iou, f"{one['pixels']:,}"))
    terminal.print_table(rows, "class", "IoU", "95 %", "accuracy", "boundary IoU", "pixels")
    counts, calibration = result["counts"], result["calibration"]
    lines = [
        f"mean IoU {_mean(result)}, {pluralize(counts['images'], 'image')} "
        f"({counts['scored']:,} pixels scored, {counts['ignored']:,} ignored)",
        f"pixel accuracy {number(result['pixel_accuracy'])}, mean accuracy {number(result['mean_accuracy'])}, "
        f"frequency-weighted IoU {number(result['frequency_weighted_iou'])}, boundary IoU {number(result['mean_boundary_iou'])}"
        + (f", calibration error {number(calibration['expected_error'])}" if calibration else ""),
    ]
    lines += explain_missing_intervals(result["classes"], "iou")
    lines += [f"warning: {warning}" for warning in result["warnings"]]
    for line in lines:
        print(escape_control(line))


def _mean(result: dict[str, Any]) -> str:
    """Return the mean IoU, with its interval and number of classes, or the reason why it is undefined."""
    if result["mean_iou"] is not None:
        figures = number(result["mean_iou"]), _interval(result["intervals"]["mean_iou"])
        averaged = result["averaged_classes"]
        return " ".join([*filter(None, figures), f"over {pluralize(averaged, 'class')}"])
    if not result["counts"]["scored"]:
        return "undefined (no pixel was scored)"
    switches = result["protocol"]["switches"]
    meant = result["classes"][0 if switches["background"] else 1 :]
    absent = [one["name"] for one in meant if one["iou"] is None]
    listed = ", ".join(absent[:MOST_NAMED]) + (", …" if len(absent) > MOST_NAMED else "")
    return f"undefined under --absent {switches['absent']}" + (f" (absent: {listed})" if absent else "")


def explain_missing_intervals(classes: list[dict[str, Any]], figure: str) -> list[str]:
    """Say why classes have the figure and no interval; return [] if none lacks it."""
    from segmentation.metrics.intervals import FEWEST_IMAGES

    lacking = any(one[figure] is not None and one["interval"] is None for one in classes)
    needed = f"intervals need at least {FEWEST_IMAGES} images, and for a class, {FEWEST_IMAGES} that contain it"
    return [needed] if lacking else []


def number(value: float | None) -> str:
    """Format a figure with four decimals, or as a dash if there is none."""
    return "-" if value is None else f"{value:.4f}"


def _interval(pair: list[float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.4f} to {pair[1]:.4f}"


def _switches(args: argparse.Namespace) -> Switches:
    from segmentation.metrics.presets import Switches, preset

    chosen = preset(args.preset) if args.preset else Switches()
    asked = {"absent": args.absent, "scope": args.scope, "size": args.score, "upsample": args.upsample}
    asked["background"] = None if args.background is None else args.background == INCLUDE
    return dataclasses.replace(chosen, **{name: value for name, value in asked.items() if value is not None})


def _with_ignore_label(dataset: Dataset, asked: str | None) -> Dataset:
    if asked is None:
        return dataset
    if asked != "none" and not asked.isdecimal():
        raise InputError(f"--ignore-label must be a number or none (not {asked!r}).")
    label = None if asked == "none" else int(asked)
    return dataclasses.replace(dataset, space=dataclasses.replace(dataset.space, ignore_label=label, ignore_is_given=True))


def _check_model(args: argparse.Namespace, switches: Switches, dataset: Dataset) -> None:
    """Refuse what --model does not support, as far as it is known before TensorFlow is imported."""
    from segmentation.evaluation.evaluate import check_classes

    if outline := options.model_outline_from_args(args):
        options.inference_from_args(args, outline, upsample=switches.upsample, score=switches.size)
        assert outline.space is not None  # of a model with a head
        check_classes(outline.space, dataset)


def _system(args: argparse.Namespace, switches: Switches, dataset: Dataset, precision: str) -> tuple[System, int]:
    """Return the model to be scored, and how many of its batches run at the same time."""
    from segmentation.evaluation.evaluate import PROTOCOL
    from segmentation.evaluation.systems import ModelPredictions

    model = options.model_from_args(args)
    _note_training(model, dataset)
    inference = options.inference_from_args(args, model, upsample=switches.upsample, score=switches.size)
    images = 0 if args.merge else len(dataset.samples)
    runner, chosen = pace.start(args, model.runner, inference.tile or inference.size, images, PROTOCOL)
    return ModelPredictions(model, runner, inference, chosen.batch), chosen.threads


def _note_training(model: OpenedModel, dataset: Dataset) -> None:
    """Say so if a model is scored on the images that it was trained on."""
    from segmentation.training.data import describe_dataset

    trained, scored = (model.description.get("training") or {}).get("dataset") or {}, describe_dataset(dataset)
    if all(trained.get(key) == scored[key] for key in ("name", "split", "names_sha256")):
        terminal.print_note("the model was trained on these images: the figures do not say how good it is on new ones")


def _check_predictions(args: argparse.Namespace, precision: str) -> None:
    from dense_resnet.inference.precision import AUTO

    of_speed = (args.size, args.batch, args.threads) != (None, None, None) or (precision, args.engine) != (AUTO, AUTO)
    if args.output_stride or args.flip or args.tile or args.scales != [1.0] or args.upsample or of_speed:
        raise InputError(
            "--output-stride, --size, --scales, --flip, --tile, --upsample, --precision, --exact, --engine, --batch and "
            "--threads go with --model, not with --predictions."
        )
