"""Open any weight file: its first bytes identify the container, its names the framework."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet.checkpoints import provenance
from dense_resnet.checkpoints.containers import ZIP_START, keras_h5, safetensors, tf_checkpoint, torch_pickle
from dense_resnet.checkpoints.containers.hdf5 import SIGNATURE
from dense_resnet.checkpoints.names import averages, keras_applications, torch_resnet
from dense_resnet.checkpoints.provenance import Origin
from dense_resnet.errors import InputError
from dense_resnet.image_io import file_types
from dense_resnet.jobs import atomic_files
from dense_resnet.planning import variants

Weights = dict[str, np.ndarray]

MODEL_WEIGHTS = "weights.safetensors"  # of a model directory
APPLICATION = "keras:"  # before the name of a network that Keras Applications fetches
OTHERS = (".npz", ".npy", ".pb", ".onnx", ".tflite", ".msgpack", ".gguf", ".mat", ".caffemodel", ".params")
READERS: dict[str, Any] = {
    safetensors.SUFFIX: safetensors,
    **dict.fromkeys(keras_h5.SUFFIXES, keras_h5),
    **dict.fromkeys(torch_pickle.SUFFIXES, torch_pickle),
}  # by suffix; what has none of these may be a slim checkpoint
SUFFIXES = tuple(READERS)
READABLE = "slim checkpoints (V1 and V2), .safetensors, Keras' .h5 and .keras, PyTorch's .pth"


@dataclass(frozen=True)
class Source:
    """Weights, and what is known of where they come from."""

    name: str  # of the file, for messages
    weights: Weights = field(repr=False)  # under canonical names
    origin: Origin
    averages: tuple[str, ...] = ()  # which of weights and their averages were read, if there are averages

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user has to know of these weights beyond their origin, one sentence each."""
        return *self.averages, *provenance.doubts(self.weights, self.origin)

    def under(self, scope: str) -> Source:
        """Return the source for a network of that scope: possible weights of Caffe also fit the variant with its strides."""
        name, own = provenance.caffe_variant(self.origin), self.origin.variant
        if name is None or own is None or own == name or scope != variants.VARIANTS[name].scope:
            return self
        if not provenance.has_untouched_statistics(self.weights, self.origin):
            return self
        old = f"{variants.VARIANTS[own].scope}/"
        weights = {re.sub(f"^{old}", f"{scope}/", key): value for key, value in self.weights.items()}
        origin = dataclasses.replace(
            self.origin, framework=provenance.CAFFE, variant=name, preprocessing=provenance.CAFFE_SCHEME, root=None
        )
        return dataclasses.replace(self, weights=weights, origin=origin)


def read(source: Any) -> Weights:
    """Read only the weights of :func:`open_source`."""
    return open_source(source).weights


def open_source(source: Any) -> Source:
    """Open all floating-point arrays of a source, as float32 under canonical names.

    Args:
        source: the path of a ``.safetensors`` file, of a slim or DeepLab checkpoint (a file of the V1 format, the prefix of
            a V2 one such as ``model.ckpt-1000``, one of its files, or a folder with a ``checkpoint`` file), of Keras'
            ``.h5``, ``.weights.h5`` or ``.keras``, of PyTorch's ``.pth``, ``.pt`` or ``.bin``, or of a model directory;
            ``keras:ResNet152V2``, which Keras Applications fetches; a Keras model or a PyTorch module in memory; a
            state dictionary.

    Raises:
        InputError: the file does not exist, is damaged, or is of another type.
    """
    notes: list[str] = []
    arrays, packed, described = _arrays(source, notes.append)
    arrays, found = averages.without_suffix(arrays)
    notes += found
    name = str(source) if isinstance(source, str | os.PathLike) else f"a {type(source).__name__} in memory"
    if packed in (keras_h5, keras_applications) or keras_applications.recognizes(arrays):
        framework = provenance.OWN if any("." in array for array in arrays) else provenance.KERAS  # ours have slim's scopes
        weights = keras_applications.canonical(arrays, name)
        notes += averages.beside_prefix(arrays, keras_applications.network_prefix(arrays))
    elif torch_resnet.recognizes(arrays):
        framework, weights = provenance.TORCH, torch_resnet.canonical(arrays, name)
        notes += averages.beside_prefix(arrays, torch_resnet.network_prefix(arrays, name))
    else:
        framework, weights = (provenance.SLIM if packed is tf_checkpoint else provenance.OWN), arrays
    known = provenance.from_json(described.get(provenance.ENTRY)) or provenance.origin_of(framework, weights)
    return Source(name, weights, known, tuple(notes))


