"""The page of an evaluation: what the figures are, where the model fails, and everything needed to check it.

One HTML file without scripts or anything from elsewhere, and its example pictures beside it, so that it opens from a folder.
Markup is made by :func:`element` alone, which escapes whatever is not markup: names and paths are other people's text.
(``tests/segmentation/evaluation/test_report.py``)
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
from segmentation.evaluation.report.charts import _bar, _histogram, _reliability_chart, _trimap_chart
from segmentation.evaluation.report.markup import (
    NONE,
    Html,
    _between,
    _details,
    _format_class,
    _hex,
    _join,
    _make_scrollable,
    _percent,
    _table,
    element,
)
from segmentation.evaluation.report.pictures import PANELS, Example, example_picture, heat_map, panel_size
from segmentation.metrics.intervals import FEWEST_IMAGES

LARGEST_TABLE = 40  # classes: a confusion matrix of more is a picture
CONFUSIONS = 10, 20  # listed beside a table, and beside a picture
LEGEND = 12  # classes named under an example
WORST = 10  # images listed
PICTURE = "example-{:02d}.jpg"
PICTURES = re.compile(r"example-\d{2,}\.jpg")
RIGHT, WRONG = (32, 80, 176), (184, 28, 52)  # of the confusion matrix: on 4/5 of either, black and white read equally well
STRONG = 0.8

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
        atomic_files.write_bytes(folder / name, example_picture(example, colors))
    page = folder / "index.html"
    atomic_files.write_bytes(page, page_html(result, dict(zip(names, examples, strict=True))).encode())
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
        ("skipped", "Skipped images", _skipped_images(result)),
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


def _subject(result: Mapping[str, Any], before: str) -> str:
    """The dataset and its split, if the protocol has them."""
    parts = [result["protocol"].get(key) for key in ("dataset", "split")]
    named = [part for part in parts if isinstance(part, str) and part]
    return before + " · ".join(named) if named else ""


def _header(result: Mapping[str, Any]) -> Html:
    intervals, images = result["intervals"], pluralize(result["counts"]["images"], "image")
    interval, every = _between(intervals["mean_iou"]), len(result["classes"])
    words = [f"Measured on {images}. "]
    if result["counts"]["images"] < FEWEST_IMAGES:
        words = [f"Measured on {images}, too few for an interval, which needs at least {FEWEST_IMAGES}. "]
    if interval != NONE:
        how = f" is its {100 * intervals['level']:g} % interval, by {intervals['resamples']:,} resamples of {images}. "
        words = [element("b", f"{interval} %"), how]
    words.append(f"The mean is over {result['averaged_classes']} of {pluralize(every, 'class')}.")
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
        link = element("a", f"{pluralize(len(result['skipped']), 'image')} skipped", href="#skipped")
        parts.append(element("p", link, ": every figure here is without them.", class_="warning"))
    parts += [element("p", element("b", "Warning: "), warning, class_="warning") for warning in result.get("warnings", ())]
    return element("header", *parts, element("dl", *figures, class_="figures"))


def _classes(result: Mapping[str, Any]) -> Html:
    level = f"{100 * result['intervals']['level']:g} % interval"
    head = ("Class", "IoU %", f"IoU with {level}", level, "Accuracy %", "Boundary IoU %", "Pixels", "Predicted")
    rows = [
        (
            _format_class(entry, "" if entry["averaged"] else "†"),
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
    parts = [_make_scrollable(table, "Table of classes", tall=len(rows) > LARGEST_TABLE)]
    notes = ["Pixels are the ground truth's, predicted ones the model's."]
    if any(NONE in (*row[:3], *row[4:]) for row in rows):
        notes.append(f"{NONE} is nothing divided by nothing.")
    if any(entry["iou"] is not None and entry["interval"] is None for entry in result["classes"]):
        notes.append(f"Intervals need at least {FEWEST_IMAGES} images, and for a class, {FEWEST_IMAGES} that contain it.")
    if not all(entry["averaged"] for entry in result["classes"]):
        notes.append("† is not in the mean.")
    return _join([*parts, element("p", " ".join(notes), class_="note")])


def _confusions(result: Mapping[str, Any]) -> Html:
    counts = np.array(result["matrix"], np.int64).reshape(len(result["classes"]), -1)
    truth = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(truth, 1)
    large = len(counts) > LARGEST_TABLE
    matrix = _matrix_picture(shares) if large else _matrix_table(result, counts, shares)
    return _join(
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
            title = f"{entry['name']} called {other['name']}: {pluralize(int(counts[i, j]), 'pixel')}"
            color = [*(RIGHT if i == j else WRONG), round(255 * shade)]
            style = f"background:{_hex(color)}" if counts[i, j] else None
            text = _small_percent(shares[i, j]) if counts[i, j] else ""
            cells.append(element("td", text, title=title, style=style, class_="strong" if shade > STRONG else None))
        rows.append(element("tr", element("th", _format_class(entry), scope="row"), *cells))
    corner = element("th", "truth ↓ prediction →", scope="col")
    table = element("table", element("thead", element("tr", corner, *heads)), element("tbody", *rows), class_="matrix")
    return _make_scrollable(table, "Confusion matrix")


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
                    _format_class(result["classes"][i]),
                    " pixels were called ",
                    _format_class(result["classes"][j]),
                    " ",
                    element(
                        "span",
                        f"{pluralize(int(errors[i, j]), 'pixel')}, {_small_percent(errors[i, j] / total)} % of all errors",
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
    return _join([element("p", text), _trimap_chart(known, result["mean_iou"]), _details("Figures", figures)])


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
    return _join([text, _reliability_chart(calibration["bins"]), _details("Figures", _make_scrollable(figures, "Calibration"))])


def _images(result: Mapping[str, Any]) -> Html:
    known = sorted((entry["mean_iou"], entry["path"]) for entry in result["images"] if entry["mean_iou"] is not None)
    if not known:
        return element("p", "No image has a scored pixel.")
    values = np.array([value for value, _ in known])
    low, median, high = np.percentile(values, [25, 50, 75])
    words = f"Each image scored alone: half of the images lie between {_percent(low)} and {_percent(high)} %."
    unscored = len(result["images"]) - len(known)
    if unscored:
        words += f" {pluralize(unscored, 'image')} without a scored pixel: not shown."
    worst = _table(("Lowest images", "Mean IoU %"), [(element("bdi", path), _percent(value)) for value, path in known[:WORST]])
    charts = [_histogram(values, median), _make_scrollable(worst, "Lowest images")]
    return _join([element("p", words), element("div", *charts, class_="pair")])


def _examples(result: Mapping[str, Any], examples: Mapping[str, Example]) -> Html:
    if not examples:
        return Html()
    values = [entry["mean_iou"] for entry in result["images"] if entry["mean_iou"] is not None]
    words = "Hatched pixels have the ignore label. Errors are red on a grey image. A click opens the whole row."
    return _join(
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
        element("p", "Mean IoU ", element("b", _percent(example.mean_iou, " %")), _describe_rank(example.mean_iou, values)),
        element("div", *figures, class_="panels"),
        _legend(result["classes"], example),
    )


def _describe_rank(value: float | None, values: Sequence[float]) -> str:
    """Where an image's figure lies among all of them."""
    if value is None or len(values) < 2:
        return ""
    if value <= min(values):
        return f", the lowest of {pluralize(len(values), 'image')}"
    if value >= max(values):
        return f", the highest of {pluralize(len(values), 'image')}"
    return f", higher than {sum(other < value for other in values):,} of {pluralize(len(values), 'image')}"


