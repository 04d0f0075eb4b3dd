"""Options that verbs share, and functions that return their checked values."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_resnet.errors import InputError, escape_control
from dense_resnet.planning.geometry import check_seed, positive_integer
from dense_resnet.planning.variants import VARIANTS, plan

if TYPE_CHECKING:
    from dense_resnet.backbone import Backbone
    from dense_resnet.planning.plan import Plan
    from segmentation.prediction.options import Inference
    from segmentation.saving.description import OpenedModel, Outline
    from segmentation.saving.export.exported import Exported


def add_plan_options(parser: argparse._ActionsContainer) -> None:
    """Add --output-stride and --multi-grid."""
    add = parser.add_argument
    add("--output-stride", type=int, metavar="N", help="pixels per feature cell: 4, 8, 16, 32")
    add("--multi-grid", type=int, nargs="+", metavar="N", help="atrous factors of the last block, such as 1 2 4")


WEIGHTS_HELP = "a slim .ckpt, .safetensors, Keras .h5 or .keras, PyTorch .pth, keras:ResNet152V2, or a model directory"


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Add --weights and --random-weights."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--weights", metavar="PATH", help=WEIGHTS_HELP)
    group.add_argument("--random-weights", type=int, metavar="SEED", help="fresh weights instead, for trying things out")


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Add the dataset and the options for reading its labels."""
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="a folder in a layout that doctor knows, or a CSV list")
    add("--classes", metavar="FILE", help="a dataset.json with class names and colors")
    add("--label-map", metavar="MAP", help="labelIds, trainIds, reduce_zero_label, or a JSON file of value: label")
    add("--exif", choices=("error", "apply", "ignore"), default="error", help="what to do with a rotated image (default error)")


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for running a model on an image."""
    add = parser.add_argument_group("inference").add_argument
    add("--output-stride", type=int, metavar="N", help="default: the one that the model was trained at")
    add(
        "--size",
        type=int,
        metavar="N",
        help="side of the canvas, 32n+1 (default: that of the model's validation or export, else 513)",
    )
    add("--scales", type=float, nargs="+", default=[1.0], metavar="X", help="such as 0.5 0.75 1 1.25 (default 1)")
    add("--flip", action="store_true", help="also run the mirror image, and average both")
    add("--tile", type=int, metavar="N", help="side of sliding windows over large images, 32n+1")


def inference_from_args(args: argparse.Namespace, model: Outline | OpenedModel, **others: str) -> Inference:
    """Return what :func:`add_inference_options` asks for; refuse what `model` does not support."""
    from segmentation.prediction.options import Inference

    size = model.size if args.size is None else args.size
    asked = {"scales": tuple(args.scales), "flip": args.flip, "tile": args.tile, **others}
    inference = Inference(**asked) if size is None else Inference(size=size, **asked)
    inference.check(model.plan.nominal_stride)
    side = model.side
    if side and inference.scales == (1.0,) and min(inference.size, inference.tile or inference.size) != side:
        raise InputError(
            f"--size: this network was exported only for canvases of {side}x{side} pixels (not {inference.size}). "
            "`export --size dynamic` (not to tflite) writes one that takes any."
        )
    return inference


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of precision and speed."""
    group = parser.add_argument_group("speed")
    precision = group.add_mutually_exclusive_group()
    precision.add_argument(
        "--precision", default="auto", help="auto (bfloat16 if the processor supports it), float32 or bfloat16 (default auto)"
    )
    precision.add_argument("--exact", action="store_true", help="the slim graph in float32 instead of the folded one")
    group.add_argument(
        "--engine",
        default="auto",
        metavar="NAME",
        help="openvino, tensorflow, or auto: the faster one here, measured on long runs",
    )
    group.add_argument("--batch", type=int, metavar="N", help="images at a time (default: measured on long runs)")
    group.add_argument("--threads", type=int, metavar="N", help="batches at the same time (default: measured on long runs)")


def precision_from_args(args: argparse.Namespace) -> str:
    """Return the precision that is asked for; refuse an unknown one before anything is read."""
    from dense_resnet.inference.engines import OPENVINO, check_engine
    from dense_resnet.inference.precision import PRECISIONS

    if check_engine(args.engine) == OPENVINO and args.exact:
        raise InputError("--exact runs the slim graph, in TensorFlow: leave --engine out.")
    for name in ("batch", "threads"):
        if (value := getattr(args, name)) is not None:
            positive_integer(f"--{name}", value)
    if args.exact:
        return "exact"
    if args.precision not in PRECISIONS:
        raise InputError(f"--precision must be auto, float32 or bfloat16 (not {args.precision!r}).")
    return str(args.precision)


def model_outline_from_args(args: argparse.Namespace) -> Outline | None:
    """Return what is known of the segmentation model --model before TensorFlow is imported; None for one exported as a file.

    Raises an error early if --model is not a model.
    """
    from segmentation.saving.description import check_head, explain_errors
    from segmentation.saving.export.files import is_exported
    from segmentation.saving.model_directory import read_outline

    outline = export_outline_from_args(args) if is_exported(args.model) else read_outline(args.model, args.output_stride)
    if outline:
        with explain_errors(Path(args.model)):
            check_head(outline)
    return outline


def export_outline_from_args(args: argparse.Namespace) -> Outline | None:
    """Return what is known of the exported file --model before TensorFlow is imported; None for one that is one file."""
    from segmentation.saving.export.files import read_export_outline

    outline = read_export_outline(args.model)
    if outline:
        _check_exported_stride(args, outline.plan)
    return outline


