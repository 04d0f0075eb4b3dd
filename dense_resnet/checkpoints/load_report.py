"""The load report: what a network takes from a weights file, and what it does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dense_resnet.checkpoints.provenance import Origin, find_fitting_variants
from dense_resnet.errors import InputError
from dense_resnet.planning.layers import Variable
from dense_resnet.planning.plan import Plan

Arrays = Mapping[str, np.ndarray]  # by canonical name

ADAPT, LEAVE_OUT = "adapt", "leave_out"
SHOWN = 8  # names listed under each heading
FEW = 2  # if nothing was loaded
INITIAL = "left at their initial values"


@dataclass(frozen=True)
class LoadReport:
    """The outcome of a load; ``print(report)`` shows it as a table."""

    source: str
    matched: tuple[str, ...] = ()  # taken unchanged
    adapted: tuple[str, ...] = ()  # taken after adapting the input channels
    missing: tuple[str, ...] = ()  # in the network, not in the file: left at their initial values
    unexpected: tuple[str, ...] = ()  # in the file, not in the network: not used
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()  # name, network's shape, file's shape
    left_out: tuple[str, ...] = ()  # classifiers of another class count, or what the caller excluded
    fitting: tuple[str, ...] = ()  # the variants that the file would fit, if this one does not
    origin: Origin | None = None  # where the weights come from, if known
    notes: tuple[str, ...] = ()  # what that means for this network

    @property
    def complete(self) -> bool:
        """Whether the network's own variables all came from the file."""
        return not (self.missing or self.mismatched)

    def with_provenance(self, origin: Origin, plan: Plan | None = None, notes: Sequence[str] = ()) -> LoadReport:
        """Return the report with the weights' origin, what it means for `plan`, and other `notes` on them."""
        return dataclasses.replace(self, origin=origin, notes=(*origin.notes(plan), *notes))

    def format_refusal(self) -> str:
        """Format the table if nothing was loaded: what does not fit, with a few names."""
        shapes = [f"{name} (network {list(own)}, file {list(other)})" for name, own, other in self.mismatched]
        lines = [self.source, f"  {'fitting':<15}{len(self.matched) + len(self.adapted):>5}"]
        for heading, names in (("missing", self.missing), ("shape mismatch", shapes), ("unexpected", self.unexpected)):
            listed = f"  {', '.join(names[:FEW])}{', …' if len(names) > FEW else ''}" if names else ""
            lines.append(f"  {heading:<15}{len(names):>5}{listed}")
        if self.fitting:
            lines.append(f"  These weights fit: {', '.join(self.fitting)}")
        return "\n".join(lines)

    def __str__(self) -> str:
        shapes = [f"{name}: network {list(own)}, file {list(other)}" for name, own, other in self.mismatched]
        rows = (
            ("matched", self.matched, ""),
            ("adapted", self.adapted, "input channels adapted"),
            ("missing", self.missing, INITIAL),
            ("shape mismatch", shapes, INITIAL),
            ("left out", self.left_out, f"{INITIAL}, or not in the network"),
            ("unexpected", self.unexpected, "not used"),
        )
        lines = [self.source]
        for heading, names, note in rows:
            lines.append(f"  {heading:<15}{len(names):>5}{f'  ({note})' if names and note else ''}")
            if heading != "matched":
                lines += [f"      {name}" for name in names[:SHOWN]]
                lines += [f"      ... and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        if self.fitting:
            lines.append(f"  These weights fit: {', '.join(self.fitting)}")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True)
class Match:
    """A report, and the arrays to assign under the network's names."""

    report: LoadReport
    weights: dict[str, np.ndarray] = field(repr=False)


class Network(NamedTuple):
    """What is known of a network without its plan."""

    name: str
    scope: str
    variables: tuple[Variable, ...]


def match(
    network: Plan | Network, weights: Arrays, source: str, *, strict: bool = True, first_convolution: str = ADAPT
) -> Match:
    """Find the array of every variable of `network` in `weights`; `source` is their name in messages.

    Args:
        strict: raise an error if a variable of the backbone is missing or has another shape.
        first_convolution: if the input channels differ from the file's. "adapt" repeats the file's input channels in turn,
            each divided by how often it is repeated (fewer channels than the file's share the sum of them all): the
            response to an image that is the same in every channel does not change. "leave_out" keeps the initial values.

    Raises:
        InputError: `strict` and incomplete, or a value is not finite. The message is the report, with the variants that
            would fit.
    """
    if first_convolution not in (ADAPT, LEAVE_OUT):
        raise InputError(f"first_convolution must be {ADAPT!r} or {LEAVE_OUT!r} (not {first_convolution!r}).")
    first = network.variables[0].name
    has_root_block = first.count("/") <= network.scope.count("/") + 2  # else it is a unit's variable
    logits = f"{network.scope}/logits/"
    taken, matched, adapted, mismatched = {}, [], [], []
    missing: list[str] = []
    left_out: list[str] = []
    for name, shape, _ in network.variables:
        value = weights.get(name)
        if value is None:
            (left_out if name.startswith(logits) else missing).append(name)
            continue
        only_channels_differ = has_root_block and name == first and value.shape[:2] + value.shape[3:] == shape[:2] + shape[3:]
        if value.shape == shape:
            matched.append(name)
            taken[name] = value
        elif only_channels_differ and first_convolution == ADAPT:
            adapted.append(f"{name}: {value.shape[2]} to {shape[2]} channels")
            taken[name] = adapt_input_channels(value, shape[2])
        elif only_channels_differ or name.startswith(logits):
            left_out.append(f"{name}: network {list(shape)}, file {list(value.shape)}")
        else:
            mismatched.append((name, shape, value.shape))
    unexpected = sorted(set(weights) - {variable.name for variable in network.variables})
    left_out += [f"{name}: file {list(weights[name].shape)}" for name in unexpected if name.startswith(logits)]
    report = LoadReport(
        source=source,
        matched=tuple(matched),
        adapted=tuple(adapted),
        missing=tuple(missing),
        unexpected=tuple(name for name in unexpected if not name.startswith(logits)),
        mismatched=tuple(mismatched),
        left_out=tuple(left_out),
        fitting=find_fitting_variants(weights) if missing or mismatched else (),
    )
    if strict and not report.complete:
        hint = "" if report.fitting else " No variant fits them."
        raise InputError(f"the weights do not fit {network.name}; nothing was loaded.{hint}\n{report.format_refusal()}")
    for name, value in taken.items():
        if not np.isfinite(value).all():
            raise InputError(f"{source}: {name} has values that are not finite; nothing was loaded. The file is damaged.")
    return Match(report, taken)


def adapt_input_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapt ``[k, k, in, out]`` weights to another number of input channels, with the same response to a gray image."""
    have = kernel.shape[2]
    if channels < have:
        return np.repeat(kernel.sum(axis=2, keepdims=True) / channels, channels, axis=2)
    index = np.arange(channels) % have
    counts = np.bincount(index)
    return kernel[:, :, index] / counts[index][None, None, :, None]
