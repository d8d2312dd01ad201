"""The update rules, pure: RNNprop (Lv, Jiang, Li 2017) and DMoptimizer (Andrychowicz et al. 2016).

A rule turns gradients into directions; the caller multiplies by the learning rate alpha and adds. The Keras
classes and the meta-trainer call the same functions, on N flattened coordinates.

Example, a training loop of your own, here on the distance to a point:

>>> import tensorflow as tf
>>> from rnnprop_tf import pretrained
>>> weights = pretrained.load("rnnprop-1")
>>> target = tf.constant([1.0, -2.0, 0.5])
>>> parameters = tf.zeros(3)
>>> state = weights.rule.initial_state(weights.network, coordinates=3)
>>> for step in range(1, 101):
...     gradient = 2.0 * (parameters - target)
...     direction, state = weights.rule.update(weights.network, state, gradient, float(step))
...     parameters += weights.learning_rate * direction
>>> bool(tf.reduce_max(abs(parameters - target)) < 0.1)
True

For a model, its variables flattened and joined are the N coordinates, in any order: each is updated by
itself. The functions are pure and of `keras.ops`: put the loop's body in a `tf.function`, with
`jit_compile=True` for speed; gradients flow through `update`.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from keras import ops

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import LSTMState, Network, Tensor

RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "beta_1": ("in [0, 1)", lambda x: 0.0 <= x < 1.0),
    "beta_2": ("in [0, 1)", lambda x: 0.0 <= x < 1.0),
    "beta_3": ("in [0, 1)", lambda x: 0.0 <= x < 1.0),
    "epsilon": ("in (0, 1]", lambda x: 0.0 < x <= 1.0),
    "settling": ("in [0, 10]", lambda x: 0.0 <= x <= 10.0),
    # e^p must be finite in float32.
    "p": ("in (0, 80]", lambda x: 0.0 < x <= 80.0),
    "learning_rate": ("positive and finite", lambda x: 0.0 < x < math.inf),
}
"""Which numbers each hyperparameter may be, by name: in words and as a test.

For the Keras classes, the pure rules and weight folders alike. `learning_rate` is there for the folders;
Keras checks its own, schedules included.
"""


def checked(name: str, value: Any) -> float:
    """The hyperparameter as a Python float.

    Args:
        name: of the hyperparameter, a key of `RANGES`.
        value: what was given for it.

    Returns:
        The same value.

    Raises:
        ValueError: it is not a number in its range as float32 sees it, where 0.99999999 is 1 and 1e-50 is 0.
    """
    description, allowed = RANGES[name]
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with suppress(OverflowError), np.errstate(over="ignore", under="ignore"):
            if allowed(float(np.float32(value))):
                return float(value)
    raise ValueError(
        f"Expected {name} to be a number {description}, in float32. Received: {reprlib.repr(value)}."
    )


class RuleState(NamedTuple):
    """What a rule remembers of N coordinates."""

    accumulators: tuple[Tensor, ...]
    """Running means, each [N]; their names are the rule's `accumulator_names`."""
    lstm: tuple[LSTMState, ...]
    """One per LSTM layer, bottom first; each h and c is [H, N]."""


class Observation(NamedTuple):
    """What a rule sees of N coordinates in one step."""

    inputs: Tensor
    """[I, N]; the first `Rule.inputs_size` rows are the network's, the rule's `direction` has the others."""
    awake: Tensor
    """[N], boolean: false where the gradient is zero."""


