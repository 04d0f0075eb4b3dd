"""The page of an evaluation: one HTML file without scripts or external resources, and its pictures next to it.

Markup is made by :func:`element` alone, which escapes everything that is not markup: names and paths are untrusted text.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.errors import pluralize
from dense_resnet.jobs import atomic_files
from segmentation.evaluation.report import markup
from segmentation.evaluation.report.charts import draw_bar, draw_histogram, draw_reliability, draw_trimap
from segmentation.evaluation.report.markup import NONE, Html, element, format_class, format_color, format_percent, join
from segmentation.evaluation.report.pictures import PANELS, Example, encode, example_picture, panel_size
from segmentation.metrics.intervals import FEWEST_IMAGES
from segmentation.metrics.presets import DESCRIPTIONS

LARGEST_TABLE = 40  # classes: a confusion matrix of more is a picture
CONFUSIONS = 10, 20  # listed next to a table, and next to a picture
LEGEND = 12  # classes named under an example
WORST = 10  # images listed
PICTURE = "example-{:02d}.jpg"
PICTURES = re.compile(r"example-\d{2,}\.jpg")
RIGHT, WRONG = (32, 80, 176), (184, 28, 52)  # of the confusion matrix: on 4/5 of either, black and white read equally well
STRONG = 0.8

HEADLINES = {
    "pixel_accuracy": ("Pixel accuracy", "share of the pixels that are right"),
    "mean_accuracy": ("Mean accuracy", "of the classes that the ground truth has"),
    "frequency_weighted_iou": ("Frequency-weighted IoU", "each class by its share of the pixels"),
    "mean_boundary_iou": ("Mean boundary IoU", "of the pixels near the outlines"),
    "mean_image_iou": ("Mean image IoU", "each image scored alone, then averaged; classes it lacks count 0 where predicted"),
}
COUNTS = {
    "images": "scored",
    "skipped": "images left out",
    "pixels": "of the ground truth",
    "scored": "pixels compared",
    "ignored": "pixels with the ignore label, which are not scored",
    "padded": "pixels added around the images for the network, and cropped off before scoring",
}


def write_page(folder: Path, result: Mapping[str, Any], examples: Sequence[Example]) -> Path:
    """Write ``index.html`` and its pictures, in place of an earlier page; return its path.

    Args:
        folder: made if it is not there.
        result: what ``evaluation.json`` holds.
        examples: the images to show, in this order.

    Raises:
        InputError: the folder cannot be written to, or an example's arrays differ in size.
    """
    colors = [entry["color"] for entry in result["classes"]]
    names = [PICTURE.format(number) for number in range(1, len(examples) + 1)]  # a path may hold anything, a number nothing
    for name, example in zip(names, examples, strict=True):
        atomic_files.write_bytes(folder / name, example_picture(example, colors))
    page = folder / "index.html"
    atomic_files.write_bytes(page, page_html(result, dict(zip(names, examples, strict=True))).encode())
    for file in folder.iterdir():
        if PICTURES.fullmatch(file.name) and file.name not in names and file.is_file():
            file.unlink()  # of an earlier page that showed more
    return page


def page_html(result: Mapping[str, Any], examples: Mapping[str, Example]) -> str:
    """Return the page's markup. Arguments as :func:`write_page`, the examples by their pictures' names."""
    sections = [
        ("classes", "Classes", _classes(result)),
        ("confusions", "Confusions", _confusions(result)),
        ("boundaries", "Boundaries", _trimap(result)),
        ("calibration", "Calibration", _calibration(result)),
        ("images", "Images", _images(result)),
        ("examples", "Examples", _examples(result, examples)),
        ("conventions", "Other conventions", _conventions(result)),
        ("skipped", "Skipped images", _skipped_images(result)),
        ("protocol", "Protocol", _protocol(result)),
    ]
    title = f"Mean IoU {format_percent(result['mean_iou'], ' %')}{_subject(result)}"
    return markup.make_page(title, _header(result), sections)


def _subject(result: Mapping[str, Any]) -> str:
    """Return the dataset and its split, each after a dot, if the protocol has them."""
    parts = [result["protocol"].get(key) for key in ("dataset", "split")]
    return "".join(f" · {part}" for part in parts if isinstance(part, str) and part)


def _header(result: Mapping[str, Any]) -> Html:
    intervals, images = result["intervals"], pluralize(result["counts"]["images"], "image")
    interval, every = markup.format_interval(intervals["mean_iou"]), len(result["classes"])
    too_few = f", too few for an interval, which needs at least {FEWEST_IMAGES}"
    words = [f"Measured on {images}{too_few if result['counts']['images'] < FEWEST_IMAGES else ''}. "]
    if interval != NONE:
        how = f" is its {100 * intervals['level']:g} % interval, by {intervals['resamples']:,} resamples of {images}. "
        words = [element("b", f"{interval} %"), how]
    words.append(f"The mean is over {result['averaged_classes']} of {pluralize(every, 'class')}.")
    figures = [_figure(title, result[key], note) for key, (title, note) in HEADLINES.items()]
    if result["calibration"]:
        error = result["calibration"]["expected_error"]
        figures.append(_figure("Expected calibration error", error, "between confidence and accuracy"))
    parts = [
        element("p", f"Segmentation evaluation{_subject(result)}", class_="eyebrow"),
        element("h1", element("span", "Mean IoU"), " ", element("strong", format_percent(result["mean_iou"], " %"))),
        element("p", *words, class_="interval"),
    ]
    if result["skipped"]:
        link = element("a", f"{pluralize(len(result['skipped']), 'image')} skipped", href="#skipped")
        parts.append(element("p", link, ": every figure here is without them.", class_="warning"))
    parts += [element("p", element("b", "Warning: "), warning, class_="warning") for warning in result.get("warnings", ())]
    return element("header", *parts, element("dl", *figures, class_="figures"))


def _figure(title: str, value: float | None, note: str) -> Html:
    value_and_note = element("dd", format_percent(value, " %")), element("dd", note, class_="note")
    return element("div", element("dt", title), *value_and_note)


def _classes(result: Mapping[str, Any]) -> Html:
    level = f"{100 * result['intervals']['level']:g} % interval"
    head = ("Class", "IoU %", f"IoU with {level}", level, "Accuracy %", "Boundary IoU %", "Pixels", "Predicted")
    rows = [
        (
            format_class(entry, "" if entry["averaged"] else "†"),
            format_percent(entry["iou"]),
            draw_bar(entry["iou"], entry["interval"]),
            markup.format_interval(entry["interval"]),
            format_percent(entry["accuracy"]),
            format_percent(entry["boundary_iou"]),
            f"{entry['pixels']:,}",
            f"{entry['predicted']:,}",
        )
        for entry in result["classes"]
    ]
    table = markup.make_table(head, rows, texts=[2], class_="classes")
    notes = ["Pixels are the ground truth's, predicted ones the model's."]
    if any(NONE in (*row[:3], *row[4:]) for row in rows):
        notes.append(f"{NONE} is nothing divided by nothing.")
    if any(entry["iou"] is not None and entry["interval"] is None for entry in result["classes"]):
        notes.append(f"Intervals need at least {FEWEST_IMAGES} images, and for a class, {FEWEST_IMAGES} that contain it.")
    if not all(entry["averaged"] for entry in result["classes"]):
        notes.append("† is not in the mean.")
    scrolled = markup.make_scrollable(table, "Table of classes", tall=len(rows) > LARGEST_TABLE)
    return join([scrolled, element("p", " ".join(notes), class_="note")])


def _confusions(result: Mapping[str, Any]) -> Html:
    counts = np.array(result["matrix"], np.int64).reshape(len(result["classes"]), -1)
    truth = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(truth, 1)
    large = len(counts) > LARGEST_TABLE
    matrix = _matrix_picture(shares) if large else _matrix_table(result, counts, shares)
    text = (
        "Each row is a class of the ground truth and what became of its pixels, in per cent: ",
        _key("found", RIGHT),
        " on the diagonal, ",
        _key("taken for another class", WRONG),
        " off it, whose shade grows with the square root so that rare confusions are visible.",
    )
    heading = element("h3", "Most frequent confusions")
    return join([element("p", *text), matrix, heading, _confusion_list(result, counts, shares, CONFUSIONS[large])])


def _key(text: str, color: Sequence[int]) -> Html:
    return element("span", text, class_="key", style=f"border-color:{format_color(color)}")


def _matrix_table(result: Mapping[str, Any], counts: np.ndarray, shares: np.ndarray) -> Html:
    classes = result["classes"]
    heads = [element("th", element("span", element("bdi", entry["name"])), scope="col") for entry in classes]
    rows = []
    for i, entry in enumerate(classes):
        cells = []
        for j, other in enumerate(classes):
            shade = float(shares[i, j]) if i == j else math.sqrt(shares[i, j])
            title = f"{entry['name']} called {other['name']}: {pluralize(int(counts[i, j]), 'pixel')}"
            color = [*(RIGHT if i == j else WRONG), round(255 * shade)]
            style = f"background:{format_color(color)}" if counts[i, j] else None
            text = _small_percent(shares[i, j]) if counts[i, j] else ""
            cells.append(element("td", text, title=title, style=style, class_="strong" if shade > STRONG else None))
        rows.append(element("tr", element("th", format_class(entry), scope="row"), *cells))
    corner = element("th", "truth ↓ prediction →", scope="col")
    table = element("table", element("thead", element("tr", corner, *heads)), element("tbody", *rows), class_="matrix")
    return markup.make_scrollable(table, "Confusion matrix")


def _small_percent(share: float) -> str:
    return "<0.1" if share < 0.0005 else f"{100 * share:.1f}" if share < 0.9995 or share == 1 else ">99.9"


def _matrix_picture(shares: np.ndarray) -> Html:
    diagonal = np.eye(len(shares), dtype=bool)
    shades = np.where(diagonal, shares, np.sqrt(shares))
    colors = np.where(diagonal[..., None], RIGHT, WRONG)
    pixels = np.dstack([colors, np.rint(255 * shades)]).astype(np.uint8)
    source = "data:image/png;base64," + base64.b64encode(encode(pixels, "PNG")).decode()
    size = len(shares)
    alt = f"Confusion matrix of {size} classes: rows are the ground truth, columns the prediction, both in the table's order."
    picture = element("img", src=source, width=size, height=size, alt=alt, class_="matrix")
    return element("figure", picture, element("figcaption", "truth ↓ prediction →, classes in the order of the table above"))


def _confusion_list(result: Mapping[str, Any], counts: np.ndarray, shares: np.ndarray, most: int) -> Html:
    errors = counts * ~np.eye(len(counts), dtype=bool)
    total = int(errors.sum())
    if not total:
        return element("p", "None: every scored pixel is right." if counts.sum() else "No pixel was scored.")
    items = []
    for place in np.argsort(-errors, axis=None, kind="stable")[:most]:
        i, j = divmod(int(place), len(counts))
        if errors[i, j]:
            share, pixels = _small_percent(shares[i, j]), pluralize(int(errors[i, j]), "pixel")
            true, found = (format_class(result["classes"][index]) for index in (i, j))
            note = element("span", f"{pixels}, {_small_percent(errors[i, j] / total)} % of all errors", class_="note")
            items.append(element("li", f"{share} % of ", true, " pixels were called ", found, " ", note))
    return element("ol", *items, class_="confusions")


def _trimap(result: Mapping[str, Any]) -> Html:
    known = [(entry["width"], entry["mean_iou"]) for entry in result["trimap"] if entry["mean_iou"] is not None]
    if not known:
        return Html()
    text = "Mean IoU of the pixels near an edge of the ground truth. What the curve climbs is lost along outlines."
    rows = [(str(entry["width"]), format_percent(entry["mean_iou"])) for entry in result["trimap"]]
    figures = markup.make_table(("Within px", "Mean IoU %"), rows)
    return join([element("p", text), draw_trimap(known, result["mean_iou"]), markup.make_details("Figures", figures)])


def _calibration(result: Mapping[str, Any]) -> Html:
    calibration = result["calibration"]
    if not calibration:
        return Html()
    rows = []
    for entry in calibration["bins"]:
        shares = (format_percent(entry[key]) for key in ("confidence", "accuracy"))
        rows.append((f"{entry['low']:.3f}–{entry['high']:.3f}", *shares, f"{entry['pixels']:,}"))
    table = markup.make_table(("Confidence", "Mean confidence %", "Accuracy %", "Pixels"), rows)
    figures = markup.make_details("Figures", markup.make_scrollable(table, "Calibration"))
    text = element(
        "p",
        "The model's accuracy by its confidence. On the dashed line they are equal; ",
        "the expected calibration error is the mean distance from it, ",
        element("b", format_percent(calibration["expected_error"], " %")),
        ".",
    )
    return join([text, draw_reliability(calibration["bins"]), figures])


def _images(result: Mapping[str, Any]) -> Html:
    known = sorted((entry["mean_iou"], entry["path"]) for entry in result["images"] if entry["mean_iou"] is not None)
    if not known:
        return element("p", "No image has a scored pixel.")
    values = np.array([value for value, _ in known])
    low, median, high = np.percentile(values, [25, 50, 75])
    words = f"Each image scored alone: half of the images lie between {format_percent(low)} and {format_percent(high)} %."
    if unscored := len(result["images"]) - len(known):
        words += f" {pluralize(unscored, 'image')} without a scored pixel: not shown."
    rows = [(element("bdi", path), format_percent(value)) for value, path in known[:WORST]]
    worst = markup.make_scrollable(markup.make_table(("Lowest images", "Mean IoU %"), rows), "Lowest images")
    charts = [draw_histogram(values, median), worst]
    return join([element("p", words), element("div", *charts, class_="pair")])


def _examples(result: Mapping[str, Any], examples: Mapping[str, Example]) -> Html:
    if not examples:
        return Html()
    values = [entry["mean_iou"] for entry in result["images"] if entry["mean_iou"] is not None]
    words = "Hatched pixels have the ignore label. Errors are red on a gray image. A click opens the whole row."
    return join([element("p", words), *(_example(result, name, example, values) for name, example in examples.items())])


def _example(result: Mapping[str, Any], name: str, example: Example, values: Sequence[float]) -> Html:
    """Show each panel as a figure of its part of the picture, so that narrow screens can stack them."""
    width, height = panel_size(example)
    figures = []
    for number, panel in enumerate(PANELS):
        style = f"aspect-ratio:{width}/{height};object-position:{100 * number / (len(PANELS) - 1):.4f}% 0"
        image = element("img", src=name, alt=f"{panel} of {example.path}", width=width, height=height, style=style)
        figures.append(element("figure", element("a", image, href=name), element("figcaption", panel)))
    mean, rank = element("b", format_percent(example.mean_iou, " %")), _describe_rank(example.mean_iou, values)
    return element(
        "article",
        element("h3", element("bdi", example.path)),
        element("p", "Mean IoU ", mean, rank),
        element("div", *figures, class_="panels"),
        _legend(result["classes"], example),
    )


def _describe_rank(value: float | None, values: Sequence[float]) -> str:
    """Show where an image's figure lies among all of them."""
    if value is None or len(values) < 2:
        return ""
    rank = f"higher than {sum(other < value for other in values):,}"
    rank = "the lowest" if value <= min(values) else "the highest" if value >= max(values) else rank
    return f", {rank} of {pluralize(len(values), 'image')}"


