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
- A large variable has a program of its own, made once for each shape. Small ones, and rows of a table, go
  through programs of the few sizes in `PAGES`, joined and filled up outside of the program: so compilation
  does not grow with the model, and another set of variables or of rows needs no other program.
- Programs run side by side, a core each. One after the other, the cores sharing each chunk, took 263
  nanoseconds on two cores against 211 in chunks of 4,096.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf
from keras import ops
from tensorflow.python.eager import context

from rnnprop_tf import layout, state_types
from rnnprop_tf.layout import flat, reshape
from rnnprop_tf.network import Network, Tensor, architecture_of
from rnnprop_tf.rows import Rows, gather, scatter
from rnnprop_tf.rule import Rule, RuleState

CHUNK = 8_192
"""Coordinates of a turn. 1,024 to 8,192 are alike on one core; larger ones help cores that share a chunk, but
from 32,768 on the caches no longer hold one. A multiple of 64, the width of XLA's matrix product: others cost
a tenth more."""

NARROW = 8
"""The most units of a layer of a small network."""

NARROW_CHUNK = 2_048
"""Coordinates of a turn for a small network. XLA shares larger chunks out among the cores, which does not pay
where there is so little to do, and keeps them from other programs: 13 nanoseconds a coordinate on two cores
in chunks of 8,192, 9.5 in these."""

WHOLE = 65_536
"""The most coordinates without a loop on a CPU, 50 MB of temporaries."""

WHOLE_ON_GPU = 2**20
"""The most coordinates without a loop on a GPU, which needs many coordinates at once, and where a loop's
branch waits for the host."""

PAGES = (1_024, 4_096, 16_384)
"""Sizes of the programs that small variables share, and rows of a table, in coordinates. A variable of more
than the last has a program of its own."""

ROWS_PAGE = PAGES[1]
"""Coordinates of rows that are updated at a time, where a row is no longer. Larger pages hold more rows that
are there only to fill the last one."""

PROGRAMS = 512
"""The most traced programs that are kept. None holds a variable, but each some memory."""

Move: TypeAlias = Callable[[Tensor, Tensor], None]
"""Moves rows of a variable: takes their indices [R] and what is to be added to them, [R, *dims]."""


class Scalars(NamedTuple):
    """What all variables of a step share."""

    taken: Tensor
    """Boolean; if false, all coordinates sleep: changes are zero and no slot changes."""
    step: Tensor
    """The number of this step, counting from 1; float32."""
    rate: Tensor
    """The learning rate, float32. To multiply within the programs saves a pass over all directions."""


def update(
    rule: Rule,
    network: Network,
    slots: Sequence[RuleState],
    gradients: Sequence[Tensor],
    scalars: Scalars,
    jit_compile: bool = True,
) -> list[Tensor]:
    """One step of `rule` for several variables: writes their slots and returns what is to be added to them.

    Args:
        rule: the rule.
        network: its weights, float32.
        slots: one per variable, of `tf.Variable`s; accumulators of the variable's shape, h and c of shape
            [H, *shape]. In this layout the rule's [H, N] is a reshape and costs nothing.
        gradients: one per variable, float32, of a static shape.
        scalars: what the variables share.
        jit_compile: whether XLA compiles the programs.

    Returns:
        The directions times the learning rate, each of its variable's shape.
    """
    network = tf.nest.map_structure(tf.convert_to_tensor, network)
    changes: list[Tensor] = list(gradients)
    for group in groups([gradient.shape.num_elements() for gradient in gradients]):
        if gradients[group[0]].shape.num_elements() > PAGES[-1]:
            [i] = group
            changes[i] = _update_one(rule, network, slots[i], gradients[i], scalars, jit_compile)
            continue
        members = [slots[i] for i in group], [gradients[i] for i in group]
        joined = _update_joined(rule, network, *members, scalars, jit_compile)
        for i, change in zip(group, joined, strict=True):
            changes[i] = change
    return changes


