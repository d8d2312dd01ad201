"""Updates of a model's variables by a rule: layout, grouping, chunks, compilation.

Nothing here changes what a rule computes: for each variable the results are those of `rule.update` on its
flattened coordinates. The choices, each measured on an AMD EPYC (nanoseconds of one core for a coordinate and
step; those marked * later, when what had taken 300 took 187 on the machine at hand):

- Features first, [H, N]: 25 % faster than [N, H] compiled by XLA.
- Compiled here, because Keras does not compile `fit` on a CPU. Inside a compiled step it is part of that.
- State in place: the program reads and assigns the slots themselves, so XLA reuses their memory.
- The network's part stands in a branch: see `_update_stored`. 208 to 155* for a model of 31 variables.
- Variables beyond `WHOLE` chunk by chunk, a loop inside the program: temporaries do not grow with the model.
  The loop takes half as long again to compile (0.72 seconds of processor time against 0.50*) and is no faster
  in its place (160 against 155*), so smaller variables go without.
- A large variable has a program of its own. Small ones are joined first: one program each takes 1.7 times
  as long to compile and is no faster. Joined outside of the program: XLA takes longer to do it inside.
- Programs run side by side, a core each. One after the other, the cores sharing each chunk, took 263
  nanoseconds on two cores against 211 in chunks of 4,096.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence

import tensorflow as tf
from keras import ops

from rnnprop_tf.network import LSTMState, Network, Tensor
from rnnprop_tf.rule import Observation, Rule, RuleState

CHUNK = 8_192
"""Coordinates of a turn. 1,024 to 8,192 are alike on one core; larger ones help cores that share a chunk, but
from 32,768 on the caches no longer hold one. A multiple of 64, the width of XLA's matrix product: others cost
a tenth more."""

WHOLE = 65_536
"""The most coordinates without a loop on a CPU, 50 MB of temporaries."""

WHOLE_ON_GPU = 2**20
"""The most coordinates without a loop on a GPU, which needs many coordinates at once, and where a loop's
branch waits for the host."""

SMALL = 20_000
"""Variables of fewer coordinates share one program with others; larger ones have a program each."""

GROUP = 100_000
"""The most coordinates in a shared program. Their state is copied: 100 MB for the paper's network."""


def update(
    rule: Rule,
    network: Network,
    slots: Sequence[RuleState],
    gradients: Sequence[Tensor],
    taken: Tensor,
    step: Tensor,
) -> list[Tensor]:
    """One step of `rule` for several variables: writes their slots and returns the directions.

    Args:
        rule: the rule.
        network: its weights, float32.
        slots: one per variable, of `tf.Variable`s; accumulators of the variable's shape, h and c of shape
            [H, *shape]. In this layout the rule's [H, N] is a reshape and costs nothing.
        gradients: one per variable, float32, of a static shape.
        taken: a boolean scalar; if false, all coordinates sleep: directions are zero and no slot changes.
        step: the number of this step, counting from 1; a float32 scalar.

    Returns:
        The directions, each of its variable's shape.
    """
    network = tf.nest.map_structure(tf.convert_to_tensor, network)
    directions: list[Tensor] = list(gradients)
    joined: list[Tensor] = []
    for group in groups([gradient.shape.num_elements() for gradient in gradients]):
        if len(group) == 1:
            [i] = group
            directions[i] = _update_one(rule, network, slots[i], gradients[i], taken, step)
            continue
        with tf.control_dependencies(joined):  # One after the other: each has a copy of its state.
            joined = _update_joined(
                rule, network, [slots[i] for i in group], [gradients[i] for i in group], taken, step
            )
        for i, direction in zip(group, joined, strict=True):
            directions[i] = direction
    return directions


def groups(sizes: Sequence[int]) -> list[list[int]]:
    """The variables that share a program, from their numbers of coordinates; indices in rising order."""
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