def _legend(classes: Sequence[Mapping[str, Any]], example: Example) -> Html:
    """List the classes of an example, the largest first."""
    both = np.concatenate([example.label.ravel(), example.prediction.ravel()]).astype(np.int64)
    pixels = np.bincount(both[(both >= 0) & (both < len(classes))], minlength=len(classes))
    present = [index for index in np.argsort(-pixels, kind="stable") if pixels[index]]
    items = [element("li", format_class(classes[index])) for index in present[:LEGEND]]
    if len(present) > LEGEND:
        items.append(element("li", f"and {len(present) - LEGEND} more"))
    return element("ul", *items, class_="legend")


def _conventions(result: Mapping[str, Any]) -> Html:
    if not result["conventions"]:
        return Html()
    rows = []
    for name, value in result["conventions"].items():
        evaluator = join([name, element("span", DESCRIPTIONS.get(name, ""), class_="note")])
        rows.append((evaluator, format_percent(value), _difference(value, result["mean_iou"])))
    text = "The same counts as other evaluators would score them. Compare a published figure with the row it was made by."
    table = markup.make_table(("Evaluator", "Mean IoU %", "Difference"), rows, class_="conventions")
    return join([element("p", text), table])


def _difference(value: float | None, reference: float | None) -> str:
    if value is None or reference is None:
        return NONE
    return f"{100 * (value - reference):+.2f}".replace("-", "−") if abs(value - reference) >= 5e-5 else "0.00"


def _skipped_images(result: Mapping[str, Any]) -> Html:
    if not result["skipped"]:
        return Html()
    items = [element("li", element("bdi", path)) for path in result["skipped"]]
    return markup.make_scrollable(element("ul", *items), "Skipped images", tall=True)


def _protocol(result: Mapping[str, Any]) -> Html:
    counts = [
        element("div", element("dt", key), element("dd", f"{value:,} ", element("span", COUNTS.get(key, ""), class_="note")))
        for key, value in result["counts"].items()
    ]
    intervals = {key: value for key, value in result["intervals"].items() if key != "mean_iou"}
    text = element("p", "What was measured and how. Two results compare where all of this is the same.")
    settings = markup.make_facts({**result["protocol"], "intervals": intervals})
    return join([text, element("h3", "Counts"), element("dl", *counts, class_="facts"), element("h3", "Settings"), settings])
