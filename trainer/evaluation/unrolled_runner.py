"""Runs of the paper's optimizees, unrolled in compiled chunks of steps.

The curve has no further columns: its losses are those of each step's batch before the step. The final loss is
the mean loss of the final parameters over all the batches met (section 5, Figure 3).
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rnnprop_tf.network import Network
from rnnprop_tf.rule import Rule
from trainer.evaluation.runner import Run, Runner
from trainer.problems.base import Problem, loss_and_gradient
from trainer.unroll import start, unroll

CHUNK = 100
"""Steps a compiled call: what bounds the memory of long runs."""


class UnrolledRunner(Runner):
    """Runs one optimizer on one problem."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._draw = tf.function(problem.draw, autograph=False)
        self._batches = tf.function(problem.batches, autograph=False)
        self._compile = functools.partial(
            tf.function, jit_compile=problem.compiles_well or None, autograph=False
        )
        self._losses = self._compile(self._losses_at)

    def run(self, steps: int, seed: int, learning_rate: float) -> Run:
        start_seed, data_seed = tf.unstack(tf.random.split(tf.constant([seed, 0x45564C], tf.int32)))
        params, constants = self._draw(start_seed)
        curve = []
        progress = self._start(params, learning_rate)
        for batches, count in self._chunks(data_seed, steps):
            progress, losses = self._advance(progress, constants, batches, count, learning_rate)
            curve.append(losses)
        params = self._params(progress)
        final = [self._losses(params, constants, b, n) for b, n in self._chunks(data_seed, steps)]
        return Run(
            {"step": np.arange(steps, dtype=np.float32), "loss": np.concatenate(curve)},
            float(np.mean(np.concatenate(final), dtype=np.float64)),
        )

    @abstractmethod
    def _start(self, params: tf.Tensor, learning_rate: float) -> Any:
        """The optimizer's progress before the first step."""

    @abstractmethod
    def _advance(
        self, progress: Any, constants: Any, batches: Any, count: int, learning_rate: float
    ) -> tuple[Any, tf.Tensor]:
        """`count` steps further, and their losses [count]."""

    @abstractmethod
    def _params(self, progress: Any) -> tf.Tensor:
        """The parameters reached, [N]."""

    def _chunks(self, seed: tf.Tensor, steps: int) -> Iterator[tuple[Any, int]]:
        for first in range(0, steps, CHUNK):
            count = min(CHUNK, steps - first)
            yield self._batches(seed, tf.constant(first, tf.int64), count), count

    def _losses_at(self, params: tf.Tensor, constants: Any, batches: Any, count: int) -> tf.Tensor:
        return _for_each_batch(batches, count, lambda batch: self._problem.loss(params, constants, batch))


class LearnedRunner(UnrolledRunner):
    """A learned rule, run by the same unroll that meta-training uses."""

    def __init__(self, problem: Problem, rule: Rule, network: Network) -> None:
        super().__init__(problem)
        self._rule = rule
        self.network = tf.nest.map_structure(tf.convert_to_tensor, network)
        self._steps = self._compile(self._unroll)

    def _start(self, params: tf.Tensor, learning_rate: float) -> Any:
        return start(self._rule, self.network, params)

    def _advance(
        self, progress: Any, constants: Any, batches: Any, count: int, learning_rate: float
    ) -> tuple[Any, tf.Tensor]:
        return self._steps(self.network, progress, constants, batches, count, float(learning_rate))

    def _params(self, progress: Any) -> tf.Tensor:
        return progress.params

    def _unroll(
        self, network: Network, carry: Any, constants: Any, batches: Any, count: int, alpha: float
    ) -> tuple[Any, tf.Tensor]:
        """Traced for each alpha: a program that holds it as a number is what meta-training has too."""
        carry, met = unroll(self._problem, self._rule, network, alpha, carry, constants, batches, count)
        return carry, met.losses


class KerasRunner(UnrolledRunner):
    """A Keras optimizer at any learning rate."""

    def __init__(self, problem: Problem, make_optimizer: Callable[[Any], keras.optimizers.Optimizer]) -> None:
        """
        Args:
            problem: what to optimize.
            make_optimizer: makes the optimizer from a callable that gives the learning rate.
        """
        super().__init__(problem)
        self._rate = tf.Variable(0.0)  # Set by each run.
        self._optimizer = make_optimizer(lambda: self._rate.read_value())
        self._variable = tf.Variable(tf.zeros([problem.size]))
        self._optimizer.build([self._variable])
        self._initial = [tf.convert_to_tensor(v.value) for v in self._optimizer.variables]
        self._steps = self._compile(self._loop)

    def _start(self, params: tf.Tensor, learning_rate: float) -> Any:
        self._rate.assign(learning_rate)
        self._variable.assign(params)
        for variable, value in zip(self._optimizer.variables, self._initial, strict=True):
            variable.assign(value)
        return None

    def _advance(
        self, progress: Any, constants: Any, batches: Any, count: int, learning_rate: float
    ) -> tuple[Any, tf.Tensor]:
        return None, self._steps(constants, batches, count)

    def _params(self, progress: Any) -> tf.Tensor:
        return self._variable.read_value()

    def _loop(self, constants: Any, batches: Any, count: int) -> tf.Tensor:
        def step(batch: Any) -> tf.Tensor:
            loss, gradient = loss_and_gradient(self._problem, self._variable.read_value(), constants, batch)
            self._optimizer.apply([gradient], [self._variable])
            return loss

        return _for_each_batch(batches, count, step)


def _for_each_batch(batches: Any, count: int, loss_of: Callable[[Any], tf.Tensor]) -> tf.Tensor:
    """The losses [count] that `loss_of` gives for the first `count` batches, a loop in the graph."""

    def body(t: tf.Tensor, losses: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        batch = tf.nest.map_structure(lambda b: b[t], batches)
        return t + 1, losses.write(t, loss_of(batch))

    losses = tf.TensorArray(tf.float32, count, element_shape=[])
    _, losses = tf.while_loop(
        lambda t, _: t < count, body, (tf.constant(0), losses), maximum_iterations=count
    )
    return losses.stack()
