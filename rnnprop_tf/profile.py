"""Cost of RNNprop for a model on this machine, known before training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from rnnprop_tf import compute
from rnnprop_tf.optimizer import LearnedOptimizer, RNNprop

MIB = 2**20


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
        updates: How many updates to time; the median counts.

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
        _measure(fresh, model, compute.temporary_bytes(sizes, ours.rule, ours.network), updates),
        _measure(keras.optimizers.Adam(name="adam"), model, 0, updates),
    )
    print(_table(sum(sizes), len(sizes), costs))
    return costs


def _measure(optimizer: keras.optimizers.Optimizer, model: keras.Model, temporary: int, updates: int) -> Cost:
    variables = [keras.Variable(tf.zeros(v.shape), dtype=v.dtype) for v in model.trainable_variables]
    gradients = [tf.cast(tf.random.normal(v.shape), v.dtype) for v in variables]
    # Compiled on a GPU only, as `fit` does by default.
    compiled = bool(tf.config.list_logical_devices("GPU"))
    step = tf.function(lambda: optimizer.apply(gradients, variables), jit_compile=compiled, autograph=False)
    optimizer.build(variables)
    milliseconds = 1e3 * _median_seconds(step, variables, updates)
    state = sum(v.value.shape.num_elements() * v.value.dtype.size for v in optimizer.variables)
    return Cost(optimizer.name, state, temporary, milliseconds)


def _median_seconds(step: Callable, variables: list[keras.Variable], repeats: int) -> float:
    def seconds() -> float:
        start = time.perf_counter()
        step()
        variables[-1].numpy()  # Waits for the device.
        return time.perf_counter() - start

    seconds()  # Traces and compiles.
    return float(np.median([seconds() for _ in range(repeats)]))


def _table(parameters: int, variables: int, costs: tuple[Cost, Cost]) -> str:
    lines = [
        f"{parameters:,} parameters in {variables} trainable variables",
        f"{'':14}{'state MiB':>12}{'temporary MiB':>16}{'ms an update':>14}",
    ]
    for cost in costs:
        temporary = f"{cost.temporary_bytes / MIB:.1f}" if cost.temporary_bytes else "small"
        lines.append(f"{cost.name:14}{cost.state_bytes / MIB:12.1f}{temporary:>16}{cost.milliseconds:14.2f}")
    return "\n".join(lines)
