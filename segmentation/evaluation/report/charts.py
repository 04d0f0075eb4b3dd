"""Charts as SVG, without a script: they follow the page's light and dark colors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dense_resnet.errors import pluralize
from segmentation.evaluation.report.markup import Html, element, format_percent

HISTOGRAM_BINS = 20
FIFTHS = [(share, f"{100 * share:.0f}") for share in (0, 0.2, 0.4, 0.6, 0.8, 1)]  # ticks of an axis of per cents

WIDE, HIGH = 440, 280  # of a chart, in its own units
LEFT, TOP, RIGHT_EDGE, BOTTOM = 44, 14, 426, 236  # of the area within the axes
STRIP = 46  # height of the share of pixels below the reliability diagram

Ticks = Iterable[tuple[float, str]]  # (share of the axis, text)


def _x(share: float) -> float:
    return float(LEFT + share * (RIGHT_EDGE - LEFT))


def _y(share: float) -> float:
    return float(BOTTOM - share * (BOTTOM - TOP))


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    return element("line", x1=_x(x1), y1=_y(y1), x2=_x(x2), y2=_y(y2), class_=class_)


def _rect(left: float, low: float, right: float, high: float, class_: str, title: str) -> Html:
    """Return a rectangle in fractions of the axes; its title is shown on hover."""
    size = {"x": _x(left), "y": _y(high), "width": _x(right) - _x(left), "height": _y(low) - _y(high)}
    return element("rect", element("title", title), class_=class_, **size)


def _text(x: float, y: float, text: str, anchor: str = "middle", class_: str | None = None) -> Html:
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _chart(label: str, x_label: str, x_ticks: Ticks, y_ticks: Ticks, marks: Iterable[Html], extra: int = 0) -> Html:
    """Draw axes with ticks, and the marks on them.

    Args:
        label: the chart's content in words, for screen readers.
        extra: units of height below the axes.
    """
    parts = []
    for share, text in y_ticks:
        parts += [_line(0, share, 1, share, "grid"), _text(LEFT - 8, _y(share) + 4, text, "end")]
    parts += [_text(_x(share), BOTTOM + 18 + extra, text) for share, text in x_ticks]
    parts.append(_text(_x(0.5), HIGH - 4 + extra, x_label, class_="axis"))
    return element("svg", *parts, *marks, viewBox=f"0 0 {WIDE} {HIGH + extra}", role="img", aria_label=label, class_="chart")


def draw_bar(iou: float | None, interval: Sequence[float | None] | None) -> Html:
    """Draw a class's IoU as a bar from 0 to 100 %, and its interval as a whisker."""
    parts = [element("rect", class_="track", y=3, width="100%", height=10)]
    if iou is not None:
        parts.append(element("rect", class_="fill", y=3, width=format_percent(iou, "%"), height=10))
    if interval is not None and None not in interval:
        low, high = (format_percent(end, "%") for end in interval)
        parts.append(element("line", class_="whisker", x1=low, x2=high, y1=8, y2=8))
        parts += [element("line", class_="whisker", x1=end, x2=end, y1=4, y2=12) for end in (low, high)]
    return element("svg", *parts, class_="bar", aria_hidden="true")


def draw_trimap(points: Sequence[tuple[int, float]], whole: float | None) -> Html:
    values = [value for _, value in points] + ([] if whole is None else [whole])
    low, high = math.floor(10 * min(values)) / 10, math.ceil(10 * max(values)) / 10
    high = max(high, low + 0.1)
    widest = math.log(max(width for width, _ in points)) or 1.0
    places = [(math.log(width) / widest, (value - low) / (high - low)) for width, value in points]
    step = 0.2 if high - low > 0.65 else 0.1 if high - low > 0.25 else 0.05
    ticks = [((value - low) / (high - low), f"{100 * value:.0f}") for value in np.arange(low, high + 1e-9, step)]
    path = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in places)
    marks = [element("polyline", points=path, class_="curve")]
    for (width, value), (x, y) in zip(points, places, strict=True):
        title = element("title", f"within {width} px: {format_percent(value)} %")
        marks.append(element("circle", title, cx=_x(x), cy=_y(y), r=4, class_="dot"))
    if whole is not None:
        y = (whole - low) / (high - low)
        marks += [_line(0, y, 1, y, "dashed"), _text(_x(0) + 4, _y(y) + (-6 if y < 0.93 else 15), "all pixels", "start")]
    ends = [f"{format_percent(value)} % within {width} px" for width, value in (points[0], points[-1])]
    label = f"Mean IoU near edges: {ends[0]}, {ends[1]}; the figures are below."
    x_ticks = [(x, str(width)) for (width, _), (x, _) in zip(points, places, strict=True)]
    return _chart(label, "pixels from an edge", x_ticks, ticks, marks)


