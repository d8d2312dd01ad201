"""Cost of RNNprop for a model on this machine, known before training."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from rnnprop_tf import backends
from rnnprop_tf.learned import LearnedOptimizer
from rnnprop_tf.optimizer import RNNprop

MIB = 2**20
ENOUGH = 0.5
"""Seconds of updates to time: the first ones of a small model take several times as long as later ones."""


class Cost(NamedTuple):
    """Cost of one optimizer for a model."""

    name: str
    state_bytes: int
    temporary_bytes: int
    """About; besides state and gradients. 0 for Adam, whose are small."""
    milliseconds: float
    """Time of an update, gradients given; a training step takes forward and backward pass besides."""


def profile(
    model: keras.Model, optimizer: LearnedOptimizer | None = None, updates: int = 10
) -> tuple[Cost, Cost]:
    """Measures RNNprop and Adam on variables like the model's and prints a table.

    The model is left as it is; it must be built. Needs the memory that training will need for the optimizer.

    Args:
        model: A built Keras model.
        optimizer: Whose settings to take. Defaults to `RNNprop()`.
        updates: How many updates to time at least, and half a second of them; the median counts.

    Returns:
        The costs of the learned optimizer and of Adam.

    Raises:
        ValueError: If the model has no trainable variables, or is not built.

    Example:

    >>> rnnprop_tf.profile(keras.applications.MobileNetV3Small(weights=None))
    """
    if not model.trainable_variables:
        raise ValueError(
            "There is nothing to measure: expected a built model with trainable variables. Call "
            f"`model.build(input_shape)` first. Received: {model.name!r} with none."
        )
    ours: LearnedOptimizer = RNNprop(name="rnnprop") if optimizer is None else optimizer
    sizes = [int(np.prod(variable.shape)) for variable in model.trainable_variables]
    fresh = type(ours).from_config(ours.get_config())
    costs = (
        _measure(fresh, model, backends.temporary_bytes(sizes, ours.rule, ours.network), updates),
        _measure(keras.optimizers.Adam(name="adam"), model, 0, updates),
    )
    print(_table(sum(sizes), len(sizes), costs))
    return costs


def _measure(optimizer: keras.optimizers.Optimizer, model: keras.Model, temporary: int, updates: int) -> Cost:
    variables = [keras.Variable(ops.zeros(v.shape), dtype=v.dtype) for v in model.trainable_variables]
    gradients = [keras.random.normal(v.shape, dtype=v.dtype, seed=0) for v in variables]
    optimizer.build(variables)
    step = backends.repeated_step(optimizer, gradients, variables)

    def seconds() -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    seconds()  # Traces and compiles.
    times: list[float] = []
    end = time.perf_counter() + ENOUGH
    while len(times) < updates or time.perf_counter() < end:
        times.append(seconds())
    milliseconds = 1e3 * float(np.median(times))
    state = sum(math.prod(v.shape) * ops.convert_to_numpy(v).itemsize for v in optimizer.variables)
    return Cost(optimizer.name, state, temporary, milliseconds)


def _table(parameters: int, variables: int, costs: tuple[Cost, Cost]) -> str:
    lines = [
        f"{parameters:,} parameters in {variables} trainable variables",
        f"{'':14}{'state MiB':>12}{'temporary MiB':>16}{'ms an update':>14}",
    ]
    for cost in costs:
        temporary = f"{cost.temporary_bytes / MIB:.1f}" if cost.temporary_bytes else "small"
        lines.append(f"{cost.name:14}{cost.state_bytes / MIB:12.1f}{temporary:>16}{cost.milliseconds:14.2f}")
    return "\n".join(lines)