def update_rows(
    rule: Rule,
    network: Network,
    slots: RuleState,
    rows: Rows,
    move: Move,
    scalars: Scalars,
    jit_compile: bool = True,
) -> None:
    """One step of `rule` for some rows of one variable. The others sleep, and cost nothing.

    The numbers are those of `update` with zeros for the other rows. A page of rows at a time is gathered,
    updated by the programs that small variables share, and scattered.

    Args:
        rule: the rule.
        network: its weights, float32.
        slots: as in `update`.
        rows: the gradient, float32, of a static shape but for the number of rows; no row is longer than the
            last of `PAGES`.
        move: called for a page of rows. Where there are too few to fill it, the last one stands there several
            times, and only the first of them has a change that is not zero.
        scalars: what all variables share.
        jit_compile: whether XLA compiles the programs.
    """
    network = tf.nest.map_structure(tf.convert_to_tensor, network)
    length = rows.values.shape[1:].num_elements()
    in_page = max(1, ROWS_PAGE // length)
    if (known := rows.values.shape[0]) is not None:
        in_page = max(1, min(in_page, known))
    size = in_page * length

    def features(slot: tf.Variable) -> int:
        return len(slot.shape) - len(rows.values.shape)

    def turn(begin: Tensor) -> tuple[Tensor]:
        places = begin + tf.range(in_page)
        repeated = places >= rows.count
        places = tf.minimum(places, rows.count - 1)
        indices = tf.gather(rows.indices, places)
        gradient = tf.ensure_shape(tf.gather(rows.values, places), [in_page, *rows.values.shape[1:]])
        old = flat(tf.nest.map_structure(lambda slot: gather(slot, indices, features(slot)), slots), size)
        flat_gradient = tf.reshape(gradient, [size])
        [change], [new] = _padded(rule, network, [old], [flat_gradient], scalars, jit_compile)
        change = tf.reshape(change, gradient.shape)
        mask = tf.reshape(repeated, [in_page] + [1] * (len(gradient.shape) - 1))
        for slot, value in zip(tf.nest.flatten(slots), tf.nest.flatten(new), strict=True):
            axes = features(slot)
            scatter(slot, indices, tf.reshape(value, [*slot.shape[:axes], *gradient.shape]), axes)
        move(indices, tf.where(mask, tf.zeros_like(change), change))
        return (begin + in_page,)

    tf.while_loop(lambda begin: begin < rows.count, turn, (tf.constant(0),), parallel_iterations=1)


def groups(sizes: Sequence[int]) -> list[list[int]]:
    """The variables that share a program, from their numbers of coordinates; indices in rising order."""
    return layout.groups(sizes, PAGES[-1])


def chunk_of(network: Network) -> int:
    """Coordinates of a turn of the loop over a large variable, on a CPU.

    Args:
        network: the weights, for their sizes.
    """
    return NARROW_CHUNK if max(architecture_of(network).lstm) <= NARROW else CHUNK


def compiles() -> bool:
    """Whether XLA can compile here, found by trying. A warning says so where it cannot."""
    return _compiles(tuple(context.context().op_callbacks))


@functools.lru_cache(maxsize=8)
def _compiles(callbacks: tuple[Callable, ...]) -> bool:
    """Tried once for each set of callbacks, such as those of `tf.debugging.enable_check_numerics`."""
    try:
        with tf.init_scope():
            tf.function(lambda x: x + 1.0, jit_compile=True, autograph=False)(tf.constant(0.0))
    except (tf.errors.OpError, ValueError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"XLA cannot compile the optimizer's update here ({reason}). It runs as TensorFlow's own "
            "operations, which takes longer. `jit_compile=False` does the same without this warning.",
            stacklevel=2,
        )
        return False
    return True


def _page(size: int) -> int:
    """The smallest page that holds so many coordinates; the largest, if none does."""
    return next((page for page in PAGES if page >= size), PAGES[-1])


def _update_one(
    rule: Rule,
    network: Network,
    slots: RuleState,
    gradient: Tensor,
    scalars: Scalars,
    jit_compile: bool,
) -> Tensor:
    """A variable by itself, in place."""
    # Handles, not variables: a traced function remembers the variables of its first call and fails for
    # others once those are gone.
    handles = tf.nest.map_structure(lambda slot: slot.handle, slots)
    shapes = tuple(gradient.shape), _signature(network)
    program = _program(_update_in_place, (rule, _dtypes(slots)), shapes, jit_compile)
    return program(network, handles, gradient, scalars)


def _update_joined(
    rule: Rule,
    network: Network,
    slots: list[RuleState],
    gradients: list[Tensor],
    scalars: Scalars,
    jit_compile: bool,
) -> list[Tensor]:
    """Several variables as if they were one."""
    sizes = [gradient.shape.num_elements() for gradient in gradients]
    states = [flat(slot, size) for slot, size in zip(slots, sizes, strict=True)]
    parts = [reshape(g, [size]) for g, size in zip(gradients, sizes, strict=True)]
    changes, states = _padded(rule, network, states, parts, scalars, jit_compile)
    for slot, state in zip(slots, states, strict=True):
        pairs = zip(tf.nest.flatten(slot), tf.nest.flatten(state), strict=True)
        for variable, value in pairs:
            variable.assign(reshape(value, variable.shape))
    return [reshape(change, g.shape) for change, g in zip(changes, gradients, strict=True)]


def _padded(
    rule: Rule,
    network: Network,
    states: list[RuleState],
    gradients: list[Tensor],
    scalars: Scalars,
    jit_compile: bool,
) -> tuple[list[Tensor], list[RuleState]]:
    """The step of states, each [..., n], and gradients, each [n], in a page that holds them all."""
    sizes = [gradient.shape[0] for gradient in gradients]
    used = sum(sizes)
    sizes.append(_page(used) - used)

    def join(*parts: Tensor) -> Tensor:
        zeros = tf.zeros([*parts[0].shape[:-1], sizes[-1]], parts[0].dtype)
        return tf.concat([*parts, zeros], axis=-1)

    shapes = sum(sizes), _dtypes(states[0]), _signature(network)
    program = _program(_update_in_chunks, (rule,), shapes, jit_compile)
    state = tf.nest.map_structure(join, *states)
    change, state = program(network, state, join(*gradients), scalars)
    by_slot = [tf.split(tensor, sizes, axis=-1)[:-1] for tensor in tf.nest.flatten(state)]
    parts = [tf.nest.pack_sequence_as(state, list(values)) for values in zip(*by_slot, strict=True)]
    return tf.split(change, sizes)[:-1], parts


def _dtypes(state: RuleState) -> tuple[tf.DType, ...]:
    return tuple(tensor.dtype for tensor in tf.nest.flatten(state))


def _signature(network: Network) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tf.nest.flatten(network))


