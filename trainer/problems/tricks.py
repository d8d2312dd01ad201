"""The paper's training tricks, each a problem made from problems, and the batch of tasks."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainer.problems.base import Draw, Problem, Seed, split_seed


class RandomScaling(Problem):
    """f(theta) becomes f(c theta), started at theta_0 / c: the same values in another geometry, Eq. (2).

    c is drawn per coordinate and episode: exp of U[-log_range, log_range] (section 5).
    """

    def __init__(self, problem: Problem, log_range: float) -> None:
        self._problem = problem
        self._log_range = log_range

    @property
    def compiles_well(self) -> bool:
        return self._problem.compiles_well

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self._problem.shapes

    def draw(self, seed: Seed) -> Draw:
        scale_seed, inner_seed = split_seed(seed, 2)
        inner = self._problem.draw(inner_seed)
        log_c = tf.random.stateless_uniform(
            [self.size], scale_seed, minval=-self._log_range, maxval=self._log_range
        )
        c = tf.exp(log_c)
        return Draw(inner.params / c, constants=(c, inner.constants))

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        return self._problem.batches(seed, first, count)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        c, inner = constants
        return self._problem.loss(c * params, inner, batch)


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
        each = (tf.reshape(params, [self.tasks, -1]), constants, batch)
        return tf.vectorized_map(lambda task: self._problem.loss(*task), each)