def _legend(classes: Sequence[Mapping[str, Any]], example: Example) -> Html:
    """The classes of an example, the largest first."""
    both = np.concatenate([example.label.ravel(), example.prediction.ravel()]).astype(np.int64)
    pixels = np.bincount(both[(both >= 0) & (both < len(classes))], minlength=len(classes))
    present = [index for index in np.argsort(-pixels, kind="stable") if pixels[index]]
    items = [element("li", _format_class(classes[index])) for index in present[:LEGEND]]
    if len(present) > LEGEND:
        items.append(element("li", f"and {len(present) - LEGEND} more"))
    return element("ul", *items, class_="legend")


def _conventions(result: Mapping[str, Any]) -> Html:
    if not result["conventions"]:
        return Html()
    rows = [
        (
            _join([name, element("span", CONVENTIONS.get(name, ""), class_="note")]),
            _percent(value),
            _difference(value, result["mean_iou"]),
        )
        for name, value in result["conventions"].items()
    ]
    text = "The same counts as other evaluators would score them. Compare a published figure with the row it was made by."
    table = _table(("Evaluator", "Mean IoU %", "Difference"), rows, class_="conventions")
    return _join([element("p", text), table])


def _difference(value: float | None, reference: float | None) -> str:
    if value is None or reference is None:
        return NONE
    return f"{100 * (value - reference):+.2f}".replace("-", "−") if abs(value - reference) >= 5e-5 else "0.00"


def _skipped_images(result: Mapping[str, Any]) -> Html:
    if not result["skipped"]:
        return Html()
    items = [element("li", element("bdi", path)) for path in result["skipped"]]
    return _make_scrollable(element("ul", *items), "Skipped images", tall=True)


def _protocol(result: Mapping[str, Any]) -> Html:
    counts = [
        element("div", element("dt", key), element("dd", f"{value:,} ", element("span", COUNTS.get(key, ""), class_="note")))
        for key, value in result["counts"].items()
    ]
    intervals = {key: value for key, value in result["intervals"].items() if key != "mean_iou"}
    return _join(
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
        return _join([", ".join(_plain(inner) for inner in value) or "none"])
    return _join([_plain(value)])


def _plain(value: Any) -> str:
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


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
