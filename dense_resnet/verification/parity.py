"""Compare features with those of the framework that the weights come from, if it is installed.

It runs on the arrays under its own names, so that a mistake in a reader, in a name map or in a builder shows as a difference.
Nothing is compared with DeepLab, whose code is not a package: ``tests/test_golden.py`` has its outputs.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet import checkpoints
from dense_resnet.checkpoints import provenance
from dense_resnet.checkpoints.names import keras_applications, torch_resnet
from dense_resnet.compat import slim
from dense_resnet.errors import InputError
from dense_resnet.planning import variants
from dense_resnet.planning.plan import Plan
from dense_resnet.verification import laws

v1 = tf.compat.v1

SIZES = (97, 96)  # of the noise images: one aligned, and one at which roots and paddings differ


class NotComparableError(Exception):
    """There is nothing to compare with; the message says why."""


def slim_network(plan: Plan) -> Callable[..., Any]:
    """Return tf_slim.nets' own function for `plan`, or raise an :class:`InputError`."""
    from tf_slim.nets import resnet_v1, resnet_v2

    network = getattr(resnet_v2, plan.name, None) or getattr(resnet_v1, plan.name, None)
    if network is None or plan.multi_grid:
        raise InputError(f"tf_slim.nets has no {plan.name}{' with multi_grid' if plan.multi_grid else ''} to compare with.")
    return network


def compare(source: Any) -> tuple[str, float]:
    """Return the framework of what :func:`checkpoints.open_source` takes, and the largest error of our features against its."""
    opened = checkpoints.open_source(source)
    known = opened.origin
    if known.variant is None:
        raise NotComparableError("no variant fits these weights")
    if known.framework not in FRAMEWORKS:
        raise NotComparableError(f"{known.framework} has no code to run")
    name, theirs, recognizes = FRAMEWORKS[known.framework]
    arrays = checkpoints.raw(source)
    if not recognizes(arrays):
        raise NotComparableError(f"the arrays came from {known.framework}, but no longer have its names")
    plan = variants.plan(known.variant, root=known.root)
    ours = laws.backbone_with(plan, opened.weights)
    network = theirs(known.variant, arrays)
    errors = []
    for size in SIZES:
        images = np.random.default_rng(0).standard_normal((1, size, size, plan.in_channels)).astype(np.float32)
        errors.append(laws.relative_error(ours(images), network(images)))
    return name, float(np.max(errors))  # keeps a NaN, which Python's max may drop


Arrays = Mapping[str, np.ndarray]  # under the framework's names
Network = Callable[[np.ndarray], np.ndarray]  # images to features, [batch, height, width, channels] both


def _slim(variant: str, arrays: Arrays) -> Network:
    from tf_slim.nets import resnet_utils

    plan = variants.plan(variant)
    try:
        build = slim_network(plan)
    except InputError as error:
        raise NotComparableError(str(error)) from None

    with tf.Graph().as_default() as graph, slim.arg_scope(resnet_utils.resnet_arg_scope()):
        images = v1.placeholder(tf.float32, [None, None, None, plan.in_channels])
        net, _ = build(images, None, is_training=False, global_pool=False)
        initial = {variable.initializer: arrays[variable.op.name] for variable in v1.global_variables()}
    session = v1.Session(graph=graph)
    session.run(list(initial), {assign.inputs[1]: value for assign, value in initial.items()})
    return lambda values: np.asarray(session.run(net, {images: values}))


def _keras(variant: str, arrays: Arrays) -> Network:
    from keras import Model, applications

    _, version, depth, *_ = variant.split("_")
    whole = getattr(applications, f"ResNet{depth}{'V2' if version == 'v2' else ''}")(include_top=False, weights=None)
    for layer in whole.layers:
        if layer.weights:
            prefix = next(name for name in arrays if name.endswith(f"{layer.name}/{_leaf(layer.weights[0])}"))
            prefix = prefix.rpartition("/")[0]
            layer.set_weights([arrays[f"{prefix}/{_leaf(variable)}"] for variable in layer.weights])
    network = Model(whole.inputs, whole.outputs)
    return lambda images: np.asarray(network(images, training=False))


def _leaf(variable: Any) -> str:
    return str(variable.path.rpartition("/")[2])


def _torch(variant: str, arrays: Arrays) -> Network:
    depth = variant.rpartition("_")[2]
    try:
        import torch
    except ImportError:
        raise NotComparableError("PyTorch is not installed") from None
    network = _torch_network(f"resnet{depth}")
    prefix = next(name for name in arrays if name.endswith(torch_resnet.FIRST)).removesuffix(torch_resnet.FIRST)
    theirs = {
        name: torch.tensor(arrays[prefix + name]) if prefix + name in arrays and not name.startswith("fc.") else value
        for name, value in network.state_dict().items()  # keeps the network's classifier and batch counts
    }
    network.load_state_dict(theirs)
    layers = itertools.takewhile(lambda child: child[0] not in ("avgpool", "global_pool"), network.named_children())
    features = torch.nn.Sequential(*(child for _, child in layers)).eval()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            values = features(torch.tensor(images).permute(0, 3, 1, 2))
        return np.asarray(values.permute(0, 2, 3, 1).numpy())

    return run


@contextlib.contextmanager
def _without_triton() -> Iterator[None]:
    """Hide Triton, which PyTorch's compiler would import: that kills a process that has loaded TensorFlow 2.21."""
    if "triton" in sys.modules:
        yield
        return
    sys.modules["triton"] = None  # type: ignore[assignment]  # no such module
    try:
        yield
    finally:
        del sys.modules["triton"]


@_without_triton()
def _torch_network(name: str) -> Any:
    with contextlib.suppress(ImportError, RuntimeError):  # a torchvision that does not match its PyTorch raises the second
        from torchvision import models

        return getattr(models, name)(weights=None)
    with contextlib.suppress(ImportError, RuntimeError):
        from timm.models import resnet

        return getattr(resnet, name)(pretrained=False)
    raise NotComparableError("neither torchvision nor timm can be imported")


FRAMEWORKS: dict[str, tuple[str, Callable[[str, Arrays], Network], Callable[[Arrays], bool]]] = {
    # of an origin: its code, how to run a variant on arrays, and whether arrays have its names
    provenance.SLIM: ("tf_slim.nets", _slim, lambda arrays: True),
    provenance.KERAS: ("keras.applications", _keras, keras_applications.recognizes),
    provenance.TORCH: ("PyTorch", _torch, torch_resnet.recognizes),
}
