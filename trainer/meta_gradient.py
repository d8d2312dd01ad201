"""The gradient of what an unroll achieved, by the weights of the rule: truncated BPTT over one period.

The network's inputs are constants (no second derivatives), so the meta-gradient is a sum over coordinates i
and steps t of the period,

    sum over i, t of lambda[t, i] * alpha * d direction[t, i] / d weights,
    lambda[t] = sum over s > t of w_s * gradient of f at theta_s,

and the derivative within runs through coordinate i's own LSTM state alone. So `replayed` first makes the
period's steps with no tape at all, recording what the network saw, and then goes back through a sample of
the coordinates as through a batch of sequences. `taped` is the same quantity by one tape over the whole
unroll: slow, plain, and the truth that the tests compare with.

Where the objective is the last loss alone, lambda is the same at all steps, so a window of many periods costs
no more memory than what the network saw: `record` each period, then `replay_window` from the last one back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from rnnprop_tf.network import LSTMState, Network
from rnnprop_tf.rule import Observation, Rule
from trainer.problems.base import Problem
from trainer.unroll import Carry, Trajectory, loss_and_gradient, unroll

SAMPLING_FLOOR = 0.1
"""Part of the sampling probability that is spread evenly over all coordinates."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a period of T steps is trained to make small, a function of f(theta_1) ... f(theta_T)."""

    steps: int
    """T, the period's length."""
    weights: str = "last"
    """"last": f(theta_T), the paper's for RNNprop; "mean": the mean over all, the paper's for DMoptimizer.

    The 1/T in front of the last loss (section 5) is left out: it only matters to clipping."""
    log: bool = False
    """The logarithm of each loss in place of the loss, so that progress late in a run counts as much."""
    last_batches: int = 1
    """How many batches the loss at theta_T is the mean of; more make the meta-gradient less noisy."""

    def __post_init__(self) -> None:
        if self.weights not in ("last", "mean"):
            raise ValueError(f"Expected the loss weights 'last' or 'mean'. Received: {self.weights!r}")
        if self.steps < 1 or self.last_batches < 1:
            raise ValueError(
                "Expected a period of at least 1 step and 1 last batch. "
                f"Received: {self.steps}, {self.last_batches}"
            )

    @property
    def batches(self) -> int:
        """How many batches a period needs."""
        return self.steps + self.last_batches


class PeriodStart(NamedTuple):
    """What one period is made of."""

    problem: Problem
    rule: Rule
    """How gradients become directions."""
    network: Network
    """The rule's weights."""
    alpha: float
    """The learning rate."""
    objective: Objective
    """What is to become small."""
    carry: Carry
    """What the period starts from; a constant, which is what truncates."""
    constants: Any
    """The episode's, from the problem's draw."""
    batches: Any
    """`objective.batches` of the problem's."""


class Period(NamedTuple):
    """What one period gave."""

    carry: Carry
    """After the last step."""
    objective: tf.Tensor
    """Scalar, mean over tasks."""
    gradient: Network
    """Of the objective, by the rule's weights."""
    losses: tf.Tensor
    """[T + 1] or [T + 1, tasks]: f(theta_0) ... f(theta_T)."""


def taped(start: PeriodStart) -> Period:
    """The meta-gradient by a tape over the unroll, the reference."""
    problem, rule, network, alpha, objective, carry, constants, batches = start
    losses = []
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(network)
        for t in range(objective.steps):
            loss, gradient = loss_and_gradient(problem, carry.params, constants, _batch(batches, t))
            losses.append(loss)
            direction, state = rule.update(network, carry.state, tf.stop_gradient(gradient), carry.step + 1.0)
            carry = Carry(carry.params + alpha * direction, state, carry.step + 1.0)
        rest = _rest(batches, objective.steps)
        last, _ = _last_loss_and_gradient(problem, objective, carry.params, constants, rest)
        losses.append(last)
        value = _value(objective, tf.stack(losses))
    return Period(carry, value, tape.gradient(value, network), tf.stack(losses))