def _update_one(
    rule: Rule, network: Network, slots: RuleState, gradient: Tensor, taken: Tensor, step: Tensor
) -> Tensor:
    """A variable by itself, in place."""
    # Handles, not variables: a traced function remembers the variables of its first call and fails for
    # others once those are gone.
    handles = tf.nest.map_structure(lambda slot: slot.handle, slots)
    dtypes = tuple(slot.dtype for slot in tf.nest.flatten(slots))
    return _compiled(_update_in_place, rule, dtypes)(network, handles, gradient, taken, step)


def _update_joined(
    rule: Rule,
    network: Network,
    slots: list[RuleState],
    gradients: list[Tensor],
    taken: Tensor,
    step: Tensor,
) -> list[Tensor]:
    """Several variables as if they were one."""
    sizes = [gradient.shape.num_elements() for gradient in gradients]
    states = [flat(slot, size) for slot, size in zip(slots, sizes, strict=True)]
    state = tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=-1), *states)
    shapes = [gradient.shape for gradient in gradients]
    gradient = tf.concat([_reshape(g, [size]) for g, size in zip(gradients, sizes, strict=True)], axis=0)
    direction, state = _compiled(_update_in_chunks, rule)(network, state, gradient, taken, step)
    by_slot = zip(*map(tf.nest.flatten, slots), strict=True)
    for variables, value in zip(by_slot, tf.nest.flatten(state), strict=True):
        for variable, part in zip(variables, tf.split(value, sizes, axis=-1), strict=True):
            variable.assign(_reshape(part, variable.shape))
    directions = tf.split(direction, sizes)
    return [_reshape(d, shape) for d, shape in zip(directions, shapes, strict=True)]


@functools.cache
def _compiled(function: Callable, *static: Hashable) -> Callable:
    """`function` of these first arguments, compiled once per shape of its others, whatever their values."""
    return tf.function(functools.partial(function, *static), jit_compile=True, autograph=False)


def _update_in_place(
    rule: Rule,
    dtypes: tuple[tf.DType, ...],
    network: Network,
    handles: RuleState,
    gradient: Tensor,
    taken: Tensor,
    step: Tensor,
) -> Tensor:
    """Reads and writes the variables of these handles and dtypes."""
    slots = zip(tf.nest.flatten(handles), dtypes, strict=True)
    values = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype) for handle, dtype in slots]
    state = tf.nest.pack_sequence_as(handles, values)
    shapes = [value.shape for value in values]
    state = flat(state, gradient.shape.num_elements())
    direction, state = _update_in_chunks(rule, network, state, tf.reshape(gradient, [-1]), taken, step)
    for handle, value, shape in zip(tf.nest.flatten(handles), tf.nest.flatten(state), shapes, strict=True):
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.reshape(value, shape))
    return tf.reshape(direction, gradient.shape)


def _update_in_chunks(
    rule: Rule, network: Network, state: RuleState, gradient: Tensor, taken: Tensor, step: Tensor
) -> tuple[Tensor, RuleState]:
    """`rule.update` on N coordinates, chunk by chunk."""
    gradient = tf.where(taken, gradient, tf.zeros_like(gradient))
    size = gradient.shape[0]
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    if size <= (WHOLE_ON_GPU if on_gpu else WHOLE):
        return _update_stored(rule, network, state, gradient, step, branch=not on_gpu)
    chunk = min(CHUNK, size)

    def turn(begin: Tensor, direction: Tensor, state: RuleState) -> tuple[Tensor, Tensor, RuleState]:
        # The last chunk reaches back over coordinates that are done. Those sleep, which keeps their state.
        start = tf.minimum(begin, size - chunk)
        fresh = start + tf.range(chunk) >= begin
        part = tf.nest.map_structure(lambda tensor: _slice(tensor, start, chunk), state)
        part_gradient = tf.where(fresh, _slice(gradient, start, chunk), 0.0)
        part_direction, part = _update_stored(rule, network, part, part_gradient, step, branch=True)
        part_direction = tf.where(fresh, part_direction, _slice(direction, start, chunk))
        write = functools.partial(_write, start=start)
        return begin + chunk, write(direction, part_direction), tf.nest.map_structure(write, state, part)

    _, direction, state = tf.while_loop(
        lambda begin, *_: begin < size, turn, (tf.constant(0), tf.zeros_like(gradient), state)
    )
    return direction, state


