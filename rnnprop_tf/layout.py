"""Layout of a model's state for a rule: coordinates in one axis, small variables together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from rnnprop_tf.network import LSTMState, Network, Tensor, architecture_of
from rnnprop_tf.rule import Rule, RuleState


def groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """The variables that are updated together.

    Args:
        sizes: their numbers of coordinates.
        most: the most coordinates of a group, but for a variable of more, which is a group of its own.

    Returns:
        Indices of the variables, in rising order within a group.
    """
    result: list[list[int]] = []
    shared: list[int] = []
    for i, size in enumerate(sizes):
        if size > most:
            result.append([i])
        elif shared and sum(sizes[j] for j in shared) + size <= most:
            shared.append(i)
        else:
            shared = [i]
            result.append(shared)
    return result


def mapped(function: Callable[..., Any], *states: RuleState) -> RuleState:
    """The state of the function's results. `keras.tree` does not see into what TensorFlow's tracking wraps.

    Args:
        function: takes a tensor or variable of each state.
        *states: of one rule and network.
    """
    accumulators = (state.accumulators for state in states)
    layers = zip(*(state.lstm for state in states), strict=True)
    return RuleState(
        states[0].accumulators._make(map(function, *accumulators)),
        tuple(LSTMState(*map(function, *layer)) for layer in layers),
    )


def flat(state: RuleState, size: int) -> RuleState:
    """The same state with its N coordinates in one axis, as rules want it.

    Args:
        state: accumulators of the variable's shape, h and c of shape [H, *shape].
        size: N.
    """
    accumulators = state.accumulators._make(reshape(tensor, [size]) for tensor in state.accumulators)
    lstm = (LSTMState(*(reshape(x, [x.shape[0], size]) for x in layer)) for layer in state.lstm)
    return RuleState(accumulators, tuple(lstm))


def joined(states: Sequence[RuleState]) -> RuleState:
    """The states of several variables as that of one.

    Args:
        states: as `flat` returns them.
    """
    return mapped(lambda *parts: ops.concatenate(parts, axis=-1), *states)


def parted(state: RuleState, sizes: Sequence[int]) -> list[RuleState]:
    """The inverse of `joined`.

    Args:
        state: of N coordinates.
        sizes: of each variable, N together.
    """
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [
        mapped(lambda tensor, begin=end - size, end=end: tensor[..., begin:end], state)
        for size, end in zip(sizes, ends, strict=True)
    ]


def reshape(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """`ops.reshape`, where there is something to reshape: hundreds of biases' slots take time to trace."""
    return tensor if list(tensor.shape) == list(shape) else ops.reshape(tensor, shape)


def temporary_bytes(sizes: Sequence[int], rule: Rule, network: Network, joined: int, at_once: int) -> int:
    """About how much memory a step needs at most besides state and gradients.

    Args:
        sizes: numbers of coordinates of the variables, for the changes, before and after a cast.
        rule: the rule.
        network: its weights.
        joined: coordinates of small variables, whose state is there three times: joined, updated, split.
        at_once: coordinates whose gates, features, joined inputs and state are there at a time.
    """
    units = architecture_of(network).lstm
    state = len(rule.accumulators_class._fields) + 2 * sum(units)
    return 4 * (2 * sum(sizes) + 3 * joined * state + at_once * (8 * max(units) + state))
