"""How a rule runs over the variables of a model: layout, grouping, compilation.

Nothing here changes what a rule computes: for each variable the results are those of `rule.update` on its
flattened coordinates. The choices, each measured on two CPU cores with 33 variables of mixed shapes and a
million coordinates:

- Features first, [H, N]: 190 ns a coordinate compiled by XLA, against 249 as [N, H] and 380 uncompiled.
- Compiled here, because Keras does not compile `fit` on a CPU. Inside a compiled step it is part of that.
- One program per group of variables, compiled once per number of coordinates (0.6 s of processor time each).
  Small variables are joined; one program each takes 1.7 times as long to compile and is no faster.
- Joined outside of the program: XLA needs 4.5 s for a program that joins 30 variables itself.
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
        gradient = _join([tf.reshape(gradients[i], [-1]) for i in group])
        state = tf.nest.map_structure(
            lambda *parts: _join(parts), *(_reshape_state(states[i], [sizes[i]]) for i in group)
        )
        direction, state = _compiled(rule)(network, state, gradient, step)
        group_sizes = [sizes[i] for i in group]
        parts = [_split(tensor, group_sizes) for tensor in (direction, *tf.nest.flatten(state))]
        for i, flat_direction, *flat_state in zip(group, *parts, strict=True):
            shape = gradients[i].shape
            directions[i] = tf.reshape(flat_direction, shape)
            next_states[i] = _reshape_state(tf.nest.pack_sequence_as(state, flat_state), shape)
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
    """`rule.update`, compiled once per number of coordinates, whatever the network's weights."""
    return tf.function(rule.update, jit_compile=True, autograph=False)


def _join(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else tf.concat(tensors, axis=-1)


def _split(tensor: Tensor, sizes: list[int]) -> list[Tensor]:
    return [tensor] if len(sizes) == 1 else tf.split(tensor, sizes, axis=-1)


def _reshape_state(state: RuleState, shape: Sequence[int]) -> RuleState:
    """The same state with its coordinates laid out as `shape`."""
    accumulators = tuple(tf.reshape(tensor, shape) for tensor in state.accumulators)
    lstm = tf.nest.map_structure(lambda tensor: tf.reshape(tensor, [tensor.shape[0], *shape]), state.lstm)
    return RuleState(accumulators, lstm)
