"""Runs of Keras models under `fit`, as users make them: losses, accuracy and seconds along the way.

The curve's columns are `COLUMNS`. The final loss is the training loss at the end. All is measured at what
`fit` would leave behind: with an optimizer that averages (`use_ema`), the average.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trainer.evaluation.runner import Curve, Run, Runner
from trainer.keras_models.catalog import CLASSIFIED, KerasModel
from trainer.keras_models.data import Data

POINTS = 10
"""Measurements of a run, at equal distances, where no distance is named."""
EVALUATED = 2_000
"""The most examples that a measurement is made on, evenly spaced."""
AT_ONCE = 20
"""The most steps that Keras makes in one execution."""

COLUMNS = ("step", "loss", "validation_loss", "validation_accuracy", "seconds")
"""Columns of a run's curve, each [points]. `loss` is the training loss; both losses are those of the model as
it predicts. Accuracy is NaN where the model is no classifier. Seconds are those of the steps, without
compilation and measuring."""

_SEEDING = threading.Lock()
"""Keras's initialisers draw from seeds of the process, which runs side by side share."""


def check_steps(steps: int, every: int | None = None) -> None:
    """Refuses a number of steps that cannot be measured at equal distances.

    Args:
        steps: of a run.
        every: steps between measurements; None for `POINTS` of them.

    Raises:
        ValueError: it is no multiple of `every`, or of `POINTS`.
    """
    if steps % (every or POINTS):
        raise ValueError(
            f"steps: expected a multiple of {every or POINTS} for Keras models. Received: {steps}"
        )


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """From a learning rate to 0 along half a cosine; the rate and the number of steps are variables."""

    def __init__(self, rate: tf.Variable, steps: tf.Variable) -> None:
        self._rate = rate
        self._steps = steps

    def __call__(self, step: Any) -> Any:
        progress = ops.minimum(ops.cast(step, "float32") / self._steps, 1.0)
        return self._rate * (1.0 + ops.cos(math.pi * progress)) / 2.0


class _Watch(keras.callbacks.Callback):
    """Measures after each epoch; the clock runs during executions only."""

    def __init__(self, measure: Callable[[], tuple[float, ...]]) -> None:
        super().__init__()
        self._measure = measure
        self._durations: list[float] = []
        self._measured: list[tuple[float, ...]] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._durations.append(time.perf_counter() - self._begin)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._measured.append(self._measure())

    def curve(self) -> Curve:
        """One point each epoch. The first execution, in which each `fit` sets up, counts as a usual one."""
        usual = statistics.median(self._durations[1:])
        seconds = np.cumsum([usual, *self._durations[1:]])
        epochs = len(self._measured)
        ends = np.arange(1, epochs + 1)
        each = len(seconds) // epochs
        measured = np.transpose(self._measured)
        columns = (ends * self.params["steps"], *measured, seconds[ends * each - 1])
        return dict(zip(COLUMNS, columns, strict=True))


class FitRunner(Runner):
    """Trains one Keras model with one optimizer."""

    def __init__(
        self,
        model: KerasModel,
        make_optimizer: Callable[[Any], keras.optimizers.Optimizer],
        cosine: bool = False,
        data_dir: str | None = None,
        every: int | None = None,
    ) -> None:
        """
        Args:
            model: what to train.
            make_optimizer: makes the optimizer from a schedule, or a callable that gives the learning rate.
            cosine: let the learning rate fall to 0 over a run.
            data_dir: TFDS's folder, its default where None.
            every: steps between measurements; None for `POINTS` of them in a run.
        """
        self._spec = model
        self._every = every
        self._train, self._validation = model.load(data_dir)
        self._rate, self._steps = tf.Variable(0.0), tf.Variable(1.0)  # Set by each run.
        rate = Cosine(self._rate, self._steps) if cosine else lambda: self._rate.read_value()
        self._optimizer = make_optimizer(rate)
        with _SEEDING:
            self._model = model.make()
        self._optimizer.build(self._model.trainable_variables)
        self._fresh = [variable.numpy() for variable in self._optimizer.variables]
        self._predict = tf.function(lambda x: self._model(x, training=False), autograph=False)
        self._compiled_for = 0

    def run(self, steps: int, seed: int, learning_rate: float) -> Run:
        """As for any runner.

        Raises:
            ValueError: the steps cannot be measured evenly.
        """
        check_steps(steps, self._every)
        self._rate.assign(learning_rate)
        if self._compiled_for != steps:
            self._compile(steps)
        self._begin(steps, seed)
        watch = _Watch(self._measure)
        every = self._every or steps // POINTS
        self._fit(steps, seed, epochs=steps // every, steps_per_epoch=every, callbacks=[watch])
        curve = watch.curve()
        return Run(curve, float(curve["loss"][-1]))

    def _compile(self, steps: int) -> None:
        """Traces, which is not to count."""
        at_once = math.gcd(AT_ONCE, self._every or steps // POINTS)
        self._model.compile(self._optimizer, self._spec.loss, steps_per_execution=at_once)
        self._compiled_for = steps
        self._begin(steps, seed=0)
        self._fit(at_once, seed=0, steps_per_epoch=at_once)

    def _begin(self, steps: int, seed: int) -> None:
        """The seed's start, and an optimizer that has seen nothing."""
        with _SEEDING:
            keras.utils.set_random_seed(seed)
            start = self._spec.make()
        # Not `get_weights`, which leaves out the seeds of dropout.
        for variable, value in zip(self._model.variables, start.variables, strict=True):
            variable.assign(value)
        for variable, value in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        self._steps.assign(steps)

    def _fit(self, steps: int, seed: int, **arguments: Any) -> None:
        self._model.fit(self._batches(steps, seed), shuffle=False, verbose=0, **arguments)

    def _batches(self, steps: int, seed: int) -> tf.data.Dataset:
        """Batches for so many steps, in epoch-shuffled order."""
        x, y = self._train
        rng = np.random.default_rng(seed)
        epochs = math.ceil(steps * self._spec.batch_size / len(x))
        order = np.concatenate([rng.permutation(len(x)) for _ in range(epochs)])
        constants = tf.constant(x), tf.constant(y)
        return (
            tf.data.Dataset.from_tensor_slices(order)
            .batch(self._spec.batch_size, drop_remainder=True)
            .map(lambda chosen: tuple(tf.gather(part, chosen) for part in constants))
            .prefetch(2)
        )

    def _measure(self) -> tuple[float, float, float]:
        """Training loss, validation loss and accuracy, where `fit` would leave the model if it ended now."""
        weights = self._model.trainable_variables
        reached = [weight.numpy() for weight in weights]
        self._optimizer.finalize_variable_values(weights)
        train_loss, _ = self._loss_and_accuracy(self._train)
        measured = (train_loss, *self._loss_and_accuracy(self._validation))
        for weight, value in zip(weights, reached, strict=True):
            weight.assign(value)
        return measured

    def _loss_and_accuracy(self, data: Data) -> tuple[float, float]:
        x, y = (part[:: math.ceil(len(part) / EVALUATED)] for part in data)
        predicted = self._predict(tf.constant(x))
        loss = float(tf.reduce_mean(keras.losses.get(self._spec.loss)(y, predicted)))
        if self._spec.loss != CLASSIFIED:
            return loss, math.nan
        return loss, float(np.mean(np.argmax(predicted, axis=-1) == y))
