"""Weights of Keras models under canonical names: Keras Applications' ResNets, and the models of ``dense_resnet.keras_resnet``.

Keras Applications' v1 is ``resnet_v1_N_original`` (the stride is in a block's first 1x1), except for biases before batch norm,
which are subtracted from the moving means, and an epsilon of 1.001e-5, whose excess is added to the moving variances. Its V2 is
``resnet_v2_N`` with ``root="keras"``: the pooling is padded with zeros. The models of ``keras_resnet`` have slim's scopes for
names, with ``.`` for ``/``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from dense_resnet.checkpoints.names.averages import without_averages
from dense_resnet.errors import InputError
from dense_resnet.planning import variants
from dense_resnet.planning.layers import BATCH_NORM_EPSILON, Conv, Norm
from dense_resnet.planning.plan import Plan

EPSILON = 1.001e-5  # of Keras Applications
APPLICATIONS = ("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2")
READABLE = f"Keras Applications' {', '.join(APPLICATIONS)} and models of dense_resnet.keras_resnet"
DEPTHS = {units: depth for depth, units in variants.UNITS.items() if depth not in variants.BASIC_DEPTHS}

FIRST, NORM_OF_LAST, CLASSIFIER = "conv1_conv", "post_bn", "predictions"
CONV, NORM, DENSE = "conv2d", "batch_normalization", "dense"  # classes of layers
BEFORE_2_2_5 = "res2a_branch2a"
UNIT = re.compile(r"conv([2-5])_block(\d+)_1_conv")
SCOPED = re.compile(r"(.+)\.[^.]+\.unit_\d+\.")  # the scope, in a layer's name of the Keras face
UNNAMED = re.compile(r"conv2d(_\d+)?")
VARIABLES = {"kernel": "weights", "bias": "biases"}  # slim's names; batch norm has the same names in both

Arrays = Mapping[str, np.ndarray]  # under "layer/variable", a model within the model before its layer


def recognizes(arrays: Arrays) -> bool:
    """Return whether the names are those of a model that :func:`canonical` reads, or refuses with a specific reason."""
    layers = {_layer(name) for name in arrays}
    return bool({FIRST, BEFORE_2_2_5} & layers or any(map(SCOPED.match, layers)) or _has_unnamed_layers(arrays))


def canonical(arrays: Arrays, source: str) -> dict[str, np.ndarray]:
    """Return the arrays under canonical names; those of other layers, such as a user's own classifier, keep their names."""
    layers = {_layer(name) for name in arrays}
    if BEFORE_2_2_5 in layers:
        raise InputError(
            f"{source}: layer names such as {BEFORE_2_2_5} are those of Keras before 2.2.5, whose ResNet50 has another epsilon "
            "(1e-3). Weights for today's layers are those of Keras itself: load 'keras:ResNet50'."
        )
    if any(map(SCOPED.match, layers)):
        return _of_the_keras_face(arrays, source)
    named = arrays if FIRST in layers else _name_by_order(arrays)
    if named is None:
        first = list(dict.fromkeys(name.rpartition("/")[0] for name in arrays))[:4]
        hint = " The file does not name its layers: save the weights with a newer Keras." if _has_unnamed_layers(arrays) else ""
        raise _refusal(source, f"this is not a supported network; its first layers are {', '.join(first) or 'none'}.{hint}")
    return _of_applications(named, source)


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    """Return the floating-point variables of a model of Keras 3 or tf_keras as float32, under the names in its file."""
    if not hasattr(model, "layers") or not hasattr(model, "get_weights"):
        raise InputError(f"a Keras model is needed (not {type(model).__name__}).")
    arrays: dict[str, np.ndarray] = {}
    for name, value in _variables(model, ""):
        if name in arrays:
            raise InputError(f"{model.name}: duplicate name {name}; rename the layers.")
        if np.issubdtype(value.dtype, np.floating):
            arrays[name] = value.astype(np.float32)
    return arrays


def _variables(model: Any, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    for layer in model.layers:
        name = f"{prefix}{layer.name}"
        if hasattr(layer, "layers"):
            yield from _variables(layer, f"{name}/")
            continue
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True):
            path = getattr(variable, "path", variable.name).partition(":")[0]
            inside = f"/{path}".rpartition(f"/{layer.name}/")[2]  # more than a variable where the layer has layers
            yield f"{name}/{inside.lstrip('/')}", value


