"""The TensorFlow 2 face: a ResNet as a ``tf.Module`` with its own variables.

It works eagerly, in ``tf.function``, under ``GradientTape`` and distribution strategies (make the backbone under
``strategy.scope()``), and as a SavedModel. (``test_backbone.py``, ``test_distribution.py`` in ``tests/dense_resnet``)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet import checkpoints, resnet_v1, resnet_v2
from dense_resnet.builders.slim_module import SlimModule, check_eager
from dense_resnet.builders.walk import FEATURES, LOGITS, OUTPUTS, PYRAMID
from dense_resnet.checkpoints import load_report
from dense_resnet.compat import slim
from dense_resnet.errors import InputError
from dense_resnet.inference import compiled, engines, folding, runner, tensorflow_runner
from dense_resnet.inference.precision import AUTO, choose_precision
from dense_resnet.planning import variants
from dense_resnet.planning.plan import Plan
from dense_resnet.resnet_utils import BATCH_NORM_DECAY, Block, resnet_arg_scope

UNIT_FUNCTIONS = {unit.kind: unit for unit in (resnet_v2.bottleneck, resnet_v1.bottleneck, resnet_v1.lite_bottleneck)}


class Backbone(SlimModule):
    """A ResNet for dense prediction.

    Args:
        plan: a variant's name, or a :class:`dense_resnet.planning.plan.Plan`.
        output_stride, multi_grid, in_channels, num_classes, root: as :func:`dense_resnet.plan`, where `plan` is a name.
        seed: of the initial weights; None draws one.
        batch_norm_decay: of the moving averages in training.

    Raises:
        InputError: (a ValueError) an argument does not fit; the message names the valid values.

    >>> backbone = Backbone("resnet_v1_18", output_stride=16)
    >>> backbone(tf.zeros([1, 65, 65, 3])).shape
    TensorShape([1, 5, 5, 512])
    """

    _output = FEATURES

    def __init__(
        self,
        plan: str | Plan,
        output_stride: int | None = None,
        *,
        multi_grid: Sequence[int] | None = None,
        in_channels: int = 3,
        num_classes: int | None = None,
        root: str | None = None,
        seed: int | None = None,
        batch_norm_decay: float = BATCH_NORM_DECAY,
    ) -> None:
        if not isinstance(plan, Plan):
            plan = variants.plan(
                plan, output_stride, multi_grid=multi_grid, in_channels=in_channels, num_classes=num_classes, root=root
            )
        elif (output_stride, multi_grid, in_channels, num_classes, root) != (None, None, 3, None, None):
            raise InputError(
                "a Plan has its own output_stride, multi_grid, in_channels, num_classes and root: give them to dr.plan."
            )
        super().__init__("backbone", plan.variables, plan.in_channels, plan.preprocessing, seed)
        self.plan, self._decay = plan, batch_norm_decay

    def __call__(self, images: Any, training: bool = False) -> tf.Tensor:
        """Return the features at the plan's output_stride.

        Args:
            images: ``[batch, height, width, in_channels]``, preprocessed. Nothing is padded or resized.
            training: batch norm's mode; True also updates the moving averages. A Python bool.

        Returns:
            ``[batch, rows, columns, depth]`` float32, ``(rows, columns) == plan.feature_size((height, width))``.
        """
        return self._run(FEATURES, images, training)

    def features(self, images: Any, training: bool = False) -> dict[int, tf.Tensor]:
        """Return the pyramid: the last activation at each stride, before subsampling.

        In v2 networks these are the raw sums of the units; only the last stride's has passed the final batch norm.

        Returns:
            ``{4: [batch, rows, columns, channels], 8: …, 16: …}``, up to the plan's output_stride.
        """
        return self._run(PYRAMID, images, training)

    def logits(self, images: Any, training: bool = False) -> tf.Tensor:
        """Return the classifier's outputs, ``[batch, num_classes]``, averaged over the image."""
        if not self.plan.num_classes:
            raise ValueError(f"this {self.plan.name} was made without num_classes, so it has no logits.")
        return self._run(LOGITS, images, training)

    def end_points(self, images: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """Return all activations with slim's names, as ``resnet_v2_50/block1/unit_2/bottleneck_v2/conv3``, and ``features``."""
        return self._run("end_points", images, training)

    def compile(
        self, precision: str = AUTO, *, engine: str = engines.AUTO, output: str = FEATURES
    ) -> compiled.CompiledFunction:
        """Freeze the network with its current weights for inference: the fastest way to run it on a CPU.

        Args:
            precision: "float32", "bfloat16", or "auto": bfloat16 where the processor multiplies such numbers.
            engine: "tensorflow", "openvino", or "auto": what was measured to be faster here, or OpenVINO where it is installed.
            output: "features", "pyramid" or "logits": what :meth:`__call__`, :meth:`features` or :meth:`logits` returns.

        Returns:
            A function of ``[batch, height, width, in_channels]``, preprocessed, for any size. It returns float32 arrays, which
            in float32 equal that method's up to 1e-4 of their spread (``tests/dense_resnet/inference/test_folding.py``).

        Raises:
            InputError: the precision, engine or output is unknown, or the backbone has no classifier.

        >>> compiled = Backbone("resnet_v1_18", output_stride=16).compile("float32")
        >>> compiled(tf.zeros([2, 65, 65, 3])).shape
        (2, 5, 5, 512)
        """
        if output not in OUTPUTS:
            raise InputError(f"output must be one of {', '.join(map(repr, OUTPUTS))} (not {output!r}).")
        if output == LOGITS and not self.plan.logits:
            raise InputError(f"this {self.plan.name} was made without num_classes, so it has no logits.")
        plan, weights = self.plan, self.weights
        precision, engine = choose_precision(precision), engines.usual_engine(engine)
        if engine == engines.OPENVINO:
            from dense_resnet.inference import openvino

            run = openvino.compile_backbone(plan, weights, precision, output)
        else:

            def build(layers: folding.Layers, images: tf.Tensor) -> Any:
                return getattr(folding.network(layers, plan, images, pyramid=output == PYRAMID), output)

            run = compiled.freeze_function(build, weights, plan.in_channels, precision)
        return compiled.CompiledFunction(run, engine, precision, plan.in_channels, plan.preprocessing)

    def runner(
        self,
        precision: str = AUTO,
        strides: Sequence[int] = (),
        *,
        engine: str = engines.AUTO,
        side: int | None = None,
        portable: bool = False,
        winograd: bool = True,
    ) -> runner.Runner:
        """Return a runner of decoded images with the network's current weights, as `extract` uses it.

        Args:
            precision: "float32", "bfloat16", "auto", or "exact" for the slim graph in float32.
            strides: of the pyramid, finer than the network's own, that are wanted too, as "stride_4", "stride_8".
            engine: as :meth:`compile`; "exact" is TensorFlow's, and so are `side` and `portable` where it is "auto".
            side: of the only canvas that a compiled one takes; None takes any.
            portable: whether a compiled one's graph is to be written to a file.
            winograd: whether OpenVINO's may compute convolutions by Winograd's algorithm.

        Raises:
            InputError: the precision or engine is unknown, or the preprocessing is for another number of channels.
        """
        plan, weights = self.plan, self.weights
        sha256 = checkpoints.fingerprint(weights)
        finer = {runner.at_stride(stride): stride for stride in strides if stride != plan.output_stride}
        names = (runner.FEATURES, *finer)
        if precision == runner.EXACT:

            def exact(canvases: tf.Tensor, sizes: np.ndarray, names: tuple[str, ...]) -> dict[str, tf.Tensor]:
                if names == (runner.FEATURES,):
                    return {runner.FEATURES: self(canvases)}
                pyramid = self.features(canvases)
                return {name: pyramid[finer.get(name, plan.output_stride)] for name in names}

            return tensorflow_runner.ExactRunner(plan, plan.preprocessing, runner.EXACT, sha256, names, function=exact)
        if engines.engine_of_runner(engine, portable=portable or side is not None) == engines.OPENVINO:
            from dense_resnet.inference import openvino

            return openvino.backbone_runner(plan, weights, precision, sha256, finer, side, winograd)

        def build(layers: folding.Layers, canvases: tf.Tensor, size: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
            found = folding.network(layers, plan, canvases, pyramid=bool(finer))
            wanted = {runner.FEATURES: found.features} | {name: found.pyramid[stride] for name, stride in finer.items()}
            return {name: tf.cast(values, tf.float32) for name, values in wanted.items()}

        return tensorflow_runner.CompiledRunner(build, weights, plan, plan.preprocessing, precision, sha256, side, portable)

    def _build(self, output: str, images: tf.Tensor, training: bool) -> Any:
        plan = self.plan
        network = resnet_v2.resnet_v2 if plan.preactivation else resnet_v1.resnet_v1
        blocks = [
            Block(block.scope, UNIT_FUNCTIONS[block.units[0].kind], [unit.arguments.slim for unit in block.units])
            for block in plan.blocks
        ]
        with self._own_variables() as prefix, slim.arg_scope(resnet_arg_scope(0.0, self._decay)):
            net, end_points = network(
                images,
                blocks,
                plan.num_classes if output == LOGITS else None,
                is_training=training,
                global_pool=output == LOGITS,
                output_stride=plan.output_stride,
                include_root_block=bool(plan.root),
                scope=plan.scope,
                spatial_squeeze=True,
                store_non_strided_activations=output == PYRAMID,
                root=plan.root_name,  # type: ignore[arg-type]  # None without a root block, where it is not used
            )
        if output == "end_points":
            return {name.removeprefix(prefix): values for name, values in end_points.items()} | {"features": net}
        if output != PYRAMID:
            return net
        return {stride: end_points[prefix + unit.scope] if unit else net for stride, unit in plan.pyramid.items()}

    def load(self, source: Any, *, strict: bool = True, first_convolution: str = load_report.ADAPT) -> load_report.LoadReport:
        """Load weights from slim, DeepLab, Keras, PyTorch or safetensors: see :func:`checkpoints.open_source`.

        A classifier in the file is left out, and named in the report, where this backbone has none or another class
        count. Assignment is all or nothing.

        Args:
            source: a path, ``keras:ResNet152V2``, a Keras model, a PyTorch module or a state dictionary.
            strict: refuses where a variable of the backbone is missing or has another shape.
            first_convolution: "adapt" or "leave_out", where the file has another number of input channels: see
                :func:`dense_resnet.checkpoints.load_report.match`.

        Returns:
            The report: matched, missing, unexpected, mismatched, and what the weights expect of images. ``print(report)``
            shows it as a table.

        Raises:
            InputError: (a ValueError) the file is missing, damaged, or does not fit (the message is the report), or eager
                execution is off.
        """
        check_eager("loading weights")
        opened = checkpoints.open_source(source).under(self.plan.scope)
        outcome = self.assign(opened.weights, opened.name, strict=strict, first_convolution=first_convolution)
        return outcome.with_provenance(opened.origin, self.plan, opened.notes)

    def assign(
        self,
        weights: dict[str, np.ndarray],
        source: str = "weights",
        *,
        strict: bool = True,
        first_convolution: str = load_report.ADAPT,
    ) -> load_report.LoadReport:
        """Assign weights by canonical name. Arguments, result and errors as :meth:`load`."""
        match = load_report.match(self.plan, weights, source, strict=strict, first_convolution=first_convolution)
        self._assign(match.weights)
        return match.report

    def freeze(self, *parts: str) -> None:
        """Take variables out of :attr:`trainable`: those of the named parts, such as "conv1" or "block1", or all.

        Batch norm's moving averages follow the `training` argument of a call, not this.

        Raises:
            InputError: the network does not have such a part; the message names all.

        >>> backbone = Backbone("resnet_v1_18")
        >>> backbone.freeze("conv1", "block1")
        >>> backbone.trainable_variables[0].name
        'resnet_v1_18/block2/unit_1/lite_bottleneck_v1/shortcut/weights:0'
        """
        self._frozen |= self._names_of(parts)

    def unfreeze(self, *parts: str) -> None:
        """Put variables back that :meth:`freeze` took out."""
        self._frozen -= self._names_of(parts)

    def _names_of(self, parts: Sequence[str]) -> frozenset[str]:
        part_of = {name: name.removeprefix(f"{self.plan.scope}/").split("/")[0] for name in self._by_name}
        if unknown := [part for part in parts if part not in part_of.values()]:
            raise InputError(
                f"the network does not have a part {unknown[0]!r}; its parts are {', '.join(dict.fromkeys(part_of.values()))}."
            )
        return frozenset(name for name, part in part_of.items() if not parts or part in parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all variables: to safetensors if `path` has that suffix, otherwise to a slim checkpoint of the V2 format."""
        checkpoints.write(path, self.weights)
