"""A bar chart of the figures that ``--json`` writes: seconds per image by precision, the machine's limits as lines."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from dense_resnet.errors import InputError, pluralize

from .workload import INT8, PRECISIONS

WIDTH, ROW = 9.0, 0.3  # inches: of the picture, of a bar
NAMES, GAP, RIGHT = 1.75, 0.12, 0.1  # inches: of the names at the left, between panels, at the right
TOP, BOTTOM = 1.35, 0.6  # inches above and below all bars
DOTS = 150  # per inch
OURS, OTHERS, INK, MUTED, LIMIT = "#1d4e79", "#a9b4bf", "#222222", "#666666", "#b5542b"
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0}  # of a figure that a limit's line may cross
ROOM = 2.0  # length of an axis in longest bars: the figures after a bar need some
TITLES = {
    "tensorflow": "ours, TensorFlow", "openvino": "ours, OpenVINO", "function": "ours in tf.function", "slim": "tf_slim",
    "keras": "Keras", "timm": "timm, PyTorch", "torchvision": "torchvision", "onnxruntime": "ONNX Runtime",
    "openvino-from-onnx": "OpenVINO from ONNX",
}  # fmt: skip
LIMITS = {"matrix products": ("—", "-"), "convolutions alone": ("┄", (0, (2, 1.5)))}  # their lines, as signs and as dashes


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
    precisions = [name for name in PRECISIONS if any(one["precision"] == name for one in figures["timings"])]

    def order(timing: Mapping[str, Any]) -> tuple[int, float]:
        return precisions.index(timing["precision"]), timing["median"]

    engines = list(dict.fromkeys(_engine(one) for one in sorted(figures["timings"], key=order)))
    height = ROW * len(engines) + TOP + BOTTOM
    panel = (WIDTH - NAMES - RIGHT + GAP) / len(precisions)  # with the gap at its right
    longest = max(one["median"] for one in figures["timings"]) / batch
    picture = Figure(figsize=(WIDTH, height), dpi=DOTS)
    for number, precision in enumerate(precisions):
        left, width = NAMES + number * panel, panel - GAP
        axes = picture.add_axes((left / WIDTH, BOTTOM / height, width / WIDTH, ROW * len(engines) / height))
        _draw_bars(axes, figures, precision, engines)
        for line, (name, seconds) in enumerate(_limits(figures, precision).items()):
            sign, dashes = LIMITS[name]
            axes.axvline(seconds, color=LIMIT, ls=dashes, lw=1.4, zorder=3)
            place = left / WIDTH, 1 - (TOP - 0.32 + 0.18 * line) / height
            picture.text(*place, f"{sign} {name} {_format_seconds(seconds)} s", color=LIMIT, size=8)
        picture.text(left / WIDTH, 1 - (TOP - 0.54) / height, precision, weight="bold", color=MUTED)
        axes.set_xlim(0, ROOM * longest)
        axes.set_ylim(len(engines) - 0.5, -0.5)
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=5, prune="upper")
        axes.tick_params(axis="x", colors=MUTED, labelsize=8)
        axes.grid(axis="x", color="#e4e7ea", lw=0.8, zorder=0)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
    ours = {_engine(one) for one in figures["timings"] if one["ours"]}
    for row, engine in enumerate(engines):
        place = (NAMES - 0.08) / WIDTH, 1 - (TOP + ROW * (row + 0.5)) / height
        weight = "bold" if engine in ours else "normal"
        picture.text(*place, TITLES.get(engine, engine), ha="right", va="center", color=INK, size=9.5, weight=weight)
    legend = "seconds an image, median (less is better); x: times as long as the fastest of ours at that precision"
    picture.text(0.5, 0.12 / height, legend, ha="center", color=MUTED, size=9)
    what = f"logits of {pluralize(figures['classes'], 'class')}" if figures["classes"] else "features"
    stride, rounds = figures["output_stride"], pluralize(figures["rounds"], "round")
    title = f"{figures['model']}, {what}, {size} x {size} pixels, output stride {stride}, batch {batch}"
    where = f"{machine['processor']}, {pluralize(machine['cores'], 'core')}, {figures['date'][:10]}, {rounds}"
    picture.text(0.02, 1 - 0.3 / height, title, weight="bold", color=INK, size=11)
    picture.text(0.02, 1 - 0.53 / height, where, color=MUTED, size=9)
    file = io.BytesIO()
    picture.savefig(file, format="png")
    return file.getvalue()


def _engine(timing: Mapping[str, Any]) -> str:
    return str(timing["competitor"]).removesuffix(f"-{INT8}")


def _draw_bars(axes: Any, figures: Mapping[str, Any], precision: str, engines: Sequence[str]) -> None:
    timings = sorted((one for one in figures["timings"] if one["precision"] == precision), key=lambda one: one["median"])
    fastest = next((one["name"] for one in timings if one["ours"]), None)  # of ours
    for timing in timings:
        seconds, row = timing["median"] / figures["batch"], engines.index(_engine(timing))
        axes.barh(row, seconds, 0.7, color=OURS if timing["ours"] else OTHERS, zorder=2)
        text = f" {_format_seconds(seconds)} s"
        if fastest and timing["name"] != fastest:
            text += f"  {figures['ratios'][fastest][timing['name']]:.2f} x"
        weight = "bold" if timing["ours"] else "normal"
        axes.text(seconds, row, text, va="center", color=INK, size=9, weight=weight, bbox=BEHIND, zorder=4)


def _limits(figures: Mapping[str, Any], precision: str) -> dict[str, float]:
    if precision not in figures["limits"]:
        return {}
    limit = figures["limits"][precision]
    found = {"matrix products": limit["least_seconds"], "convolutions alone": limit["onednn"].get("median")}
    return {name: seconds / figures["batch"] for name, seconds in found.items() if seconds is not None}


def _format_seconds(seconds: float) -> str:
    return f"{seconds:#.3g}"