def check_application(name: str) -> None:
    """Raise an :class:`InputError` for what :func:`fetch` does not know."""
    if name not in APPLICATIONS:
        raise InputError(f"keras:{name}: must be one of {', '.join(APPLICATIONS)}.")


def fetch(name: str) -> dict[str, np.ndarray]:
    """Return the ImageNet weights of ``keras.applications``, classifier included; Keras downloads and verifies them."""
    check_application(name)
    keras = import_keras()
    if (kind := keras.config.dtype_policy().variable_dtype) != "float32":
        raise InputError(
            f"keras:{name}: Keras would round the weights to {kind}, as its floatx or policy asks (keras.json may set it). "
            "Set it to float32 first: keras.config.set_floatx('float32')."
        )
    try:
        model = getattr(keras.applications, name)(weights="imagenet")
    except Exception as error:  # Keras raises bare Exceptions if a download fails
        raise InputError(
            f"keras:{name}: Keras could not get the weights: {error}. Without a network, load a local file instead: the .h5 "
            "that Keras downloads elsewhere to ~/.keras/models is read."
        ) from error
    return arrays_of(model)


def import_keras() -> ModuleType:
    """Import Keras; an ``ImportError`` names its backend, if that is the cause."""
    try:
        return importlib.import_module("keras")
    except (ImportError, ValueError) as error:  # the second if there is no such backend
        raise ImportError(
            f"Keras cannot be imported: {error}. The likely cause is its backend, which KERAS_BACKEND or ~/.keras/keras.json "
            "sets: set KERAS_BACKEND=tensorflow."
        ) from None


def _of_the_keras_face(arrays: Arrays, source: str) -> dict[str, np.ndarray]:
    scopes = {match[1] for name in arrays if (match := SCOPED.match(_layer(name)))}
    weights: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        layer, variable = _layer(name), name.rpartition("/")[2]
        if any(layer.startswith(f"{scope}.") for scope in scopes):
            name = f"{layer.replace('.', '/')}/{VARIABLES.get(variable, variable)}"
        if name in weights:
            raise InputError(f"{source}: duplicate name {name}: two networks have the same name.")
        weights[name] = value
    return weights


def _of_applications(arrays: Arrays, source: str) -> dict[str, np.ndarray]:
    around, *others = _prefixes(arrays)
    if others:
        raise InputError(f"{source}: it contains two networks ({around}{FIRST} and {others[0]}{FIRST}); save only one.")
    plan = _plan(arrays, around, source)
    rest = dict(arrays)
    weights: dict[str, np.ndarray] = {}

    def take(layer: str, variable: str, shape: tuple[int, ...]) -> np.ndarray:
        name = f"{around}{layer}/{variable}"
        if name not in rest:
            raise _refusal(source, f"{name} is missing, so this is not a {plan.name} of Keras Applications.")
        value = rest.pop(name)
        if value.shape != shape:
            shapes = f"{name} has the shape {list(value.shape)}, where Keras Applications' {plan.name} has {list(shape)}"
            raise _refusal(source, f"{shapes}: another network under the same names, such as a ResNeXt.")
        return value

    bias: np.ndarray | float = 0.0  # of the convolution before a batch norm
    for kind, layer, record in _layers(plan):
        if isinstance(record, Norm):
            for variable in record.variables:
                leaf = variable.name.rpartition("/")[2]
                value = take(layer, leaf, variable.shape)
                with np.errstate(over="ignore", invalid="ignore"):  # loading refuses infinite values
                    if leaf == "moving_mean":
                        value = (value.astype(np.float64) - bias).astype(np.float32)
                    elif leaf == "moving_variance":
                        value = (value.astype(np.float64) + (EPSILON - BATCH_NORM_EPSILON)).astype(np.float32)
                weights[variable.name] = value
            bias = 0.0
            continue
        kernel, *biases = record.variables
        shape = kernel.shape[2:] if kind == DENSE else kernel.shape
        weights[kernel.name] = take(layer, "kernel", shape).reshape(kernel.shape)
        if not record.norm:
            weights[biases[0].name] = take(layer, "bias", (record.depth,))
        elif f"{around}{layer}/bias" in rest:
            bias = take(layer, "bias", (record.depth,)).astype(np.float64)
    return weights | rest


