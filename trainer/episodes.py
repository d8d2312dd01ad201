"""The episodes of a run: which optimizee, how long, which start, which batches.

Everything random is a function of the config's seed and of counters, so that a checkpoint needs to remember
only the iteration. Drawing happens inside `strategy.run`: each replica has its own part of the meta-batch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer import distribution
from trainer.config import MetaTrainConfig
from trainer.problems import catalog
from trainer.problems.base import Draw, Problem, Seed
from trainer.problems.convex import Convex
from trainer.problems.tricks import Combination, RandomScaling, Tasks


def problem_of(config: MetaTrainConfig, task: str, data_dir: str | None, tasks: int) -> Problem:
    """The optimizee of that name with the tricks that the config asks for, so many times side by side."""
    problem = catalog.task(task).build(data_dir)
    if config.scaling:
        problem = RandomScaling(problem, config.scaling, config.mixed_scaling)
    if config.convex_dimension:
        convex: Problem = Convex(config.convex_dimension)
        if config.convex_scaling:
            convex = RandomScaling(convex, config.convex_scaling)
        problem = Combination(problem, convex)
    return Tasks(problem, tasks) if tasks > 1 else problem


class Plan(NamedTuple):
    """Optimizee and length of an episode, before it begins."""

    problem: Problem
    periods: int
    """Number of periods, with an outer update after each, or after the last."""


class Place(NamedTuple):
    """Position in a run: a period of an episode."""

    problem: Problem
    iteration: tf.Tensor
    """Number of the episode, a scalar."""
    period: tf.Tensor
    """Number of the period in it, a scalar."""


class Episodes:
    """Draws the episodes of a run."""

    def __init__(self, config: MetaTrainConfig, data_dir: str | None, tasks_per_replica: int) -> None:
        """
        Args:
            config: the run.
            data_dir: TFDS's folder, its default where None.
            tasks_per_replica: how many of the meta-batch's episodes each replica has.
        """
        self._config = config
        self._seed = tf.constant([config.seed, 0x524E4E], tf.int32)
        # One object, and so one trace, for a task that is named twice.
        by_task = {
            name: problem_of(config, name, data_dir, tasks_per_replica)
            for name in dict.fromkeys(entry.task for entry in config.entries)
        }
        self.problems = [by_task[entry.task] for entry in config.entries]
        """The optimizees, one for each of the config's entries."""

    def plan(self, iteration: int) -> Plan:
        """The optimizee and the length of that iteration's episode."""
        config = self._config
        rng = np.random.default_rng([config.seed, iteration])
        drawn = rng.integers(len(self.problems))
        shortest = config.episode_steps // config.period
        longest = config.entries[drawn].longest // config.period
        periods = round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))
        return Plan(self.problems[drawn], periods)

    def draw(self, problem: Problem, iteration: tf.Tensor) -> Draw:
        """This replica's starting point and constants of that iteration's episode."""
        return problem.draw(self._own(problem, tf.random.fold_in(self._seed, iteration)))

    def batches(self, place: Place, count: int) -> Any:
        """This replica's batches from the period's first one on."""
        config = self._config
        periods = tf.cast(place.iteration, tf.int64) * config.longest_periods + tf.cast(
            place.period, tf.int64
        )
        seed = self._own(place.problem, self._seed)
        return place.problem.batches(seed, periods * config.period, count)

    def sample_seed(self, place: Place) -> Seed:
        """[2], for what this replica's estimator draws in the period."""
        # 1, 2, ... on the first replica, and so on: each has samples of its own.
        count = distribution.replica_id() * self._config.longest_periods + place.period + 1
        return tf.random.fold_in(tf.random.fold_in(self._seed, place.iteration), count)

    def _own(self, problem: Problem, seed: Seed) -> Seed:
        """The seeds of this replica's tasks, the same whichever replica has them."""
        if self._config.meta_batch_size == 1:
            return seed
        tasks = problem.tasks
        own = distribution.replica_id() * tasks + tf.range(tasks)
        seeds = tf.gather(tf.random.split(seed, self._config.meta_batch_size), own)
        return seeds if tasks > 1 else seeds[0]