def model_from_args(args: argparse.Namespace) -> OpenedModel:
    """Open the model directory, or exported file, that --model names."""
    from segmentation.saving.export.files import is_exported
    from segmentation.saving.model_directory import load_model

    return export_from_args(args) if is_exported(args.model) else load_model(args.model, args.output_stride)


def export_from_args(args: argparse.Namespace) -> Exported:
    """Open the exported file that --model names."""
    from segmentation.saving.export.exporter import open_exported

    exported = open_exported(args.model)
    _check_exported_stride(args, exported.plan)
    return exported


def _check_exported_stride(args: argparse.Namespace, planned: Plan) -> None:
    if args.output_stride not in (None, planned.output_stride):
        own = planned.output_stride
        raise InputError(f"{args.model}: was exported at output_stride {own}. `export --output-stride` writes another.")


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    """Add --shard, --on-error and --max-pixels."""
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th image from the I-th on")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="what to do at a bad image (default fail)")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger images (default 89478485)")


def max_pixels_from_args(args: argparse.Namespace) -> int:
    """Return --max-pixels, or the default."""
    from dense_resnet.image_io.decoding import MAX_PIXELS

    return MAX_PIXELS if args.max_pixels is None else positive_integer("max_pixels", args.max_pixels)


def shard_of(text: str) -> tuple[int, int]:
    """Parse --shard."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"--shard must be I/N with 0 <= I < N, such as 0/4 (not {text!r}).")
    return int(index), int(count)


def start_tensorflow() -> None:
    """Import TensorFlow with oneDNN, and without the lines that it prints before its log level can be set.

    TensorFlow disables oneDNN on processors without AVX512-VNNI, although it makes convolutions faster there as well.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept, silent = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    sys.stderr.flush()
    os.dup2(silent, 2)
    try:
        import tensorflow

        tensorflow.get_logger().setLevel("ERROR")  # a run traces functions for many sizes, which users cannot act on
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silent)


def read_network_config(name: str) -> Any:
    """Return --model as :func:`variants.plan_from_config` takes it: a variant's name, or the blocks in a .json file."""
    from dense_resnet.jobs import strict_json

    if not (name.endswith(".json") and os.path.isfile(name)):
        return check_variant_name(name)
    try:
        return strict_json.loads(Path(name).read_bytes())
    except ValueError as error:
        raise InputError(f"{name}: is not JSON: {error}.") from error


def check_variant_name(name: str) -> str:
    """Return `name` if it may be a variant's; refuse a path, and what resembles no variant's name."""
    if name in VARIANTS:
        return name
    if os.path.isfile(name) or os.path.isfile(f"{name}.index"):
        raise InputError(
            f"{name}: is a file, not a variant's name. If it holds weights, pass the VARIANT and --weights {name}."
        )
    if os.sep in name or "." in name or "resnet" not in name.lower():
        raise InputError(f"{name}: no such file or folder, and not a variant's name.")
    return name


def is_folder(name: str) -> bool:
    """Return whether --model is a model directory; a variant's name always means that variant."""
    return name not in VARIANTS and Path(name).is_dir()


def plan_from_args(args: argparse.Namespace, name: str) -> Plan:
    """Return the plan that --output-stride and --multi-grid ask for, of a variant or of a model directory's backbone.

    Raises an error, without TensorFlow and before weights are read, if weights are not given or do not exist.
    """
    given = args.weights is not None or args.random_weights is not None
    if is_folder(name):
        if given:
            raise InputError(f"{name}: a model directory has its own weights: leave --weights and --random-weights out.")
        from segmentation.saving.model_directory import read_plan

        return read_plan(name, args.output_stride, multi_grid=args.multi_grid)
    planned = plan(check_variant_name(name), args.output_stride, multi_grid=args.multi_grid)
    if not given:
        raise InputError("no weights: give --weights PATH, or --random-weights SEED to try things out.")
    if args.weights is None:
        check_seed(args.random_weights)
    else:
        from dense_resnet.checkpoints import check_source

        check_source(args.weights)
    return planned


def backbone_from_args(args: argparse.Namespace, name: str, planned: Plan) -> Backbone:
    """Return a backbone with the weights that are asked for, or a model directory's; print the load report."""
    start_tensorflow()
    from dense_resnet.backbone import Backbone

    if is_folder(name):
        from segmentation.saving.model_directory import load_backbone

        return load_backbone(name, args.output_stride, multi_grid=args.multi_grid)
    backbone = Backbone(planned, seed=args.random_weights)
    if args.weights is not None:
        print(escape_control(str(backbone.load(args.weights))))
    else:
        print(
            f"{planned.name}: random weights of seed {args.random_weights}. The features mean nothing; the geometry is exact."
        )
    return backbone


def check_laws(backbone: Backbone, nominal: Plan, size: int) -> bool:
    """Return whether laws 2 and 3 hold on the backbone's weights; print a table of the figures."""
    from rich.console import Console
    from rich.table import Table

    from dense_resnet.verification import laws

    table = Table("law", "largest error", "of std", "")
    findings = list(laws.check(backbone, nominal, size))
    for finding in findings:
        verdict = "[green]holds[/]" if finding.holds else "[red]FAILS[/]"
        table.add_row(finding.law, f"{finding.error:.1e}", f"{finding.spread:.3g}", verdict)
    console = Console()
    console.print(table)
    console.print(
        f"Errors are max|a - b| / std(b); a law holds up to {laws.TOLERANCE:g}, "
        f"and must break by {laws.BREAKS:g} at even sizes."
    )
    return all(finding.holds for finding in findings)
