"""Statistics of the optimizer's steps, and a callback that shows them in TensorBoard."""

from __future__ import annotations

import importlib.util
import math
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import ops

from rnnprop_tf import layout, state_types
from rnnprop_tf.learned import LearnedOptimizer
from rnnprop_tf.network import Network, Tensor
from rnnprop_tf.rule import Rule, RuleState

SATURATED = 0.99
"""A coordinate whose direction is beyond this, either way, counts as saturated: it moves by all that the
learning rate allows."""


class UpdateStatistics(NamedTuple):
    """The last step of one variable; see `update_statistics`."""

    update_rms: float
    """Root of the mean square of learning rate times direction."""
    m_tilde_rms: float | None
    """Root of the mean square of m~ = m^ / (sqrt(v^) + epsilon). `None` for DMOptimizer, which has none."""
    saturated: float | None
    """Share of coordinates with |direction| > `SATURATED`. `None` for DMOptimizer, which has no bound."""
    untouched: float
    """Share of coordinates that never had a gradient; the other numbers leave them out."""


def update_statistics(optimizer: LearnedOptimizer) -> dict[str, UpdateStatistics]:
    """Size of the last step, for each variable. For a training loop of your own, between two steps.

    Directions are not stored. They are computed again, exactly, from the h that the top LSTM layer ended
    with, see `rnnprop_tf.rule.Rule.last_direction`. Three things follow from what h is:

    - A coordinate without a gradient keeps its h, so it counts with the last step that it took, not with the
      zero of this one. One that never had a gradient is not counted, but for `untouched`.
    - After a skipped step the numbers are those of the step before.
    - With `state_dtype="bfloat16"` or `"int8"` h has 8 bits, and the direction is right to about a hundredth.

    m~ and the factor of `settling` or `annealing` are bias-corrected for the current step, which for
    coordinates that have slept is not that of their last move. What makes the step after a sleep longer, with
    `annealing`, is not known any more: rare rows of an embedding moved by up to five times what is said.
    Weight decay and constraints are no part of the update here, nor is what `use_ema` writes.

    Args:
        optimizer: An `RNNprop` or a `DMOptimizer`.

    Returns:
        The statistics by the variable's path; nothing before the first step. A path that comes twice has
        `_1` after it the second time.

    Example:

    >>> optimizer.apply(gradients, model.trainable_variables)
    >>> rnnprop_tf.update_statistics(optimizer)["dense/kernel"].saturated
    0.03125
    """
    step = int(_value(optimizer._step))
    if step == 0:
        return {}
    rate = _last_learning_rate(optimizer)
    result: dict[str, UpdateStatistics] = {}
    seen: Counter[str] = Counter()
    for variable, slots in zip(optimizer._trainable_variables, optimizer._slots, strict=True):
        if slots is not None:
            path = variable.path
            name = f"{path}_{seen[path]}" if seen[path] else path
            seen[path] += 1
            result[name] = _statistics(optimizer.rule, optimizer.network, slots, step, rate)
    return result


def _statistics(rule: Rule, network: Network, slots: RuleState, step: int, rate: float) -> UpdateStatistics:
    # Eager, a variable at a time: nothing to trace, and no more memory than a fraction of one's state.
    state = layout.mapped(_value, slots)
    size = math.prod(state.lstm[-1].h.shape[1:])
    state = layout.flat(state, size)
    state = state._replace(lstm=state_types.exact(state.lstm, "float32"))
    direction = rule.last_direction(network, state, step)
    m_tilde = rule.m_tilde(state.accumulators, step)
    touched = ops.cast(rule.touched(state), "float32")
    count = ops.sum(touched)

    def mean(values: Tensor) -> Tensor:
        return ops.divide_no_nan(ops.sum(touched * values), count)

    saturated = mean(ops.cast(ops.abs(direction) > SATURATED, "float32"))
    return UpdateStatistics(
        update_rms=float(rate * ops.sqrt(mean(direction**2))),
        m_tilde_rms=None if m_tilde is None else float(ops.sqrt(mean(m_tilde**2))),
        saturated=float(saturated) if rule.bounded else None,
        untouched=float(ops.sum(1.0 - touched) / max(size, 1)),
    )


def _last_learning_rate(optimizer: LearnedOptimizer) -> float:
    """The learning rate of the last step; `optimizer.learning_rate` is that of the next."""
    schedule = optimizer._learning_rate
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return float(_value(optimizer.learning_rate))
    # Keras asks a schedule by the number of batches, also with accumulated gradients.
    batches = int(_value(optimizer.iterations)) * (optimizer.gradient_accumulation_steps or 1)
    return float(schedule(batches - 1))


def _value(variable: Any) -> Tensor:
    """The variable as a tensor; where each replica has a copy, the first."""
    return ops.convert_to_tensor(variable)


