"""A bar chart of a benchmark's figures: seconds per image by precision, with the machine's limits as lines.

It is drawn from the figures that ``--json`` writes, so old figures can be charted too.
"""

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
    """Return the chart as a PNG file's bytes.

    Args:
        figures: :meth:`tools.benchmarking.contest.Comparison.as_dict` and :func:`tools.benchmarking.contest.surroundings`.
    """
    from matplotlib.figure import Figure

    groups = {precision: _bars(figures, precision) for precision in PRECISIONS}
    longest = max(seconds for bars in groups.values() for _, seconds in bars)
    rows = sum(len(bars) + NAMES for bars in groups.values())
    picture = Figure(figsize=(WIDTH, ROW * rows + MARGIN), dpi=DOTS)
    height = picture.get_figheight()
    axes = picture.add_axes((0.16, 0.6 / height, 0.81, 1 - MARGIN / height))
    first = 0.0
    for precision, bars in groups.items():
        first += NAMES
        axes.text(0, first - 1.6, f"{precision} ", weight="bold", color=MUTED, va="center", ha="right")
        for number, (name, seconds) in enumerate(bars):
            own = name == OWN
            axes.barh(first + number, seconds, 0.7, color=OURS if own else OTHERS, zorder=2)
            text = f" {_format_seconds(seconds)} s"
            if not own:
                text += f"   {_ratio(figures, precision, name):.2f} x"
            style: dict[str, Any] = {"va": "center", "color": INK, "weight": "bold" if own else "normal"}
            axes.text(seconds, first + number, text, bbox=BEHIND, zorder=4, **style)
            axes.text(0, first + number, f"{TITLES.get(name, name)} ", ha="right", **style)
        for line, (name, seconds) in enumerate(_limits(figures, precision).items()):
            color, dashes = LIMITS[name]
            axes.plot([seconds] * 2, [first - 1.3 + line, first + len(bars) - 0.5], color=color, ls=dashes, lw=1.4, zorder=3)
            axes.text(
                seconds,
                first - 1.6 + line,
                f" {name} {_format_seconds(seconds)} s",
                va="center",
                color=color,
                size=8.5,
                bbox=BEHIND,
                zorder=4,
            )
        first += len(bars)
    axes.set_xlim(0, longest * ROOM)
    axes.set_ylim(first - 0.3, 0.3)
    axes.set_yticks([])
    axes.tick_params(axis="x", colors=MUTED, labelsize=8.5)
    axes.grid(axis="x", color="#e4e7ea", lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    for side in ("left", "top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("seconds an image, median (less is better); x: times as long as ours", color=MUTED, size=9)
    machine = figures["machine"]
    what = f"logits of {pluralize(figures['classes'], 'class')}" if figures["classes"] else "features"
    picture.text(
        0.02,
        1 - 0.3 / height,
        f"{figures['model']}, {what}, {figures['size']} x {figures['size']} pixels, output stride {figures['output_stride']}, "
        f"batch {figures['batch']}",
        weight="bold",
        color=INK,
        size=11,
    )
    picture.text(
        0.02,
        1 - 0.53 / height,
        f"{machine['processor']}, {pluralize(machine['cores'], 'core')}, {figures['date'][:10]}, "
        f"{pluralize(figures['rounds'], 'round')}",
        color=MUTED,
        size=9,
    )
    file = io.BytesIO()
    picture.savefig(file, format="png")
    return file.getvalue()


def _bars(figures: Mapping[str, Any], precision: str) -> list[tuple[str, float]]:
    """Return (name, seconds per image), the fastest first."""
    timings = [timing for timing in figures["timings"] if timing["precision"] == precision]
    bars = [(timing["competitor"], timing["median"] / figures["batch"]) for timing in timings]
    return sorted(bars, key=lambda bar: bar[1])


def _ratio(figures: Mapping[str, Any], precision: str, name: str) -> float:
    """Return how many times as long as ours it takes, both at `precision`."""
    labels = {(one["competitor"], one["precision"]): one["name"] for one in figures["timings"]}
    return float(figures["ratios"][labels[OWN, precision]][labels[name, precision]])


def _limits(figures: Mapping[str, Any], precision: str) -> dict[str, float]:
    limit = figures["limits"][precision]
    found = {"matrix products": limit["least_seconds"], "convolutions alone": limit["onednn"].get("median")}
    return {name: seconds / figures["batch"] for name, seconds in found.items() if seconds is not None}


def _format_seconds(seconds: float) -> str:
    return f"{seconds:#.3g}"
