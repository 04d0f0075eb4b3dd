"""The Keras face: a ResNet as a functional Keras model of plain layers.

    model = dr.keras_resnet.build("resnet_v1_50", output_stride=16, input_shape=(513, 513, 3), weights="resnet_v1_50.ckpt")
    model.summary(line_length=160)         # every layer's output shape, under slim's names
    model.fit(...)
    model.save("model.keras")              # keras.saving.load_model reads it, also where this package is not installed

It takes the same weights as the other faces, and a model read from a file does too: a layer's name is its slim scope with ``.``
for ``/``, which Keras refuses. Features equal those of the slim builder; in training, moving variances differ by N / (N - 1),
since Keras averages the biased variance and slim the unbiased one. (``tests/dense_resnet/test_keras_resnet.py``)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dense_resnet import checkpoints
from dense_resnet.builders import walk
from dense_resnet.builders.slim_module import check_eager
from dense_resnet.checkpoints import load_report
from dense_resnet.checkpoints.names.keras_applications import VARIABLES, import_keras
from dense_resnet.errors import InputError, pluralize
from dense_resnet.planning import geometry, variants
from dense_resnet.planning.layers import BATCH_NORM_EPSILON, Conv, Norm, Pool, Variable
from dense_resnet.planning.plan import Plan
from dense_resnet.resnet_utils import BATCH_NORM_DECAY

if TYPE_CHECKING:
    import keras
else:
    keras = import_keras()
layers = keras.layers

UNIT = re.compile(r"(.+)/[^/]+/unit_\d+/")  # the scope, in the name of a unit's variable
CHANNELS_LAST = {"data_format": "channels_last"}  # for any configuration of the user's Keras


def build(
    plan: str | Plan,
    output_stride: int | None = None,
    *,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    multi_grid: Sequence[int] | None = None,
    num_classes: int | None = None,
    root: str | None = None,
    pyramid: bool = False,
    weights: Any = None,
    batch_norm_decay: float = BATCH_NORM_DECAY,
) -> keras.Model:
    """Build the Keras model of a network.

    Args:
        plan: a variant's name, or a :class:`dense_resnet.planning.plan.Plan`.
        output_stride, multi_grid, num_classes, root: as :func:`dense_resnet.plan`, where `plan` is a name.
        input_shape: (height, width, channels) of the images, preprocessed; None for a height or width that may vary.
        pyramid: whether to give the last activation at each stride, before subsampling, not the features alone.
        weights: a source for :func:`load`, or a dictionary under canonical names for :func:`assign`, which must have every
            variable; None leaves the initial ones, which ``keras.utils.set_random_seed`` repeats.
        batch_norm_decay: of the moving averages in training.

    Returns:
        A model named as the plan, of float32 variables for any floatx of Keras; under a global policy of mixed precision it
        computes in that. Its output is

        * the features, ``[batch, rows, columns, depth]``, with ``(rows, columns) == plan.feature_size((height, width))``;
        * with classes, their logits ``[batch, num_classes]``, averaged over the image: no softmax, so a loss takes
          ``from_logits=True``;
        * as a pyramid, ``{"stride_4": [batch, rows, columns, channels], "stride_8": …}`` up to the plan's output_stride,
          as :meth:`dense_resnet.Backbone.features` has it.

    Raises:
        InputError: (a ValueError) an argument does not fit; the message names the valid values.

    >>> model = build("resnet_v1_18", output_stride=16, input_shape=(65, 65, 3))
    >>> model.get_layer("resnet_v1_18.block4.unit_2.lite_bottleneck_v1.conv1").dilation_rate
    (2, 2)
    >>> model.output_shape
    (None, 5, 5, 512)
    """
    channels = _channels(input_shape)
    if not isinstance(plan, Plan):
        plan = variants.plan(
            plan, output_stride, multi_grid=multi_grid, in_channels=channels, num_classes=num_classes, root=root
        )
    elif (output_stride, multi_grid, num_classes, root) != (None, None, None, None):
        raise InputError("a Plan has its own output_stride, multi_grid, num_classes and root: give them to dr.plan.")
    if plan.in_channels != channels:
        raise InputError(
            f"input_shape must end in the plan's {pluralize(plan.in_channels, 'channel')} (not {tuple(input_shape)!r})."
        )
    if pyramid and plan.logits:
        raise InputError(f"a pyramid has no classifier: leave out num_classes={plan.num_classes} or pyramid=True.")
    for scope in (plan.scope, *(block.scope for block in plan.blocks)):
        if "." in scope:
            raise InputError(f"a scope must have no dot, which stands for a slash in names of layers (not {scope!r}).")

    if keras.backend.backend() == "torch":
        raise InputError(
            "the Keras face names its layers by slim's scopes, with dots, which Keras' PyTorch backend refuses. Set "
            "KERAS_BACKEND=tensorflow, or the backend in ~/.keras/keras.json, before Keras is imported."
        )
    with _float32_variables():
        model = _model(plan, input_shape, pyramid, batch_norm_decay)
    if isinstance(weights, Mapping):
        assign(model, weights)
    elif weights is not None:
        load(model, weights)
    return model


def _model(plan: Plan, input_shape: tuple[int | None, int | None, int], pyramid: bool, batch_norm_decay: float) -> keras.Model:
    images = keras.Input(input_shape, name="images")
    found = walk.run(plan, _KerasOps(batch_norm_decay, rectified=not plan.preactivation), images, pyramid=pyramid)
    if pyramid:
        outputs = {f"stride_{stride}": net for stride, net in found.pyramid.items()}
    elif plan.logits:
        outputs = layers.Flatten(**CHANNELS_LAST, name=_layer_name(f"{plan.scope}/spatial_squeeze"))(found.logits)
    else:
        outputs = found.features
    return keras.Model(images, outputs, name=_layer_name(plan.name))


@contextlib.contextmanager
def _float32_variables() -> Iterator[None]:
    """Make layers with float32 variables, as the weights are, for any floatx and policy of Keras; a mixed policy has them."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()  # the policy first: where none is set, it is floatx's
    keras.config.set_floatx("float32")
    other = policy.variable_dtype != "float32"
    if other:
        keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        if other:
            keras.config.set_dtype_policy(policy)