def _summary() -> Any:
    """What writes TensorBoard's files; Keras's own `TensorBoard` needs it on every backend too."""
    missing = [name for name in ("tensorflow", "tensorboard") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            "`OptimizerMonitor` writes TensorBoard's files, for which these are not installed: "
            f"`pip install {' '.join(missing)}`. `rnnprop_tf.update_statistics` gives the same numbers "
            "without."
        )
    import tensorflow as tf

    return tf.summary


class OptimizerMonitor(keras.callbacks.Callback):
    """Logs to TensorBoard what RNNprop or DMOptimizer does to each variable.

    Under these tags, for each trainable variable:

    - `update_rms/{variable}`: root mean square of its last update, weight decay apart. It does not know how
      much longer the steps of `annealing` are after some without a gradient.
    - `m_tilde_rms/{variable}`: that of m~, the gradient's running mean relative to its size. Near 1 where
      gradients keep their sign, near 0.16 (the square root of (1 - beta) / (1 + beta)) where they are noise.
    - `saturated/{variable}`: share of coordinates with |direction| > 0.99, those that the learning rate holds
      back.
    - `untouched/{variable}`: share that never had a gradient: dead inputs, unused rows of an embedding.

    and `skipped_steps`, once. `m_tilde_rms` and `saturated` are RNNprop's alone. What the numbers mean for a
    coordinate without a gradient is said at `rnnprop_tf.update_statistics`.

    It finds the optimizer within a `LossScaleOptimizer` or a `MultiOptimizer`. The training step is not
    touched: numbers are computed from the optimizer's state, between steps.

    Args:
        log_dir: The folder that TensorBoard shows; the events go to `optimizer` in it, beside the `train`
            and `validation` of `keras.callbacks.TensorBoard`.
        update_freq: `"epoch"`, `"batch"` or an integer: log at the end of each epoch, after every batch, or
            after every so many batches. With `steps_per_execution`, at the end of the execution that
            reaches them. Defaults to `"epoch"`.

    Raises:
        ImportError: If TensorFlow or TensorBoard is not installed.
        ValueError: If `update_freq` is none of these; when training begins, if the model's optimizer is not
            ours.

    Example:

    >>> model.compile(optimizer=rnnprop_tf.RNNprop.from_pretrained(), loss="mse")
    >>> model.fit(x, y, callbacks=[rnnprop_tf.OptimizerMonitor("logs")])
    """

    def __init__(self, log_dir: str | os.PathLike[str] = "logs", update_freq: str | int = "epoch") -> None:
        super().__init__()
        allowed = update_freq in ("epoch", "batch") or (type(update_freq) is int and update_freq > 0)
        if not allowed:
            raise ValueError(
                '`update_freq` must be "epoch", "batch" or a positive integer. '
                f"Received: update_freq={update_freq!r}"
            )
        self.log_dir = os.fspath(log_dir)
        self.update_freq = 1 if update_freq == "batch" else update_freq
        self._summary = _summary()
        self._writer: Any = None
        self._batches = 0
        self._last_batch = -1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Opens the log."""
        if not any(True for _ in _learned(self.model.optimizer)):
            raise ValueError(
                "`OptimizerMonitor` reads the state of RNNprop and DMOptimizer: expected a model compiled "
                "with one of them. Leave the callback out for another optimizer. Received: optimizer="
                f"{self.model.optimizer!r}"
            )
        self._batches = 0
        self._writer = self._summary.create_file_writer(os.path.join(self.log_dir, "optimizer"))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Batches count from 0 again."""
        self._last_batch = -1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs, if it is time; `batch` is the last one of an execution."""
        if isinstance(self.update_freq, int):
            before = self._batches
            self._batches += batch - self._last_batch
            self._last_batch = batch
            if self._batches // self.update_freq > before // self.update_freq:
                self._log()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs, if it is time."""
        if self.update_freq == "epoch":
            self._log()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the log."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _log(self) -> None:
        assert self._writer is not None
        with self._writer.as_default():
            for optimizer in _learned(self.model.optimizer):
                step = int(_value(optimizer.iterations))
                self._summary.scalar("skipped_steps", int(_value(optimizer.skipped_steps)), step)
                for variable, statistics in update_statistics(optimizer).items():
                    for name, value in statistics._asdict().items():
                        if value is not None:
                            self._summary.scalar(f"{name}/{variable}", value, step)


def _learned(optimizer: Any) -> Iterator[LearnedOptimizer]:
    """The learned optimizers within the optimizer of a model."""
    if isinstance(optimizer, LearnedOptimizer):
        yield optimizer
    elif isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        yield from _learned(optimizer.inner_optimizer)
    else:
        for inner in getattr(optimizer, "optimizers", ()):  # MultiOptimizer's
            yield from _learned(inner)
