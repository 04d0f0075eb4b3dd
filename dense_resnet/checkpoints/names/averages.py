"""Averages of weights, which training may store next to the weights: identified by their names.

In slim's checkpoints they are ``NAME/ExponentialMovingAverage``, in models of PyTorch and Keras a copy of the network
(``ema_model.NAME``), in PyTorch's files a second dictionary (``model_ema``, ``state_dict_ema``). Plain weights are read if both
are present, averages if there is nothing else; a note reports which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from dense_resnet.errors import pluralize

WORD = re.compile(r"(?:^|[^a-z])(?:ema|swa|shadow|averaged|(?:exponential_?)?moving_?averages?)(?:[^a-z]|$)", re.IGNORECASE)
COUNTER = "n_averaged"  # in the state dictionary of torch.optim.swa_utils.AveragedModel
COUNTED = f"The weights are averages: the file also has {COUNTER}, as torch.optim.swa_utils.AveragedModel writes it."
OUTER = 2  # parts of an array's name that may belong to a wrapper; further in they name layers


def is_average(name: object) -> bool:
    """Return whether a dictionary, a wrapper or a slot of that name has averages.

    >>> is_average("state_dict_ema"), is_average("module.ema_model."), is_average("ExponentialMovingAverage")
    (True, True, True)
    >>> is_average("schema"), is_average("moving_mean"), is_average("model")
    (False, False, False)
    """
    return isinstance(name, str) and WORD.search(name) is not None


def without_averages(names: Iterable[str]) -> list[str]:
    """Return `names` without those of averages, or all of them if there are no others."""
    names = list(names)
    return [name for name in names if not is_average(name)] or names


def without_suffix(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return `arrays` and notes; averages get their variables' names if these are absent."""
    variables = {name: name.rpartition("/")[0] for name in arrays if "/" in name and is_average(name.rpartition("/")[2])}
    if not variables:
        return arrays, ()
    suffix = "/" + next(iter(variables)).rpartition("/")[2]
    if len(set(variables.values())) < len(variables) or any(variable in arrays for variable in variables.values()):
        take = f"{{name.removesuffix({suffix!r}): value for name, value in dr.checkpoints.read(path).items()}}"
        return arrays, (
            f"The file also has moving averages of {pluralize(len(variables), 'variable')} (…{suffix}). The plain weights are "
            f"read; the averages are {take}.",
        )
    taken = {variables.get(name, name): value for name, value in arrays.items()}
    return taken, (f"The weights are moving averages (…{suffix}): the file has no others.",)


def beside_prefix(names: Iterable[str], prefix: str | None) -> tuple[str, ...]:
    """Return notes on a network whose arrays begin with `prefix`, in a file with arrays of these `names`."""
    if is_average(prefix):
        return (f"The weights are averages, by their names (under {prefix!r}).",)
    others: dict[str, list[str]] = {}
    for name in names:
        parts = re.split(r"(?<=[./])", name)
        wrapper = next((part for part in parts[:OUTER] if is_average(part.rstrip("./"))), None)
        if wrapper:
            others.setdefault(wrapper, []).append(name)
    return tuple(
        f"The file also has {pluralize(len(found), 'array')} that are averages, by their names (such as {found[0]}). "
        f"Only those {f'under {prefix!r}' if prefix else 'without that prefix'} were read."
        for found in others.values()
    )


def beside_entry(read: str, others: Iterable[str]) -> tuple[str, ...]:
    """Return notes on a PyTorch file of which the entry `read` is read, "" for all of it; `others` are averages."""
    if is_average(read):
        return (f"The weights are averages, by their name in the file: {read}.",)
    return tuple(
        f"The file also has averages, by their name: {other}. The weights {read or 'next to them'} were read. To use the "
        f"averages, save only them: torch.save(torch.load(path){other}, 'averages.pth')."
        for other in others
    )
