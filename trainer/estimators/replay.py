"""The meta-gradient by replaying what the network saw, on all coordinates or on a sample of them.

The network's inputs are constants (no second derivatives), so the meta-gradient is a sum over coordinates i
and steps t of the period,

    sum over i, t of lambda[t, i] * alpha * d direction[t, i] / d weights,
    lambda[t] = sum over s > t of w_s * gradient of f at theta_s,

and the derivative within runs through coordinate i's own LSTM state alone. So the period's steps are first
made with no tape at all, recording what the network saw; then a sample of the coordinates is gone back
through as a batch of sequences. `tape.Tape` is the same quantity by one tape over the whole unroll.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from rnnprop_tf.network import LSTMState, Network
from rnnprop_tf.rule import Observation, Rule
from trainer.estimators.base import Estimate, Estimator, Objective, Period, sample_size
from trainer.problems.base import Problem, Seed
from trainer.unroll import Trajectory, unroll

SAMPLING_FLOOR = 0.1
"""Part of the sampling probability that is spread evenly over all coordinates."""


@dataclass(frozen=True, kw_only=True)
class Replay(Estimator):
    """Truncated BPTT, exact or on a sample of coordinates."""

    sample: float
    """Share of the coordinates that are replayed, drawn with replacement so that the estimate is unbiased;
    1 replays each once, which is exact."""

    def estimate(self, period: Period) -> Estimate:
        problem, network, objective = period.problem, period.network, self.objective
        carry, constants = period.episode.carry, period.episode.constants
        first_lstm = carry.state.lstm

        # Two programs, as the search for the sample between them is slow in XLA.
        @tf.function(jit_compile=problem.compiles_well or None, autograph=False)
        def forward(network: Network, carry: Any, constants: Any, batches: Any) -> tuple[Any, ...]:
            carry, met = unroll(
                problem, self.rule, network, self.alpha, carry, constants, batches, objective.period, True
            )
            last = objective.last_loss_and_gradient(problem, carry.params, constants, batches)
            return carry, met, *last

        carry, met, last_loss, last_gradient = forward(network, carry, constants, period.batches)
        losses = tf.concat([met.losses, last_loss[None]], axis=0)
        sensitivity = self.alpha * _later_gradients(problem, objective, met, last_gradient)
        observations = met.observations
        count = sample_size(self.sample, problem)
        if count is not None:
            chosen, weight = draw_sample(tf.where(observations.awake, sensitivity, 0.0), count, period.seed)
            sensitivity = tf.gather(sensitivity, chosen, axis=-1) * weight
            observations, first_lstm = at_coordinates((observations, first_lstm), chosen)
        gradient = _replay(self.rule)(network, observations, first_lstm, sensitivity)
        return Estimate(period.episode._replace(carry=carry), objective.value(losses), gradient)


def at_coordinates(recorded: Any, chosen: tf.Tensor) -> Any:
    """The part of recorded tensors [..., N], nested in tuples, that belongs to these coordinates, [K]."""
    return tf.nest.map_structure(lambda tensor: tf.gather(tensor, chosen, axis=-1), recorded)


@functools.cache
def _replay(rule: Rule) -> Callable[..., Network]:
    """A function that goes back through recorded steps; compiled once a shape, whatever the problem."""

    @tf.function(jit_compile=True, autograph=False)
    def replay(
        network: Network, observations: Observation, lstm: tuple[LSTMState, ...], sensitivity: tf.Tensor
    ) -> Network:
        """The gradient of the sum of sensitivity [T, K] times direction [T, K], by the weights."""
        steps = sensitivity.shape[0]

        def body(t: tf.Tensor, lstm: Any, total: tf.Tensor) -> tuple[Any, ...]:
            seen = tf.nest.map_structure(lambda tensor: tensor[t], observations)
            direction, lstm = rule.respond(network, seen, lstm)
            return t + 1, lstm, total + tf.reduce_sum(sensitivity[t] * direction)

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(network)
            start = (tf.constant(0), lstm, tf.zeros([], sensitivity.dtype))
            _, _, total = tf.while_loop(lambda t, *_: t < steps, body, start, maximum_iterations=steps)
        return tape.gradient(total, network)

    return replay


def _later_gradients(
    problem: Problem, objective: Objective, met: Trajectory, last_gradient: tf.Tensor
) -> tf.Tensor:
    """lambda [T, N]: how the objective changes with the parameters that step t produces."""
    last = last_gradient / problem.tasks
    if objective.weights == "last":
        return tf.repeat(last[None], objective.period, axis=0)
    assert met.gradients is not None  # recorded
    earlier = met.gradients[1:] / problem.tasks
    return tf.cumsum(tf.concat([earlier, last[None]], 0), reverse=True) / objective.period


def draw_sample(sensitivity: tf.Tensor, count: int, seed: Seed) -> tuple[tf.Tensor, tf.Tensor]:
    """A sample of K coordinates to replay, and their weights, [K] each.

    Systematic sampling: coordinate i is drawn K p_i times on average and each time weighs 1 / (K p_i). p_i
    follows the norm over time of the coordinate's sensitivities [T, N], for low variance; where all of them
    are zero the coordinate contributes nothing and is never drawn.
    """
    norm = tf.norm(sensitivity, axis=0)
    density = tf.where(norm > 0, norm + SAMPLING_FLOOR * tf.reduce_mean(norm), 0.0)
    cumulative = tf.cumsum(density)
    offset = tf.random.stateless_uniform([], seed, dtype=density.dtype)
    grid = (tf.range(count, dtype=density.dtype) + offset) * (cumulative[-1] / count)
    chosen = tf.minimum(tf.searchsorted(cumulative, grid, side="right"), density.shape[0] - 1)
    drawn = tf.gather(density, chosen)
    return chosen, tf.math.divide_no_nan(cumulative[-1], count * drawn)
