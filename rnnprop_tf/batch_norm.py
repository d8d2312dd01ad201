"""Statistics of BatchNormalization, computed anew for an average of weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from rnnprop_tf import backends


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
    if isinstance(dataset, np.ndarray) or ops.is_tensor(dataset):
        raise TypeError(
            "`dataset` must be batches of training data, as in "
            "`tf.data.Dataset.from_tensor_slices(x).batch(32)`. Received: an array of shape "
            f"{tuple(ops.shape(dataset))}"
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
    before = [ops.convert_to_numpy(s).copy() for s in statistics]
    sums = [np.zeros(s.shape) for s in statistics]
    count = 0

    forward = backends.forward(model)
    try:
        for layer in layers:
            layer.momentum = 0.0
        for batch in itertools.islice(dataset, steps):
            x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            forward(tree.map_structure(ops.convert_to_tensor, x))
            for total, statistic in zip(sums, statistics, strict=True):
                total += ops.convert_to_numpy(statistic)
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
