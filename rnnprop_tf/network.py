"""The coordinatewise network of the paper's section 4.3: preprocessing, stacked LSTM, one output.

Every coordinate of the optimizee runs through the same small network with a state of its own, so the
coordinates are the columns of a matrix: all arrays here are features first, `[features, N]`. That layout
makes each matrix product one wide product and is about twice as fast on a CPU as `[N, features]`.

All functions are pure and use `keras.ops` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

Tensor = Any
"""A backend tensor or a NumPy array; shapes and dtypes are said where it is used."""


class Dense(NamedTuple):
    """A fully connected layer: `kernel @ x + bias`."""

    kernel: Tensor
    """[outputs, inputs]"""
    bias: Tensor
    """[outputs]"""


class LSTMLayer(NamedTuple):
    """One LSTM layer of H units over I inputs.

    The 4H rows hold the gates in the order i (input), j (candidate), f (forget), o (output). The forget
    gate's customary +1 is part of `bias`, not added in the cell.
    """

    kernel: Tensor
    """[4H, I + H]; columns: the layer's inputs first, then its own h."""
    bias: Tensor
    """[4H]"""


class LSTMState(NamedTuple):
    """The state of one LSTM layer of H units, for N coordinates."""

    h: Tensor
    """[H, N], the layer's output, in (-1, 1)."""
    c: Tensor
    """[H, N], the cell."""


class Network(NamedTuple):
    """The weights of the coordinatewise network, bottom layer first."""

    preprocess: tuple[Dense, ...]
    """Fully connected layers with ELU before the LSTM: one for RNNprop, none for DMOptimizer."""
    lstm: tuple[LSTMLayer, ...]
    output: Dense
    """Linear, one output."""


class Architecture(NamedTuple):
    """The sizes of a network; the paper's are the defaults."""

    inputs: int = 2
    preprocess: tuple[int, ...] = (20,)
    lstm: tuple[int, ...] = (20, 20)


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of each weight, in the order of the weight file.

    Args:
        architecture: the sizes.

    Returns:
        Shapes by name. Names are `preprocess.K.kernel`, `preprocess.K.bias`, `lstm.K.kernel`, `lstm.K.bias`,
        `output.kernel` and `output.bias`, K counting from 0 at the bottom.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = architecture.inputs
    for k, units in enumerate(architecture.preprocess):
        shapes[f"preprocess.{k}.kernel"] = (units, inputs)
        shapes[f"preprocess.{k}.bias"] = (units,)
        inputs = units
    for k, units in enumerate(architecture.lstm):
        shapes[f"lstm.{k}.kernel"] = (4 * units, inputs + units)
        shapes[f"lstm.{k}.bias"] = (4 * units,)
        inputs = units
    shapes["output.kernel"] = (1, inputs)
    shapes["output.bias"] = (1,)
    return shapes


def architecture_of(network: Network) -> Architecture:
    """The sizes of these weights.

    Args:
        network: the weights.

    Returns:
        The architecture.
    """
    preprocess = tuple(int(layer.kernel.shape[0]) for layer in network.preprocess)
    lstm = tuple(int(layer.kernel.shape[0]) // 4 for layer in network.lstm)
    if preprocess:
        inputs = int(network.preprocess[0].kernel.shape[1])
    else:
        inputs = int(network.lstm[0].kernel.shape[1]) - lstm[0]
    return Architecture(inputs, preprocess, lstm)


def to_tensors(network: Network) -> dict[str, Tensor]:
    """The weights by name.

    Args:
        network: the weights.

    Returns:
        The tensors themselves; the names are those of `tensor_shapes`.
    """
    tensors: dict[str, Tensor] = {}
    groups: dict[str, Sequence[Dense | LSTMLayer]] = {"preprocess": network.preprocess, "lstm": network.lstm}
    for prefix, layers in groups.items():
        for k, layer in enumerate(layers):
            tensors[f"{prefix}.{k}.kernel"] = layer.kernel
            tensors[f"{prefix}.{k}.bias"] = layer.bias
    tensors["output.kernel"] = network.output.kernel
    tensors["output.bias"] = network.output.bias
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], architecture: Architecture) -> Network:
    """The inverse of `to_tensors`.

    Args:
        tensors: by name. Shapes are the caller's to check.
        architecture: how many layers there are.

    Returns:
        The network.
    """
    return Network(
        preprocess=tuple(
            Dense(tensors[f"preprocess.{k}.kernel"], tensors[f"preprocess.{k}.bias"])
            for k in range(len(architecture.preprocess))
        ),
        lstm=tuple(
            LSTMLayer(tensors[f"lstm.{k}.kernel"], tensors[f"lstm.{k}.bias"])
            for k in range(len(architecture.lstm))
        ),
        output=Dense(tensors["output.kernel"], tensors["output.bias"]),
    )


