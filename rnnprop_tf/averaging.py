"""Average of the iterates of a training, and the statistics of BatchNormalization at it.

The average is polynomial-decay averaging (Shamir and Zhang 2013): on average an iterate in it is a tenth of
the training old, however long that is, so there is no length to choose. Keras's `use_ema` has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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
        before: int64 scalar, how many steps had been taken before the call of `apply`.
        now: int64 scalar, how many have been after it.

    Returns:
        A float32 scalar in [0, 1]. 0 where no step was taken; but 1 as long as none ever was, so that the
        average always holds values that the variables have had.
    """
    newest = (DECAY + 1) / (tf.cast(now, "float32") + DECAY)
    return tf.where(now > before, newest, tf.cast(tf.equal(now, 0), "float32"))


def update(
    strategy: tf.distribute.Strategy,
    averages: Sequence[keras.Variable | None],
    variables: Sequence[keras.Variable | tf.Variable],
    weight: Tensor,
) -> None:
    """Moves the averages towards the variables, on each replica.

    Args:
        strategy: the optimizer's. It is called in a replica's context.
        averages: one for each variable, of its shape and type; None for one that has none.
        variables: the variables.
        weight: that of the variables' values, a float32 scalar.
    """

    def move(average: tf.Variable, variable: tf.Variable, weight: Tensor) -> None:
        dtype = keras.backend.result_type(average.dtype.name, "float32")
        weight, old, new = (tf.cast(tensor, dtype) for tensor in (weight, average, variable))
        average.assign(tf.cast((1 - weight) * old + weight * new, average.dtype))

    def move_all(strategy: tf.distribute.Strategy, weight: Tensor) -> None:
        for average, variable in zip(averages, variables, strict=True):
            if average is not None:
                new = variable.value if isinstance(variable, keras.Variable) else variable
                strategy.extended.update(average.value, move, args=(new, weight), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(move_all, strategy, weight)


def recalibrate_batch_norm(model: keras.Model, dataset: Iterable[Any], steps: int | None = None) -> None:
    """Computes the moving statistics of BatchNormalization layers anew, for the weights that the model has.

    An average of weights needs it: the moving statistics are those of the single iterates, and an optimizer
    does not see them. Call it after `fit`, before the model is evaluated or saved.

    The statistics become the means, over the batches, of each batch's mean and variance. Each batch costs
    one forward pass, with `training=True`, so dropout is active as it was in training. No gradient is
    computed and no trainable variable changes. Frozen layers (`trainable=False`) keep their statistics, which
    they use in training too. For a model without other such layers no data are read.

    Args:
        model: A built Keras model.
        dataset: Batches of training data as `fit` takes them, such as a `tf.data.Dataset`: each of inputs, or
            a tuple that begins with them. The size of the batches should be that of training.
        steps: Int. How many batches to take. Defaults to all, which an endless dataset never comes to.

    Raises:
        TypeError: If `dataset` is an array.
        ValueError: If there are no batches, or fewer than `steps`.

    Example:

    >>> model.compile(optimizer=rnnprop_tf.RNNprop.from_pretrained(use_averaging=True), loss="mse")
    >>> model.fit(dataset)
    >>> rnnprop_tf.recalibrate_batch_norm(model, dataset, steps=20)
    """
    if isinstance(dataset, np.ndarray | tf.Tensor):
        raise TypeError(
            "`dataset` must be batches of training data, as in "
            "`tf.data.Dataset.from_tensor_slices(x).batch(32)`. Received: an array of shape "
            f"{tuple(dataset.shape)}"
        )
    if isinstance(dataset, keras.utils.PyDataset):  # Not iterable: nothing ends it.
        dataset = map(dataset.__getitem__, range(len(dataset)))
    layers = [
        layer
        for layer in model._flatten_layers(include_self=True)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not layers:
        return
    # With a momentum of 0, moving statistics are those of the last batch.
    momenta = [layer.momentum for layer in layers]
    statistics = [s for layer in layers for s in (layer.moving_mean, layer.moving_variance)]
    sums = [np.zeros(s.shape) for s in statistics]
    before = [s.numpy() for s in statistics]
    count = 0

    @tf.function(autograph=False, reduce_retracing=True)
    def forward(x: Any) -> None:
        model(x, training=True)

    try:
        for layer in layers:
            layer.momentum = 0.0
        for batch in itertools.islice(dataset, steps):
            x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            forward(tf.nest.map_structure(tf.convert_to_tensor, x))
            for total, statistic in zip(sums, statistics, strict=True):
                total += statistic.numpy()
            count += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for statistic, value in zip(statistics, before, strict=True):
            statistic.assign(value)
    if count == 0 or (steps is not None and count < steps):
        raise ValueError(
            f"`dataset` must have {'at least one batch' if steps is None else f'{steps} batches'} to compute "
            "statistics from. Give more data, or fewer `steps`; a dataset that ended may have to `repeat()`. "
            f"Received: {count} batches"
        )
    for statistic, total in zip(statistics, sums, strict=True):
        statistic.assign(total / count)
