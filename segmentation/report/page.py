"""The page of an evaluation: what the figures are, where the model fails, and everything needed to check it.

One HTML file without scripts or anything from elsewhere, and its example pictures beside it, so that it opens from a folder.
Markup is made by :func:`element` alone, which escapes whatever is not markup: names and paths are other people's text.
(``tests/test_report.py``)
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet import files
from dense_resnet.errors import counted, spelt
from segmentation.intervals import FEWEST_IMAGES
from segmentation.report.pictures import PANELS, Example, example_picture, heat_map, panel_size

NONE = "–"
LARGEST_TABLE = 40  # classes: a confusion matrix of more is a picture
CONFUSIONS = 10, 20  # listed beside a table, and beside a picture
LEGEND = 12  # classes named under an example
WORST = 10  # images listed
HISTOGRAM_BINS = 20
PICTURE = "example-{:02d}.jpg"
PICTURES = re.compile(r"example-\d{2,}\.jpg")
RIGHT, WRONG = (32, 80, 176), (184, 28, 52)  # of the confusion matrix: on 4/5 of either, black and white read equally well
STRONG = 0.8
VOID = ("br", "img", "meta")  # elements without an end

CONVENTIONS = {
    "voc": "PASCAL VOC: the mean over all classes; one that is nowhere leaves no mean",
    "cityscapes": "cityscapesScripts: classes that are nowhere are left out",
    "mmseg": "MMSegmentation's IoUMetric: classes that are nowhere are left out",
    "keras": "keras.metrics.MeanIoU: classes without a count are left out",
    "tf": "tf.compat.v1.metrics.mean_iou: classes without a count are left out",
    "detectron2": "SemSegEvaluator: only classes that the ground truth has, so that one which is predicted but absent lowers "
    "the others' IoU alone",
    "ade20k": "ADE20K's own script: the mean over all classes; one that is nowhere counts 0",
    "torchmetrics": "torchmetrics.segmentation.MeanIoU: the mean over every class of every image that either map has",
    "deeplab": "DeepLab's eval.py: classes without a count are left out; it scores the padded canvas, whose padding is ignored",
}
HEADLINES = {
    "pixel_accuracy": ("Pixel accuracy", "share of the pixels that are right"),
    "mean_accuracy": ("Mean accuracy", "of the classes that the ground truth has"),
    "frequency_weighted_iou": ("Frequency-weighted IoU", "each class by its share of the pixels"),
    "mean_boundary_iou": ("Mean boundary IoU", "of the pixels near the outlines"),
    "mean_image_iou": ("Mean image IoU", "each image scored alone, then averaged"),
}
COUNTS = {
    "images": "scored",
    "skipped": "images left out",
    "pixels": "of the ground truth",
    "scored": "pixels compared",
    "ignored": "pixels with the ignore label, which count nowhere",
    "padded": "pixels added around the images for the network, and cropped off before scoring",
}


def write_page(folder: Path, result: Mapping[str, Any], examples: Sequence[Example]) -> Path:
    """Writes ``index.html`` and its pictures.

    Args:
        folder: made if it is not there; an earlier page in it is replaced.
        result: what ``evaluation.json`` holds.
        examples: the images to show, in this order.

    Returns:
        The page.

    Raises:
        InputError: the folder cannot be written to, or an example's arrays differ in size.
    """
    folder = Path(folder)
    colors = [entry["color"] for entry in result["classes"]]
    names = [PICTURE.format(number) for number in range(1, len(examples) + 1)]  # a path may hold anything, a number nothing
    for name, example in zip(names, examples, strict=True):
        files.write_bytes(folder / name, example_picture(example, colors))
    page = folder / "index.html"
    files.write_bytes(page, page_html(result, dict(zip(names, examples, strict=True))).encode())
    for file in folder.iterdir():
        if PICTURES.fullmatch(file.name) and file.name not in names and file.is_file():
            file.unlink()  # of an earlier page that showed more
    return page


def page_html(result: Mapping[str, Any], examples: Mapping[str, Example]) -> str:
    """The page's markup. Arguments as :func:`write_page`, the examples by their pictures' names."""
    sections = [
        ("classes", "Classes", _classes(result)),
        ("confusions", "Confusions", _confusions(result)),
        ("boundaries", "Boundaries", _trimap(result)),
        ("calibration", "Calibration", _calibration(result)),
        ("images", "Images", _images(result)),
        ("examples", "Examples", _examples(result, examples)),
        ("conventions", "Other conventions", _conventions(result)),
        ("skipped", "Skipped images", _skipped(result)),
        ("protocol", "Protocol", _protocol(result)),
    ]
    sections = [section for section in sections if section[2]]
    links = [element("a", title, href=f"#{name}") for name, title, _ in sections]
    body = [
        _header(result),
        element("nav", *links, aria_label="Sections"),
        element("main", *(element("section", element("h2", title), body, id=name) for name, title, body in sections)),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content="script-src 'none'"),
        element("title", f"Mean IoU {_percent(result['mean_iou'], ' %')}{_subject(result, ' · ')}"),
        element("style", Html(STYLE)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', *body), lang='en')}\n"


# --------------------------------------------------------------------------------------------------------------------
# Markup


class Html(str):
    """Text that is markup already; all other is escaped."""

    __slots__ = ()


def element(name: str, /, *children: str | int, **attributes: str | float | None) -> Html:
    """An element. Attributes that are None are left out; ``class_`` is class, ``aria_label`` is aria-label.

    >>> element("p", "1 < 2, ", element("b", "really"), class_="note")
    '<p class="note">1 &lt; 2, <b>really</b></p>'
    """
    start = name
    for key, value in attributes.items():
        if value is not None:
            value = f"{value:.5g}" if isinstance(value, float) else value
            start += f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
    if name in VOID:
        return Html(f"<{start}>")
    return Html(f"<{start}>{_joined(children)}</{name}>")


def escaped(value: object) -> str:
    r"""Text as it stands between tags and in attributes; what no file can hold or no reader see, spelt out.

    >>> escaped("<b>\0")
    '&lt;b&gt;\\x00'
    """
    return html.escape(spelt(str(value)))


def _joined(children: Iterable[str | int]) -> Html:
    return Html("".join(child if isinstance(child, Html) else escaped(child) for child in children))


def _percent(value: float | None, unit: str = "", digits: int = 2) -> str:
    return NONE if value is None else f"{100 * value:.{digits}f}{unit}"


def _between(interval: Sequence[float | None] | None) -> str:
    if interval is None or None in interval:
        return NONE
    return f"{_percent(interval[0])}–{_percent(interval[1])}"


def _scrolled(content: Html, label: str, *, tall: bool = False) -> Html:
    """A box of its own for what may be wider than the page, which the keyboard can reach and scroll."""
    return element("div", content, class_="scroll tall" if tall else "scroll", tabindex=0, role="region", aria_label=label)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Iterable[int] = (), class_: str | None = None) -> Html:
    """A table whose first cells are the rows' headers; the columns `texts` are not numbers."""
    texts = {0, *texts}
    kinds = [None if column in texts else "number" for column in range(len(head))]
    heads = [element("th", cell, scope="col", class_=kind) for cell, kind in zip(head, kinds, strict=True)]
    body = []
    for first, *rest in rows:
        cells = [element("td", cell, class_=kind) for cell, kind in zip(rest, kinds[1:], strict=True)]
        body.append(element("tr", element("th", first, scope="row"), *cells))
    return element("table", element("thead", element("tr", *heads)), element("tbody", *body), class_=class_)


