"""The page of a training: what to try next, curves, classes, predictions over time, and the options, as one HTML file.

OUT/training/index.html     written after each validation, from log.jsonl and the protocol
OUT/training/pictures/      the first validation images, their labels, and the predictions of each validation
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.jobs import atomic_files
from segmentation.data.label_space import LabelSpace
from segmentation.evaluation.report import markup
from segmentation.evaluation.report.charts import draw_bar, draw_curves
from segmentation.evaluation.report.markup import Html, element, format_percent, join
from segmentation.evaluation.report.pictures import QUALITY, Example, encode, example_panels
from segmentation.training.log import LOG, read_log

PICTURES = "pictures"
MOMENTS = 4  # predictions shown of an image
OVERFITTING = 0.15  # training mean IoU above that of validation
RISING = 0.01  # of mean IoU in the last third, for which more steps are worth their time
WEAK = 0.5  # of the mean IoU: a class below needs attention


def keep_pictures(
    folder: Path, number: int, step: int, arrays: tuple[np.ndarray, np.ndarray, np.ndarray], space: LabelSpace
) -> None:
    """Write the pictures of a validation image: of its prediction at `step`, and of the image and its label."""
    colors = [entry.color for entry in space.classes]
    image, truth, prediction, _ = example_panels(Example(str(number), *arrays, mean_iou=None), colors)
    for name, pixels in (("image", image), ("label", truth), (f"{step:06d}", prediction)):
        picture = encode(pixels, "JPEG", quality=QUALITY, subsampling=0)
        atomic_files.write_bytes(folder / PICTURES / f"{number}-{name}.jpg", picture)


def write_page(folder: Path, protocol: Mapping[str, Any], pixels: Sequence[int], warnings: Sequence[str]) -> None:
    """Write ``index.html`` of a training.

    Args:
        folder: with its log and its pictures.
        protocol: of the training.
        pixels: of each class in the training labels.
        warnings: the kinds of those that the training has given.
    """
    lines = read_log(folder / LOG)
    validations = [{"training_mean_iou": None, **line} for line in lines if "mean_iou" in line]  # older lines lack it
    best = max(validations, key=lambda line: line["mean_iou"] or 0.0)
    last = lines[-1]["step"]
    names = [entry["name"] for entry in protocol["dataset"]["classes"]]
    advice = list(find_advice(protocol["recipe"], validations, names, pixels, warnings))
    header = element(
        "header",
        element("p", f"Training · {protocol['dataset']['name']}", class_="eyebrow"),
        element("h1", element("span", "Best mean IoU"), " ", element("strong", format_percent(best["mean_iou"], " %"))),
        element(
            "p", f"At step {best['step']:,} of {last:,} made, of {protocol['recipe']['steps']:,} in all.", class_="interval"
        ),
        *(element("p", element("b", "Warning: "), line["warning"], class_="warning") for line in lines if "warning" in line),
    )
    sections = [
        ("next", "What to try next", element("ul", *(element("li", sentence) for sentence in advice))),
        ("curves", "Curves", _curves(lines, validations)),
        ("classes", "Classes", _classes(protocol, best, validations[-1], pixels)),
        ("examples", "Predictions over time", _examples(folder, last)),
        ("options", "Options", _options(protocol)),
    ]
    title = f"Training: mean IoU {format_percent(best['mean_iou'], ' %')}"
    atomic_files.write_bytes(folder / "index.html", markup.make_page(title, header, sections).encode())


def find_advice(
    recipe: Mapping[str, Any],
    validations: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    pixels: Sequence[int],
    warnings: Sequence[str],
) -> list[str]:
    """Say what is likely to help next, by what the validations show. Arguments as :func:`write_page`.

    >>> rising = [{"step": 9 * n, "mean_iou": 0.1 * n, "training_mean_iou": 0.1 * n, "class_iou": [0.1 * n]} for n in (1, 2, 3)]
    >>> print(*find_advice({"steps": 27}, rising, ["cat"], [9], []))
    It was still improving at the end: the same command with --steps 54 continues it.
    """
    scored = [line for line in validations if line["mean_iou"] is not None]
    if not scored:
        return ["No validation image has a labeled pixel: check the labels with `dense-resnet doctor`."]
    last, best, advice = scored[-1], max(scored, key=lambda line: line["mean_iou"]), []
    ended = last["step"] == recipe["steps"]
    if not ended:
        advice.append(f"This is step {last['step']:,} of {recipe['steps']:,}: the same command goes on if it has been stopped.")
    if "collapsed" in warnings and last["mean_iou"] < WEAK:
        advice.append("The predictions collapsed to one class: a tenth of --lr, --clip 1, or a trained model (--init).")
    if (last["training_mean_iou"] or 0.0) - last["mean_iou"] > OVERFITTING:
        advice.append(
            "The training views score far better than the validation images: it overfits. More labeled images help most; then "
            "--augment 0.5, fewer --steps, or a smaller network."
        )
    earlier = [line["mean_iou"] for line in scored if line["step"] <= last["step"] * 2 / 3]
    if ended and best is last and earlier and last["mean_iou"] - max(earlier) > RISING:
        advice.append(f"It was still improving at the end: the same command with --steps {2 * recipe['steps']} continues it.")
    ious = zip(names, best["class_iou"], pixels, strict=True)
    if weak := [name for name, iou, count in ious if count and iou is not None and iou < WEAK * best["mean_iou"]]:
        weights = "" if recipe["class_weights"] else "--class-weights balanced, or "
        advice.append(f"Far below the mean: {', '.join(weak)}. More labels of them, or {weights}--loss ce+dice.")
    return advice or [
        "Nothing stands out. A larger network from ImageNet weights (--model resnet_v2_50 --weights …), a larger --crop or "
        "more labeled images are next; `dense-resnet evaluate` shows which images are worst."
    ]


def _curves(lines: Sequence[Mapping[str, Any]], validations: Sequence[Mapping[str, Any]]) -> Html:
    steps = [line for line in lines if "loss" in line]
    scores = {
        "validation": [(line["step"], line["mean_iou"]) for line in validations if line["mean_iou"] is not None],
        "training views": [(line["step"], line["training_mean_iou"]) for line in validations if line["training_mean_iou"]],
    }
    charts = []
    if scores := {name: points for name, points in scores.items() if points}:
        charts.append(("Mean IoU", draw_curves("Mean IoU by step.", scores, "step; mean IoU %", percent=True)))
    for key, name in (("loss", "Loss"), ("learning_rate", "Learning rate")):
        if points := [(line["step"], line[key]) for line in steps]:
            charts.append((name, draw_curves(f"{name} by step.", {name: points}, "step", percent=False)))
    figures = [element("figure", element("h3", name), chart) for name, chart in charts]
    return element("div", *figures, class_="pair") if figures else Html()


def _classes(protocol: Mapping[str, Any], best: Mapping[str, Any], last: Mapping[str, Any], pixels: Sequence[int]) -> Html:
    head = ("Class", "IoU %", "", "Last IoU %", "Training pixels")
    entries = zip(protocol["dataset"]["classes"], best["class_iou"], last["class_iou"], pixels, strict=True)
    rows = [
        (markup.format_class(entry), format_percent(iou), draw_bar(iou, None), format_percent(now), f"{count:,}")
        for entry, iou, now, count in entries
    ]
    table = markup.make_table(head, rows, texts=[2], class_="classes")
    return markup.make_scrollable(table, "Table of classes", tall=len(rows) > 40)


def _options(protocol: Mapping[str, Any]) -> Html:
    rest = {key: value for key, value in protocol.items() if key not in ("recipe", "plan", "dataset", "validation")}
    splits = {key: {name: protocol[key][name] for name in ("name", "split", "images")} for key in ("dataset", "validation")}
    facts = markup.make_facts({**protocol["recipe"], **splits, **rest})
    return join([facts, markup.make_details("The network's plan", markup.make_facts({"plan": protocol["plan"]}))])


def _examples(folder: Path, last: int) -> Html:
    shown: dict[int, list[int]] = {}
    for file in sorted((folder / PICTURES).glob("*.jpg")):
        if (match := re.fullmatch(r"(\d+)-(\d{6,})", file.stem)) and int(match[2]) <= last:
            shown.setdefault(int(match[1]), []).append(int(match[2]))
    parts = []
    for number, steps in sorted(shown.items()):
        chosen = sorted({steps[round(place)] for place in np.linspace(0, len(steps) - 1, MOMENTS)})
        panels = [("image", "image"), ("label", "label"), *((f"{step:06d}", f"step {step:,}") for step in chosen)]
        figures = [
            element("figure", element("img", src=f"{PICTURES}/{number}-{name}.jpg", alt=text), element("figcaption", text))
            for name, text in panels
        ]
        parts.append(markup.make_scrollable(element("div", *figures, class_="history"), f"Image {number + 1} over time"))
    return join(parts)