def draw_reliability(bins: Sequence[Mapping[str, Any]]) -> Html:
    marks = []
    most = max((entry["pixels"] for entry in bins), default=0)
    total = sum(entry["pixels"] for entry in bins)
    for entry in bins:
        low, high, accuracy, confidence = entry["low"], entry["high"], entry["accuracy"], entry["confidence"]
        if not entry["pixels"] or accuracy is None or confidence is None:
            continue
        gap = (high - low) * 0.06
        low, high = low + gap, high - gap
        shares = f"confidence {format_percent(confidence)} %, accuracy {format_percent(accuracy)} %"
        title = f"{shares}, {pluralize(entry['pixels'], 'pixel')}"
        marks.append(_rect(low, 0, high, accuracy, "fill", title))
        marks.append(_rect(low, min(accuracy, confidence), high, max(accuracy, confidence), "gap", title))
        tall, width = STRIP * entry["pixels"] / most, _x(high) - _x(low)
        marks.append(element("rect", x=_x(low), y=BOTTOM + 8 + STRIP - tall, width=width, height=tall, class_="share"))
    marks.append(_line(0, 0, 1, 1, "dashed"))
    marks.append(_text(LEFT - 8, BOTTOM + 8 + STRIP, "pixels", "end"))
    label = f"Reliability diagram: accuracy against confidence in {len(bins)} bins, {total:,} pixels; the figures are below."
    return _chart(label, "confidence %; bars: accuracy %, below: share of the pixels", FIFTHS, FIFTHS, marks, STRIP + 12)


def draw_histogram(values: np.ndarray, median: float) -> Html:
    counts, edges = np.histogram(values, HISTOGRAM_BINS, (0, 1))
    top = int(counts.max())
    marks = []
    for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            title = f"{pluralize(count, 'image')} from {format_percent(low, digits=0)} to {format_percent(high, digits=0)} %"
            marks.append(_rect(low + 0.003, 0, high - 0.003, 0.92 * count / top, "fill", title))
    side = "end" if median > 0.5 else "start"
    marks += [
        _line(median, 0, median, 1, "dashed"),
        _text(_x(median) + (-6 if side == "end" else 6), TOP + 8, f"median {format_percent(median, ' %')}", side),
    ]
    halves = [0, top] if top < 2 or top % 2 else [0, top // 2, top]
    spread = f"lowest {format_percent(values[0])} %, median {format_percent(median)} %, highest {format_percent(values[-1])} %"
    label = f"Histogram of the mean IoU of {pluralize(len(values), 'image')}: {spread}."
    y_ticks = [(0.92 * half / top, f"{half:,}") for half in halves]
    return _chart(label, "mean IoU % of an image; bars: images", FIFTHS, y_ticks, marks)


def draw_curves(label: str, curves: Mapping[str, Sequence[tuple[int, float]]], x_label: str, *, percent: bool) -> Html:
    """Draw curves of (step, value) over steps from 0, each with its name at its end; the first is the accented one.

    Args:
        label: the chart's content in words, for screen readers.
        percent: whether values are shares, on an axis from 0 to 100 %; otherwise the axis starts at 0.
    """
    last = max(step for points in curves.values() for step, _ in points)
    top = 1.0 if percent else _round_up(max(value for points in curves.values() for _, value in points))
    ends = [points[-1][1] / top for points in curves.values()]
    marks = []
    for number, (name, points) in enumerate(curves.items()):
        path = " ".join(f"{_x(step / last):.1f},{_y(value / top):.1f}" for step, value in points)
        title = element("title", f"{name}: {points[-1][1]:.4g} at step {points[-1][0]:,}")
        marks.append(element("polyline", title, points=path, class_="curve second" if number else "curve"))
        marks.append(element("circle", title, cx=_x(points[-1][0] / last), cy=_y(ends[number]), r=4, class_="dot"))
        if len(curves) > 1:
            side = 18 if ends[number] == min(ends) > 0.1 else -9  # below the lower curve
            marks.append(_text(_x(1) - 4, _y(ends[number]) + side, name, "end"))
    y_ticks = FIFTHS if percent else [(share, f"{share * top:.2g}") for share in (0, 0.5, 1)]
    unit = max(1, round(_round_up(last / 5)))
    x_ticks = [(step / last, f"{step:,}") for step in range(0, last, unit) if step <= 0.95 * last]  # no number beyond the edge
    return _chart(label, x_label, x_ticks, y_ticks, marks)


def _round_up(value: float) -> float:
    """Return the next number of one digit.

    >>> _round_up(0.561), _round_up(0.0195), _round_up(0.0)
    (0.6, 0.02, 1.0)
    """
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.1g}")
