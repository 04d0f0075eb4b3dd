"""A segmentation model: a backbone, a head, and the steps from an image of any size to logits on its pixels.

Inputs are padded at the bottom and on the right with 0, which after preprocessing is the mean color, to the next aligned size.
There every cell is centered exactly on a pixel, so logits are enlarged with align_corners, and then cropped. The head never
sees padding. (``tests/segmentation/heads/test_heads.py``, ``tests/segmentation/test_canvases.py``)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dense_resnet.backbone import Backbone
from dense_resnet.builders.slim_module import SlimModule
from dense_resnet.errors import InputError
from dense_resnet.inference import engines
from dense_resnet.inference.canvas_ops import ImageEnds, aligned_size, apply_mask, boxes_of, resize_align_corners
from dense_resnet.inference.compiled import CompiledFunction, freeze_function
from dense_resnet.inference.folding import Layers, network
from dense_resnet.inference.precision import AUTO, choose_precision
from dense_resnet.inference.runner import (
    COARSE_LOGITS,
    EXACT,
    FEATURES,
    LABELS,
    PROBABILITIES,
    Runner,
)
from dense_resnet.inference.tensorflow_runner import CompiledRunner, ExactRunner
from dense_resnet.planning import geometry
from dense_resnet.planning.layers import Variable
from segmentation.heads.build import build_folded_head, build_head
from segmentation.heads.plan import BATCH_NORM_DECAY, DEFAULT_HEAD, IMAGE, PADDED, SKIP_STRIDE, Uniform, plan_head

LOGITS = "pixels"  # logits on the pixels of the image, where COARSE_LOGITS are those before they are enlarged
IMAGE_CELLS = "image_cells"  # of images that are padded to the next aligned size


class SegmentationModel(SlimModule):
    """Backbone + head.

    Args:
        backbone: with its weights; its output_stride decides the head's atrous rates.
        num_classes: of the labels.
        head: "fcn", "aspp" (DeepLabv3) or "decoder" (DeepLabv3+).
        separable: whether the head's 3x3 convolutions are split into a depthwise and a 1x1.
        image_pooling_crop, canvas: see :func:`segmentation.heads.plan.plan_head`.
        seed: of the head's initial weights.
        batch_norm_decay: of the head's moving averages in training.

    Raises:
        InputError: (a ValueError) an argument does not fit; the message names the valid values.

    >>> model = SegmentationModel(Backbone("resnet_v1_18", output_stride=16), num_classes=5, head="fcn")
    >>> model(tf.zeros([1, 40, 70, 3])).shape, model.logits(tf.zeros([1, 65, 97, 3])).shape
    (TensorShape([1, 40, 70, 5]), TensorShape([1, 5, 7, 5]))
    """

    _output = LOGITS

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        head: str = DEFAULT_HEAD,
        *,
        separable: bool = True,
        image_pooling_crop: object | None = None,
        canvas: str | None = None,
        seed: int | None = None,
        batch_norm_decay: float = BATCH_NORM_DECAY,
    ) -> None:
        if not isinstance(backbone, Backbone):
            raise InputError(f"backbone must be a dense_resnet.Backbone (not {backbone!r:.80}).")
        plan = plan_head(
            backbone.plan, num_classes, head, separable=separable, image_pooling_crop=image_pooling_crop, canvas=canvas
        )
        of_images = backbone.plan.in_channels, backbone.plan.preprocessing
        super().__init__("segmentation_model", plan.variables, *of_images, seed)
        self.backbone, self.head = backbone, plan
        self.image_pooling_crop = image_pooling_crop
        self._decay = batch_norm_decay

    def __call__(self, images: Any, training: bool = False) -> tf.Tensor:
        """Return logits on the image's own pixels.

        Args:
            images: ``[batch, height, width, channels]``, preprocessed, of any size.
            training: batch norm's mode; True also updates the moving averages and drops activations.

        Returns:
            ``[batch, height, width, num_classes]`` float32.
        """
        return self._run(LOGITS, images, training)

    def logits(self, images: Any, training: bool = False) -> tf.Tensor:
        """Return logits before they are enlarged, one vector per cell; nothing is padded or cropped."""
        return self._run(COARSE_LOGITS, images, training)

    def compile(self, precision: str = AUTO, *, engine: str = engines.AUTO, enlarge: bool = True) -> CompiledFunction:
        """Freeze the model with its current weights for inference: the fastest way to run it on a CPU.

        Args:
            precision: "float32", "bfloat16", or "auto": bfloat16 where the processor multiplies such numbers.
            engine: "tensorflow", "openvino", or "auto": see :meth:`dense_resnet.Backbone.compile`.
            enlarge: whether to give logits on the image's pixels, as :meth:`__call__`, or those of cells, as :meth:`logits`.

        Returns:
            A function of ``[batch, height, width, channels]``, preprocessed, for any size. It returns float32 logits, which in
            float32 equal this model's up to 1e-4 of their std (``tests/dense_resnet/inference/test_folding.py``).

        Raises:
            InputError: the precision or engine is unknown.
        """
        plan = self.backbone.plan
        precision, engine = choose_precision(precision), engines.usual_engine(engine)
        if engine == engines.OPENVINO:
            from segmentation.heads import openvino

            run = openvino.compile_model(self.weights, plan, self.head, precision, enlarge=enlarge)
        else:

            def build(layers: Layers, images: tf.Tensor) -> tf.Tensor:
                if not enlarge:
                    return self._build_folded(layers, images, None)[1]
                canvas, boxes = self._pad_to_canvas(images)
                return _on_pixels(self._build_folded(layers, canvas, boxes)[1], canvas, images)

            run = freeze_function(build, self.weights, plan.in_channels, precision)
        return CompiledFunction(run, engine, precision, plan.in_channels, plan.preprocessing)

    def runner(
        self,
        precision: str = AUTO,
        *,
        engine: str = engines.AUTO,
        preprocessing: str | None = None,
        weights_sha256: str = "",
        side: int | None = None,
        portable: bool = False,
        onednn: bool = False,
        winograd: bool = True,
    ) -> Runner:
        """Return a runner of decoded images with the model's current weights, as `evaluate` and `predict` use it.

        Args:
            precision: "float32", "bfloat16", "auto", or "exact" for the slim graph in float32, which follows later changes of
                the weights, and gives cells only.
            engine: as :meth:`compile`; "exact" is TensorFlow's, and so are `side` and `portable` where it is "auto".
            preprocessing: a scheme of :func:`dense_resnet.preprocess`; None is the plan's.
            weights_sha256: for the record, if it is known.
            side: of the only canvas that a compiled one takes; None takes any.
            portable: whether a compiled one's graph is to be written to a file.
            onednn: whether such a file may need oneDNN: see :func:`dense_resnet.inference.compiled.freeze`.
            winograd: whether OpenVINO's may compute convolutions by Winograd's algorithm.

        Raises:
            InputError: the precision or engine is unknown.
        """
        plan = self.backbone.plan
        scheme = preprocessing or plan.preprocessing
        if precision == EXACT:

            def exact(canvases: tf.Tensor, sizes: np.ndarray, names: tuple[str, ...]) -> dict[str, tf.Tensor]:
                return {COARSE_LOGITS: self._cells_of_images(canvases, sizes)}

            return ExactRunner(plan, scheme, EXACT, weights_sha256, (COARSE_LOGITS,), function=exact)
        if engines.engine_of_runner(engine, portable=portable or side is not None) == engines.OPENVINO:
            from segmentation.heads import openvino

            return openvino.make_runner(self.weights, plan, self.head, scheme, precision, weights_sha256, side, winograd)

        def build(layers: Layers, canvases: tf.Tensor, size: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
            ends = None
            if self.head.canvas == IMAGE:
                ends = ImageEnds(boxes_of(aligned_size(sizes, plan.nominal_stride)))
            features, cells = self._build_folded(layers, canvases, boxes_of(sizes), ends)
            pixels = resize_align_corners(cells, tf.shape(canvases)[1:3])
            logits = pixels[:, : size[0], : size[1]]
            labels = tf.math.top_k(logits, 1).indices[..., 0]  # the lowest class on ties
            return {
                FEATURES: features,
                COARSE_LOGITS: cells,
                LABELS: tf.cast(labels, self.head.label_dtype),
                PROBABILITIES: tf.nn.softmax(logits),
            }

        return CompiledRunner(build, self.weights, plan, scheme, precision, weights_sha256, side, portable, onednn)

    @tf.autograph.experimental.do_not_convert  # as SlimModule._ops
    def training_logits(
        self,
        images: tf.Tensor,
        boxes: tf.Tensor,
        dropout: Uniform,
        freeze_batch_norm: bool,
        *,
        freeze_image_pooling: bool = False,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Run :meth:`__call__` in training mode, inside a ``tf.function``: a training step differentiates this.

        It returns the logits, and the backbone's end points: see :meth:`dense_resnet.Backbone.end_points`.

        Args:
            boxes: where the images lie on their canvases: see :func:`dense_resnet.inference.canvas_ops.coverage_mask`.
            dropout: a function of a shape and a dtype that draws from [0, 1); equal numbers drop the same activations.
            freeze_batch_norm: normalizes by the moving averages and leaves them alone.
            freeze_image_pooling: does so for the head's pooled features alone.
        """
        canvas, _ = self._pad_to_canvas(images)
        cells, end_points = self._cells(canvas, not freeze_batch_norm, dropout, boxes, freeze_image_pooling)
        return _on_pixels(cells, canvas, images), end_points

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The backbone's and the head's variables, float32, under their canonical names."""
        return self.backbone.weights | super().weights

    @property
    def named_variables(self) -> dict[str, tf.Variable]:
        """The backbone's and the head's variables under their canonical names."""
        return self.backbone.named_variables | super().named_variables

    @property
    def trainable(self) -> dict[str, tf.Variable]:
        """The backbone's and the head's variables that training changes by gradients."""
        return self.backbone.trainable | super().trainable

    @property
    def head_names(self) -> frozenset[str]:
        """The names of the head's own variables."""
        return frozenset(self._by_name)

    def assign(self, weights: Mapping[str, np.ndarray], source: str = "weights") -> None:
        """Assign the weights of a whole model by canonical name.

        Raises:
            InputError: a variable is missing or has another shape; then none has changed.
        """
        check_weights((*self.backbone.plan.variables, *self.head.variables), weights, source)
        for part in (self.backbone, self):
            part._assign({name: weights[name] for name in part._by_name})

    def _build(self, output: str, images: tf.Tensor, training: bool) -> tf.Tensor:
        dropout = tf.random.uniform if training else None
        if output == COARSE_LOGITS:
            return self._cells(images, training, dropout, None, False)[0]
        canvas, boxes = self._pad_to_canvas(images)
        cells, _ = self._cells(canvas, training, dropout, boxes, False)
        return _on_pixels(cells, canvas, images) if output == LOGITS else cells

    def _pad_to_canvas(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Pad `images` to the next aligned size; return canvases and images' boxes: see :func:`canvas_ops.coverage_mask`."""
        height, width = (_size(images, axis) for axis in (1, 2))
        stride = self.backbone.plan.nominal_stride
        below, right = (aligned_size(side, stride) - side for side in (height, width))
        return tf.pad(images, [[0, 0], [0, below], [0, right], [0, 0]]), boxes_of(tf.stack([[height, width]]))

    def _cells_of_images(self, canvases: tf.Tensor, sizes: np.ndarray) -> tf.Tensor:
        """Compute logits of cells by the slim graph, for images of those sizes in the top left corners of canvases.

        Each image runs on the canvas that it needs; cells beyond are 0.
        """
        if self.head.canvas == PADDED:
            return self.logits(canvases)
        stride = SKIP_STRIDE if self.head.skip else self.head.output_stride
        grid = [geometry.output_size(side, stride) for side in canvases.shape[1:3]]
        found = []
        for canvas, (height, width) in zip(canvases, np.broadcast_to(sizes, (len(canvases), 2)), strict=True):
            [cells] = self._run(IMAGE_CELLS, canvas[None, : max(1, height), : max(1, width)], False)
            found.append(tf.pad(cells, [*((0, all_ - own) for all_, own in zip(grid, cells.shape[:2], strict=True)), (0, 0)]))
        return tf.stack(found)

    def _build_folded(
        self, layers: Layers, canvases: tf.Tensor, boxes: tf.Tensor | None, ends: ImageEnds | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (features, cells) of the inference graph, float32."""
        head = self.head
        skip = head.skip.convolutions[-1].scope if head.skip else None
        found = network(layers, self.backbone.plan, canvases, skip=skip, ends=ends)
        cells = build_folded_head(layers, head, found.features, found.skip, boxes if head.canvas == IMAGE else None)
        if ends:
            cells = apply_mask(cells, ends.inside(cells, SKIP_STRIDE if head.skip else head.output_stride))
        return tf.cast(found.features, tf.float32), tf.cast(cells, tf.float32)

    def _cells(
        self, images: tf.Tensor, training: bool, dropout: Uniform | None, boxes: tf.Tensor | None, freeze_image_pooling: bool
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Return the logits of cells, and the backbone's end points."""
        end_points = self.backbone.end_points(images, training)
        skip = end_points[self.head.skip.convolutions[-1].scope] if self.head.skip else None
        boxes = boxes if self.head.canvas == IMAGE else None
        with self._own_variables():
            cells = build_head(
                self.head, end_points["features"], skip, training, boxes=boxes, dropout=dropout, batch_norm_decay=self._decay,
                freeze_image_pooling=freeze_image_pooling,
            )  # fmt: skip
        return cells, end_points


def check_weights(
    variables: Iterable[Variable], weights: Mapping[str, np.ndarray], source: str, head: str | None = None
) -> None:
    """Raise an :class:`InputError` if `weights` lack a variable of a plan, or of the `head` that they seem to have."""
    doubt, needs = "", "this model needs"
    if head:
        doubt, needs = f"this looks like a backbone with the head {head!r}, but ", "the head needs"
    for name, shape, _ in variables:
        if name not in weights or weights[name].shape != shape:
            found = f"has shape {list(weights[name].shape)}" if name in weights else "is missing"
            raise InputError(f"{source}: {doubt}{name} {found}; {needs} {list(shape)}.")


def _on_pixels(cells: tf.Tensor, canvas: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Enlarge logits of cells to `canvas`, and crop them to the pixels of `images`, which lie on it."""
    pixels = resize_align_corners(cells, [_size(canvas, axis) for axis in (1, 2)])
    return pixels[:, : _size(images, 1), : _size(images, 2)]


def _size(images: tf.Tensor, axis: int) -> Any:
    """Return the static size of an axis if there is one, otherwise the dynamic size."""
    static = images.shape[axis]
    return tf.shape(images)[axis] if static is None else static
