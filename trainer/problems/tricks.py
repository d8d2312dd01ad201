"""The paper's training tricks, each a problem made from problems, and the batch of tasks."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from trainer.problems.base import Draw, Problem, Seed, loss_and_gradient, split_seed


class Wrapper(Problem):
    """A problem as another one has it, but for what a subclass changes."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    @property
    def compiles_well(self) -> bool:
        return self._problem.compiles_well

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self._problem.shapes

    def draw(self, seed: Seed) -> Draw:
        return self._problem.draw(seed)

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        return self._problem.batches(seed, first, count)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        return self._problem.loss(params, constants, batch)


class RandomScaling(Wrapper):
    """f(theta) becomes f(c theta), started at theta_0 / c: the same values in another geometry, Eq. (2).

    c is drawn per coordinate and episode: exp of U[-log_range, log_range] (section 5). With `mixed`, a
    departure from the paper, episodes differ in how they are scaled: log c is the sum of a part for each
    coordinate, one for each parameter tensor and one for all. Each part is there or not with even odds, its
    range drawn from U[0, log_range]. The part for all is never below 0: it stands for networks wider than
    those of meta-training, where the same step changes the loss more.
    """

    def __init__(self, problem: Problem, log_range: float, mixed: bool = False) -> None:
        super().__init__(problem)
        self._log_range = log_range
        self._log_c = self._mixed_log_c if mixed else self._uniform_log_c

    def draw(self, seed: Seed) -> Draw:
        scale_seed, inner_seed = split_seed(seed, 2)
        inner = self._problem.draw(inner_seed)
        c = tf.exp(self._log_c(scale_seed))
        return Draw(inner.params / c, constants=(c, inner.constants))

    def _uniform_log_c(self, seed: Seed) -> tf.Tensor:
        return tf.random.stateless_uniform([self.size], seed, minval=-self._log_range, maxval=self._log_range)

    def _mixed_log_c(self, seed: Seed) -> tf.Tensor:
        odds_seed, range_seed, *part_seeds = split_seed(seed, 5)
        there = tf.random.stateless_uniform([3], odds_seed) < 0.5
        ranges = tf.where(there, tf.random.stateless_uniform([3], range_seed, maxval=self._log_range), 0.0)
        counts = (self.size, len(self.shapes), 1)
        coordinates, tensors, whole = (
            tf.random.stateless_uniform([count], part_seed, minval=-limit, maxval=limit)
            for count, part_seed, limit in zip(counts, part_seeds, tf.unstack(ranges), strict=True)
        )
        return coordinates + tf.repeat(tensors, [math.prod(shape) for shape in self.shapes]) + tf.abs(whole)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        c, inner = constants
        return self._problem.loss(c * params, inner, batch)


class Continued(Wrapper):
    """A problem whose episodes start where Adam has been for some steps, as fine-tuning does."""

    LEARNING_RATE = 1e-3

    def __init__(self, problem: Problem, steps: int) -> None:
        """
        Args:
            problem: the optimizee.
            steps: made by Adam before an episode.
        """
        super().__init__(problem)
        self._steps = steps

    def draw(self, seed: Seed) -> Draw:
        start_seed, data_seed = split_seed(seed, 2)
        draw = self._problem.draw(start_seed)
        batches = self._problem.batches(data_seed, tf.constant(0), self._steps)

        @tf.function(jit_compile=self.compiles_well or None, autograph=False)
        def adam(params: tf.Tensor, constants: Any, batches: Any) -> tf.Tensor:
            def step(t: tf.Tensor, params: tf.Tensor, m: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, ...]:
                batch = tf.nest.map_structure(lambda b: b[t], batches)
                _, gradient = loss_and_gradient(self._problem, params, constants, batch)
                m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                number = tf.cast(t + 1, params.dtype)
                mean, square = m / (1.0 - 0.9**number), v / (1.0 - 0.999**number)
                return t + 1, params - self.LEARNING_RATE * mean / (tf.sqrt(square) + 1e-7), m, v

            zeros = tf.zeros_like(params)
            start = (tf.constant(0), params, zeros, zeros)
            return tf.while_loop(lambda t, *_: t < self._steps, step, start)[1]

        return Draw(adam(draw.params, draw.constants, batches), draw.constants)


class Combination(Problem):
    """F(theta, x) = f(theta) + g(x), Eq. (3): two problems side by side."""

    def __init__(self, f: Problem, g: Problem) -> None:
        self._f = f
        self._g = g

    @property
    def compiles_well(self) -> bool:
        return self._f.compiles_well and self._g.compiles_well

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self._f.shapes + self._g.shapes

    def draw(self, seed: Seed) -> Draw:
        f, g = (p.draw(s) for p, s in zip((self._f, self._g), split_seed(seed, 2), strict=True))
        return Draw(tf.concat([f.params, g.params], 0), constants=(f.constants, g.constants))

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        f_seed, g_seed = split_seed(seed, 2)
        return self._f.batches(f_seed, first, count), self._g.batches(g_seed, first, count)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        theta, x = tf.split(params, [self._f.size, self._g.size])
        return self._f.loss(theta, constants[0], batch[0]) + self._g.loss(x, constants[1], batch[1])


class Tasks(Problem):
    """`tasks` independent episodes of one problem, optimized at once; the loss is a vector, [tasks].

    `draw` and `batches` take a seed for each task, [tasks, 2].
    """

    def __init__(self, problem: Problem, tasks: int) -> None:
        self._problem = problem
        self.tasks = tasks

    @property
    def compiles_well(self) -> bool:
        return self._problem.compiles_well

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self._problem.shapes * self.tasks

    def draw(self, seed: Seed) -> Draw:
        draws = [self._problem.draw(part) for part in tf.unstack(seed, self.tasks)]
        params, constants = tf.nest.map_structure(lambda *parts: tf.stack(parts), *map(tuple, draws))
        return Draw(tf.reshape(params, [-1]), constants)

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        streams = [self._problem.batches(part, first, count) for part in tf.unstack(seed, self.tasks)]
        return tf.nest.map_structure(lambda *parts: tf.stack(parts, axis=1), *streams)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        # One by one: XLA's batched products on a CPU take ten times as long as its single ones.
        each = (tf.reshape(params, [self.tasks, -1]), constants, batch)
        tasks = zip(*(tf.unstack(part, self.tasks) for part in tf.nest.flatten(each)), strict=True)
        return tf.stack([self._problem.loss(*tf.nest.pack_sequence_as(each, list(task))) for task in tasks])
