"""Average of the iterates of a training.

The average is polynomial-decay averaging (Shamir and Zhang 2013): on average an iterate in it is a tenth of
the training old, however long that is, so there is no length to choose. Keras's `use_ema` has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from rnnprop_tf.network import Tensor

DECAY = 8
"""The g of Shamir and Zhang: the newest iterate's weight is (g + 1) / (t + g + 1), where t steps were taken
before its own. It tends to (g + 1) times that of an average of all."""

KERAS_AVERAGE: Mapping[str, Any] = {"use_ema": False, "ema_momentum": 0.99, "ema_overwrite_frequency": None}
"""Keras's arguments for its own average, and their defaults."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuses arguments for Keras's own average.

    Raises:
        ValueError: one of them is not its default.
    """
    for name, default in KERAS_AVERAGE.items():
        if (value := arguments.get(name, default)) != default:
            raise ValueError(
                f"`use_averaging=True` keeps an average that needs no length; `{name}` is for Keras's own, "
                f"`use_ema=True`. Choose one of the two: leave out `{name}`, or `use_averaging`. "
                f"Received: use_averaging=True, {name}={value}"
            )


def newest_weight(before: Tensor, now: Tensor) -> Tensor:
    """The weight in the average of the values that the variables have now.

    Args:
        before: integer scalar, how many steps had been taken before the call of `apply`.
        now: integer scalar, how many have been after it.

    Returns:
        A float32 scalar in [0, 1]. 0 where no step was taken; but 1 as long as none ever was, so that the
        average always holds values that the variables have had.
    """
    newest = (DECAY + 1) / (ops.cast(now, "float32") + DECAY)
    return ops.where(ops.greater(now, before), newest, ops.cast(ops.equal(now, 0), "float32"))


def moved(average: Tensor, newest: Tensor, weight: Tensor) -> Tensor:
    """The next value of an average.

    Args:
        average: a tensor or variable.
        newest: the value to take in, of the same shape and type.
        weight: that of the newest value, a float32 scalar.

    Returns:
        A tensor of the same shape and type.
    """
    dtype = keras.backend.result_type(average.dtype, "float32")
    weight, old, new = (ops.cast(tensor, dtype) for tensor in (weight, average, newest))
    return ops.cast((1 - weight) * old + weight * new, average.dtype)