def replayed(start: PeriodStart, sample: int | None, seed: tf.Tensor) -> Period:
    """The meta-gradient by replaying what the network saw, exact or on a sample of coordinates.

    Args:
        start: the period's.
        sample: K, how many coordinates are replayed, drawn with replacement so that the result is unbiased;
            None replays each of the N once, which is exact.
        seed: [2], for the draw.
    """
    problem, rule, network, alpha, objective, carry, constants, batches = start
    first_lstm = carry.state.lstm

    # Two programs, as the search for the sample between them is slow in XLA.
    @tf.function(jit_compile=problem.compiles_well or None, autograph=False)
    def forward(network: Network, carry: Carry, constants: Any, batches: Any) -> tuple[Any, ...]:
        carry, met = unroll(
            problem, rule, network, alpha, carry, constants, batches, objective.steps, record=True
        )
        rest = _rest(batches, objective.steps)
        return carry, met, *_last_loss_and_gradient(problem, objective, carry.params, constants, rest)

    carry, met, last_loss, last_gradient = forward(network, carry, constants, batches)
    losses = tf.concat([met.losses, last_loss[None]], axis=0)
    sensitivity = alpha * _later_gradients(problem, objective, met, last_loss, last_gradient)
    observations = met.observations
    if sample is not None:
        chosen, weight = _sample(tf.where(observations.awake, sensitivity, 0.0), sample, seed)
        sensitivity = tf.gather(sensitivity, chosen, axis=-1) * weight
        observations = tf.nest.map_structure(lambda o: tf.gather(o, chosen, axis=-1), observations)
        first_lstm = tuple(LSTMState(*(tf.gather(s, chosen, axis=-1) for s in state)) for state in first_lstm)

    nothing = tf.nest.map_structure(tf.zeros_like, first_lstm)
    gradient, _ = _replay(rule)(network, observations, first_lstm, sensitivity, nothing)
    return Period(carry, _value(objective, losses), gradient, losses)


class Recorded(NamedTuple):
    """One period of a window."""

    lstm: tuple[LSTMState, ...]
    """At its start, each [H, N]."""
    observations: Observation
    """Each tensor with a first axis of T."""


def record(start: PeriodStart) -> tuple[Carry, Recorded]:
    """A period's steps, for which `objective.steps` batches are enough."""
    problem, rule, network, alpha, objective, carry, constants, batches = start

    @tf.function(jit_compile=problem.compiles_well or None, autograph=False)
    def forward(network: Network, carry: Carry, constants: Any, batches: Any) -> tuple[Carry, Observation]:
        carry, met = unroll(
            problem, rule, network, alpha, carry, constants, batches, objective.steps, record=True
        )
        assert met.observations is not None  # recorded
        return carry, met.observations

    after, observations = forward(network, carry, constants, batches)
    return after, Recorded(carry.state.lstm, observations)


def window_end(start: PeriodStart) -> tuple[tf.Tensor, tf.Tensor]:
    """The objective after a window's last step, and how it changes with each direction of each step, [N].

    Args:
        start: the carry is that after the last step, the batches are those of the last loss.
    """
    problem, _, _, alpha, objective, carry, constants, batches = start

    @tf.function(jit_compile=problem.compiles_well or None, autograph=False)
    def end(params: tf.Tensor, constants: Any, batches: Any) -> tuple[tf.Tensor, tf.Tensor]:
        loss, gradient = _last_loss_and_gradient(problem, objective, params, constants, batches)
        slope = _slope(problem, objective, loss)
        return _value(objective, loss[None]), alpha * slope * gradient / problem.tasks

    return end(carry.params, constants, batches)


