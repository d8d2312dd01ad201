"""Imitation: a rule's weights learn the steps that other weights would make, smaller ones at first.

The pupil optimizes; at each step the teacher sees what the pupil's network sees and says what it would do. No
meta-gradient through the problem is needed, so a jump that kills a network is unlearned as easily as any
other; and it is a matter of single coordinates, which all weigh alike, so a few of an episode's are enough.

The teacher may normalise gradients by another memory than the pupil, of beta_2 = 0.95 beside 0.999 say. Then
the pupil sees by how much gradients have become smaller, and can learn to make smaller steps for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from rnnprop_tf.network import LSTMState, Network
from rnnprop_tf.rule import Observation, Rule, RuleState
from trainer import meta_gradient
from trainer.meta_gradient import PeriodStart
from trainer.problems.base import Problem, Seed
from trainer.unroll import Carry

FLOOR = 1e-3
"""Squared relative errors far below it do not count."""


class Teacher(NamedTuple):
    """Whom to imitate."""

    network: Network
    """The weights."""
    rule: Rule
    """Theirs, of the pupil's kind; hyperparameters may differ."""
    warmup: int = 0
    """Its direction at step t of the run, whenever a coordinate had its first gradient, is multiplied by
    min(1, t / warmup); 0 leaves it as it is."""
    slack: float = 0.0
    """And, if above 0, by min(1, (slack r)^2), where r is the pupil's normalised gradient g~ in units of the
    teacher's: 1 at first, and below where the pupil remembers larger gradients."""
    smallest: float = 0.01
    """Directions of this size and below are judged by their absolute error."""


class Lesson(NamedTuple):
    """What an episode's periods hand on, besides the pupil's carry."""

    chosen: tf.Tensor
    """[K], the coordinates that are looked at."""
    state: RuleState
    """The teacher's, of these coordinates."""


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
    state = teacher.rule.initial_state(teacher.network, chosen.shape[0])
    return Lesson(chosen, tf.nest.map_structure(tf.convert_to_tensor, state))


def imitated(start: PeriodStart, teacher: Teacher, lesson: Lesson) -> Period:
    """One period, and how the pupil's directions in it should change.

    Errors are mean squares over the coordinates, relative to the mean square of the teacher's. Those of the
    directions teach each step; those of their sums, where a parameter ends up: a small error that always
    points the same way matters more than a large one that does not.
    """

    @tf.function(jit_compile=True, autograph=False)
    def compare(
        network: Network,
        seen: Observation,
        gradients: tf.Tensor,
        lstm: Any,
        state: RuleState,
        step: tf.Tensor,
    ) -> tuple[Any, ...]:
        targets, state = _targets(teacher, seen, gradients, state, step)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(network)
            value = _error(
                _directions(start.rule, network, seen, lstm), targets, seen.awake, teacher.smallest
            )
        return value, tape.gradient(value, network), state

    after, recorded, gradients = meta_gradient.record(start)
    lstm, seen = meta_gradient.at_coordinates(recorded, lesson.chosen)
    gradients = tf.gather(gradients, lesson.chosen, axis=-1)
    value, gradient, state = compare(start.network, seen, gradients, lstm, lesson.state, start.carry.step)
    return Period(after, Lesson(lesson.chosen, state), value, gradient)


def _targets(
    teacher: Teacher, seen: Observation, gradients: tf.Tensor, state: RuleState, step: tf.Tensor
) -> tuple[tf.Tensor, RuleState]:
    """What the teacher would do [T, K] where the pupil has seen this after so many steps, and its state."""
    steps, size = gradients.shape

    def body(t: tf.Tensor, state: RuleState, answers: tf.TensorArray) -> tuple[Any, ...]:
        number = step + tf.cast(t, step.dtype) + 1.0
        own, accumulators = teacher.rule.observe(state.accumulators, gradients[t], number)
        direction, lstm = teacher.rule.respond(teacher.network, own, state.lstm)
        if teacher.warmup:
            direction *= tf.minimum(1.0, number / teacher.warmup)
        if teacher.slack:  # Where the gradient is zero, so is the direction.
            ratio = tf.math.divide_no_nan(seen.inputs[t, 1], own.inputs[1])
            direction *= tf.minimum(1.0, (teacher.slack * ratio) ** 2)
        return t + 1, RuleState(accumulators, lstm), answers.write(t, direction)

    answers = tf.TensorArray(gradients.dtype, steps, element_shape=[size])
    _, state, answers = tf.while_loop(
        lambda t, *_: t < steps, body, (tf.constant(0), state, answers), maximum_iterations=steps
    )
    return answers.stack(), state


def _directions(rule: Rule, network: Network, seen: Observation, lstm: tuple[LSTMState, ...]) -> tf.Tensor:
    """A network's answers [T, K] to what was seen."""
    steps, size = seen.awake.shape

    def body(t: tf.Tensor, lstm: Any, answers: tf.TensorArray) -> tuple[Any, ...]:
        direction, lstm = rule.respond(network, Observation(seen.inputs[t], seen.awake[t]), lstm)
        return t + 1, lstm, answers.write(t, direction)

    answers = tf.TensorArray(seen.inputs.dtype, steps, element_shape=[size])
    _, _, answers = tf.while_loop(
        lambda t, *_: t < steps, body, (tf.constant(0), lstm, answers), maximum_iterations=steps
    )
    return answers.stack()


def _error(directions: tf.Tensor, targets: tf.Tensor, awake: tf.Tensor, smallest: float) -> tf.Tensor:
    """The objective of `Period`, for directions [T, K]; those asleep are zero on both sides."""
    count = tf.maximum(tf.reduce_sum(tf.cast(awake, targets.dtype), axis=1), 1.0)
    error = directions - targets
    by_step = tf.reduce_sum(error**2, 1) / (tf.reduce_sum(targets**2, 1) + smallest**2 * count)
    moved, missed = (tf.reduce_sum(tf.reduce_sum(x, 0) ** 2) for x in (targets, error))
    by_period = missed / (moved + smallest**2 * tf.reduce_sum(count))
    return tf.math.log(tf.reduce_mean(by_step) + FLOOR) + tf.math.log(by_period + FLOOR)