def _channels(input_shape: Any) -> int:
    """Check an input shape and return its channels."""
    try:
        *sizes, channels = input_shape
        if len(sizes) == 2:
            for size in (*(size for size in sizes if size is not None), channels):
                geometry.positive_integer("size", size)
            return channels
    except (TypeError, ValueError):
        pass
    raise InputError(
        "input_shape must be (height, width, channels), positive integers, with None for a height or width that may vary "
        f"(not {input_shape!r})."
    )


def _layer_name(scope: str) -> str:
    return scope.replace("/", ".")


@dataclass(frozen=True)
class _KerasOps:
    """The layers of a plan: the :class:`dense_resnet.builders.walk.Ops` of Keras."""

    decay: float  # of the moving averages
    rectified: bool  # whether the root block's pooling has non-negative input

    def conv(self, net: Any, conv: Conv) -> Any:
        name, padding = _layer_name(conv.scope), "same"
        if conv.stride > 1 and conv.kernel > 1:  # where Keras's own "same" would depend on the size
            net, padding = _pad(net, conv.kernel, name), "valid"
        net = layers.Conv2D(
            conv.depth,
            conv.kernel,
            conv.stride,
            padding,
            dilation_rate=conv.rate,
            use_bias=not conv.batch_norm,
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal"),  # He, as slim's
            **CHANNELS_LAST,
            name=name,
        )(net)
        if conv.norm:
            net = self._normalize(net, conv.norm)
        return self.relu(net, conv.scope) if conv.relu else net

    def norm_relu(self, net: Any, norm: Norm) -> Any:
        return self.relu(self._normalize(net, norm), norm.scope)

    def pool(self, net: Any, pool: Pool) -> Any:
        name = _layer_name(pool.scope)
        if pool.padding == geometry.SAME:
            return layers.MaxPooling2D(pool.kernel, pool.stride, "same", **CHANNELS_LAST, name=name)(net)
        if pool.zeros or self.rectified:  # then a zero never exceeds the maximum of the window
            net = _pad(net, pool.kernel, name)
            return layers.MaxPooling2D(pool.kernel, pool.stride, "valid", **CHANNELS_LAST, name=name)(net)
        # No Keras layer pads with minus infinity, but "same" ignores its padding, and at stride 1 pads both sides alike.
        net = layers.MaxPooling2D(pool.kernel, 1, "same", **CHANNELS_LAST, name=f"{name}.dense")(net)
        return self.subsample(net, pool.stride, pool.scope)

    def subsample(self, net: Any, factor: int, scope: str) -> Any:
        if factor == 1:
            return net
        return layers.MaxPooling2D(1, factor, **CHANNELS_LAST, name=_layer_name(scope))(net)

    def add(self, shortcut: Any, branch: Any, scope: str) -> Any:
        return layers.Add(name=_layer_name(f"{scope}/add"))([shortcut, branch])

    def relu(self, net: Any, scope: str) -> Any:
        return layers.ReLU(name=_layer_name(f"{scope}/relu"))(net)

    def mean(self, net: Any, scope: str) -> Any:
        return layers.GlobalAveragePooling2D(keepdims=True, **CHANNELS_LAST, name=_layer_name(f"{scope}/global_pool"))(net)

    def _normalize(self, net: Any, norm: Norm) -> Any:
        return layers.BatchNormalization(momentum=self.decay, epsilon=BATCH_NORM_EPSILON, name=_layer_name(norm.scope))(net)


