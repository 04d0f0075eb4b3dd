"""Run an exported file as another program does, in a fresh process with the runtime of its format alone.

    python foreign_run.py savedmodel exported/ features labels <arrays.npz >answers.npz

Nothing of this project is imported there, and none of its settings are in the environment: an export is read back like this
before it is moved to its path. Arrays travel through pipes, so that a kill leaves no files.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
OWN_SETTINGS = (ONEDNN, "TF_CPP_MIN_LOG_LEVEL")  # what this project sets before it imports TensorFlow
ALONE, SIZED = "serving_default", "sized"  # signatures of a SavedModel: images, and images with their sizes
SAVED_MODEL, ONNX, OPENVINO, TFLITE = "savedmodel", "onnx", "openvino", "tflite"
PROGRAMS = {SAVED_MODEL: "TensorFlow", ONNX: "ONNX Runtime", OPENVINO: "OpenVINO", TFLITE: "LiteRT"}  # what runs each
OPENVINO_GRAPH = "model.xml"  # in the folder, with the weights next to it
OPENVINO_HINT = ["runtime_options", "INFERENCE_PRECISION_HINT"]  # where such a graph says how it is to be computed
LONGEST = 400  # characters of a message

Arrays = Mapping[str, np.ndarray]


class ForeignRunError(RuntimeError):
    """The other process failed; the message is the last line that it wrote."""


def run_in_fresh_process(
    kind: str, path: str | os.PathLike[str], calls: Sequence[Arrays], names: Sequence[str], environment: Mapping[str, str]
) -> list[dict[str, np.ndarray]]:
    """Run an export in a fresh process and return the outputs with these names, call by call.

    Args:
        kind: "savedmodel", "onnx" or "openvino".
        environment: variables for the process in addition to ours, from which OWN_SETTINGS are taken out.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
    done = subprocess.run(
        [sys.executable, __file__, kind, os.fspath(path), *names],
        input=_pack_arrays(calls),
        capture_output=True,
        env=inherited | dict(environment),
    )
    if done.returncode < 0:
        raise ForeignRunError(f"signal {-done.returncode} ended it")
    if done.returncode:
        printed = done.stderr.decode(errors="replace").strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise ForeignRunError(printed[-1][:LONGEST])
    return _unpack_arrays(done.stdout)


def _pack_arrays(calls: Iterable[Arrays]) -> bytes:
    buffer = io.BytesIO()
    named: dict[str, Any] = {f"{number}.{name}": array for number, call in enumerate(calls) for name, array in call.items()}
    np.savez(buffer, **named)
    return buffer.getvalue()


def _unpack_arrays(data: bytes) -> list[dict[str, np.ndarray]]:
    calls: dict[int, dict[str, np.ndarray]] = {}
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for key in arrays.files:
            number, _, name = key.partition(".")
            calls.setdefault(int(number), {})[name] = arrays[key]
    return list(calls.values())


# -- in the fresh process ----------------------------------------------------------------------------------------------


def _run_saved_model(path: str, calls: Iterable[Arrays], names: Sequence[str]) -> Iterator[Arrays]:
    import tensorflow as tf

    signatures = tf.saved_model.load(path).signatures
    for arrays in calls:
        found = signatures[SIZED if "sizes" in arrays else ALONE](**{name: tf.constant(a) for name, a in arrays.items()})
        yield {name: found[name].numpy() for name in names}


def _run_onnx(path: str, calls: Iterable[Arrays], names: Sequence[str]) -> Iterator[Arrays]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for arrays in calls:
        yield dict(zip(names, session.run(names, dict(arrays)), strict=True))


def _run_openvino(path: str, calls: Iterable[Arrays], names: Sequence[str]) -> Iterator[Arrays]:
    import openvino

    model = openvino.Core().read_model(os.path.join(path, OPENVINO_GRAPH))
    # the processor's plugin does not read this by itself, and would take bfloat16 where it is fast
    run = openvino.compile_model(model, "CPU", {OPENVINO_HINT[-1]: model.get_rt_info(OPENVINO_HINT).value})
    for arrays in calls:
        found = run(dict(arrays))
        yield {name: found[name] for name in names}


def _run_tflite(path: str, calls: Iterable[Arrays], names: Sequence[str]) -> Iterator[Arrays]:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(path).get_signature_runner()
    for arrays in calls:
        found = run(**arrays)
        yield {name: found[name] for name in names}


def main(arguments: Sequence[str], given: IO[bytes], answers: IO[bytes]) -> None:
    """Run an export on the given arrays and write its outputs: the work of the fresh process."""
    kind, path, *names = arguments
    run = {SAVED_MODEL: _run_saved_model, ONNX: _run_onnx, OPENVINO: _run_openvino, TFLITE: _run_tflite}[kind]
    answers.write(_pack_arrays(run(path, _unpack_arrays(given.read()), names)))


if __name__ == "__main__":
    own = os.path.realpath(os.path.dirname(__file__))  # where files have names that installed packages may have too
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != own]
    with os.fdopen(os.dup(1), "wb") as results:
        os.dup2(2, 1)  # frameworks' own output goes to stderr, not into the answer
        main(sys.argv[1:], sys.stdin.buffer, results)