def _details(summary: str, content: Html) -> Html:
    return element("details", element("summary", summary), content)


def _hex(color: Sequence[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in color)


def _named(entry: Mapping[str, Any], mark: str = "") -> Html:
    """A class: its colour and its name."""
    swatch = element("span", class_="swatch", style=f"background:{_hex(entry['color'])}", aria_hidden="true")
    return element("span", swatch, element("bdi", entry["name"]), mark, class_="class")


# --------------------------------------------------------------------------------------------------------------------
# Sections


def _subject(result: Mapping[str, Any], before: str) -> str:
    """The dataset and its split, if the protocol has them."""
    parts = [result["protocol"].get(key) for key in ("dataset", "split")]
    named = [part for part in parts if isinstance(part, str) and part]
    return before + " · ".join(named) if named else ""


def _header(result: Mapping[str, Any]) -> Html:
    intervals, images = result["intervals"], counted(result["counts"]["images"], "image")
    interval, every = _between(intervals["mean_iou"]), len(result["classes"])
    words = [f"Measured on {images}. "]
    if result["counts"]["images"] < FEWEST_IMAGES:
        words = [f"Measured on {images}, too few for an interval, which needs at least {FEWEST_IMAGES}. "]
    if interval != NONE:
        how = f" is its {100 * intervals['level']:g} % interval, by {intervals['resamples']:,} resamples of {images}. "
        words = [element("b", f"{interval} %"), how]
    words.append(f"The mean is over {result['averaged_classes']} of {counted(every, 'class')}.")
    figures = [
        element("div", element("dt", title), element("dd", _percent(result[key], " %")), element("dd", note, class_="note"))
        for key, (title, note) in HEADLINES.items()
    ]
    if result["calibration"]:
        error = _percent(result["calibration"]["expected_error"], " %")
        figures.append(
            element(
                "div",
                element("dt", "Expected calibration error"),
                element("dd", error),
                element("dd", "between confidence and accuracy", class_="note"),
            )
        )
    parts = [
        element("p", f"Segmentation evaluation{_subject(result, ' · ')}", class_="eyebrow"),
        element("h1", element("span", "Mean IoU"), " ", element("strong", _percent(result["mean_iou"], " %"))),
        element("p", *words, class_="interval"),
    ]
    if result["skipped"]:
        link = element("a", f"{counted(len(result['skipped']), 'image')} skipped", href="#skipped")
        parts.append(element("p", link, ": every figure here is without them.", class_="warning"))
    parts += [element("p", element("b", "Warning: "), warning, class_="warning") for warning in result.get("warnings", ())]
    return element("header", *parts, element("dl", *figures, class_="figures"))


def _classes(result: Mapping[str, Any]) -> Html:
    level = f"{100 * result['intervals']['level']:g} % interval"
    head = ("Class", "IoU %", f"IoU with {level}", level, "Accuracy %", "Boundary IoU %", "Pixels", "Predicted")
    rows = [
        (
            _named(entry, "" if entry["averaged"] else "†"),
            _percent(entry["iou"]),
            _bar(entry["iou"], entry["interval"]),
            _between(entry["interval"]),
            _percent(entry["accuracy"]),
            _percent(entry["boundary_iou"]),
            f"{entry['pixels']:,}",
            f"{entry['predicted']:,}",
        )
        for entry in result["classes"]
    ]
    table = _table(head, rows, texts=[2], class_="classes")
    parts = [_scrolled(table, "Table of classes", tall=len(rows) > LARGEST_TABLE)]
    notes = ["Pixels are the ground truth's, predicted ones the model's."]
    if any(NONE in (*row[:3], *row[4:]) for row in rows):
        notes.append(f"{NONE} is nothing divided by nothing.")
    if any(entry["iou"] is not None and entry["interval"] is None for entry in result["classes"]):
        notes.append(f"Intervals need at least {FEWEST_IMAGES} images, and for a class, {FEWEST_IMAGES} that contain it.")
    if not all(entry["averaged"] for entry in result["classes"]):
        notes.append("† is not in the mean.")
    return _joined([*parts, element("p", " ".join(notes), class_="note")])


def _confusions(result: Mapping[str, Any]) -> Html:
    counts = np.array(result["matrix"], np.int64).reshape(len(result["classes"]), -1)
    truth = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(truth, 1)
    large = len(counts) > LARGEST_TABLE
    matrix = _matrix_picture(shares) if large else _matrix_table(result, counts, shares)
    return _joined(
        [
            element(
                "p",
                "Each row is a class of the ground truth and what became of its pixels, in per cent: ",
                _key("found", RIGHT),
                " on the diagonal, ",
                _key("taken for another class", WRONG),
                " beside it, whose shade grows with the square root so that rare confusions can be seen.",
            ),
            matrix,
            element("h3", "Most frequent confusions"),
            _confusion_list(result, counts, shares, CONFUSIONS[large]),
        ]
    )


def _key(text: str, color: Sequence[int]) -> Html:
    return element("span", text, class_="key", style=f"border-color:{_hex(color)}")


def _shade(share: float, diagonal: bool) -> float:
    return share if diagonal else math.sqrt(share)


def _matrix_table(result: Mapping[str, Any], counts: np.ndarray, shares: np.ndarray) -> Html:
    classes = result["classes"]
    heads = [element("th", element("span", element("bdi", entry["name"])), scope="col") for entry in classes]
    rows = []
    for i, entry in enumerate(classes):
        cells = []
        for j, other in enumerate(classes):
            shade = _shade(float(shares[i, j]), i == j)
            title = f"{entry['name']} called {other['name']}: {counted(int(counts[i, j]), 'pixel')}"
            color = [*(RIGHT if i == j else WRONG), round(255 * shade)]
            style = f"background:{_hex(color)}" if counts[i, j] else None
            text = _small_percent(shares[i, j]) if counts[i, j] else ""
            cells.append(element("td", text, title=title, style=style, class_="strong" if shade > STRONG else None))
        rows.append(element("tr", element("th", _named(entry), scope="row"), *cells))
    corner = element("th", "truth ↓ prediction →", scope="col")
    table = element("table", element("thead", element("tr", corner, *heads)), element("tbody", *rows), class_="matrix")
    return _scrolled(table, "Confusion matrix")


def _small_percent(share: float) -> str:
    return "<0.1" if share < 0.0005 else f"{100 * share:.1f}" if share < 0.9995 or share == 1 else ">99.9"


def _matrix_picture(shares: np.ndarray) -> Html:
    diagonal = np.eye(len(shares), dtype=bool)
    shades = np.where(diagonal, shares, np.sqrt(shares))
    colors = np.where(diagonal[..., None], RIGHT, WRONG)
    pixels = np.dstack([colors, np.rint(255 * shades)]).astype(np.uint8)
    source = "data:image/png;base64," + base64.b64encode(heat_map(pixels)).decode()
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
            items.append(
                element(
                    "li",
                    f"{_small_percent(shares[i, j])} % of ",
                    _named(result["classes"][i]),
                    " pixels were called ",
                    _named(result["classes"][j]),
                    " ",
                    element(
                        "span",
                        f"{counted(int(errors[i, j]), 'pixel')}, {_small_percent(errors[i, j] / total)} % of all errors",
                        class_="note",
                    ),
                )
            )
    return element("ol", *items, class_="confusions")


def _trimap(result: Mapping[str, Any]) -> Html:
    known = [(entry["width"], entry["mean_iou"]) for entry in result["trimap"] if entry["mean_iou"] is not None]
    if not known:
        return Html()
    text = "Mean IoU of the pixels near an edge of the ground truth. What the curve climbs is lost along outlines."
    figures = _table(("Within px", "Mean IoU %"), [(str(e["width"]), _percent(e["mean_iou"])) for e in result["trimap"]])
    return _joined([element("p", text), _trimap_chart(known, result["mean_iou"]), _details("Figures", figures)])


def _calibration(result: Mapping[str, Any]) -> Html:
    calibration = result["calibration"]
    if not calibration:
        return Html()
    rows = [
        (
            f"{entry['low']:.3f}–{entry['high']:.3f}",
            _percent(entry["confidence"]),
            _percent(entry["accuracy"]),
            f"{entry['pixels']:,}",
        )
        for entry in calibration["bins"]
    ]
    figures = _table(("Confidence", "Mean confidence %", "Accuracy %", "Pixels"), rows)
    text = element(
        "p",
        "How often the model is right when it says how sure it is. On the dashed line it would be as right as it is sure; ",
        "the expected calibration error is the mean distance from it, ",
        element("b", _percent(calibration["expected_error"], " %")),
        ".",
    )
    return _joined([text, _reliability_chart(calibration["bins"]), _details("Figures", _scrolled(figures, "Calibration"))])


def _images(result: Mapping[str, Any]) -> Html:
    known = sorted((entry["mean_iou"], entry["path"]) for entry in result["images"] if entry["mean_iou"] is not None)
    if not known:
        return element("p", "No image has a scored pixel.")
    values = np.array([value for value, _ in known])
    low, median, high = np.percentile(values, [25, 50, 75])
    words = f"Each image scored alone: half of the images lie between {_percent(low)} and {_percent(high)} %."
    unscored = len(result["images"]) - len(known)
    if unscored:
        words += f" {counted(unscored, 'image')} without a scored pixel: not shown."
    worst = _table(("Lowest images", "Mean IoU %"), [(element("bdi", path), _percent(value)) for value, path in known[:WORST]])
    charts = [_histogram(values, median), _scrolled(worst, "Lowest images")]
    return _joined([element("p", words), element("div", *charts, class_="pair")])


def _examples(result: Mapping[str, Any], examples: Mapping[str, Example]) -> Html:
    if not examples:
        return Html()
    values = [entry["mean_iou"] for entry in result["images"] if entry["mean_iou"] is not None]
    words = "Hatched pixels have the ignore label. Errors are red on a grey image. A click opens the whole row."
    return _joined(
        [
            element("p", words),
            *(_example(result, name, example, values) for name, example in examples.items()),
        ]
    )


def _example(result: Mapping[str, Any], name: str, example: Example, values: Sequence[float]) -> Html:
    """The picture holds the panels in a row; each figure shows its part, so that a phone can stack them."""
    width, height = panel_size(example)
    figures = []
    for number, panel in enumerate(PANELS):
        image = element(
            "img",
            src=name,
            alt=f"{panel} of {example.path}",
            width=width,
            height=height,
            style=f"aspect-ratio:{width}/{height};object-position:{100 * number / (len(PANELS) - 1):.4f}% 0",
        )
        figures.append(element("figure", element("a", image, href=name), element("figcaption", panel)))
    return element(
        "article",
        element("h3", element("bdi", example.path)),
        element("p", "Mean IoU ", element("b", _percent(example.mean_iou, " %")), _standing(example.mean_iou, values)),
        element("div", *figures, class_="panels"),
        _legend(result["classes"], example),
    )


def _standing(value: float | None, values: Sequence[float]) -> str:
    """Where an image's figure lies among all of them."""
    if value is None or len(values) < 2:
        return ""
    if value <= min(values):
        return f", the lowest of {counted(len(values), 'image')}"
    if value >= max(values):
        return f", the highest of {counted(len(values), 'image')}"
    return f", higher than {sum(other < value for other in values):,} of {counted(len(values), 'image')}"


def _legend(classes: Sequence[Mapping[str, Any]], example: Example) -> Html:
    """The classes of an example, the largest first."""
    both = np.concatenate([example.label.ravel(), example.prediction.ravel()]).astype(np.int64)
    pixels = np.bincount(both[(both >= 0) & (both < len(classes))], minlength=len(classes))
    present = [index for index in np.argsort(-pixels, kind="stable") if pixels[index]]
    items = [element("li", _named(classes[index])) for index in present[:LEGEND]]
    if len(present) > LEGEND:
        items.append(element("li", f"and {len(present) - LEGEND} more"))
    return element("ul", *items, class_="legend")


def _conventions(result: Mapping[str, Any]) -> Html:
    if not result["conventions"]:
        return Html()
    rows = [
        (
            _joined([name, element("span", CONVENTIONS.get(name, ""), class_="note")]),
            _percent(value),
            _difference(value, result["mean_iou"]),
        )
        for name, value in result["conventions"].items()
    ]
    text = "The same counts as other evaluators would score them. Compare a published figure with the row it was made by."
    table = _table(("Evaluator", "Mean IoU %", "Difference"), rows, class_="conventions")
    return _joined([element("p", text), table])


def _difference(value: float | None, reference: float | None) -> str:
    if value is None or reference is None:
        return NONE
    return f"{100 * (value - reference):+.2f}".replace("-", "−") if abs(value - reference) >= 5e-5 else "0.00"


def _skipped(result: Mapping[str, Any]) -> Html:
    if not result["skipped"]:
        return Html()
    items = [element("li", element("bdi", path)) for path in result["skipped"]]
    return _scrolled(element("ul", *items), "Skipped images", tall=True)


def _protocol(result: Mapping[str, Any]) -> Html:
    counts = [
        element("div", element("dt", key), element("dd", f"{value:,} ", element("span", COUNTS.get(key, ""), class_="note")))
        for key, value in result["counts"].items()
    ]
    intervals = {key: value for key, value in result["intervals"].items() if key != "mean_iou"}
    return _joined(
        [
            element("p", "What was measured and how. Two results compare where all of this is the same."),
            element("h3", "Counts"),
            element("dl", *counts, class_="facts"),
            element("h3", "Settings"),
            _facts({**result["protocol"], "intervals": intervals}),
        ]
    )


def _facts(value: Any) -> Html:
    """JSON as nested definition lists."""
    if isinstance(value, Mapping) and value:
        items = [element("div", element("dt", key), element("dd", _facts(inner))) for key, inner in value.items()]
        return element("dl", *items, class_="facts")
    if isinstance(value, list | tuple) and any(isinstance(inner, Mapping | list | tuple) for inner in value):
        return element("ol", *(element("li", _facts(inner)) for inner in value))
    if isinstance(value, Mapping | list | tuple):
        return _joined([", ".join(_plain(inner) for inner in value) or "none"])
    return _joined([_plain(value)])


def _plain(value: Any) -> str:
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


# --------------------------------------------------------------------------------------------------------------------
# Charts

WIDE, HIGH = 440, 280  # of a chart, in its own units
LEFT, TOP, RIGHT_EDGE, BOTTOM = 44, 14, 426, 236  # of the area within the axes
STRIP = 46  # height of the share of pixels below the reliability diagram


def _x(share: float) -> float:
    return float(LEFT + share * (RIGHT_EDGE - LEFT))


def _y(share: float) -> float:
    return float(BOTTOM - share * (BOTTOM - TOP))


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    return element("line", x1=_x(x1), y1=_y(y1), x2=_x(x2), y2=_y(y2), class_=class_)


def _rect(left: float, low: float, right: float, high: float, class_: str, title: str) -> Html:
    """A rectangle in shares of the axes; what it means shows on hovering."""
    size = {"x": _x(left), "y": _y(high), "width": _x(right) - _x(left), "height": _y(low) - _y(high)}
    return element("rect", element("title", title), class_=class_, **size)


def _text(x: float, y: float, text: str, anchor: str = "middle", class_: str | None = None) -> Html:
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _chart(
    label: str,
    x_label: str,
    x_ticks: Iterable[tuple[float, str]],
    y_ticks: Iterable[tuple[float, str]],
    marks: Iterable[Html],
    extra: int = 0,
) -> Html:
    """Axes and what is drawn on them.

    Args:
        label: what the chart says, for those who do not see it.
        x_label: below the axis.
        x_ticks: (share of the axis, text).
        y_ticks: the same, each with a line across.
        marks: drawn above the lines.
        extra: units of height below the axes.
    """
    parts = []
    for share, text in y_ticks:
        parts += [_line(0, share, 1, share, "grid"), _text(LEFT - 8, _y(share) + 4, text, "end")]
    parts += [_text(_x(share), BOTTOM + 18 + extra, text) for share, text in x_ticks]
    parts.append(_text(_x(0.5), HIGH - 4 + extra, x_label, class_="axis"))
    return element("svg", *parts, *marks, viewBox=f"0 0 {WIDE} {HIGH + extra}", role="img", aria_label=label, class_="chart")


def _bar(iou: float | None, interval: Sequence[float | None] | None) -> Html:
    """A class's IoU as a bar from 0 to 100 %, its interval as a whisker."""
    parts = [element("rect", class_="track", y=3, width="100%", height=10)]
    if iou is not None:
        parts.append(element("rect", class_="fill", y=3, width=_percent(iou, "%"), height=10))
    if interval is not None and None not in interval:
        low, high = (_percent(end, "%") for end in interval)
        parts.append(element("line", class_="whisker", x1=low, x2=high, y1=8, y2=8))
        parts += [element("line", class_="whisker", x1=end, x2=end, y1=4, y2=12) for end in (low, high)]
    return element("svg", *parts, class_="bar", aria_hidden="true")


def _trimap_chart(points: Sequence[tuple[int, float]], whole: float | None) -> Html:
    values = [value for _, value in points] + ([] if whole is None else [whole])
    low, high = math.floor(10 * min(values)) / 10, math.ceil(10 * max(values)) / 10
    high = max(high, low + 0.1)
    widest = math.log(max(width for width, _ in points)) or 1.0
    places = [(math.log(width) / widest, (value - low) / (high - low)) for width, value in points]
    step = 0.1 if high - low > 0.25 else 0.05
    step = 0.2 if high - low > 0.65 else step
    ticks = [((value - low) / (high - low), f"{100 * value:.0f}") for value in np.arange(low, high + 1e-9, step)]
    path = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in places)
    marks = [element("polyline", points=path, class_="curve")]
    for (width, value), (x, y) in zip(points, places, strict=True):
        title = element("title", f"within {width} px: {_percent(value)} %")
        marks.append(element("circle", title, cx=_x(x), cy=_y(y), r=4, class_="dot"))
    if whole is not None:
        y = (whole - low) / (high - low)
        marks += [_line(0, y, 1, y, "dashed"), _text(_x(0) + 4, _y(y) + (-6 if y < 0.93 else 15), "all pixels", "start")]
    ends = [f"{_percent(value)} % within {width} px" for width, value in (points[0], points[-1])]
    label = f"Mean IoU near edges: {ends[0]}, {ends[1]}; the figures are below."
    x_ticks = [(x, str(width)) for (width, _), (x, _) in zip(points, places, strict=True)]
    return _chart(label, "pixels from an edge", x_ticks, ticks, marks)