@functools.lru_cache(maxsize=PROGRAMS)
def _program(
    function: Callable, static: tuple[Hashable, ...], shapes: Hashable, jit_compile: bool
) -> Callable:
    """`function` of these first arguments, traced once: one program for each of `shapes`.

    TensorFlow would keep several in one, but warns where it traces one function often.
    """
    return tf.function(functools.partial(function, *static), jit_compile=jit_compile or None, autograph=False)


def _update_in_place(
    rule: Rule,
    dtypes: tuple[tf.DType, ...],
    network: Network,
    handles: RuleState,
    gradient: Tensor,
    scalars: Scalars,
) -> Tensor:
    """Reads and writes the variables of these handles and dtypes."""
    slots = zip(tf.nest.flatten(handles), dtypes, strict=True)
    values = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype) for handle, dtype in slots]
    state = tf.nest.pack_sequence_as(handles, values)
    shapes = [value.shape for value in values]
    size = gradient.shape.num_elements()
    change, state = _update_in_chunks(rule, network, flat(state, size), tf.reshape(gradient, [size]), scalars)
    for handle, value, shape in zip(tf.nest.flatten(handles), tf.nest.flatten(state), shapes, strict=True):
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.reshape(value, shape))
    return tf.reshape(change, gradient.shape)