def _layers(plan: Plan) -> Iterator[tuple[str, str, Conv | Norm]]:
    """Yield class, name and record of the layers with weights in Keras' model, in its order: a unit's shortcut is third."""

    def convolution(name: str, conv: Conv) -> Iterator[tuple[str, str, Conv | Norm]]:
        yield CONV, f"{name}_conv", conv
        if conv.norm:
            yield NORM, f"{name}_bn", conv.norm

    first = plan.root[0]
    assert isinstance(first, Conv)  # only the root's second layer pools
    yield from convolution("conv1", first)
    for stage, block in enumerate(plan.blocks, 2):
        for number, unit in enumerate(block.units, 1):
            layer = f"conv{stage}_block{number}"
            if unit.preact:
                yield NORM, f"{layer}_preact_bn", unit.preact
            one, two, three = unit.convolutions
            for index, conv in ((1, one), (2, two), (0, unit.shortcut), (3, three)):
                if conv:
                    yield from convolution(f"{layer}_{index}", conv)
    if plan.postnorm:
        yield NORM, NORM_OF_LAST, plan.postnorm
    if plan.logits:
        yield DENSE, CLASSIFIER, plan.logits


def network_prefix(arrays: Arrays) -> str | None:
    """Return the names of the models that contain Keras Applications' network; None if there is none."""
    return next(iter(_prefixes(arrays)), None)


def _prefixes(arrays: Arrays) -> list[str]:
    """Return the names of the models around each network, without averages if the weights themselves are present."""
    firsts = without_averages(sorted({name.rpartition("/")[0] for name in arrays if _layer(name) == FIRST}))
    return [first.removesuffix(FIRST) for first in firsts]


def _plan(arrays: Arrays, around: str, source: str) -> Plan:
    """Return the plan of the network whose layers' names begin with `around`."""
    layers = {name.rpartition("/")[0].removeprefix(around) for name in arrays if name.startswith(around)}
    numbers = [match[1] for layer in layers if (match := UNIT.fullmatch(layer))]
    units = tuple(numbers.count(block) for block in "2345")
    if units not in DEPTHS:
        raise _refusal(source, f"its blocks have {units} units, unlike any ResNet of Keras Applications.")
    depth = DEPTHS[units]
    kernel, classifier = (arrays.get(f"{around}{layer}/kernel") for layer in (FIRST, CLASSIFIER))
    return variants.plan(
        f"resnet_v2_{depth}" if NORM_OF_LAST in layers else f"resnet_v1_{depth}_original",
        in_channels=kernel.shape[2] if kernel is not None and kernel.ndim == 4 and kernel.size else 3,
        num_classes=classifier.shape[1] if classifier is not None and classifier.ndim == 2 else None,
    )


def _has_unnamed_layers(arrays: Arrays) -> bool:
    """Return whether layers are named by class and number, as in the ``.weights.h5`` of tf_keras and early Keras 3."""
    return any(UNNAMED.fullmatch(_layer(name)) for name in arrays)


def _name_by_order(arrays: Arrays) -> dict[str, np.ndarray] | None:
    """Return the arrays under Keras Applications' names if they have as many layers as one of its ResNets, else None.

    Biases identify V1: the same network without them may be any other variant.
    """
    layers = {_layer(name) for name in arrays}
    for depth in DEPTHS.values():
        for variant in (f"resnet_v1_{depth}_original", f"resnet_v2_{depth}"):
            plan = variants.plan(variant, num_classes=1)
            order = {kind: [name for own, name, _ in _layers(plan) if own == kind] for kind in (CONV, NORM, DENSE)}
            counts = {kind: sum(bool(re.fullmatch(rf"{kind}(_\d+)?", layer)) for layer in layers) for kind in order}
            found = [kind for kind in order if counts[kind] == len(order[kind])]
            if found[:2] != [CONV, NORM] or not (plan.preactivation or any(name.endswith("conv2d_1/bias") for name in arrays)):
                continue
            numbered = ((kind, number, layer) for kind in found for number, layer in enumerate(order[kind]))
            names = {f"{kind}_{number}" if number else kind: layer for kind, number, layer in numbered}
            return {_rename_layer(name, names): value for name, value in arrays.items()}
    return None


def _rename_layer(name: str, names: Mapping[str, str]) -> str:
    path, _, variable = name.rpartition("/")
    outer, _, layer = path.rpartition("/")
    return "/".join(part for part in (outer, names.get(layer, layer), variable) if part)


def _refusal(source: str, reason: str) -> InputError:
    return InputError(f"{source}: {reason} Supported: {READABLE}.")


def _layer(name: str) -> str:
    """Return the layer that an array belongs to, without the models around it."""
    return name.rpartition("/")[0].rpartition("/")[2]