@dataclass(frozen=True)
class Rule(ABC):
    """A coordinatewise learned update rule: gradients -> network inputs -> network -> direction.

    A coordinate whose gradient is exactly zero sleeps for the step: its direction is zero and nothing of its
    state changes. Otherwise the network's biases would move parameters that have no gradient (unused and
    rare embedding rows, dead inputs). The paper's rule, which has no such case, differs only there.

    The fields of a rule are its hyperparameters, floats.

    Raises:
        ValueError: a hyperparameter is outside of its range in `RANGES`.
    """

    accumulator_names: ClassVar[tuple[str, ...]]
    inputs_size: ClassVar[int]
    """How many inputs the network reads."""
    further_inputs: ClassVar[int] = 0
    """How many come after those, which only `direction` reads."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field.name, getattr(self, field.name)))

    @abstractmethod
    def inputs(
        self, accumulators: tuple[Tensor, ...], gradient: Tensor, step: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the network and `direction` read, before sleeping coordinates are sorted out.

        Args:
            accumulators: each [N].
            gradient: [N].
            step: scalar of the gradient's dtype, counting from 1.

        Returns:
            The inputs [inputs_size + further_inputs, N] and the next accumulators.
        """

    @abstractmethod
    def direction(self, output: Tensor, further: Tensor | Sequence[Tensor]) -> Tensor:
        """From output to update.

        Args:
            output: the network's, [N].
            further: the inputs that the network does not read, further_inputs times [N].

        Returns:
            The update in units of the learning rate, [N].
        """

    def initial_state(self, network: Network, coordinates: int, dtype: str = "float32") -> RuleState:
        """What a rule remembers before the first step: nothing, all zeros.

        Args:
            network: the learned weights, for their sizes.
            coordinates: N, how many there are.
            dtype: of the state; that of the gradients.

        Returns:
            The state for `update`.
        """
        units = coordinatewise.architecture_of(network).lstm
        return RuleState(
            accumulators=tuple(ops.zeros((coordinates,), dtype) for _ in self.accumulator_names),
            lstm=coordinatewise.zero_state(units, coordinates, dtype),
        )

    def update(
        self, network: Network, state: RuleState, gradient: Tensor, step: Tensor
    ) -> tuple[Tensor, RuleState]:
        """One step for N coordinates.

        Args:
            network: the learned weights, of the gradient's dtype.
            state: from `initial_state` or the previous step.
            gradient: [N].
            step: the number of this step, counting from 1; a float, or a scalar of the gradient's dtype.

        Returns:
            The direction [N], to be multiplied by the learning rate and added to the parameters, and the
            next state.
        """
        observation, accumulators = self.observe(state.accumulators, gradient, step)
        direction, lstm = self.respond(network, observation, state.lstm)
        return direction, RuleState(accumulators, lstm)

    def observe(
        self, accumulators: tuple[Tensor, ...], gradient: Tensor, step: Tensor
    ) -> tuple[Observation, tuple[Tensor, ...]]:
        """The part of `update` that knows no weights.

        Args:
            accumulators: each [N].
            gradient: [N].
            step: as for `update`.

        Returns:
            What the network sees, and the next accumulators.
        """
        inputs, next_accumulators = self.inputs(accumulators, gradient, step)
        awake = ops.not_equal(gradient, 0.0)
        return Observation(inputs, awake), _keep_asleep(awake, next_accumulators, accumulators)

    def respond(
        self, network: Network, observation: Observation, lstm: tuple[LSTMState, ...]
    ) -> tuple[Tensor, tuple[LSTMState, ...]]:
        """The part of `update` that the weights decide.

        The replayed meta-gradient runs it again on recorded observations.

        Args:
            network: the learned weights.
            observation: from `observe`.
            lstm: the LSTM's state, one per layer.

        Returns:
            The direction [N] and the next LSTM state.
        """
        inputs, awake = observation
        output, lstm = coordinatewise.apply(network, inputs[: self.inputs_size], lstm, awake)
        direction = self.direction(output, inputs[self.inputs_size :])
        return ops.where(awake, direction, ops.zeros_like(output)), lstm


