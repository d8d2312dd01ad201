"""Imitation: a rule's weights learn the steps that other weights would make, smaller ones at first.

The pupil optimizes; at each step the teacher sees what the pupil's network sees and says what it would do. No
meta-gradient through the problem is needed, so a jump that kills a network is unlearned as easily as any
other; and it is a matter of single coordinates, which all weigh alike, so a few of an episode's are enough.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import LSTMState, Network
from rnnprop_tf.rule import Observation, Rule
from trainer import meta_gradient
from trainer.meta_gradient import PeriodStart
from trainer.problems.base import Problem, Seed
from trainer.unroll import Carry

FLOOR = 1e-3
"""Squared relative errors far below it do not count."""
SMALLEST = 0.01
"""Directions of this size and below are judged by their absolute error."""


class Teacher(NamedTuple):
    """Whom to imitate."""

    network: Network
    """The weights, of the same rule."""
    warmup: int
    """Its direction at step t of the run, whenever a coordinate had its first gradient, is multiplied by
    min(1, t / warmup); 0 leaves it as it is."""


class Lesson(NamedTuple):
    """What an episode's periods hand on, besides the pupil's carry."""

    chosen: tf.Tensor
    """[K], the coordinates that are looked at."""
    lstm: tuple[LSTMState, ...]
    """The teacher's, each [H, K]."""


class Period(NamedTuple):
    """What one period gave."""

    carry: Carry
    lesson: Lesson
    objective: tf.Tensor
    """Scalar: log(FLOOR + error of the directions) + log(FLOOR + error of their sums over the period)."""
    gradient: Network
    """Of the objective, by the pupil's weights."""


def begin(problem: Problem, teacher: Teacher, count: int | None, seed: Seed) -> Lesson:
    """Before an episode's first step.

    Args:
        problem: the optimizee.
        teacher: whom to imitate.
        count: K, how many coordinates to look at, drawn with replacement; None for each once.
        seed: [2], for the draw.
    """
    if count is None:
        chosen = tf.range(problem.size)
    else:
        chosen = tf.random.stateless_uniform([count], seed, maxval=problem.size, dtype=tf.int32)
    units = coordinatewise.architecture_of(teacher.network).lstm
    state = coordinatewise.zero_state(units, chosen.shape[0])
    return Lesson(chosen, tf.nest.map_structure(tf.convert_to_tensor, state))


def imitated(start: PeriodStart, teacher: Teacher, lesson: Lesson) -> Period:
    """One period, and how the pupil's directions in it should change.

    Errors are mean squares over the coordinates, relative to the mean square of the teacher's. Those of the
    directions teach each step; those of their sums, where a parameter ends up: a small error that always
    points the same way matters more than a large one that does not.
    """
    rule, steps = start.rule, start.objective.steps

    @tf.function(jit_compile=True, autograph=False)
    def compare(network: Network, seen: Observation, *states: Any) -> tuple[Any, ...]:
        own, others, step = states
        targets, others = _directions(rule, teacher.network, seen, others)
        if teacher.warmup:
            numbers = step + 1.0 + tf.range(steps, dtype=targets.dtype)
            targets *= tf.minimum(1.0, numbers / teacher.warmup)[:, None]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(network)
            directions, _ = _directions(rule, network, seen, own)
            value = _error(directions, targets, seen.awake)
        return value, tape.gradient(value, network), others

    after, recorded = meta_gradient.record(start)
    own, seen = meta_gradient.at_coordinates(recorded, lesson.chosen)
    value, gradient, others = compare(start.network, seen, own, lesson.lstm, start.carry.step)
    return Period(after, Lesson(lesson.chosen, others), value, gradient)


def _directions(
    rule: Rule, network: Network, seen: Observation, lstm: tuple[LSTMState, ...]
) -> tuple[tf.Tensor, tuple[LSTMState, ...]]:
    """A network's answers [T, K] to what was seen, and its state after."""
    steps, size = seen.awake.shape

    def body(t: tf.Tensor, lstm: Any, answers: tf.TensorArray) -> tuple[Any, ...]:
        now = tf.nest.map_structure(lambda tensor: tensor[t], seen)
        direction, lstm = rule.respond(network, now, lstm)
        return t + 1, lstm, answers.write(t, direction)

    answers = tf.TensorArray(seen.inputs.dtype, steps, element_shape=[size])
    _, lstm, answers = tf.while_loop(
        lambda t, *_: t < steps, body, (tf.constant(0), lstm, answers), maximum_iterations=steps
    )
    return answers.stack(), lstm


def _error(directions: tf.Tensor, targets: tf.Tensor, awake: tf.Tensor) -> tf.Tensor:
    """The objective of `Period`, for directions [T, K]; those asleep are zero on both sides."""
    count = tf.maximum(tf.reduce_sum(tf.cast(awake, targets.dtype), axis=1), 1.0)
    error = directions - targets
    by_step = tf.reduce_sum(error**2, 1) / (tf.reduce_sum(targets**2, 1) + SMALLEST**2 * count)
    moved, missed = (tf.reduce_sum(tf.reduce_sum(x, 0) ** 2) for x in (targets, error))
    by_period = missed / (moved + SMALLEST**2 * tf.reduce_sum(count))
    return tf.math.log(tf.reduce_mean(by_step) + FLOOR) + tf.math.log(by_period + FLOOR)
