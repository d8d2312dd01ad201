"""Imitation: a rule's weights learn to make the steps of a teacher, smaller ones at first.

The pupil optimizes; at each step the teacher sees the pupil's gradients and says what it would do. No
meta-gradient through the problem is needed, so a jump that kills a network is unlearned as easily as any
other; and it is a matter of single coordinates, which all weigh alike, so a few of an episode's are enough.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from rnnprop_tf.network import LSTMState, Network
from rnnprop_tf.rule import Observation, Rule
from trainer import unroll
from trainer.estimators.base import Episode, Estimate, Estimator, Period, sample_size
from trainer.estimators.replay import at_coordinates
from trainer.problems.base import Draw, Problem, Seed

FLOOR = 1e-3
"""Squared relative error far below which errors do not count."""
SMALLEST = 0.01
"""Directions of this size and below are judged by their absolute error."""


class Teacher(ABC):
    """An optimizer whose steps are to be imitated, coordinate by coordinate, with a state of its own.

    Its methods are traced and compiled: they use TensorFlow or `keras.ops`, and no variables.
    """

    @abstractmethod
    def initial_state(self, coordinates: int, dtype: str) -> Any:
        """The state of N coordinates before the first step; tensors [..., N], nested in tuples."""

    @abstractmethod
    def update(
        self, state: Any, gradient: tf.Tensor, observation: Observation, step: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """One step.

        Args:
            state: from `initial_state` or the step before.
            gradient: [N].
            observation: what the pupil's rule made of the gradient, for a teacher of the same rule.
            step: the number of this step, counting from 1; a scalar of the gradient's dtype.

        Returns:
            The direction [N], in units of the pupil's learning rate, and the next state. Zero where the
            gradient is zero, if the pupil is to match it: its rule sleeps there.
        """

    @property
    def fingerprint(self) -> int | None:
        """A checksum of files that the teacher was read from; None where there are none."""
        return None


@dataclass(frozen=True)
class LearnedTeacher(Teacher):
    """A rule with its weights, which may be of another architecture than the pupil's."""

    rule: Rule
    network: Network
    """Tensors."""
    scale: float = 1.0
    """Its learning rate in units of the pupil's."""

    reads_pupil: bool = False
    """True for a pupil of the same rule: the teacher then reads the pupil's observations, and keeps a state
    of its own for the LSTM only. False: the teacher observes the gradients itself."""

    def initial_state(self, coordinates: int, dtype: str) -> Any:
        state = self.rule.initial_state(self.network, coordinates, dtype)
        return tf.nest.map_structure(tf.convert_to_tensor, state.lstm if self.reads_pupil else state)

    def update(
        self, state: Any, gradient: tf.Tensor, observation: Observation, step: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        if self.reads_pupil:
            direction, state = self.rule.respond(self.network, observation, state)
        else:
            direction, state = self.rule.update(self.network, state, gradient, step)
        if self.scale != 1.0:
            direction *= self.scale
        return direction, state

    @property
    def fingerprint(self) -> int | None:
        return zlib.crc32(b"".join(w.numpy().tobytes() for w in tf.nest.flatten(self.network)))


class Lesson(NamedTuple):
    """Memory of an episode: the coordinates that are looked at, and the teacher's state there."""

    chosen: tf.Tensor
    """Indices [K] of the coordinates that are looked at."""
    state: Any
    """The teacher's state at these coordinates, tensors [..., K]."""


class Recorded(NamedTuple):
    """Record of a period of the pupil's, at the coordinates that are looked at."""

    lstm: tuple[LSTMState, ...]
    """The pupil's LSTM state at the period's start, each tensor [H, K]."""
    observations: Observation
    """Observations of the pupil's rule, [T, ..., K]."""
    gradients: tf.Tensor
    """Gradients [T, K]."""

    def observation(self, t: tf.Tensor) -> Observation:
        """Observation of the pupil's rule at step t, [..., K]."""
        return tf.nest.map_structure(lambda tensor: tensor[t], self.observations)


@dataclass(frozen=True, kw_only=True)
class Imitation(Estimator):
    """The error of the pupil's directions, and its derivative by the pupil's weights.

    Errors are mean squares over the coordinates, relative to the mean square of the teacher's. Those of the
    directions teach each step; those of their sums over the period, where a parameter ends up: a small error
    that always points the same way matters more than a large one that does not. The objective is
    log(FLOOR + error of the directions) + log(FLOOR + error of their sums).
    """

    teacher: Teacher
    warmup: int = 0
    """Steps over which targets grow: at step t of an episode, whenever a coordinate had its first gradient,
    the target is the teacher's direction times min(1, t / warmup). 0: its direction as it is. The part that
    `teacher_share` gives the teacher in the steps has no warm-up."""
    sample: float
    """Share of the coordinates that are looked at, drawn with replacement for an episode; 1 for all."""
    teacher_share: float = 0.0
    """Share of the meta-training in which the teacher has a part in the steps that are taken. Its weight in
    them falls from 1 to 0 along a line; 0: the pupil makes them alone."""

    def begin(self, problem: Problem, network: Network, draw: Draw, seed: Seed) -> Episode:
        count = sample_size(self.sample, problem)
        if count is None:
            chosen = tf.range(problem.size)
        else:
            chosen = tf.random.stateless_uniform([count], seed, maxval=problem.size, dtype=tf.int32)
        dtype = draw.params.dtype.name
        partner = self.teacher.initial_state(problem.size, dtype) if self.teacher_share else ()
        carry = unroll.start(self.rule, network, draw.params, partner)
        return Episode(
            carry, draw.constants, Lesson(chosen, self.teacher.initial_state(chosen.shape[0], dtype))
        )

    def estimate(self, period: Period) -> Estimate:
        (carry, constants, lesson), steps = period.episode, self.objective.period

        @tf.function(jit_compile=True, autograph=False)
        def compare(network: Network, seen: Recorded, state: Any, step: tf.Tensor) -> tuple[Any, ...]:
            targets, state = self._targets(seen, state, step)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(network)
                directions = self._directions(network, seen)
                value = _error(directions, targets, seen.observations.awake)
            return value, tape.gradient(value, network), state

        after, recorded = self._record(period, steps)
        seen = at_coordinates(recorded, lesson.chosen)
        value, gradient, state = compare(period.network, seen, lesson.state, carry.step)
        return Estimate(Episode(after, constants, Lesson(lesson.chosen, state)), value, gradient)

    def _record(self, period: Period, steps: int) -> tuple[unroll.Carry, Recorded]:
        """The period's steps, by the pupil and, while it has a part in them, the teacher."""
        problem = period.problem
        partner = None
        if self.teacher_share:
            weight = tf.maximum(0.0, 1.0 - period.progress / self.teacher_share)
            partner = unroll.Partner(self.teacher.update, weight)

        @tf.function(jit_compile=problem.compiles_well or None, autograph=False)
        def forward(network: Network, episode: Episode, batches: Any) -> tuple[unroll.Carry, Any]:
            carry, met = unroll.unroll(
                problem, self.rule, network, self.alpha, episode.carry, episode.constants, batches, steps,
                record=True, partner=partner,
            )  # fmt: skip
            return carry, met

        after, met = forward(period.network, period.episode, period.batches)
        return after, Recorded(period.episode.carry.state.lstm, met.observations, met.gradients)

    def _targets(self, seen: Recorded, state: Any, step: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """The teacher's directions [T, K] after `step` steps, and its state after them."""

        def answer(t: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
            number = step + tf.cast(t + 1, step.dtype)
            return self.teacher.update(state, seen.gradients[t], seen.observation(t), number)

        targets, state = _answers(answer, state, seen.gradients)
        if self.warmup:
            numbers = step + 1.0 + tf.range(self.objective.period, dtype=targets.dtype)
            targets *= tf.minimum(1.0, numbers / self.warmup)[:, None]
        return targets, state

    def _directions(self, network: Network, seen: Recorded) -> tf.Tensor:
        """The directions [T, K] of the pupil's weights, for what its network saw."""

        def answer(t: tf.Tensor, lstm: Any) -> tuple[tf.Tensor, Any]:
            return self.rule.respond(network, seen.observation(t), lstm)

        return _answers(answer, seen.lstm, seen.gradients)[0]

    @property
    def fingerprint(self) -> int | None:
        return self.teacher.fingerprint


def _answers(answer: Any, state: Any, gradients: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """The answers [T, K] of `answer(t, state)` for each step of gradients [T, K], and the last state."""
    steps, size = gradients.shape

    def body(t: tf.Tensor, state: Any, answers: tf.TensorArray) -> tuple[Any, ...]:
        direction, state = answer(t, state)
        return t + 1, state, answers.write(t, direction)

    answers = tf.TensorArray(gradients.dtype, steps, element_shape=[size])
    _, state, answers = tf.while_loop(
        lambda t, *_: t < steps, body, (tf.constant(0), state, answers), maximum_iterations=steps
    )
    return answers.stack(), state


def _error(directions: tf.Tensor, targets: tf.Tensor, awake: tf.Tensor) -> tf.Tensor:
    """The objective, for directions [T, K]; those asleep are zero on both sides."""
    count = tf.maximum(tf.reduce_sum(tf.cast(awake, targets.dtype), axis=1), 1.0)
    error = directions - targets
    by_step = tf.reduce_sum(error**2, 1) / (tf.reduce_sum(targets**2, 1) + SMALLEST**2 * count)
    moved, missed = (tf.reduce_sum(tf.reduce_sum(x, 0) ** 2) for x in (targets, error))
    by_period = missed / (moved + SMALLEST**2 * tf.reduce_sum(count))
    return tf.math.log(tf.reduce_mean(by_step) + FLOOR) + tf.math.log(by_period + FLOOR)