def _pad(net: Any, kernel: int, name: str) -> Any:
    pads = geometry.symmetric_padding(kernel)
    return layers.ZeroPadding2D((pads, pads), **CHANNELS_LAST, name=f"{name}.pad")(net)


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Return all values of a model's network, float32, by canonical name, as ``checkpoints.write`` takes them.

    Args:
        model: from :func:`build`, or what ``keras.saving.load_model`` makes of its file, or a model of yours around it; layers
            of your own are left out.

    Raises:
        InputError: the model contains none of our networks, or more than one.
    """
    _check_eager("reading weights")
    return {name: variable.numpy().astype(np.float32) for name, variable in _variables(model).items()}


def load(model: keras.Model, source: Any, *, strict: bool = True) -> load_report.LoadReport:
    """Load the weights of a file or another source: arguments, result and errors as :meth:`dense_resnet.Backbone.load`.

    `model` is as for :func:`weights_of`. Assignment is all or nothing.
    """
    opened = checkpoints.open_source(source).under(_scope(_variables(model)))
    return assign(model, opened.weights, opened.name, strict=strict).with_provenance(opened.origin, notes=opened.notes)


def assign(
    model: keras.Model, weights: Mapping[str, np.ndarray], source: str = "weights", *, strict: bool = True
) -> load_report.LoadReport:
    """Assign weights by canonical name. Arguments, result and errors as :func:`load`."""
    _check_eager("loading weights")
    variables = _variables(model)
    wanted = tuple(Variable(name, tuple(variable.shape), variable.trainable) for name, variable in variables.items())
    match = load_report.match(load_report.Network(model.name, _scope(variables), wanted), weights, source, strict=strict)
    for name, value in match.weights.items():
        variables[name].assign(value)
    return match.report


def _check_eager(what: str) -> None:
    if keras.backend.backend() == "tensorflow":
        check_eager(what)


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the network's variables by their canonical names, which follow from the layers' names."""
    found = dict(_name_variables(model))
    scope = _scope(found)
    return {name: variable for name, variable in found.items() if name.startswith(f"{scope}/")}


def _name_variables(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _name_variables(layer)
        else:
            for variable in layer.weights:
                yield f"{layer.name}.{VARIABLES.get(variable.name, variable.name)}".replace(".", "/"), variable


def _scope(names: Mapping[str, Any]) -> str:
    """Return the scope of the only network among the variables' names."""
    scopes = sorted({unit[1] for name in names if (unit := UNIT.match(name))})
    if len(scopes) != 1:
        raise InputError(
            "the model must have one network of keras_resnet.build in it, whose layers have slim's scopes for names "
            f"(not {len(scopes)}{': ' * bool(scopes)}{', '.join(scopes)})."
        )
    return scopes[0]
