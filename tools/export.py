"""``dense-resnet export``: write a network as a file for other programs, and compare it with the model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    import script

    script.run(__file__)

from dense_resnet.errors import InputError, escape_control, pluralize
from dense_resnet.planning.variants import USUAL_STRIDE

from . import options, terminal

if TYPE_CHECKING:
    from dense_resnet.planning.plan import Plan
    from segmentation.saving.export.agreement import Agreement
    from segmentation.saving.export.exported import Exported

HELP = "Write a model as SavedModel, ONNX, TensorFlow Lite or for OpenVINO, read it back, and compare it with the model."
FORMATS = ("savedmodel", "onnx", "openvino", "tflite")
DYNAMIC = "dynamic"
PHOTOGRAPH = Path(__file__).parent / "coffee.jpg"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model directory, or a variant such as resnet_v2_152")
    add("--to", required=True, choices=FORMATS, help="what to write")
    add("--out", required=True, metavar="PATH", help="the folder, or the file (.onnx, .tflite)")
    add("--precision", default="auto", help="auto (bfloat16 if processor and format support it), float32, bfloat16 or int8")
    add("--size", default=DYNAMIC, metavar="N", help="side of the only canvas, 32n+1 (default dynamic: any; not for tflite)")
    add("--onednn", action="store_true", help="savedmodel: faster atrous convolutions, which TensorFlow runs only with oneDNN")
    add(
        "--require-sizes",
        action="store_true",
        help="onnx: require the input sizes; for runtimes without optional inputs, such as OpenVINO (always so with --size N)",
    )
    quantizing = parser.add_argument_group("int8, of onnx, openvino and tflite").add_argument
    quantizing(
        "--calibrate", nargs="+", metavar="IMAGES_OR_DATASET",
        help="images like those that the network will see, in folders, files, quoted globs or .txt lists, or a dataset",
    )  # fmt: skip
    quantizing(
        "--images", type=int, metavar="N", help="at most so many for the ranges, and as many for the price (default 300)"
    )
    quantizing("--max-drop", type=float, metavar="X", help="write nothing if mean IoU falls by more (default 0.01)")
    options.add_weights_options(parser)
    options.add_plan_options(parser)


def main(args: argparse.Namespace) -> int:
    from dense_resnet.image_io.decoding import decode_image, read_file
    from segmentation.saving.export.files import check_request

    if args.size != DYNAMIC and not args.size.isdecimal():
        raise InputError(f"--size must be {DYNAMIC} or a number of pixels, 32n+1, such as 513 (not {args.size!r}).")
    side = None if args.size == DYNAMIC else int(args.size)
    if args.output_stride is None and not options.is_folder(args.model):
        args.output_stride = USUAL_STRIDE
    planned = options.plan_from_args(args, args.model)
    forms = {"onednn": args.onednn, "require_sizes": args.require_sizes}
    check_request(planned, args.out, args.to, args.precision, side, **forms, calibrated=args.calibrate is not None)
    if args.calibrate is None and (args.images, args.max_drop) != (None, None):
        raise InputError("--images and --max-drop are for --calibrate.")
    if args.max_drop is not None and not 0 <= args.max_drop <= 1:
        raise InputError(f"--max-drop must be a difference of mean IoU, from 0 to 1 (not {args.max_drop}).")
    described = _read_model_description(args)
    options.start_tensorflow()
    from segmentation.saving.export import exporter
    from segmentation.saving.export.calibration import take
    from segmentation.saving.export.exported import OPTIONAL
    from segmentation.saving.export.foreign_run import PROGRAMS

    quantizing: dict[str, Any] = {}
    if args.calibrate is not None:
        most = {} if args.images is None else {"most": args.images}
        quantizing = {"calibration": take(args.calibrate, note=terminal.print_note, **most), "note": terminal.print_note}
        quantizing |= {} if args.max_drop is None else {"max_drop": args.max_drop}
    network, known = _load_network(args, planned, described)
    photograph = decode_image(PHOTOGRAPH, read_file(PHOTOGRAPH))
    exported, agreement = exporter.export(
        network, args.out, [photograph], to=args.to, precision=args.precision, side=side, **forms, **quantizing, **known
    )
    _print(exported)
    if quantizing:
        _print_price(exported, agreement)
    else:
        print(f"Read back, and compared with the exact model on {PHOTOGRAPH.name}: {agreement}.")
    settings = "with oneDNN" if exported.description.get("onednn") else "without this tool's environment variables"
    print(f"Ran it in a fresh process with {PROGRAMS[exported.kind]} alone, {settings}: same results.")
    if exported.kind == "onnx" and exported.description["sizes"] == OPTIONAL:
        print("For runtimes without optional inputs, such as OpenVINO: export with --require-sizes.")
    print("\n".join(["To run it:", *_snippet(exported)]))
    return 0


def _print_price(exported: Exported, agreement: Agreement) -> None:
    from segmentation.saving.export.price import Price

    ranges, price = exported.description["quantization"], Price.from_json(exported.description["price"])
    print(f"Compared with the exact model before it was quantized, on {PHOTOGRAPH.name}: {agreement}.")
    print(
        escape_control(f"Ranges from {pluralize(ranges['images'], 'image')} of {ranges['source']}. The price of int8: {price}.")
    )
    print("In float32: " + ", ".join(f"{part} ({why})" for part, why in ranges["float32"].items()) + ".")


def _read_model_description(args: argparse.Namespace) -> dict[str, Any] | None:
    """Read the description in a model directory; return None for a variant."""
    from segmentation.saving.model_directory import read_model_description

    if not options.is_folder(args.model):
        return None
    described = read_model_description(Path(args.model))
    if described.get("head") is not None and args.multi_grid:
        raise InputError("a model with a head keeps the multi_grid that it was trained with: leave --multi-grid out.")
    return described


def _load_network(args: argparse.Namespace, planned: Plan, described: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """Return the network and the other arguments of :func:`segmentation.saving.export.exporter.export`."""
    from dense_resnet.checkpoints.provenance import from_json
    from segmentation.saving.model_directory import load_model

    if described is None:
        return options.backbone_from_args(args, args.model, planned), {}
    known = {"origin": from_json(described.get("origin"))}
    if described.get("head") is None:
        return options.backbone_from_args(args, args.model, planned), known
    saved = load_model(args.model, args.output_stride)
    return saved.model, {**known, "space": saved.space, "training": saved.training}


def _print(exported: Exported) -> None:
    runner, path = exported.network, exported.path

    def format_name(way: str, name: str) -> str:
        notes = {"sizes": ", in the signature 'sized'", "cells": ", a tensor outside the signatures"}
        return f"{way}: {name}" + (notes.get(name, "") if exported.kind == "savedmodel" else "")

    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    rows = [
        ("format", exported.kind),
        ("precision", runner.precision),
        ("size", f"{runner.side}x{runner.side}" if runner.side else "any"),
        *([("runs in", "TensorFlow with oneDNN alone")] if exported.description.get("onednn") else []),
        ("on disk", f"{sum(file.stat().st_size for file in files) / 2**20:,.1f} MiB"),
        *((format_name("in", name), shape) for name, shape in exported.inputs.items()),
        *((format_name("out", name), shape) for name, shape in exported.outputs.items()),
    ]
    print(f"{path}:")
    terminal.print_table(rows)


def _snippet(exported: Exported) -> list[str]:
    """Return code that calls it from another program: for `images`, uint8 [batch, height, width, channels], all of one size."""
    wanted, side, least = "labels" if exported.head else "features", exported.network.side, exported.least_canvas
    path, padded = str(exported.path), bool(side or least > 1)
    given = "canvases" if padded else "images"
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if exported.network.precision == "bfloat16" else "f32"}
    module, opening, calling = {
        "savedmodel": (
            "tensorflow as tf",
            f'run = tf.saved_model.load({path!r}).signatures["sized"]',
            f'{wanted} = run(images=tf.constant({given}), sizes=tf.constant(sizes))["{wanted}"]',
        ),
        "onnx": (
            "onnxruntime",
            f"session = onnxruntime.InferenceSession({path!r})",
            f'({wanted},) = session.run(["{wanted}"], {{"images": {given}, "sizes": sizes}})',
        ),
        "openvino": (
            "openvino",
            f'run = openvino.compile_model({path + "/model.xml"!r}, "CPU", {hint})',
            f'{wanted} = run({{"images": {given}, "sizes": sizes}})["{wanted}"]',
        ),
        "tflite": (
            "ai_edge_litert.interpreter as litert",
            f"run = litert.Interpreter({path!r}).get_signature_runner()",
            f'{wanted} = np.concatenate([run(images=one[None], sizes=sizes[:1])["{wanted}"] for one in {given}])',
        ),
    }[exported.kind]
    lines = [
        f"import numpy as np, {module}",
        opening,
        "batch, height, width, channels = images.shape  # uint8" + (f", at most {side}x{side}" if side else ""),
        "sizes = np.full((batch, 2), (height, width), np.int32)  # of each image",
    ]
    if padded:
        canvas = f"{side}, {side}" if side else f"max(height, {least}), max(width, {least})"
        lines += [f"canvases = np.zeros((batch, {canvas}, channels), np.uint8)", "canvases[:, :height, :width] = images"]
    lines.append(calling)
    if padded and exported.head:
        lines.append(f"{wanted} = {wanted}[:, :height, :width]")
    return [f"  {line}" for line in lines]