def _update_stored(
    rule: Rule, network: Network, state: RuleState, gradient: Tensor, step: Tensor, branch: bool
) -> tuple[Tensor, RuleState]:
    """`rule.update` in the gradient's precision, on an LSTM state in the precision that it is stored in.

    With `branch`, the network's part stands in a branch that is left out where all coordinates sleep (unused
    rows of an embedding). On a CPU it is worth its place for what XLA does at its border:

    - The mask `awake` becomes an array. Fused with its users instead, it is made again from the gradient, and
      LLVM then uses half of the processor's vector width: 187 nanoseconds a coordinate against 145.
    - No result takes the memory of its input, which would make LLVM's check for overlap choose scalar code.
    - Slices before it and writes after it stay apart, and only so the state is updated in place. Without,
      each turn of the loop copies all of the state: 3,700 nanoseconds.
    """
    observation, accumulators = rule.observe(state.accumulators, gradient, step)

    def respond() -> tuple[Tensor, RuleState]:
        direction, lstm = respond_stored(rule, network, observation, state.lstm)
        return direction, RuleState(accumulators, lstm)

    if not branch:
        return respond()
    return tf.cond(tf.reduce_any(observation.awake), respond, lambda: (tf.zeros_like(gradient), state))


def respond_stored(
    rule: Rule, network: Network, observation: Observation, lstm: tuple[LSTMState, ...]
) -> tuple[Tensor, tuple[LSTMState, ...]]:
    """`rule.respond` in the precision of the inputs, on an LSTM state in the one that it is stored in."""
    exact = tf.nest.map_structure(lambda tensor: tf.cast(tensor, observation.inputs.dtype), lstm)
    direction, exact = rule.respond(network, observation, exact)
    return direction, tf.nest.map_structure(lambda new, old: tf.cast(new, old.dtype), exact, lstm)


def _slice(tensor: Tensor, start: Tensor, size: int) -> Tensor:
    """`tensor[..., start : start + size]`"""
    *features, _ = tensor.shape
    return ops.slice(tensor, [0] * len(features) + [start], [*features, size])


def _write(tensor: Tensor, part: Tensor, start: Tensor) -> Tensor:
    """The inverse of `_slice`."""
    return ops.slice_update(tensor, [0] * (len(tensor.shape) - 1) + [start], part)


def flat(state: RuleState, size: int) -> RuleState:
    """The same state with its N coordinates in one axis, as rules want it.

    Args:
        state: accumulators of the variable's shape, h and c of shape [H, *shape].
        size: N.
    """
    accumulators = tf.nest.map_structure(lambda tensor: _reshape(tensor, [size]), state.accumulators)
    lstm = tf.nest.map_structure(lambda tensor: _reshape(tensor, [tensor.shape[0], size]), state.lstm)
    return RuleState(accumulators, lstm)


def _reshape(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """`tf.reshape`, where there is something to reshape: hundreds of biases' slots take time to trace."""
    return tensor if list(tensor.shape) == list(shape) else tf.reshape(tensor, shape)


def temporary_bytes(sizes: Sequence[int], rule: Rule, network: Network) -> int:
    """About how much memory `update` needs at most besides state and gradients, on a CPU.

    Directions and their multiples of the learning rate; three times the state of one joined group (joined,
    updated, split); and what two programs at once keep of gates, features, joined inputs and next state.
    """
    units = [layer.kernel.shape[0] // 4 for layer in network.lstm]
    joined = max((sum(sizes[i] for i in group) for group in groups(sizes) if len(group) > 1), default=0)
    whole = min(max(sizes, default=0), WHOLE)
    state = len(rule.accumulators_class._fields) + 2 * sum(units)
    return 4 * (2 * sum(sizes) + 3 * joined * state + 2 * whole * (8 * max(units) + state))
