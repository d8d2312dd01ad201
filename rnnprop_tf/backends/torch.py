"""Learned optimizers on PyTorch: the slots are updated in place, a chunk of coordinates at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import keras
import torch
from keras import ops, tree

from rnnprop_tf import layout, state_types
from rnnprop_tf.learned import LearnedOptimizer, Step
from rnnprop_tf.network import Architecture, Network, Tensor, architecture_of
from rnnprop_tf.rule import Rule, RuleState

CHUNK = 8_192
"""Coordinates at a time on a CPU, whose caches hold as many; smaller variables are joined up to this."""

CHUNK_ON_GPU = 2**20
"""Coordinates at a time on a GPU, which needs many at once."""


class BackendOptimizer(LearnedOptimizer):
    """A learned optimizer whose steps PyTorch runs, without gradients of its own."""

    @torch.no_grad()
    def apply(
        self, grads: Sequence[Tensor | None], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        """One step.

        Args:
            grads: A gradient per variable, or `None` for a variable to leave alone.
            trainable_variables: The variables; defaults to those the optimizer was built with.
        """
        # Of an embedding with `sparse=True`.
        dense = [g.to_dense() if isinstance(g, torch.Tensor) and g.is_sparse else g for g in grads]
        super().apply(dense, trainable_variables)

    @torch.no_grad()
    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """A whole step for one variable, without clipping and the like.

        Args:
            gradient: The gradient.
            variable: One of those that the optimizer was built with.
            learning_rate: A scalar.
        """
        super().update_step(gradient, variable, learning_rate)

    # Also within a compiled model, which would be hundreds of operations longer for each chunk.
    @torch.compiler.disable
    def _changes(
        self, slots: Sequence[RuleState], gradients: Sequence[Tensor], step: Step
    ) -> Sequence[Tensor]:
        network = tree.map_structure(ops.convert_to_tensor, self.network)
        compiled = self.jit_compile is True
        update = _compiled_update(self.rule, architecture_of(self.network)) if compiled else _update_stored
        chunk = CHUNK_ON_GPU if gradients[0].is_cuda else CHUNK
        sizes = [gradient.numel() for gradient in gradients]
        flat = [torch.where(step.taken, gradient, 0.0).reshape(-1) for gradient in gradients]
        # Slots are contiguous, so these are views of them.
        states = [
            layout.flat(layout.mapped(lambda slot: slot.value, slot), size)
            for slot, size in zip(slots, sizes, strict=True)
        ]
        for group in layout.groups(sizes, chunk):
            if len(group) == 1:
                _update_in_place(self.rule, network, states[group[0]], flat[group[0]], step, chunk, update)
                continue
            state, direction = layout.joined([states[i] for i in group]), torch.cat([flat[i] for i in group])
            _update_in_place(self.rule, network, state, direction, step, chunk, update)
            counts = [sizes[i] for i in group]
            for i, new in zip(group, layout.parted(state, counts), strict=True):
                layout.mapped(lambda old, value: old.copy_(value), states[i], new)
            for i, part in zip(group, torch.split(direction, counts), strict=True):
                flat[i] = part
        return [
            step.learning_rate * part.reshape(gradient.shape)
            for part, gradient in zip(flat, gradients, strict=True)
        ]


def forward(model: keras.Model) -> Callable[[Any], None]:
    """The model's forward pass in training, for its effects."""

    @torch.no_grad()
    def run(x: Any) -> None:
        model(x, training=True)

    return run


def repeated_step(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Tensor], variables: Sequence[keras.Variable]
) -> Callable[[], None]:
    """A step with these gradients, as `fit` runs it; returns when it is done."""

    def run() -> None:
        optimizer.apply(gradients, variables)
        ops.convert_to_numpy(variables[-1])  # Waits for the device.

    return run


def temporary_bytes(sizes: Sequence[int], rule: Rule, network: Network) -> int:
    """About how much memory a step needs at most besides state and gradients, on a CPU.

    Directions and their multiples of the learning rate; three times the state of small variables (joined,
    updated, split); and gates, features and state of a chunk.

    Args:
        sizes: numbers of coordinates of the variables.
        rule: the rule.
        network: its weights.
    """
    joined = sum(size for size in sizes if size <= CHUNK)
    return layout.temporary_bytes(sizes, rule, network, joined, min(max(sizes, default=0), CHUNK))


Update = Callable[[Rule, Network, RuleState, Tensor, Tensor], tuple[Tensor, RuleState]]


def _update_in_place(
    rule: Rule, network: Network, state: RuleState, gradient: Tensor, step: Step, chunk: int, update: Update
) -> None:
    """Writes the next state over the state, and the direction over the gradient [N]."""
    for begin in range(0, len(gradient), chunk):
        size = min(chunk, len(gradient) - begin)

        def part(tensor: Tensor, begin: int = begin, size: int = size) -> Tensor:
            return tensor.narrow(-1, begin, size)

        old = layout.mapped(part, state)
        direction, new = update(rule, network, old, part(gradient), step.number)
        part(gradient).copy_(direction)
        layout.mapped(lambda tensor, value: tensor.copy_(value), old, new)


def _update_stored(
    rule: Rule, network: Network, state: RuleState, gradient: Tensor, step: Tensor
) -> tuple[Tensor, RuleState]:
    """`rule.update` in float32 on a state in the precision that it is stored in."""
    exact = state._replace(lstm=state_types.exact(state.lstm, "float32"))
    # Float32 also where a training loop has autocast around the step.
    with torch.autocast(gradient.device.type, enabled=False):
        direction, new = rule.update(network, exact, gradient, step)
    return direction, new._replace(lstm=state_types.stored(new.lstm, state.lstm))


@cache
def _compiled_update(rule: Rule, architecture: Architecture) -> Update:
    """`_update_stored` as programs of its own for these: PyTorch stops compiling a function after 8."""
    compiled = torch.compile(_update_stored, dynamic=True, isolate_recompiles=True)

    def update(
        rule: Rule, network: Network, state: RuleState, gradient: Tensor, step: Tensor
    ) -> tuple[Tensor, RuleState]:
        # No views, or it would compile again for variables of another rank.
        state, gradient = layout.mapped(lambda tensor: tensor.data, state), gradient.data
        # PyTorch 2.14 computes `beta**step` with the beta of an earlier program where floats are inputs.
        with torch._dynamo.config.patch(specialize_float=True):
            return compiled(rule, network, state, gradient, step)

    return update