def _reliability_chart(bins: Sequence[Mapping[str, Any]]) -> Html:
    marks = []
    most = max((entry["pixels"] for entry in bins), default=0)
    total = sum(entry["pixels"] for entry in bins)
    for entry in bins:
        low, high, accuracy, confidence = entry["low"], entry["high"], entry["accuracy"], entry["confidence"]
        if not entry["pixels"] or accuracy is None or confidence is None:
            continue
        gap = (high - low) * 0.06
        low, high = low + gap, high - gap
        title = f"confidence {_percent(confidence)} %, accuracy {_percent(accuracy)} %, {counted(entry['pixels'], 'pixel')}"
        marks.append(_rect(low, 0, high, accuracy, "fill", title))
        marks.append(_rect(low, min(accuracy, confidence), high, max(accuracy, confidence), "gap", title))
        tall = STRIP * entry["pixels"] / most
        marks.append(
            element("rect", x=_x(low), y=BOTTOM + 8 + STRIP - tall, width=_x(high) - _x(low), height=tall, class_="share")
        )
    marks.append(_line(0, 0, 1, 1, "dashed"))
    marks.append(_text(LEFT - 8, BOTTOM + 8 + STRIP, "pixels", "end"))
    ticks = [(share, f"{100 * share:.0f}") for share in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    label = f"Reliability diagram: accuracy against confidence in {len(bins)} bins, {total:,} pixels; the figures are below."
    return _chart(label, "confidence %; bars: accuracy %, below: share of the pixels", ticks, ticks, marks, STRIP + 12)


def _histogram(values: np.ndarray, median: float) -> Html:
    counts, edges = np.histogram(values, HISTOGRAM_BINS, (0, 1))
    top = int(counts.max())
    marks = []
    for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            title = f"{counted(count, 'image')} from {_percent(low, digits=0)} to {_percent(high, digits=0)} %"
            marks.append(_rect(low + 0.003, 0, high - 0.003, 0.92 * count / top, "fill", title))
    side = "end" if median > 0.5 else "start"
    marks += [
        _line(median, 0, median, 1, "dashed"),
        _text(_x(median) + (-6 if side == "end" else 6), TOP + 8, f"median {_percent(median, ' %')}", side),
    ]
    halves = [0, top] if top < 2 or top % 2 else [0, top // 2, top]
    x_ticks = [(share, f"{100 * share:.0f}") for share in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    spread = f"lowest {_percent(values[0])} %, median {_percent(median)} %, highest {_percent(values[-1])} %"
    label = f"Histogram of the mean IoU of {counted(len(values), 'image')}: {spread}."
    return _chart(label, "mean IoU % of an image; bars: images", x_ticks, [(0.92 * h / top, f"{h:,}") for h in halves], marks)


STYLE = """
:root{color-scheme:light dark;--paper:#fff;--card:#f5f6f8;--ink:#1a1e24;--muted:#5a6472;--line:#dde1e7;--accent:#2050b0;
--bad:#b81c34;--heat:#000;--warn:#fff4d6}
@media(prefers-color-scheme:dark){:root{--paper:#13161b;--card:#1b2027;--ink:#e7eaef;--muted:#9ca7b6;--line:#303843;
--accent:#7ea8ff;--bad:#ff8090;--heat:#fff;--warn:#3a3117}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:3.5rem}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
header,main,nav{max-width:72rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.5rem}
h1,h2,h3,p,dl,ol,ul,figure{margin:0}
h1{display:flex;flex-wrap:wrap;align-items:baseline;gap:0 1rem;font-size:1.5rem;font-weight:500;line-height:1.1}
h1 strong{font-size:clamp(3.25rem,11vw,5.5rem);font-weight:700;letter-spacing:-.035em;font-variant-numeric:tabular-nums}
h2{font-size:1.5rem;line-height:1.25;letter-spacing:-.01em;margin-bottom:.75rem}
h3{font-size:1rem;margin:1.75rem 0 .5rem;overflow-wrap:anywhere}
section{padding:2.5rem 0 .5rem}
section>p{max-width:46rem;margin-bottom:1rem}
a{color:var(--accent)}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.eyebrow{color:var(--muted);font-size:.9rem;margin-bottom:.75rem;overflow-wrap:anywhere}
.interval{font-size:1.125rem;margin-top:.5rem;max-width:46rem}
.note,figcaption{color:var(--muted);font-size:.875rem}
.warning{background:var(--warn);padding:.6rem .9rem;border-radius:6px;margin-top:1rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.25rem,1fr));background:var(--card);
border:1px solid var(--line);border-radius:10px;overflow:hidden;margin-top:1.75rem}
.figures div{padding:.85rem 1rem;box-shadow:1px 1px 0 var(--line)}
.figures dt{font-size:.875rem}
.figures dd{margin:0;font-size:1.5rem;font-weight:600;font-variant-numeric:tabular-nums}
.figures dd.note{font-size:.8125rem;font-weight:400;line-height:1.35}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin-top:1.25rem}
nav a{font-size:.9375rem;text-decoration:none;padding:.3rem 0}
nav a:hover{text-decoration:underline}
table{border-collapse:separate;border-spacing:0;font-size:.9375rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.4rem .75rem;border-top:1px solid var(--line);font-weight:400;vertical-align:middle}
thead th{border-top:0}
tbody tr:last-child>*{border-bottom:1px solid var(--line)}
tr>:first-child{padding-left:0}
thead th{font-size:.8125rem;color:var(--muted);vertical-align:bottom;line-height:1.3}
td.number,th.number{text-align:right;white-space:nowrap}
thead th.number{white-space:normal;min-width:6.75rem}
.scroll{overflow-x:auto;max-width:100%}
.tall{overflow-y:auto;max-height:38rem;border-bottom:1px solid var(--line)}
.tall thead th{border-bottom:1px solid var(--line);position:sticky;top:0;background:var(--paper);z-index:2}
th[scope=row]{position:sticky;left:0;background:var(--paper);z-index:1;overflow-wrap:anywhere}
.scroll th[scope=row]{min-width:8rem;max-width:16rem}
.classes{width:100%}
.classes td:nth-child(2){font-weight:600}
.classes td:nth-child(3){width:22%;min-width:8rem}
.class{font-weight:500;display:inline-flex;align-items:baseline;gap:.4em;max-width:100%}
.class bdi{min-width:0;overflow-wrap:anywhere}
.confusions .class{font-weight:600}
.swatch{flex:none;width:.8em;height:.8em;border-radius:3px;position:relative;top:.06em;
box-shadow:inset 0 0 0 1px rgb(128,128,128,.55)}
.bar{display:block;width:100%;height:16px}
.track{fill:var(--line)}
.fill{fill:var(--accent);fill-opacity:.62}
.whisker{stroke:var(--ink);stroke-width:1.5}
.matrix th[scope=row]{padding-right:.75rem;max-width:11rem}
.matrix td{text-align:center;min-width:2.9rem;padding:.3rem .2rem;font-size:.8125rem;color:var(--heat);
border:solid var(--paper);border-width:1px 1px 0 0}
.matrix thead th{padding:.3rem .2rem;text-align:center}
.matrix thead th:first-child{text-align:left;padding-left:0;min-width:8rem}
.matrix thead span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:9rem;overflow:hidden;white-space:nowrap;
text-overflow:ellipsis}
.matrix td.strong{color:#fff}
img.matrix{display:block;width:min(100%,40rem);height:auto;image-rendering:pixelated;border:1px solid var(--line)}
.key{border-bottom:3px solid}
.confusions{padding-left:1.75rem}
.confusions li{padding:.2rem 0}
.chart{display:block;width:100%;max-width:34rem;height:auto}
.chart text{fill:var(--muted);font-size:12.5px}
.grid{stroke:var(--line)}
.dashed{stroke:var(--ink);stroke-dasharray:5 4;stroke-width:1.25}
.curve{fill:none;stroke:var(--accent);stroke-width:2.5;stroke-linejoin:round}
.dot{fill:var(--accent);stroke:var(--paper);stroke-width:1.5}
.gap{fill:var(--bad);fill-opacity:.5}
.share{fill:var(--muted);fill-opacity:.6}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.5rem;align-items:start}
.pair table{width:100%}
details{margin-top:.75rem}
summary{cursor:pointer;color:var(--accent);padding:.25rem 0}
article{margin-top:2rem}
article h3{margin-bottom:0}
.panels{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:.5rem;margin:.5rem 0}
.panels img{display:block;width:100%;height:auto;object-fit:cover;border-radius:4px}
.panels a{display:block}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.875rem}
.conventions .note{display:block}
.facts div{display:grid;grid-template-columns:minmax(7rem,13rem) minmax(0,1fr);gap:0 1rem;border-top:1px solid var(--line);
padding:.35rem 0}
.facts dt{color:var(--muted);overflow-wrap:anywhere}
.facts dd{margin:0;font-variant-numeric:tabular-nums}
.facts .facts div:first-child{border-top:0;padding-top:0}
.facts .facts div:last-child{padding-bottom:0}
main{padding-bottom:4rem;display:grid;grid-template-columns:minmax(0,1fr)}
@media(min-width:64rem){
main{grid-template-columns:repeat(2,minmax(0,1fr));column-gap:2.5rem}
section{grid-column:1/-1}
#boundaries,#calibration{grid-column:auto}
}
@media(max-width:40rem){
header{padding-top:1.5rem}
.panels{grid-template-columns:repeat(2,minmax(0,1fr))}
.scroll th[scope=row]{max-width:9rem}
.conventions thead th.number{min-width:0}
.figures{grid-template-columns:1fr 1fr}
.facts div{grid-template-columns:minmax(0,36%) minmax(0,1fr)}
.facts .facts div{display:block}
}
@media print{.tall{max-height:none;overflow:visible}.scroll{overflow:visible}nav{display:none}}
"""
