"""Keras' weight files: ``.h5``, ``.weights.h5`` and ``.keras``, to ``{"layer/variable": float32 array}``.

The legacy layout lists its layers in an attribute ``layer_names`` and their arrays in ``weight_names``; a whole model has it
under ``model_weights``. The later one (``.weights.h5``) has a group for each layer, named by the layer's class and number
(``layers/conv2d_3/vars/0``); newer Keras stores the layer's own name with it, and the configuration in a ``.keras`` archive has
it too, which serves for names only. A nested model's name precedes its layers': ``resnet50/conv1_conv/kernel``.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dense_resnet.checkpoints.containers import ARCHIVE_ERRORS, ZIP_START, refuse_damaged
from dense_resnet.checkpoints.containers.hdf5 import COMPRESSION, SMALL, File
from dense_resnet.checkpoints.containers.hdf5_datasets import Array, locate
from dense_resnet.checkpoints.containers.hdf5_nodes import LONGEST_NAME, Node
from dense_resnet.errors import InputError
from dense_resnet.jobs import atomic_files

ARCHIVE = ".keras"
SUFFIXES = (".h5", ".hdf5", ARCHIVE)

LARGEST_CONFIGURATION = 2**22  # bytes; as JSON's objects they take thirty times as much
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # groups that are not layers; the second is TensorFlow 2.12's
NOT_LAYERS = ("optimizer", "metrics", "_metrics", "loss", "_loss")  # at the top

VARIABLES = {  # of a layer, in the order in which Keras stores them
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
}
RANKS = {"kernel": (2, 4), "depthwise_kernel": (4,), "pointwise_kernel": (4,)}  # of the others 1


def read(path: Path) -> dict[str, np.ndarray]:
    """Read the floating-point arrays of a Keras weights file or saved model as float32, under ``"layer/variable"``.

    Optimizers, metrics and integers (a dropout's seeds) are left out; variables of unknown layers are called by their number.
    """
    atomic_files.check_there(path)
    try:
        with path.open("rb") as stream:
            if path.suffix == ARCHIVE or stream.read(len(ZIP_START)) == ZIP_START:
                return _read_archive(stream, path)
            return _read_arrays(File(stream, path.stat().st_size, str(path)))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}.") from error


def _read_arrays(file: File, configuration: Any = None) -> dict[str, np.ndarray]:
    """Read all arrays of `file`, of either layout; the model's configuration names layers where the later one does not."""
    root = Node(file, "", file.root, 0)
    if "model_weights" in root.addresses:
        root = root.open("model_weights")
    if root.read_strings("layer_names") is not None:
        found = _legacy(root)
    elif {"vars", *CONTAINERS} & set(root.addresses):
        found = _later(root, configuration)
    else:
        raise InputError(
            f"{file.source}: neither layer_names nor layers are in it, so Keras did not write it; it has "
            f"{', '.join(list(root.addresses)[:5]) or 'nothing'}."
        )
    described: dict[str, Array | None] = {}
    for name, node in found:
        if name in described:
            raise InputError(f"{file.source}: {name} occurs twice; rename the layers, and save again.")
        described[name] = locate(node)  # integers stay unread
    with np.errstate(over="ignore", invalid="ignore"):  # the code that takes the values refuses infinite ones
        arrays = {name: array.read().astype(np.float32) for name, array in described.items() if array}
    if not arrays:
        raise InputError(f"{file.source}: contains no weights.")
    return arrays


def _legacy(root: Node) -> Iterator[tuple[str, Node]]:
    for layer in root.read_strings("layer_names") or ():
        group = root.open(layer)
        names = group.read_strings("weight_names")
        if names is None:
            raise InputError(f"{group.source}: its attribute 'weight_names' is missing: damaged.")
        owners = {name.rpartition("/")[0] for name in names}
        nested = len(owners) > 1  # a model or a compound layer; else the group's name is the layer's
        for name in names:
            inner, _, variable = name.partition(":")[0].rpartition("/")
            inside = inner.removeprefix(f"{layer}/") if nested and inner != layer else ""
            yield "/".join(part for part in (layer, inside, variable) if part), group.open(name)


def _later(node: Node, configuration: Any, outer: str = "", top: bool = True) -> Iterator[tuple[str, Node]]:
    """Yield the arrays of the layers in `node`, a model or a layer; `outer` is its name after those that enclose it."""
    for name in sorted(node.addresses):
        if name in CONTAINERS:
            container, listed = node.open(name), _layers_by_group(configuration)
            for group in sorted(container.addresses):
                yield from _layer(container.open(group), group, listed.get(group), outer)
        elif name != "vars" and not (top and name in NOT_LAYERS):
            yield from _layer(node.open(name), name, None, outer)


def _layer(node: Node, group: str, configuration: Any, outer: str) -> Iterator[tuple[str, Node]]:
    name = f"{outer}/{group}"
    if "vars" in node.addresses:
        variables = node.open("vars")
        own = variables.read_strings("name") or [_configured_name(configuration) or group]
        name = f"{outer}/{own[0]}"
        stored = {key: variables.open(key) for key in sorted(variables.addresses, key=lambda key: (len(key), key))}
        if len(name) > LONGEST_NAME:
            raise InputError(f"{node.source}: its name has {len(name)} characters; {LONGEST_NAME} are the most.")
        for variable, array in _name_variables(group, stored):
            yield f"{name}/{variable}".lstrip("/"), array
    yield from _later(node, configuration, name.lstrip("/"), top=False)


def _name_variables(group: str, stored: dict[str, Node]) -> Iterator[tuple[str, Node]]:
    """Name a layer's variables by its class, which `group` begins with; they keep their numbers if count or ranks differ."""
    known = VARIABLES.get(re.sub(r"_\d+$", "", group), ())
    if known[:1] == ("gamma",) and len(stored) == 2:  # neither center nor scale
        known = known[2:]
    least = len(known) - (known[-1:] == ("bias",))
    fits = least <= len(stored) <= len(known) and all(
        key == str(number) and len(array.shape) in RANKS.get(known[number], (1,))
        for number, (key, array) in enumerate(stored.items())
    )
    return zip(known if fits else stored, stored.values(), strict=False)


def _read_archive(stream: BinaryIO, path: Path) -> dict[str, np.ndarray]:
    damaged = refuse_damaged(path, f"a {ARCHIVE} archive", "Fetch it again, or save it again.", ARCHIVE_ERRORS)
    with damaged, zipfile.ZipFile(stream) as archive:
        configuration = json.loads(_member(archive, "config.json", path, LARGEST_CONFIGURATION))
        data = _member(archive, "model.weights.h5", path)
    return _read_arrays(File(io.BytesIO(data), len(data), f"{path}: model.weights.h5"), configuration)


def _member(archive: zipfile.ZipFile, name: str, path: Path, largest: int | None = None) -> bytes:
    """Return a member's bytes, unpacked after a check of its size; the archive verifies its CRC."""
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        count = "twice" if found else "not"
        raise InputError(f"{path}: {name} is {count} in the archive, so Keras did not write it.")
    size, stored = found[0].file_size, found[0].compress_size
    if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{path}: {name} is packed by the method {found[0].compress_type}; stored and deflated ones are read.")
    most = largest or max(SMALL, COMPRESSION * stored)
    if size > most or stored > path.stat().st_size:
        raise InputError(f"{path}: {name}: {size} bytes are declared and {stored} stored: the file is corrupt or malicious.")
    return archive.read(found[0])


def _layers_by_group(model: Any) -> dict[str, Any]:
    """Return the configurations of layers by their groups' names: the class in snake case, numbered from the second one on."""
    found: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    layers = _dictionary(_dictionary(model).get("config")).get("layers")
    for layer in layers if isinstance(layers, list) else ():
        kind = str(_dictionary(layer).get("class_name"))
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", kind).lower()
        found[f"{kind}_{counts[kind]}" if counts[kind] else kind] = layer
        counts[kind] += 1
    return found


def _configured_name(layer: Any) -> str | None:
    name = _dictionary(_dictionary(layer).get("config")).get("name")
    return name if isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable() else None


def _dictionary(value: Any) -> dict[str, Any]:
    """Return `value` if it is a JSON object, otherwise an empty one: a configuration may hold anything."""
    return value if isinstance(value, dict) else {}
