"""The convex function that section 4.2 adds to the optimizee."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainer.problems.base import Draw, Problem, Seed, split_seed


class Convex(Problem):
    """g(x) = mean of (x_i - v_i)^2, Eq. (4); v and the starting x are drawn from U[-1, 1] (section 5)."""

    def __init__(self, dimension: int = 20) -> None:
        self._dimension = dimension

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self._dimension,),)

    def draw(self, seed: Seed) -> Draw:
        start, v = (
            tf.random.stateless_uniform([self._dimension], part, minval=-1.0, maxval=1.0)
            for part in split_seed(seed, 2)
        )
        return Draw(start, constants=(v,))

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        return ()

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        (v,) = constants
        return tf.reduce_mean((params - v) ** 2)
