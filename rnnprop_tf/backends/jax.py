"""Learned optimizers on JAX: one pure update of all slots, compiled by itself or within `fit`'s step.

The choices are those of `rnnprop_tf.compute`, for the same reasons: XLA compiles here too. There are no
pages, as a program belongs to one model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras

from rnnprop_tf import layout, state_types
from rnnprop_tf.learned import LearnedOptimizer, Step
from rnnprop_tf.network import Network, Tensor
from rnnprop_tf.rule import Rule, RuleState

CHUNK = 8_192
"""Coordinates of a turn; smaller variables are joined up to `JOINED` and go without a loop."""

JOINED = 16_384
"""The most coordinates of small variables that are updated as one."""

WHOLE = 65_536
"""The most coordinates without a loop on a CPU."""

WHOLE_ON_ACCELERATOR = 2**20
"""The most coordinates without a loop elsewhere, where a loop's branch waits for the host."""


class BackendOptimizer(LearnedOptimizer):
    """A learned optimizer whose steps JAX runs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        distribution = keras.distribution.distribution()
        if isinstance(distribution, keras.distribution.ModelParallel):
            raise ValueError(
                "On JAX a learned optimizer's state is not laid out over the devices with the variables: "
                "expected no distribution, or `keras.distribution.DataParallel()`, set by "
                f"`keras.distribution.set_distribution`. Received: {type(distribution).__name__}"
            )

    def _overwrite_model_variables_with_average_value(
        self, trainable_variables: Sequence[keras.Variable]
    ) -> None:
        super()._overwrite_model_variables_with_average_value(trainable_variables)
        # Of their own: `fit` gives the buffers of all variables away to its next step, each once.
        for variable in trainable_variables:
            variable.assign(jnp.copy(variable.value))

    def _changes(
        self, slots: Sequence[RuleState], gradients: Sequence[Tensor], step: Step
    ) -> Sequence[Tensor]:
        slots = list(slots)
        states = jax.tree.map(lambda slot: slot.value, slots)
        run = _update if self.jit_compile is False else _compiled_update
        directions, states = run(self.rule, self.network, states, list(gradients), step.taken, step.number)
        jax.tree.map(lambda slot, value: slot.assign(value), slots, states)
        return [step.learning_rate * direction for direction in directions]


def forward(model: keras.Model) -> Callable[[Any], None]:
    """The model's forward pass in training, for its effects."""

    def run(x: Any) -> None:
        model(x, training=True)

    return run


def repeated_step(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Tensor], variables: Sequence[keras.Variable]
) -> Callable[[], None]:
    """A step with these gradients, as `fit` runs it; returns when it is done."""
    step = jax.jit(
        lambda trainable, state: optimizer.stateless_apply(state, gradients, trainable), donate_argnums=(0, 1)
    )
    values = [[jnp.array(v.value) for v in group] for group in (variables, optimizer.variables)]

    def run() -> None:
        values[:] = jax.block_until_ready(step(*values))

    return run


def temporary_bytes(sizes: Sequence[int], rule: Rule, network: Network) -> int:
    """About how much memory a step needs at most besides state and gradients, on a CPU.

    Directions and their multiples of the learning rate; three times the state of small variables (joined,
    updated, split); and gates, features and state of a variable that is updated whole.

    Args:
        sizes: numbers of coordinates of the variables.
        rule: the rule.
        network: its weights.
    """
    joined = sum(size for size in sizes if size <= JOINED)
    return layout.temporary_bytes(sizes, rule, network, joined, min(max(sizes, default=0), WHOLE))


