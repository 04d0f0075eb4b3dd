"""A ``tf.Module`` whose variables slim functions find by name: the base of every TensorFlow 2 face.

The variables are created once, from a plan, and given to the slim functions whenever these ask for one. So a single definition
of a network serves eager calls, ``tf.function``, ``GradientTape``, distribution strategies and SavedModel.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet.compat import slim
from dense_resnet.errors import InputError
from dense_resnet.planning.geometry import LARGEST_SEED, check_seed
from dense_resnet.planning.layers import Variable
from dense_resnet.preprocessing import InputRangeCheck

v1 = tf.compat.v1

# Each replica has its own moving average; reading gives their mean.
MOVING_AVERAGE = {"synchronization": tf.VariableSynchronization.ON_READ, "aggregation": tf.VariableAggregation.MEAN}
TRUNCATED_STD = 0.87962566103423978  # standard deviation of a standard normal cut at 2
BUILDING = threading.RLock()


class SlimModule(tf.Module):
    """The common part: variables by name, functions traced once for all image sizes, a check of the images' range.

    `preprocessing` is the scheme that images are expected to have gone through; a `seed` of None draws one.
    """

    _output: str  # of :meth:`__call__`
    _frozen: frozenset[str] = frozenset()  # names of variables that training leaves alone

    def __init__(
        self, name: str, variables: Sequence[Variable], in_channels: int, preprocessing: str, seed: int | None
    ) -> None:
        super().__init__(name=name)
        self._in_channels = in_channels
        self._look = InputRangeCheck(preprocessing)
        self._by_name = {}
        for (path, _, trainable), value in _initial_values(variables, seed):
            kept = {} if trainable else MOVING_AVERAGE
            self._by_name[path] = tf.Variable(value, trainable=trainable, name=path, **kept)
        self._trace()

    def _trace(self) -> None:
        signature = tf.TensorSpec([None, None, None, self._in_channels], tf.float32, name="images")

        @functools.cache  # not an attribute that TensorFlow tracks: a saved module only has `__call__`
        def trace(output: str, training: bool) -> Any:
            def run(images: tf.Tensor) -> Any:
                return self._ops(output, images, training)

            return tf.function(run, input_signature=[signature], autograph=False)

        self._traced = trace
        # tf.saved_model.save finds this function with a signature, so that the loaded object can be called. It is not set as
        # an ordinary attribute, which would be tracked like a variable, and copied.
        self.__dict__["__call__"] = trace(self._output, False)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: all but the traced functions, which use this module's variables."""
        return {name: value for name, value in vars(self).items() if name not in ("_traced", "__call__")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._trace()

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Return all variables' values, float32, under their canonical names."""
        check_eager("reading weights")
        return {name: variable.numpy() for name, variable in self._by_name.items()}

    @property
    def named_variables(self) -> dict[str, tf.Variable]:
        """All variables under their canonical names."""
        return dict(self._by_name)

    @property
    def trainable(self) -> dict[str, tf.Variable]:
        """The variables that training changes by gradients, under their canonical names."""
        return {name: own for name, own in self._by_name.items() if own.trainable and name not in self._frozen}

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """The same in a row, as TensorFlow and Keras name them."""
        return tuple(self.trainable.values())

    def _assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Assign values to the variables of these names."""
        check_eager("loading weights")
        for name, value in values.items():
            self._by_name[name].assign(value)

    def _build(self, output: str, images: tf.Tensor, training: bool) -> Any:
        """Build the ops of one of the module's outputs."""
        raise NotImplementedError

    def _run(self, output: str, images: Any, training: bool) -> Any:
        """Build the ops inside a graph; eagerly, check the images' range, and run a function traced once for all sizes.

        Errors are plain ``ValueError``, the only kind that ``tf.function`` re-raises unchanged.
        """
        if not isinstance(training, bool):
            raise ValueError(f"training must be True or False (not {training!r}).")
        expected = f"[batch, height, width, {self._in_channels}]"
        try:
            images = tf.cast(images, tf.float32)
        except (TypeError, ValueError, tf.errors.OpError):
            keras = " For Keras tensors: dr.keras_resnet.build." if type(images).__name__ == "KerasTensor" else ""
            raise ValueError(f"images must be numbers of shape {expected} (not {images!r:.80}).{keras}") from None
        if not images.shape.is_compatible_with([None, None, None, self._in_channels]):
            raise ValueError(f"images must have shape {expected} (not {images.shape.as_list()}).")
        if tf.executing_eagerly():
            self._look(images, stacklevel=4)  # at the caller of the public method
            return self._traced(output, training)(images)
        return self._ops(output, images, training)

    @tf.autograph.experimental.do_not_convert  # else all of slim is converted: a first call would take ten times as long
    def _ops(self, output: str, images: tf.Tensor, training: bool) -> Any:
        """Call :meth:`_build` in one thread at a time: slim's arg scopes are one stack for the whole process."""
        with BUILDING:
            return self._build(output, images, training)

    @contextlib.contextmanager
    def _own_variables(self) -> Iterator[str]:
        """Give this module's variables to the slim functions called inside; yield the prefix that they see on names."""
        outer = v1.get_variable_scope().name
        prefix = f"{outer}/" if outer else ""

        def own_variable(getter: Callable[..., Any], name: str, **unused: Any) -> tf.Variable:
            return self._by_name[name.removeprefix(prefix)]

        with (
            v1.variable_scope(v1.get_variable_scope(), custom_getter=own_variable, reuse=v1.AUTO_REUSE, use_resource=True),
            slim.arg_scope({}),  # a user's own arg scopes stay outside
        ):
            yield prefix


def check_eager(what: str) -> None:
    """Raise an :class:`InputError` where TensorFlow would only add an assignment to a graph and never run it."""
    if not tf.executing_eagerly():
        raise InputError(
            f"{what} needs eager execution, which is off here: inside a tf.Graph or a tf.function, or after "
            "tf.compat.v1.disable_eager_execution(). Nothing was read or assigned. Call it outside of them; programs of "
            "TensorFlow 1 build with dense_resnet.resnet_v1 and resnet_v2, and restore with tf.compat.v1.train.Saver."
        )


def _initial_values(variables: Sequence[Variable], seed: int | None) -> Iterator[tuple[Variable, tf.Tensor]]:
    """Yield fresh float32 values for `variables`, equal for equal seeds.

    As slim's: convolutions truncated normal of variance 2 / fan-in (He et al., https://arxiv.org/abs/1502.01852), biases
    and means 0, scales and variances 1. A depthwise convolution's fan-in is its kernel's area.
    """
    seed = int(np.random.default_rng().integers(LARGEST_SEED)) if seed is None else check_seed(seed)
    for number, variable in enumerate(variables):
        leaf = variable.name.rpartition("/")[2]
        if leaf.endswith("weights"):
            fan_in = math.prod(variable.shape[:2] if leaf == "depthwise_weights" else variable.shape[:-1])
            std = math.sqrt(2 / fan_in) / TRUNCATED_STD
            yield variable, tf.random.stateless_truncated_normal(variable.shape, [seed, number], stddev=std)
        else:
            yield variable, tf.fill(variable.shape, float(leaf in ("gamma", "moving_variance")))
