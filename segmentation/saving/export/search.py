"""Find which parts of a network stay in float32 when it is quantized, so that its price is within a limit.

The first convolution and the head's last layer always do: they are cheap, and errors there reach everything. Then it is
measured: while the price is too high, the parts that add most noise are kept too, twice as many in each round.
(``tests/segmentation/saving/test_quantized.py``)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dense_resnet.errors import InputError
from dense_resnet.inference.runner import Runner
from dense_resnet.planning.layers import Pool
from dense_resnet.planning.plan import Plan
from segmentation.heads.plan import HeadPlan
from segmentation.saving.export.exported import Graph
from segmentation.saving.export.price import Price, Trial

FIRST, LAST = "the first convolution", "the last layer"  # why a part stays in float32


@dataclass(frozen=True)
class Found:
    """A quantized network within its limit."""

    runner: Runner
    kept: Mapping[str, str]  # parts in float32: why
    price: Price


def parts_of(plan: Plan, head: HeadPlan | None) -> list[str]:
    """Return the scopes of all that is kept or quantized as one: layers of the root and the head, and units."""
    layers = [*plan.root, *plan.units, *([plan.postnorm] if plan.postnorm else []), *(head.layers if head else [])]
    return [layer.scope for layer in layers if not isinstance(layer, Pool)]


def find_affordable(
    path: Path,
    graph: Graph,
    plan: Plan,
    head: HeadPlan | None,
    trial: Trial,
    max_drop: float,
    note: Callable[[str], object],
) -> Found:
    """Quantize a network, with as much of it in float32 as its price demands.

    Args:
        path: of the export, in messages.
        trial: measures the price.
        max_drop: of mean IoU, at most.
        note: called with a message after each round that was too expensive.

    Raises:
        InputError: the price is too high even with half of the parts in float32.
    """
    parts = parts_of(plan, head)
    kept = {parts[0]: FIRST} | ({head.logits.scope: LAST} if head else {})
    more = 1
    while True:
        runner = graph.quantize(kept)
        price = trial.measure(runner)
        if not (excess := price.excess(max_drop)):
            return Found(runner, kept, price)
        noise = graph.measure_noise([part for part in parts if part not in kept])
        noisiest = sorted(noise, key=noise.__getitem__, reverse=True)[:more]
        if 2 * (len(kept) + len(noisiest)) > len(parts) or not noisiest:
            raise InputError(
                f"{path}: not written, because int8 costs too much, even with {len(kept)} of {len(parts)} parts in float32: "
                f"{excess}. Calibrate on more images, such as the network will see, allow more by --max-drop, or export in "
                f"float32. Untrained weights, whose classes nearly tie, always cost much. The whole price: {price}."
            )
        note(f"{excess}: keeping {', '.join(noisiest)} in float32 too")
        kept |= {part: f"adds noise of {noise[part]:.2g} of its variance" for part in noisiest}
        more *= 2