def sample_window(
    recorded: Sequence[Recorded], sensitivity: tf.Tensor, count: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """A sample of a window's coordinates, [K], and their sensitivities with the weights of the sample, [K].

    Args:
        recorded: the window's periods.
        sensitivity: [N], from `window_end`.
        count: K.
        seed: [2]
    """
    awake = tf.add_n([tf.reduce_sum(tf.cast(r.observations.awake, sensitivity.dtype), 0) for r in recorded])
    chosen, weight = _sample((sensitivity * tf.sqrt(awake))[None], count, seed)
    return chosen, tf.gather(sensitivity, chosen) * weight


def replay_window(
    rule: Rule,
    network: Network,
    recorded: Sequence[Recorded],
    chosen: tf.Tensor,
    sensitivity: tf.Tensor,
) -> Network:
    """The gradient of a window, period by period from the last one back.

    Args:
        rule: how gradients become directions.
        network: the rule's weights.
        recorded: the window's periods, in order.
        chosen: [K], the coordinates.
        sensitivity: [K], how the objective changes with each of their directions.
    """
    total = tf.nest.map_structure(tf.zeros_like, network)
    later: Any = None
    for period in reversed(recorded):
        lstm, observations = at_coordinates(period, chosen)
        if later is None:
            later = tf.nest.map_structure(tf.zeros_like, lstm)
        by_step = tf.repeat(sensitivity[None], observations.awake.shape[0], axis=0)
        gradient, later = _replay(rule)(network, observations, lstm, by_step, later)
        total = tf.nest.map_structure(tf.add, total, gradient)
    return total


@tf.function(autograph=False)
def at_coordinates(period: Recorded, chosen: tf.Tensor) -> Recorded:
    """What was recorded of these coordinates, [K], alone."""
    return tf.nest.map_structure(lambda tensor: tf.gather(tensor, chosen, axis=-1), period)


@functools.cache
def _replay(rule: Rule) -> Callable[..., tuple[Network, tuple[LSTMState, ...]]]:
    """Goes back through recorded steps; compiled once for each shape, whatever the problem."""

    @tf.function(jit_compile=True, autograph=False)
    def replay(
        network: Network,
        observations: Observation,
        lstm: tuple[LSTMState, ...],
        sensitivity: tf.Tensor,
        later: tuple[LSTMState, ...],
    ) -> tuple[Network, tuple[LSTMState, ...]]:
        """The gradient of the sum of sensitivity [T, K] times direction [T, K], by the weights and by the
        state at the start; `later` is that of all that follows, by the state at the end."""
        steps = sensitivity.shape[0]

        def body(t: tf.Tensor, lstm: Any, total: tf.Tensor) -> tuple[Any, ...]:
            seen = tf.nest.map_structure(lambda tensor: tensor[t], observations)
            direction, lstm = rule.respond(network, seen, lstm)
            return t + 1, lstm, total + tf.reduce_sum(sensitivity[t] * direction)

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((network, lstm))
            start = (tf.constant(0), lstm, tf.zeros([], sensitivity.dtype))
            _, end, total = tf.while_loop(lambda t, *_: t < steps, body, start, maximum_iterations=steps)
            pairs = zip(tf.nest.flatten(end), tf.nest.flatten(later), strict=True)
            total += tf.add_n([tf.reduce_sum(state * slope) for state, slope in pairs])
        return tape.gradient(total, (network, lstm))

    return replay


def _later_gradients(
    problem: Problem, objective: Objective, met: Trajectory, last_loss: tf.Tensor, last_gradient: tf.Tensor
) -> tf.Tensor:
    """lambda [T, N]: how the objective changes with the parameters that step t produces."""
    last = _slope(problem, objective, last_loss) * last_gradient / problem.tasks
    if objective.weights == "last":
        return tf.repeat(last[None], objective.steps, axis=0)
    assert met.gradients is not None  # recorded
    slopes = _slope(problem, objective, met.losses[1:])
    earlier = slopes * met.gradients[1:] / problem.tasks
    return tf.cumsum(tf.concat([earlier, last[None]], 0), reverse=True) / objective.steps


def _slope(problem: Problem, objective: Objective, losses: tf.Tensor) -> tf.Tensor:
    """The objective's derivative by each loss [...(, tasks)], at that task's coordinates [..., N]."""
    slope = 1.0 / losses if objective.log else tf.ones_like(losses)
    if problem.tasks == 1:
        slope = slope[..., None]
    return tf.repeat(slope, problem.size // problem.tasks, axis=-1)


def _value(objective: Objective, losses: tf.Tensor) -> tf.Tensor:
    """The objective from f(theta_0) ... f(theta_T), mean over tasks."""
    later = losses[-1:] if objective.weights == "last" else losses[1:]
    return tf.reduce_mean(tf.math.log(later) if objective.log else later)


def _last_loss_and_gradient(
    problem: Problem, objective: Objective, params: tf.Tensor, constants: Any, batches: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss at theta_T, mean over the batches that follow the steps, and its gradient."""
    count = objective.last_batches
    each = [loss_and_gradient(problem, params, constants, _batch(batches, k)) for k in range(count)]
    losses, gradients = zip(*each, strict=True)
    return tf.add_n(losses) / len(each), tf.add_n(gradients) / len(each)


def _batch(batches: Any, index: int) -> Any:
    return tf.nest.map_structure(lambda b: b[index], batches)


def _rest(batches: Any, first: int) -> Any:
    return tf.nest.map_structure(lambda b: b[first:], batches)


def _sample(sensitivity: tf.Tensor, count: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Coordinates to replay, [K], and their weights, [K].

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
