"""Interface of an optimizee: a problem draws an episode, supplies batches and says their loss.

A problem is stateless. What is random in an episode is drawn once, by `draw`, and handed back to `loss`;
batches are a pure function of a seed and a position. So one trace serves every episode, and a position is
all that a checkpoint needs to remember of the data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

Seed: TypeAlias = tf.Tensor
"""[2] int32, for TensorFlow's stateless random functions; [tasks, 2] for several tasks side by side."""

INITIAL_STDDEV = 0.1
"""Every optimizee parameter starts from N(0, 0.1), 0.1 being the standard deviation (section 5)."""


class Draw(NamedTuple):
    """Draw of an episode, made once at its start."""

    params: tf.Tensor
    """[N] float32, where the optimizer starts."""
    constants: Any
    """Tensors, nested in tuples, that `loss` needs and that stay fixed during the episode."""


class Problem(ABC):
    """An optimizee f(theta) of N parameters, or `tasks` independent ones side by side."""

    tasks: int = 1

    @property
    def compiles_well(self) -> bool:
        """Whether XLA runs the loss and its gradient as fast as TensorFlow's own kernels do on a CPU."""
        return True

    @property
    @abstractmethod
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the parameter tensors, in the order in which they lie in the vector [N]."""

    @property
    def size(self) -> int:
        """N, the number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes)

    @abstractmethod
    def draw(self, seed: Seed) -> Draw:
        """The starting point and the constants of an episode."""

    @abstractmethod
    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        """Batches `first`, ..., `first + count - 1` of the stream of that seed.

        Returns:
            Tensors, nested in tuples, each [count, batch, ...]; an empty tuple for a problem without data.
        """

    @abstractmethod
    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        """The loss of one batch: a scalar, or [tasks] where `tasks` is more than 1."""


def loss_and_gradient(
    problem: Problem, params: tf.Tensor, constants: Any, batch: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss, a scalar or [tasks], and each parameter's gradient of its own task's loss, [N]."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(params)
        loss = problem.loss(params, constants, batch)
    return loss, tape.gradient(loss, params)


def unpack(params: tf.Tensor, shapes: tuple[tuple[int, ...], ...]) -> list[tf.Tensor]:
    """The parameter tensors that lie one after the other in `params`, [N]."""
    parts = tf.split(params, [math.prod(shape) for shape in shapes])
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def normal_params(size: int, seed: Seed) -> tf.Tensor:
    """The paper's starting point: [size], N(0, 0.1)."""
    return tf.random.stateless_normal([size], seed, stddev=INITIAL_STDDEV)


def split_seed(seed: Seed, count: int) -> list[Seed]:
    """`count` independent seeds."""
    return tf.unstack(tf.random.split(seed, count))