def initial_weights(architecture: Architecture, seed: int) -> Network:
    """Fresh float32 weights, as NumPy arrays.

    Fully connected kernels are drawn from a normal distribution of standard deviation 0.1, truncated at two
    of them; LSTM kernels uniformly from +-sqrt(3 / inputs), the default of the original code's framework.
    Biases are 0, the forget gate's 1.

    Args:
        architecture: the sizes.
        seed: any integer; the same one gives the same weights.

    Returns:
        The network, before any meta-training.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(architecture).items():
        if name.endswith("bias"):
            value = np.zeros(shape)
            if name.startswith("lstm"):
                units = shape[0] // 4
                value[2 * units : 3 * units] = 1.0
        elif name.startswith("lstm"):
            value = rng.uniform(-1.0, 1.0, shape) * np.sqrt(3.0 / shape[1])
        else:
            value = rng.normal(size=shape)
            while (outside := np.abs(value) > 2.0).any():
                value[outside] = rng.normal(size=int(outside.sum()))
            value *= 0.1
        tensors[name] = value.astype("float32")
    return from_tensors(tensors, architecture)


def zero_state(units: Sequence[int], coordinates: int, dtype: str = "float32") -> tuple[LSTMState, ...]:
    """The state at an optimizee's first step.

    Args:
        units: H of each LSTM layer, bottom first.
        coordinates: N.
        dtype: the state's dtype.

    Returns:
        Zeros, one `LSTMState` per layer.
    """
    return tuple(LSTMState(*(ops.zeros((h, coordinates), dtype) for _ in range(2))) for h in units)


def apply(
    network: Network, inputs: Tensor, states: tuple[LSTMState, ...], awake: Tensor
) -> tuple[Tensor, tuple[LSTMState, ...]]:
    """One step of the network for N coordinates.

    Args:
        network: the weights.
        inputs: [I, N], the rule's view of the gradients.
        states: one per LSTM layer, bottom first.
        awake: [N], boolean. The state of the others stays as it is, and their output has no meaning.

    Returns:
        The output [N], unbounded, and the next states.
    """
    x = inputs
    for dense in network.preprocess:
        x = _elu(_affine(dense.kernel, dense.bias, x))
    next_states = []
    for layer, state in zip(network.lstm, states, strict=True):
        state = _lstm_step(layer, x, state, awake)
        next_states.append(state)
        x = state.h
    return output(network, x), tuple(next_states)


def output(network: Network, h: Tensor) -> Tensor:
    """The output layer alone.

    Args:
        network: the weights.
        h: the top LSTM layer's, [H, N].

    Returns:
        The output [N], unbounded.
    """
    return _affine(network.output.kernel, network.output.bias, h)[0]


def _lstm_step(layer: LSTMLayer, x: Tensor, state: LSTMState, awake: Tensor) -> LSTMState:
    gates = _affine(layer.kernel, layer.bias, ops.concatenate([x, state.h], axis=0))
    i, j, f, o = ops.split(gates, 4, axis=0)
    # h and the layer above read what is kept, not what was computed: each state is then one fused loop and
    # XLA stores no gate. All of them asleep at the end instead costs 8-15 % of an update.
    c = ops.where(awake, ops.sigmoid(f) * state.c + ops.sigmoid(i) * ops.tanh(j), state.c)
    h = ops.where(awake, ops.sigmoid(o) * ops.tanh(c), state.h)
    return LSTMState(h, c)


def _elu(x: Tensor) -> Tensor:
    # Not `ops.elu`: its exp(x) - 1 is good to the last digit near 0 too, and costs XLA twice as much.
    return ops.where(x > 0, x, ops.exp(ops.minimum(x, 0)) - 1)


def _affine(kernel: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return ops.matmul(kernel, x) + bias[:, None]