def check_source(source: str) -> None:
    """Raise an :class:`InputError` if a path or ``keras:NAME`` has no weights, by names and first bytes, without TensorFlow."""
    if source.startswith(APPLICATION):
        keras_applications.check_application(source.removeprefix(APPLICATION))
        return
    path = _file_of(source)
    packed = _choose_reader(path)
    (tf_checkpoint if packed is tf_checkpoint else atomic_files).check_there(path)


def raw(source: Any) -> Weights:
    """Read the arrays of :func:`open_source` under the source's own names."""
    return _arrays(source)[0]


def _arrays(source: Any, note: Callable[[str], object] = lambda sentence: None) -> tuple[Weights, Any, Mapping[str, Any]]:
    """Read arrays under their own names, with their container and the file's metadata."""
    if isinstance(source, Mapping):
        arrays = {name: _array(value) for name, value in source.items()}
        if averages.COUNTER in arrays:
            note(averages.COUNTED)
        floating = {name: value for name, value in arrays.items() if np.issubdtype(value.dtype, np.floating)}
        return {name: value.astype(np.float32, copy=False) for name, value in floating.items()}, None, {}
    if hasattr(source, "state_dict"):
        return _arrays(source.state_dict(), note)
    if hasattr(source, "get_layer"):  # as in Keras' models
        return keras_applications.arrays_of(source), keras_applications, {}
    if isinstance(source, str) and source.startswith(APPLICATION):
        return keras_applications.fetch(source.removeprefix(APPLICATION)), keras_applications, {}
    if not isinstance(source, str | os.PathLike):
        hint = " Pass its .weights." if isinstance(getattr(source, "weights", None), Mapping) else ""
        wanted = "a path, a Keras model, a PyTorch module or a dictionary of arrays"
        raise InputError(f"weights must be {wanted} (not {source!r:.80}).{hint}")
    path = _file_of(source)
    packed = _choose_reader(path)
    arrays = torch_pickle.read(path, note) if packed is torch_pickle else packed.read(path)
    return arrays, packed, safetensors.metadata(path) if packed is safetensors else {}


def _array(value: Any) -> np.ndarray:
    """Return an entry of a state dictionary as an array; PyTorch may have it on another device or in its own type."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def _file_of(source: str | os.PathLike[str]) -> Path:
    """Return the path of the weights; a model directory has them in a separate file."""
    path = Path(source)
    return path / MODEL_WEIGHTS if (path / MODEL_WEIGHTS).is_file() else path


def _choose_reader(path: Path) -> Any:
    """Choose the reader for the file at `path` by its first bytes, since names may be wrong; by name if it is not a file."""
    suffix = path.suffix.lower()
    if path.is_file():
        try:
            with path.open("rb") as file:
                start = file.read(file_types.LENGTH)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
        if start.startswith(SIGNATURE):
            return keras_h5
        if start.startswith(ZIP_START) and suffix not in OTHERS:
            return keras_h5 if suffix == keras_h5.ARCHIVE else torch_pickle
        if start[:2] in torch_pickle.STARTS:
            return torch_pickle
        if suffix not in (*torch_pickle.SUFFIXES, *OTHERS) and (kind := file_types.describe(start)):
            raise InputError(f"{path}: this is {kind}, not a file of weights. Supported: {READABLE}.")
    if suffix in OTHERS:
        raise InputError(f"{path}: {suffix} files are not supported. Supported: {READABLE}.")
    return READERS.get(suffix, tf_checkpoint)


def write(path: str | os.PathLike[str], weights: Mapping[str, np.ndarray], known: Origin | None = None) -> None:
    """Write `weights` to a ``.safetensors`` file, or to a slim checkpoint of the V2 format if ".ckpt" is in the name.

    `known` is where they come from, which a slim checkpoint cannot record.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path must be that of a file (not {path!r:.80}).")
    path = Path(path)
    if path.suffix != safetensors.SUFFIX and ".ckpt" not in path.name:
        raise InputError(f"{path}: the name must end in .safetensors, or have .ckpt in it for a slim checkpoint.")
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise InputError(f"{path}: not written: {name} has values that are not finite.")
    if path.suffix == safetensors.SUFFIX:
        safetensors.write(path, weights, {provenance.ENTRY: known.as_json()} if known else None)
    else:
        tf_checkpoint.write(path, weights)


def fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the names and values of `weights`, independent of the file that they came from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].shape} {safetensors.digest(weights[name])}\n".encode())
    return digest.hexdigest()
