"""The optimizers: how variables follow their gradients, and what each keeps for that, a *slot* for every variable."""

from __future__ import annotations

import math
from collections.abc import Mapping

import tensorflow as tf

from segmentation.training.recipe import ADAMW, SGD, Recipe

MOMENTUM, SQUARES = "momentum/", "squares/"  # of slots' names, before the variable's
SLOTS = {SGD: (MOMENTUM,), ADAMW: (MOMENTUM, SQUARES)}
SECOND_BETA, EPSILON = 0.999, 1e-8  # of AdamW, its authors' choice; the first beta is the recipe's momentum


def decays(name: str) -> bool:
    """Return whether a variable is subject to weight decay: convolutions' weights are; biases and batch norms are not."""
    return name.endswith("/weights")


def apply_gradient(
    recipe: Recipe, name: str, variable: tf.Variable, gradient: tf.Tensor, slots: Mapping[str, tf.Variable], rate: tf.Tensor,
    step: tf.Tensor,
) -> None:  # fmt: skip
    """Change a variable and its slots by its gradient.

    SGD: the gradient comes with the L2 penalty, as slim has it. AdamW: the weights shrink by rate x weight decay, apart from
    the gradient, as PyTorch has it (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101).

    Args:
        slots: all, by name.
        rate: the learning rate of this variable.
        step: int32, from 0.
    """
    momentum = slots[MOMENTUM + name]
    if recipe.optimizer == SGD:
        momentum.assign(recipe.momentum * momentum + gradient)
        variable.assign_sub(rate * momentum)
        return
    squares, updates = slots[SQUARES + name], tf.cast(step + 1, tf.float32)
    momentum.assign(recipe.momentum * momentum + (1 - recipe.momentum) * gradient)
    squares.assign(SECOND_BETA * squares + (1 - SECOND_BETA) * gradient**2)
    mean, square = momentum / _bias(recipe.momentum, updates), squares / _bias(SECOND_BETA, updates)
    shrunk = variable * (1 - rate * recipe.weight_decay) if decays(name) else variable
    variable.assign(shrunk - rate * mean / (tf.sqrt(square) + EPSILON))


def _bias(beta: float, updates: tf.Tensor) -> tf.Tensor:
    """Return 1 - beta ** updates, exactly where beta is near 1."""
    return -tf.math.expm1(updates * math.log(beta)) if beta else tf.ones_like(updates)