def _keep_asleep(awake: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`new` where awake [N], else `old`; each is [..., N]."""
    return tuple(ops.where(awake, n, o) for n, o in zip(new, old, strict=True))


@dataclass(frozen=True)
class RNNpropRule(Rule):
    """RNNprop: the inputs are Adam's momentum and RMSprop's gradient, the direction is bounded.

    m and v are Adam's running means (Table 1). The inputs are m~ = m^ / (sqrt(v^) + epsilon), Eq. (8), and
    g~ = g / (sqrt(v^) + epsilon), Eq. (9), in this order; both are unchanged when the loss is multiplied by
    a constant. The direction is tanh of the network's output, Eq. (7), in [-1, 1].

    Args:
        beta_1: the decay of m.
        beta_2: the decay of v.
        epsilon: added to the root of v^.

    Reference:

    - [Lv, Jiang, Li, 2017](https://arxiv.org/abs/1703.03633)
    """

    beta_1: float = 0.95
    beta_2: float = 0.95
    epsilon: float = 1e-8

    accumulator_names: ClassVar[tuple[str, ...]] = ("m", "v")
    inputs_size: ClassVar[int] = 2

    def inputs(
        self, accumulators: tuple[Tensor, ...], gradient: Tensor, step: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        m, v = accumulators
        m = self.beta_1 * m + (1.0 - self.beta_1) * gradient
        v = self.beta_2 * v + (1.0 - self.beta_2) * gradient * gradient
        m_hat = m / (1.0 - self.beta_1**step)
        v_hat = v / (1.0 - self.beta_2**step)
        denominator = ops.sqrt(v_hat) + self.epsilon
        return ops.stack([m_hat / denominator, gradient / denominator]), (m, v)

    def direction(self, output: Tensor, further: Tensor | Sequence[Tensor]) -> Tensor:
        return ops.tanh(output)


@dataclass(frozen=True)
class SettlingRule(RNNpropRule):
    """RNNprop whose steps become smaller once gradients have become smaller; with the same networks.

    It is ours, not the paper's. RNNprop forgets within 1 / (1 - beta_2) steps how large gradients were, so
    its steps are as long when only noise or nearly nothing is left of them. Here u remembers squared
    gradients for 1 / (1 - beta_3) steps, and the direction is multiplied by
    min(1, (sqrt(v^) + epsilon) / (settling sqrt(u) + epsilon))^2. u is not bias-corrected: in its first steps
    it is small, and the rule is RNNprop's. Of gradients that stay as they are, steps end at 1 / settling^2 of
    RNNprop's, if that is below 1.

    A coordinate whose gradients were once K times as large as they are now pays with steps that are shorter
    by K^2, for 1 / (1 - beta_3) steps: one huge gradient, or targets far from the first outputs, can keep a
    model from moving. Scale the targets, or clip the gradients.

    Args:
        beta_1: the decay of m.
        beta_2: the decay of v.
        epsilon: added to the roots.
        beta_3: the decay of u.
        settling: recent gradients must be this many times as large as the remembered ones for steps as long
            as RNNprop's, once u is full. 0: steps are always as long.
    """

    beta_3: float = 0.9999
    settling: float = 2.0

    accumulator_names: ClassVar[tuple[str, ...]] = ("m", "v", "u")
    further_inputs: ClassVar[int] = 1

    def inputs(
        self, accumulators: tuple[Tensor, ...], gradient: Tensor, step: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        m, v, u = accumulators
        inputs, (m, v) = super().inputs((m, v), gradient, step)
        u = self.beta_3 * u + (1.0 - self.beta_3) * gradient * gradient
        return ops.concatenate([inputs, self.shrinking(v, u, step)[None]]), (m, v, u)

    def direction(self, output: Tensor, further: Tensor | Sequence[Tensor]) -> Tensor:
        return ops.tanh(output) * further[0]

    def shrinking(self, v: Tensor, u: Tensor, step: Tensor) -> Tensor:
        """The factor of the direction.

        Args:
            v: the accumulator after the step, [N].
            u: likewise.
            step: as for `update`.

        Returns:
            [N], in [0, 1].
        """
        recent = ops.sqrt(v / (1.0 - self.beta_2**step)) + self.epsilon
        remembered = self.settling * ops.sqrt(u) + self.epsilon
        return ops.square(ops.minimum(recent / remembered, 1.0))


@dataclass(frozen=True)
class DMRule(Rule):
    """DMoptimizer, the baseline of Andrychowicz et al. 2016: the LSTM reads the gradient itself.

    The inputs are [max(log|g|, -p) / p, clip(g e^p, -1, 1)], the form used in the paper's comparison: log
    magnitude and sign for large gradients, magnitude itself for those below e^-p. The direction is the
    network's output, unbounded.

    Args:
        p: gradients below e^-p count as small.

    Reference:

    - [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474)
    """

    p: float = 10.0

    accumulator_names: ClassVar[tuple[str, ...]] = ()
    inputs_size: ClassVar[int] = 2

    def inputs(
        self, accumulators: tuple[Tensor, ...], gradient: Tensor, step: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        # log 0 is minus infinity, which the lower bound -p takes up.
        log_magnitude = ops.maximum(ops.log(ops.abs(gradient)), -self.p) / self.p
        sign = ops.clip(gradient * math.exp(self.p), -1.0, 1.0)
        return ops.stack([log_magnitude, sign]), accumulators

    def direction(self, output: Tensor, further: Tensor | Sequence[Tensor]) -> Tensor:
        return output
