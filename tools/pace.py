"""How a verb runs a network: its engine, its batch, and how many batches at once."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_resnet.errors import InputError, pluralize

from . import options

if TYPE_CHECKING:
    from dense_resnet.inference.runner import Runner
    from dense_resnet.inference.throughput import Pace

Make = Callable[..., "Runner"]  # from the precision and engine=


def start(args: argparse.Namespace, make: Make, side: int, images: int, protocol: str) -> tuple[Runner, Pace]:
    """Return the network and its pace, as asked, as an earlier run's `protocol` in --out has them, or by measurement.

    Shards run one image at a time unless --batch is given, so that results do not depend on the machine.
    """
    import numpy as np

    from dense_resnet.inference import throughput
    from dense_resnet.inference.engines import AUTO, TENSORFLOW
    from dense_resnet.inference.runner import EXACT
    from dense_resnet.jobs import journal

    earlier = journal.read_protocol(Path(args.out) / protocol)
    system = earlier.get("system", earlier)
    system = system if isinstance(system, dict) else {}
    precision, engine, why = options.precision_from_args(args), args.engine, ""
    if precision == EXACT:
        engine = TENSORFLOW
    elif earlier:  # it goes on as it was begun
        precision = str(system.get("precision", precision)) if precision == AUTO else precision
        if not system.get("export"):  # a file has an engine of its own
            begun = str((system.get("engine") or {}).get("name", TENSORFLOW))
            if engine not in (AUTO, begun):
                raise InputError(f"{args.out}: was begun by the engine {begun!r}: leave --engine out, or choose another --out.")
            engine = begun
    if engine == AUTO:
        runner, why = _choose_engine(make, precision, side, images)
    else:
        runner = make(precision, engine=engine)
    recorded = system.get("batch")
    batch = args.batch or (recorded if isinstance(recorded, int) and recorded > 0 else None)
    batch = batch or (None if options.shard_of(args.shard)[1] == 1 else 1)
    canvas = _noise(runner, side)
    chosen = throughput.choose(
        lambda size: runner(np.stack([canvas] * size), names=_choose_names(runner)), images, batch=batch, threads=args.threads,
        prepare=runner.prepare,
    )  # fmt: skip
    runner.prepare(chosen.threads)
    at_once = f", {chosen.threads} batches at once" if chosen.threads > 1 else ""
    speed = f", measured: {chosen.images_per_second:.2f} images/s" if chosen.images_per_second else ""
    print(f"{runner.engine}{why}, {runner.precision}: {pluralize(chosen.batch, 'image')} at a time{at_once}{speed}")
    return runner, chosen


def _choose_engine(make: Make, precision: str, side: int, images: int) -> tuple[Runner, str]:
    """Return the network in the fastest engine, and why it is this one, for people."""
    from dense_resnet.inference import engines, throughput

    usual = make(precision)
    if usual.export or usual.precision == "exact" or not engines.has_openvino():
        return usual, ""
    key = engines.describe_machine(usual.precision) | _describe_network(usual, side)
    seconds, when = engines.recall(key), "before"
    runners = {usual.engine: usual}
    if not seconds:
        if images < throughput.WORTH:
            return usual, ""
        other = engines.TENSORFLOW if usual.engine == engines.OPENVINO else engines.OPENVINO
        runners[other] = make(precision, engine=other)
        canvas = _noise(usual, side)[None]

        def run_of(runner: Runner) -> Callable[[], Any]:
            return lambda: runner(canvas, names=_choose_names(runner))

        seconds, when = engines.measure({name: run_of(runner) for name, runner in runners.items()}, key), "now"
    best = min(seconds, key=seconds.__getitem__)
    figures = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    runner = runners[best] if best in runners else make(precision, engine=best)
    return runner, f" (an image takes {figures}, measured {when})"


def _describe_network(runner: Runner, side: int) -> dict[str, Any]:
    plan = hashlib.sha256(repr(runner.plan).encode()).hexdigest()[:16]
    return {"network": runner.plan.name, "plan": plan, "outputs": list(_choose_names(runner)), "side": side}


def _choose_names(runner: Runner) -> tuple[str, ...]:
    """Return the names of what a run computes."""
    from dense_resnet.inference.runner import COARSE_LOGITS

    return (COARSE_LOGITS,) if COARSE_LOGITS in runner.names else tuple(runner.names)


def _noise(runner: Runner, side: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (side, side, runner.plan.in_channels), np.uint8)
