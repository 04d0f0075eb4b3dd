"""Write and open a graph of OpenVINO's: model.xml, model.bin with the weights, and our description, model.json.

In float32 and bfloat16 it is the graph of our OpenVINO engine. (``tests/segmentation/saving/test_export_openvino.py``)
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import openvino as ov

from dense_resnet.errors import InputError
from dense_resnet.inference import quantization
from dense_resnet.inference.openvino import HINTS, GraphRunner, OpenVINORunner, nodes_of
from dense_resnet.inference.precision import INT8
from dense_resnet.inference.runner import IMAGES, SIZES, Runner
from dense_resnet.planning.layers import Pool
from segmentation.saving.export.calibration import Calls
from segmentation.saving.export.exported import Exported, make_exported
from segmentation.saving.export.files import OPENVINO_FILES, read_sealed, write_export_description
from segmentation.saving.export.foreign_run import OPENVINO, OPENVINO_GRAPH, OPENVINO_HINT
from segmentation.saving.export.price import FEW


class ModelRunner(GraphRunner):
    """A graph of OpenVINO's, as it is in a file.

    Args:
        algorithm: which convolutions are computed by Winograd's algorithm, for protocols.
        of_network: the arguments of :class:`Runner`.
    """

    export = OPENVINO

    def __init__(self, model: Any, algorithm: Mapping[str, int], *of_network: Any) -> None:
        super().__init__(lambda: nodes_of(model), None, *of_network)
        self._algorithm = algorithm

    @property
    def engine_protocol(self) -> dict[str, Any]:
        return {"name": self.engine, "winograd": dict(self._algorithm)}


class OpenVINOGraph:
    """The :class:`segmentation.saving.export.exported.Graph` of this format, quantized by NNCF.

    Args:
        runner: the engine's, without Winograd's algorithm where it is to be quantized.
        calls: from which the ranges of activations are taken.
    """

    def __init__(self, runner: Runner, calls: Calls | None) -> None:
        assert isinstance(runner, OpenVINORunner)
        self._calls, self._model, self._plan = calls, runner.make_model(), runner.plan
        self._of_network = runner.weights_sha256, runner.names, runner.side
        self.description = {"winograd": runner.engine_protocol["winograd"]}
        self.runner = self._run(self._model, runner.precision)
        self._quantized: Any = None

    def _run(self, model: Any, precision: str) -> Runner:
        algorithm = self.description["winograd"]
        return ModelRunner(model, algorithm, self._plan, self._plan.preprocessing, precision, *self._of_network)

    def quantize(self, kept: Collection[str]) -> Runner:
        assert self._calls
        pools = [layer.scope for layer in self._plan.root if isinstance(layer, Pool)]  # beyond images -1e9, in no range
        self._quantized = quantization.quantize(self._model, self._calls, [*kept, *pools])
        return self._run(self._quantized, INT8)

    def measure_noise(self, parts: Sequence[str]) -> Mapping[str, float]:
        assert self._calls
        return quantization.measure_noise(self._model, self._quantized, parts, itertools.islice(self._calls, FEW))

    def write(self, path: Path, description: Mapping[str, Any]) -> None:
        model = self._quantized or self._model
        model.set_rt_info(HINTS[description["precision"]], OPENVINO_HINT)
        path.mkdir()
        try:
            ov.save_model(model, os.fspath(path / OPENVINO_GRAPH), compress_to_fp16=False)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        write_export_description(path, description, OPENVINO_FILES)


def open_openvino(folder: Path) -> Exported:
    description, data = read_sealed(folder, OPENVINO_FILES)
    try:
        model = ov.Core().read_model(*data)
        del data
        parameters, results = nodes_of(model)
        if parameters.keys() != {IMAGES, SIZES} or results.keys() != set(description["outputs"]):
            raise ValueError(f"its inputs are {sorted(parameters)}, its outputs {sorted(results)}")
    except Exception as error:  # OpenVINO has no common kind
        raise InputError(
            f"{folder / OPENVINO_GRAPH}: cannot be read by OpenVINO {ov.__version__}: {error}. It was written by "
            f"{description.get('versions')}."
        ) from error
    algorithm = description.get("winograd", {})
    return make_exported(folder, OPENVINO, description, lambda *of_network: ModelRunner(model, algorithm, *of_network))
