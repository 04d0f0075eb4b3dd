"""State dictionaries of torchvision's and timm's ResNets, which share one set of names, as canonical weights.

Their ResNet 18-200 are ``resnet_v1_5_N`` here, which differ only in the layout of kernels: ``[out, in, k, k]`` in PyTorch.
Other networks with these names (ResNeXt, wide, squeeze-and-excitation, deep stems) are refused with the reason, except timm's
resnetblur50: its blurring has no weights, so it looks like a resnet50.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from dense_resnet.checkpoints.names.averages import without_averages
from dense_resnet.errors import InputError
from dense_resnet.planning import variants
from dense_resnet.planning.layers import Conv, Pool
from dense_resnet.planning.plan import Plan
from dense_resnet.planning.variants import BASE_DEPTHS, VARIANTS

FAMILY = "resnet_v1_5_{}"
FIRST = "layer1.0.conv1.weight"  # its prefix belongs to a wrapper, such as DataParallel's "module."
UNIT = re.compile(r"layer([1-4])\.(\d{1,4})\.conv1\.weight$")
FIRST_OF_V2 = "stages.0.blocks.0.conv1.weight"  # the first layer of timm's resnetv2
STEPS = "num_batches_tracked"  # not a weight
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
READ = "Supported: plain ResNets of 18, 34, 50, 101, 152 and 200 layers."


def names(plan: Plan) -> dict[str, str]:
    """Return {canonical name: PyTorch's name} of every variable of a ``resnet_v1_5_N``.

    >>> names(variants.plan("resnet_v1_5_18"))["resnet_v1_5_18/block1/unit_1/lite_bottleneck_v1/conv2/BatchNorm/beta"]
    'layer1.0.bn2.bias'
    """
    layers: list[tuple[Conv | Pool, str, str]] = [(plan.root[0], "conv1", "bn1")]
    for number, block in enumerate(plan.blocks, 1):
        for index, unit in enumerate(block.units):
            prefix = f"layer{number}.{index}."
            layers += [(conv, f"{prefix}conv{place}", f"{prefix}bn{place}") for place, conv in enumerate(unit.convolutions, 1)]
            if unit.shortcut:
                layers.append((unit.shortcut, f"{prefix}downsample.0", f"{prefix}downsample.1"))
    table = {}
    for conv, kernel, norm in layers:
        table[f"{conv.scope}/weights"] = f"{kernel}.weight"
        table |= {f"{conv.scope}/BatchNorm/{ours}": f"{norm}.{theirs}" for ours, theirs in NORM.items()}
    if plan.logits:
        table |= {f"{plan.logits.scope}/weights": "fc.weight", f"{plan.logits.scope}/biases": "fc.bias"}
    return table


def recognizes(arrays: Mapping[str, np.ndarray]) -> bool:
    """Return whether `arrays` have the names of such a network, including unsupported ones."""
    return bool(_prefixes(arrays, FIRST) or _prefixes(arrays, FIRST_OF_V2))


def canonical(arrays: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Return a state dict under canonical names; its own may have a prefix (``module.``), and those of other layers stay."""
    prefix = network_prefix(arrays, source)
    own = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    plan = _plan_of(own, source)
    shapes = {variable.name: variable.shape for variable in plan.variables}
    table = {theirs: ours for ours, theirs in names(plan).items()}
    weights = {}
    for name, value in arrays.items():
        theirs = name.removeprefix(prefix) if name.startswith(prefix) else ""
        if name.endswith(STEPS):
            continue
        if theirs not in table:
            if re.match(r"(layer[1-4]|conv1|bn1)\.", theirs):
                raise _refusal(source, f"has an array {name}")
            weights[name] = value
            continue
        ours = table[theirs]
        if value.ndim == 2 and len(shapes[ours]) == 4:  # a classifier
            value = value[:, :, None, None]
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        weights[ours] = np.ascontiguousarray(value, np.float32)
        if weights[ours].shape != shapes[ours]:
            expected, found = list(shapes[ours]), list(weights[ours].shape)
            raise _refusal(source, f"has {name} as {found} where {plan.name} has {expected}, in TensorFlow's order")
    return weights


def network_prefix(arrays: Mapping[str, np.ndarray], source: str) -> str:
    """Return the prefix of the network's names; averages are ignored if the weights themselves are present."""
    prefixes = without_averages(_prefixes(arrays, FIRST))
    if not prefixes:
        raise InputError(f"{source}: this is a pre-activation ResNet of timm (resnetv2, BiT), which is not supported. {READ}")
    if len(prefixes) > 1:
        found = ", ".join(map(repr, prefixes[:8]))
        raise InputError(f"{source}: it contains {len(prefixes)} networks, under {found}. Save only one of them.")
    return prefixes[0]


def _prefixes(arrays: Mapping[str, np.ndarray], first: str) -> list[str]:
    return sorted(name.removesuffix(first) for name in arrays if name == first or name.endswith(f".{first}"))


def _plan_of(own: Mapping[str, np.ndarray], source: str) -> Plan:
    """Return the plan of the network with `own` names, without prefix."""
    if reason := _no_plain_resnet(own):
        raise _refusal(source, reason)
    indices = [match.groups() for name in own if (match := UNIT.match(name))]
    counts = tuple(1 + max((int(index) for at, index in indices if at == block), default=-1) for block in "1234")
    basic = "layer1.0.conv3.weight" not in own
    family = [variant for variant in VARIANTS.values() if variant.family.name == FAMILY]
    fitting = [variant.name for variant in family if (variant.units, variant.basic) == (counts, basic)]
    if not fitting:
        raise _refusal(source, f"has {', '.join(map(str, counts))} {'basic' if basic else 'bottleneck'} units in its layers")
    classifier, first = own.get("fc.weight"), own["conv1.weight"]
    classes = classifier.shape[0] if classifier is not None and classifier.ndim == 2 else None
    return variants.plan(fitting[0], in_channels=first.shape[1], num_classes=classes)


def _no_plain_resnet(own: Mapping[str, np.ndarray]) -> str | None:
    """Say why a network with these names is not a plain ResNet; return None if it is."""
    if any(name.startswith(("conv1.0.", "stem.")) for name in own):
        return "has a deep stem of three convolutions (timm's resnet50c, 50d, 50s, 50t)"
    if "conv1.weight" not in own or own["conv1.weight"].ndim != 4 or not own["conv1.weight"].size:
        return "has no conv1.weight, the first convolution"
    if own[FIRST].ndim != 4:
        return f"has {FIRST} as {list(own[FIRST].shape)}, which is not a convolution"
    if any(".se." in name for name in own):
        return "has attention in its units (squeeze-and-excitation, ECA: seresnet50, ecaresnet50)"
    if any(name.endswith("downsample.1.weight") and value.ndim == 4 for name, value in own.items()):
        return "averages in its shortcuts (the d variants)"
    if "bn1.weight" in own and "bn1.running_mean" not in own:
        return "normalizes without stored statistics (group normalization: resnet50_gn)"
    width, inner = own[FIRST].shape[0], own.get("layer1.0.conv2.weight")
    if inner is not None and inner.ndim == 4 and inner.shape[1] != inner.shape[0]:
        return f"has convolutions in {inner.shape[0] // max(inner.shape[1], 1)} groups (ResNeXt)"
    if width != BASE_DEPTHS[0]:
        return f"is {width / BASE_DEPTHS[0]:g} times as wide (wide_resnet50_2)"
    return None


def _refusal(source: str, reason: str) -> InputError:
    return InputError(f"{source}: this is not a plain ResNet: it {reason}. {READ}")
