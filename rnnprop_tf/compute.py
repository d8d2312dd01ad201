"""How a rule runs over the variables of a model: layout, grouping, compilation.

Nothing here changes what a rule computes: for each variable the results are those of `rule.update` on its
flattened coordinates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from rnnprop_tf.network import Network, Tensor
from rnnprop_tf.rule import Rule, RuleState

SMALL = 20_000
"""Variables of fewer coordinates share one program with others; larger ones have a program each."""

GROUP = 200_000
"""The most coordinates in a shared program, which bounds its temporaries."""


def update(
    rule: Rule,
    network: Network,
    states: Sequence[RuleState],
    gradients: Sequence[Tensor],
    step: Tensor,
) -> tuple[list[Tensor], list[RuleState]]:
    """One step of `rule` for several variables.

    Args:
        rule: the rule.
        network: its weights, float32.
        states: one per variable; accumulators of the variable's shape, h and c of shape [H, *shape]. In this
            layout the rule's [H, N] is a reshape and costs nothing.
        gradients: one per variable, float32, of a static shape.
        step: the number of this step, counting from 1; a float32 scalar.

    Returns:
        The directions, each of its variable's shape, and the next states.
    """
    network = tf.nest.map_structure(tf.convert_to_tensor, network)
    sizes = [gradient.shape.num_elements() for gradient in gradients]
    directions: list[Tensor] = list(gradients)
    next_states = list(states)
    for group in groups(sizes):
        flat_states = [_reshape_state(states[i], [sizes[i]]) for i in group]
        flat_gradients = [tf.reshape(gradients[i], [-1]) for i in group]
        results = _compiled(rule)(network, flat_states, flat_gradients, step)
        for i, direction, state in zip(group, *results, strict=True):
            shape = gradients[i].shape
            directions[i] = tf.reshape(direction, shape)
            next_states[i] = _reshape_state(state, shape)
    return directions, next_states


def groups(sizes: Sequence[int]) -> list[list[int]]:
    """Which variables, given by their numbers of coordinates, share a program; indices in rising order."""
    result: list[list[int]] = []
    shared: list[int] = []
    for i, size in enumerate(sizes):
        if size >= SMALL:
            result.append([i])
        elif shared and sum(sizes[j] for j in shared) + size <= GROUP:
            shared.append(i)
        else:
            shared = [i]
            result.append(shared)
    return result


@functools.cache
def _compiled(rule: Rule) -> Callable:
    """`_update_group`, compiled. The weights are arguments, so all networks share the programs of a rule."""
    return tf.function(functools.partial(_update_group, rule), jit_compile=True, autograph=False)


def _update_group(
    rule: Rule, network: Network, states: list[RuleState], gradients: list[Tensor], step: Tensor
) -> tuple[list[Tensor], list[RuleState]]:
    """`rule.update` on the coordinates of several variables at once; all tensors are [N] or [H, N]."""
    if len(gradients) == 1:
        direction, state = rule.update(network, states[0], gradients[0], step)
        return [direction], [state]
    sizes = [gradient.shape[0] for gradient in gradients]
    joined = tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=-1), *states)
    direction, state = rule.update(network, joined, tf.concat(gradients, axis=-1), step)
    parts = [tf.split(tensor, sizes, axis=-1) for tensor in tf.nest.flatten(state)]
    return tf.split(direction, sizes), [
        tf.nest.pack_sequence_as(state, tensors) for tensors in zip(*parts, strict=True)
    ]


def _reshape_state(state: RuleState, shape: Sequence[int]) -> RuleState:
    """The same state with its coordinates laid out as `shape`."""
    accumulators = tuple(tf.reshape(tensor, shape) for tensor in state.accumulators)
    lstm = tf.nest.map_structure(lambda tensor: tf.reshape(tensor, [tensor.shape[0], *shape]), state.lstm)
    return RuleState(accumulators, lstm)
