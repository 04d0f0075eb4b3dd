"""A bar chart of the figures that ``--json`` writes: seconds per image by precision, with the machine's limits as lines."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from dense_resnet.errors import InputError, pluralize

from .competitors import OWN, PRECISIONS

WIDTH, ROW, MARGIN = 9.0, 0.32, 1.35  # inches: of the picture, of a bar, above and below all bars
DOTS = 150  # per inch
OURS, OTHERS, INK, MUTED = "#1d4e79", "#a9b4bf", "#222222", "#666666"
NAMES = 2.6  # rows above a group, for the names of the two limits
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0}  # of a figure that a limit's line may cross
ROOM = 1.3  # length of the axis in longest bars: the figures after a bar need some
TITLES = {
    "function": "ours in tf.function", "slim": "tf_slim", "keras": "Keras", "timm": "timm, PyTorch",
    "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime",
}  # fmt: skip
LIMITS = {"matrix products": ("#b5542b", "-"), "convolutions alone": ("#b5542b", (0, (2, 1.5)))}


def check() -> None:
    """Raise an :class:`InputError` if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError(
            "--chart needs matplotlib, which is not installed: pip install matplotlib, or leave --chart out."
        ) from None


def draw(figures: Mapping[str, Any]) -> bytes:
    """Return the chart of :meth:`contest.Comparison.as_dict` and :func:`contest.surroundings` as a PNG file's bytes."""
    from matplotlib.figure import Figure

    size, batch, machine = figures["size"], figures["batch"], figures["machine"]
    groups = {precision: [one for one in figures["timings"] if one["precision"] == precision] for precision in PRECISIONS}
    rows = sum(len(timings) + NAMES for timings in groups.values())
    picture = Figure(figsize=(WIDTH, ROW * rows + MARGIN), dpi=DOTS)
    height = picture.get_figheight()
    axes = picture.add_axes((0.16, 0.6 / height, 0.81, 1 - MARGIN / height))
    first = 0.0
    for precision, timings in groups.items():
        first += NAMES
        axes.text(0, first - 1.6, f"{precision} ", weight="bold", color=MUTED, va="center", ha="right")
        ratios = figures["ratios"][next(one["name"] for one in timings if one["competitor"] == OWN)]
        for number, timing in enumerate(sorted(timings, key=lambda one: one["median"])):
            name, seconds, y = timing["competitor"], timing["median"] / batch, first + number
            own = name == OWN
            axes.barh(y, seconds, 0.7, color=OURS if own else OTHERS, zorder=2)
            text = f" {_format_seconds(seconds)} s" + ("" if own else f"   {ratios[timing['name']]:.2f} x")
            style: dict[str, Any] = {"va": "center", "color": INK, "weight": "bold" if own else "normal"}
            axes.text(seconds, y, text, bbox=BEHIND, zorder=4, **style)
            axes.text(0, y, f"{TITLES.get(name, name)} ", ha="right", **style)
        for line, (name, seconds) in enumerate(_limits(figures, precision).items()):
            color, dashes = LIMITS[name]
            axes.plot([seconds] * 2, [first - 1.3 + line, first + len(timings) - 0.5], color=color, ls=dashes, lw=1.4, zorder=3)
            text = f" {name} {_format_seconds(seconds)} s"
            axes.text(seconds, first - 1.6 + line, text, va="center", color=color, size=8.5, bbox=BEHIND, zorder=4)
        first += len(timings)
    axes.set_xlim(0, ROOM * max(one["median"] for one in figures["timings"]) / batch)
    axes.set_ylim(first - 0.3, 0.3)
    axes.set_yticks([])
    axes.tick_params(axis="x", colors=MUTED, labelsize=8.5)
    axes.grid(axis="x", color="#e4e7ea", lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("seconds an image, median (less is better); x: times as long as ours", color=MUTED, size=9)
    what = f"logits of {pluralize(figures['classes'], 'class')}" if figures["classes"] else "features"
    stride, rounds = figures["output_stride"], pluralize(figures["rounds"], "round")
    title = f"{figures['model']}, {what}, {size} x {size} pixels, output stride {stride}, batch {batch}"
    where = f"{machine['processor']}, {pluralize(machine['cores'], 'core')}, {figures['date'][:10]}, {rounds}"
    picture.text(0.02, 1 - 0.3 / height, title, weight="bold", color=INK, size=11)
    picture.text(0.02, 1 - 0.53 / height, where, color=MUTED, size=9)
    file = io.BytesIO()
    picture.savefig(file, format="png")
    return file.getvalue()


def _limits(figures: Mapping[str, Any], precision: str) -> dict[str, float]:
    limit = figures["limits"][precision]
    found = {"matrix products": limit["least_seconds"], "convolutions alone": limit["onednn"].get("median")}
    return {name: seconds / figures["batch"] for name, seconds in found.items() if seconds is not None}


def _format_seconds(seconds: float) -> str:
    return f"{seconds:#.3g}"