def _update_in_chunks(
    rule: Rule, network: Network, state: RuleState, gradient: Tensor, scalars: Scalars
) -> tuple[Tensor, RuleState]:
    """`rule.update` on N coordinates, chunk by chunk."""
    bits = layout.mapped(state_types.as_bits, state)
    change, bits = _update_bits(rule, network, bits, gradient, scalars)
    return change, layout.mapped(lambda new, old: state_types.from_bits(new, old.dtype), bits, state)


def _update_bits(
    rule: Rule, network: Network, state: RuleState, gradient: Tensor, scalars: Scalars
) -> tuple[Tensor, RuleState]:
    """`_update_in_chunks`, on a state whose bfloat16 is there as bits."""
    taken, step, rate = scalars
    size = gradient.shape[0]
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    if size <= (WHOLE_ON_GPU if on_gpu else WHOLE):
        gradient = tf.where(taken, gradient, tf.zeros_like(gradient))
        direction, state = _update_stored(rule, network, state, gradient, step, branch=not on_gpu)
        return rate * direction, state
    chunk = min(chunk_of(network), size)

    def turn(begin: Tensor, change: Tensor, state: RuleState) -> tuple[Tensor, Tensor, RuleState]:
        # The last chunk reaches back over coordinates that are done. Those sleep, which keeps their state.
        start = tf.minimum(begin, size - chunk)
        done = start + tf.range(chunk) < begin
        part = tf.nest.map_structure(lambda tensor: _slice(tensor, start, chunk), state)
        read = tf.logical_and(taken, tf.logical_not(done))
        part_gradient = tf.where(read, _slice(gradient, start, chunk), 0.0)
        direction, part = _update_stored(rule, network, part, part_gradient, step, branch=True)
        part_change = tf.where(done, _slice(change, start, chunk), rate * direction)
        write = functools.partial(_write, start=start)
        return begin + chunk, write(change, part_change), tf.nest.map_structure(write, state, part)

    _, change, state = tf.while_loop(
        lambda begin, *_: begin < size, turn, (tf.constant(0), tf.zeros_like(gradient), state)
    )
    return change, state


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
    - A narrow state is widened with the slices and narrowed with the writes. Within the branch, XLA computes
      h and c twice, for the next layer and to store them: 1.25 times float32's time for the small network,
      1.0 outside.
    """
    observation, accumulators = rule.observe(state.accumulators, gradient, step)
    exact = state._replace(lstm=state_types.exact(state.lstm, gradient.dtype))

    def respond() -> tuple[Tensor, RuleState]:
        direction, lstm = rule.respond(network, observation, exact.lstm)
        return direction, RuleState(accumulators, lstm)

    if branch:
        sleep = tf.zeros_like(gradient), exact
        direction, new = tf.cond(tf.reduce_any(observation.awake), respond, lambda: sleep)
    else:
        direction, new = respond()
    return direction, new._replace(lstm=state_types.stored(new.lstm, state.lstm))


def _slice(tensor: Tensor, start: Tensor, size: int) -> Tensor:
    """`tensor[..., start : start + size]`"""
    *features, _ = tensor.shape
    return ops.slice(tensor, [0] * len(features) + [start], [*features, size])


def _write(tensor: Tensor, part: Tensor, start: Tensor) -> Tensor:
    """The inverse of `_slice`."""
    return ops.slice_update(tensor, [0] * (len(tensor.shape) - 1) + [start], part)


def temporary_bytes(sizes: Sequence[int], rule: Rule, network: Network) -> int:
    """About how much memory `update` needs at most besides state and gradients, on a CPU.

    Changes, before and after a cast to the variable's type; three times the state of the pages of small
    variables (joined, updated, split); and what two programs at once keep of gates, features, joined inputs
    and state.
    """
    totals = [sum(sizes[i] for i in group) for group in groups(sizes)]
    joined = sum(_page(total) for total in totals if total <= PAGES[-1])
    return layout.temporary_bytes(sizes, rule, network, joined, 2 * min(max(sizes, default=0), WHOLE))
