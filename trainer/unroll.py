"""An optimizer at work: the only place where a rule meets a problem (the loop of section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from rnnprop_tf.network import Network
from rnnprop_tf.rule import Observation, Rule, RuleState
from trainer.problems.base import Problem, loss_and_gradient


class Carry(NamedTuple):
    """State of an unroll between two steps."""

    params: tf.Tensor
    """[N]"""
    state: RuleState
    step: tf.Tensor
    """Steps made so far, a scalar of the parameters' dtype."""
    partner: Any = ()
    """The partner's state; `()` without one."""


class Partner(NamedTuple):
    """A second optimizer with a part in the steps that are taken."""

    update: Callable[[Any, tf.Tensor, Observation, tf.Tensor], tuple[tf.Tensor, Any]]
    """A function of its state, the gradient [N], the rule's observation of it and the step's number, from 1;
    returns the direction [N] and the next state."""
    weight: tf.Tensor
    """The weight of its direction in the step, a scalar in [0, 1]; the rule's direction has the rest."""


class Trajectory(NamedTuple):
    """Record of T steps in order: at theta_0 ... theta_{T-1}, each before the step's update."""

    losses: tf.Tensor
    """[T] or [T, tasks]"""
    gradients: tf.Tensor | None = None
    """[T, N]; None unless recorded."""
    observations: Observation | None = None
    """Observations of the rule, each tensor with a first axis of T; None unless recorded."""


def start(rule: Rule, network: Network, params: tf.Tensor, partner: Any = ()) -> Carry:
    """The carry before the first step of an episode; `partner` is the partner's state then."""
    state = rule.initial_state(network, params.shape[0], params.dtype.name)
    return Carry(params, state, tf.zeros([], params.dtype), partner)


def unroll(
    problem: Problem,
    rule: Rule,
    network: Network,
    alpha: float,
    carry: Carry,
    constants: Any,
    batches: Any,
    steps: int,
    record: bool = False,
    partner: Partner | None = None,
) -> tuple[Carry, Trajectory]:
    """Makes `steps` steps, one for each batch, and returns their losses.

    A loop in the graph: compiled, it is one XLA program of constant size, whatever the number of steps, and
    the LSTM's state stays in the same buffers. That is what makes it fast.

    Args:
        problem: the optimizee.
        rule: how gradients become directions.
        network: the rule's learned weights.
        alpha: the learning rate; the direction is multiplied by it.
        carry: the result of `start` or of a previous unroll.
        constants: the episode's, from the problem's draw.
        batches: the problem's, at least `steps` of them.
        steps: T.
        record: keep the gradients and observations, as the meta-gradient needs them.
        partner: shares in the steps; its state is the carry's. None: the rule makes them alone.

    Returns:
        The carry after the last step, and the trajectory.
    """
    dtype = carry.params.dtype
    loss_shape = [problem.tasks] if problem.tasks > 1 else []
    arrays = [tf.TensorArray(dtype, steps, element_shape=loss_shape)]
    if record:
        # Made for its shapes and types; its values are not used, so nothing of it runs in a graph.
        example, _ = rule.observe(carry.state.accumulators, carry.params, carry.step + 1.0)
        arrays += [
            tf.TensorArray(tensor.dtype, steps, element_shape=tensor.shape)
            for tensor in tf.nest.flatten((carry.params, example))
        ]

    # The rule is worth compiling even where the problem is not; in a compiled unroll this changes nothing.
    @tf.function(jit_compile=True, autograph=False)
    def apply_rule(
        network: Network, state: RuleState, gradient: tf.Tensor, step: tf.Tensor
    ) -> tuple[Observation, tf.Tensor, RuleState]:
        observation, accumulators = rule.observe(state.accumulators, gradient, step)
        direction, lstm = rule.respond(network, observation, state.lstm)
        return observation, direction, RuleState(accumulators, lstm)

    def body(t: tf.Tensor, carry: Carry, arrays: list[tf.TensorArray]) -> tuple[Any, ...]:
        batch = tf.nest.map_structure(lambda b: b[t], batches)
        loss, gradient = loss_and_gradient(problem, carry.params, constants, batch)
        step = carry.step + 1.0
        observation, direction, state = apply_rule(network, carry.state, gradient, step)
        partner_state = carry.partner
        if partner is not None:
            other, partner_state = partner.update(partner_state, gradient, observation, step)
            direction = partner.weight * other + (1.0 - partner.weight) * direction
        carry = Carry(carry.params + alpha * direction, state, step, partner_state)
        met = tf.nest.flatten((loss, gradient, observation))[: len(arrays)]
        return t + 1, carry, [array.write(t, value) for array, value in zip(arrays, met, strict=True)]

    _, carry, arrays = tf.while_loop(
        lambda t, *_: t < steps, body, (tf.constant(0), carry, arrays), maximum_iterations=steps
    )
    losses, *recorded = (array.stack() for array in arrays)
    if not record:
        return carry, Trajectory(losses)
    gradients, *observations = recorded
    return carry, Trajectory(losses, gradients, tf.nest.pack_sequence_as(example, observations))