def _update(
    rule: Rule,
    network: Network,
    states: list[RuleState],
    gradients: list[Tensor],
    taken: Tensor,
    step: Tensor,
) -> tuple[list[Tensor], list[RuleState]]:
    """Directions and the next states of all variables."""
    network = jax.tree.map(jnp.asarray, network)
    directions, next_states = list(gradients), list(states)
    sizes = [gradient.size for gradient in gradients]
    for group in layout.groups(sizes, JOINED):
        state = layout.joined([layout.flat(states[i], sizes[i]) for i in group])
        gradient = jnp.concatenate([gradients[i].reshape(-1) for i in group])
        gradient = jnp.where(taken, gradient, 0.0)
        bits = layout.mapped(state_types.as_bits, state)
        direction, bits = _update_flat(rule, network, bits, gradient, step)
        state = layout.mapped(lambda new, old: state_types.from_bits(new, old.dtype), bits, state)
        parts = layout.parted(state, [sizes[i] for i in group])
        ends = [sum(sizes[j] for j in group[: k + 1]) for k in range(len(group))]
        for i, end, part in zip(group, ends, parts, strict=True):
            directions[i] = direction[end - sizes[i] : end].reshape(gradients[i].shape)
            next_states[i] = jax.tree.map(lambda new, old: new.reshape(old.shape), part, states[i])
    return directions, next_states


_compiled_update = jax.jit(_update, static_argnums=0)


def _update_flat(
    rule: Rule, network: Network, state: RuleState, gradient: Tensor, step: Tensor
) -> tuple[Tensor, RuleState]:
    """`rule.update` on N coordinates, chunk by chunk, on a state whose bfloat16 is there as bits."""
    size = gradient.size
    on_cpu = jax.default_backend() == "cpu"
    if size <= (WHOLE if on_cpu else WHOLE_ON_ACCELERATOR):
        return _update_stored(rule, network, state, gradient, step, branch=on_cpu)
    chunk = min(CHUNK if on_cpu else WHOLE_ON_ACCELERATOR, size)

    def turn(i: Tensor, carried: tuple[Tensor, RuleState]) -> tuple[Tensor, RuleState]:
        direction, state = carried
        # The last chunk reaches back over coordinates that are done. Those sleep, which keeps their state.
        start = jnp.minimum(i * chunk, size - chunk)
        fresh = start + jnp.arange(chunk) >= i * chunk
        part = jax.tree.map(partial(_slice, start=start, size=chunk), state)
        part_gradient = jnp.where(fresh, _slice(gradient, start, chunk), 0.0)
        part_direction, part = _update_stored(rule, network, part, part_gradient, step, branch=on_cpu)
        part_direction = jnp.where(fresh, part_direction, _slice(direction, start, chunk))
        write = partial(_write, start=start)
        return write(direction, part_direction), jax.tree.map(write, state, part)

    return jax.lax.fori_loop(0, -(-size // chunk), turn, (jnp.zeros_like(gradient), state))


def _update_stored(
    rule: Rule, network: Network, state: RuleState, gradient: Tensor, step: Tensor, branch: bool
) -> tuple[Tensor, RuleState]:
    """`rule.update` in float32 on a state in the precision that it is stored in.

    With `branch` the network stands in a branch that is left out where all coordinates sleep; on a CPU XLA's
    code is several times as fast for that, see `rnnprop_tf.compute`.
    """
    observation, accumulators = rule.observe(state.accumulators, gradient, step)
    exact = state._replace(lstm=state_types.exact(state.lstm, gradient.dtype))

    def respond() -> tuple[Tensor, RuleState]:
        direction, lstm = rule.respond(network, observation, exact.lstm)
        return direction, RuleState(accumulators, lstm)

    if branch:
        sleep = jnp.zeros_like(gradient), exact
        direction, new = jax.lax.cond(jnp.any(observation.awake), respond, lambda: sleep)
    else:
        direction, new = respond()
    return direction, new._replace(lstm=state_types.stored(new.lstm, state.lstm))


def _slice(tensor: Tensor, start: Tensor, size: int) -> Tensor:
    """`tensor[..., start : start + size]`"""
    return jax.lax.dynamic_slice_in_dim(tensor, start, size, axis=tensor.ndim - 1)


def _write(tensor: Tensor, part: Tensor, start: Tensor) -> Tensor:
    """The inverse of `_slice`."""
    return jax.lax.dynamic_update_slice_in_dim(tensor, part, start, axis=tensor.ndim - 1)
