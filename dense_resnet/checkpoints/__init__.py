"""Weights on disk: one file here per source, each to and from ``{canonical name: float32 array}``.

The canonical name is TF-Slim's variable name, so any source works with any builder. A file is read in two steps: what it is
packed in (:mod:`slim`, :mod:`safetensors`, :mod:`hdf5`, :mod:`pickled`) gives arrays under their own names, and where these
are a framework's, its map (:mod:`keras`, :mod:`torchvision`) gives canonical ones. What a network takes from such a
dictionary, and what is missing, is :func:`dense_resnet.checkpoints.report.match`'s to say. Nothing here unpickles.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dense_resnet import files, kinds, variants
from dense_resnet.checkpoints import averages, hdf5, keras, origin, pickled, safetensors, slim, torchvision
from dense_resnet.checkpoints.hdf5_file import SIGNATURE
from dense_resnet.checkpoints.origin import Origin
from dense_resnet.errors import InputError

Weights = dict[str, np.ndarray]

MODEL_WEIGHTS = "weights.safetensors"  # of a model directory
APPLICATION = "keras:"  # before the name of a network that Keras Applications fetches
OTHERS = (".npz", ".npy", ".pb", ".onnx", ".tflite", ".msgpack", ".gguf", ".mat", ".caffemodel", ".params")
SUFFIXES = (safetensors.SUFFIX, *hdf5.SUFFIXES, *pickled.SUFFIXES)  # of weights, slim checkpoints aside
READABLE = "slim checkpoints (V1 and V2), .safetensors, Keras' .h5 and .keras, PyTorch's .pth"


@dataclass(frozen=True)
class Source:
    """Weights, and what is known of where they come from."""

    name: str  # of the file, for messages
    weights: Weights = field(repr=False)  # under canonical names
    origin: Origin
    averages: tuple[str, ...] = ()  # which of weights and their averages were read, where there are averages

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of these weights beyond their origin, a sentence each."""
        return *self.averages, *origin.doubts(self.weights, self.origin)

    def under(self, scope: str) -> Source:
        """The same for a network of that scope: weights that may be Caffe's also fit the variant with Caffe's strides."""
        name, own = origin.caffe_variant(self.origin), self.origin.variant
        fits = name is not None and own is not None and own != name and scope == variants.VARIANTS[name].scope
        if not fits or not origin.has_untouched_statistics(self.weights, self.origin):
            return self
        old = variants.VARIANTS[own].scope
        weights = {
            scope + key.removeprefix(old) if key.startswith(f"{old}/") else key: value for key, value in self.weights.items()
        }
        known = {"framework": origin.CAFFE, "variant": name, "preprocessing": origin.CAFFE_SCHEME, "root": None}
        return dataclasses.replace(self, weights=weights, origin=dataclasses.replace(self.origin, **known))


def read(source: Any) -> Weights:
    """The weights of :func:`open_source`, without what is known of them."""
    return open_source(source).weights


def open_source(source: Any) -> Source:
    """All floating-point arrays of a source, as float32 under canonical names.

    Args:
        source: the path of a ``.safetensors`` file, of a slim or DeepLab checkpoint (a file of the V1 format, the prefix of
            a V2 one such as ``model.ckpt-1000``, one of its files, or a folder with a ``checkpoint`` file), of Keras'
            ``.h5``, ``.weights.h5`` or ``.keras``, of PyTorch's ``.pth``, ``.pt`` or ``.bin``, or of a model directory;
            ``keras:ResNet152V2``, which Keras Applications fetches; a Keras model or a PyTorch module in memory; a
            state dictionary.

    Raises:
        InputError: there is no such file, or it is damaged, or of another kind.
    """
    notes: list[str] = []
    arrays, packed, described = _arrays(source, notes.append)
    arrays, found = averages.without_suffix(arrays)
    notes += found
    name = source if isinstance(source, str | os.PathLike) else f"a {type(source).__name__} in memory"
    if packed in (hdf5, keras) or keras.recognises(arrays):
        framework, weights = origin.KERAS, keras.canonical(arrays, str(name))
        notes += averages.beside_prefix(arrays, keras.network_prefix(arrays))
        if any("." in array for array in arrays):  # our own Keras face, whose layers have slim's scopes
            framework = origin.OWN
    elif torchvision.recognises(arrays):
        framework, weights = origin.TORCH, torchvision.canonical(arrays, str(name))
        notes += averages.beside_prefix(arrays, torchvision.network_prefix(arrays, str(name)))
    else:
        framework, weights = (origin.SLIM if packed is slim else origin.OWN), arrays
    known = origin.from_json(described.get(origin.ENTRY)) or origin.origin_of(framework, weights)
    return Source(str(name), weights, known, tuple(notes))


def check_source(source: str) -> None:
    """Finds out without TensorFlow that there are weights to read, as far as names and first bytes say.

    Args:
        source: a path or ``keras:NAME``, as :func:`open_source` takes them.

    Raises:
        InputError: there is no such file, or it is of another kind.
    """
    if source.startswith(APPLICATION):
        keras.check_application(source.removeprefix(APPLICATION))
        return
    path = _file_of(source)
    packed = _packed_in(path)
    (slim if packed is slim else files).check_there(path)


def raw(source: Any) -> Weights:
    """The arrays of :func:`open_source` under the names that the source itself gives them."""
    return _arrays(source)[0]


def _arrays(source: Any, note: Callable[[str], object] = lambda sentence: None) -> tuple[Weights, Any, Mapping[str, Any]]:
    """Arrays under their own names, what they were packed in, and what the file is described with."""
    if isinstance(source, Mapping):
        arrays = {name: _array(value) for name, value in source.items()}
        floating = {name: value for name, value in arrays.items() if np.issubdtype(value.dtype, np.floating)}
        if averages.COUNTER in arrays:
            note(averages.COUNTED)
        return {name: value.astype(np.float32, copy=False) for name, value in floating.items()}, None, {}
    if hasattr(source, "state_dict"):
        return _arrays(source.state_dict(), note)
    if hasattr(source, "get_layer"):  # as Keras' models have
        return keras.arrays_of(source), keras, {}
    if isinstance(source, str) and source.startswith(APPLICATION):
        return keras.fetch(source.removeprefix(APPLICATION)), keras, {}
    if not isinstance(source, str | os.PathLike):
        hint = " Give its .weights." if isinstance(getattr(source, "weights", None), Mapping) else ""
        raise InputError(
            f"weights must be a path, a Keras model, a PyTorch module or a dictionary of arrays (not {source!r:.80}).{hint}"
        )
    path = _file_of(source)
    packed = _packed_in(path)
    arrays = pickled.read(path, note) if packed is pickled else packed.read(path)
    return arrays, packed, safetensors.metadata(path) if packed is safetensors else {}


def _array(value: Any) -> np.ndarray:
    """An array of an entry of a state dictionary, which PyTorch may hold on another device or in a type of its own."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def _file_of(source: str | os.PathLike[str]) -> Path:
    """The path of the weights; a model directory has them in a file of its own."""
    path = Path(source)
    return path / MODEL_WEIGHTS if (path / MODEL_WEIGHTS).is_file() else path


def _packed_in(path: Path) -> Any:
    """The reader for the file at `path`, by its first bytes, which names can belie; for what is no file, by its name."""
    suffix = path.suffix.lower()
    if path.is_file():
        try:
            with path.open("rb") as file:
                start = file.read(kinds.LENGTH)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
        if start.startswith(SIGNATURE):
            return hdf5
        if start.startswith(hdf5.ZIP_START) and suffix not in OTHERS:
            return hdf5 if suffix == hdf5.ARCHIVE else pickled
        if start[:2] in pickled.STARTS:
            return pickled
        if suffix not in (*pickled.SUFFIXES, *OTHERS) and (kind := kinds.kind_of(start)):
            raise InputError(f"{path}: this is {kind}, no file of weights. Read are {READABLE}.")
    if suffix == safetensors.SUFFIX:
        return safetensors
    if suffix in hdf5.SUFFIXES:
        return hdf5
    if suffix in pickled.SUFFIXES:
        return pickled
    if suffix in OTHERS:
        raise InputError(f"{path}: {suffix} files are not read; {READABLE} are.")
    return slim


def write(path: str | os.PathLike[str], weights: Mapping[str, np.ndarray], known: Origin | None = None) -> None:
    """Writes `weights` to a ``.safetensors`` file, or to a slim checkpoint of the V2 format where ".ckpt" is in the name.

    Args:
        known: what is known of where they come from; a slim checkpoint has no place for it.
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
        safetensors.write(path, weights, {origin.ENTRY: known.as_json()} if known else None)
    else:
        slim.write(path, weights)


def fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the names and values of `weights`, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].shape} {safetensors.digest(weights[name])}\n".encode())
    return digest.hexdigest()
