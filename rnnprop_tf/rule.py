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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from keras import ops

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import LSTMState, Network, Tensor

RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "beta_1": ("in [0, 1)", lambda x: 0.0 <= x < 1.0),
    "beta_2": ("in [0, 1)", lambda x: 0.0 <= x < 1.0),
    "beta_3": ("in [0, 1)", lambda x: 0.0 <= x < 1.0),
    "epsilon": ("in (0, 1]", lambda x: 0.0 < x <= 1.0),
    "annealing": ("of at least 1", lambda x: 1.0 <= x < math.inf),
    "settling": ("in [0, 10]", lambda x: 0.0 <= x <= 10.0),
    # e^p must be finite in float32.
    "p": ("in (0, 80]", lambda x: 0.0 < x <= 80.0),
    "learning_rate": ("positive and finite", lambda x: 0.0 < x < math.inf),
}
"""Range of each hyperparameter by name: in words and as a test.

For the Keras classes, the pure rules and weight folders alike. `learning_rate` is there for the folders;
Keras checks its own, schedules included.
"""


def checked(name: str, value: Any) -> float:
    """The hyperparameter as a Python float.

    Args:
        name: the hyperparameter's name, a key of `RANGES`.
        value: the value that was given.

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


Accumulators: TypeAlias = Any
"""The running means that a rule keeps, a NamedTuple of its own; each field is [N]."""


class RuleState(NamedTuple):
    """State of a rule for N coordinates."""

    accumulators: Accumulators
    """An instance of the rule's `accumulators_class`."""
    lstm: tuple[LSTMState, ...]
    """One per LSTM layer, bottom first; each h and c is [H, N]."""


class Observation(NamedTuple):
    """Observation of N coordinates in one step, before any weight is used."""

    inputs: Tensor
    """[I, N]: what the network reads, nothing else."""
    scale: Tensor | tuple[()]
    """[N]: the multiplier of the direction. `()` for a rule without one: `tf.nest` then has no such leaf."""
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

    accumulators_class: ClassVar[type[Any]]
    """A NamedTuple; the names and order of its fields are part of the checkpoint's format."""
    inputs_size: ClassVar[int]
    """I, how many inputs the network reads."""
    bounded: ClassVar[bool]
    """Whether directions are in [-1, 1], before `scale`."""
    counts_sleep: ClassVar[bool] = False
    """Whether it matters for how long a coordinate has slept. Then `rested` is for the variables that had no
    gradient at all in a step."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field.name, getattr(self, field.name)))

    @abstractmethod
    def accumulate(self, accumulators: Accumulators, gradient: Tensor, step: Tensor) -> Accumulators:
        """The running means with this step's gradient, before sleeping coordinates are sorted out.

        Args:
            accumulators: each [N].
            gradient: [N].
            step: the number of the step, counting from 1; see `update`.

        Returns:
            The next accumulators.
        """

    @abstractmethod
    def inputs(self, accumulators: Accumulators, gradient: Tensor, step: Tensor) -> Tensor:
        """Inputs of the network.

        Args:
            accumulators: each [N], this step's gradient included.
            gradient: [N].
            step: scalar of the gradient's dtype, counting from 1.

        Returns:
            The inputs [inputs_size, N].
        """

    def scale(self, accumulators: Accumulators, step: Tensor) -> Tensor | tuple[()]:
        """The multiplier of the direction.

        Args:
            accumulators: each [N], this step's gradient included.
            step: the number of the step, counting from 1; see `update`.

        Returns:
            [N], or `()` for a rule without one.
        """
        return ()

    @abstractmethod
    def direction(self, output: Tensor) -> Tensor:
        """The update in units of the learning rate, before `scale`.

        Args:
            output: the network's, [N].

        Returns:
            The direction [N].
        """

    def rested(self, accumulators: Accumulators, rests: Tensor) -> Accumulators:
        """What is kept for coordinates that a step is not to count for, as it was for others.

        A model whose variables take turns, or whose loss is at times zero, is not asleep.

        Args:
            accumulators: tensors or variables of any shape.
            rests: scalar of their dtype: 1 if the step does not count, 0 if it does.

        Returns:
            The same objects but for those that such a step changes, which have no sleep for it.
        """
        return accumulators

    def m_tilde(self, accumulators: Accumulators, step: Tensor) -> Tensor | None:
        """The running mean of gradients relative to their size, m~ of Eq. (8).

        Args:
            accumulators: each [N].
            step: the number of the step, counting from 1; see `update`.

        Returns:
            [N], or None for a rule that has no such mean.
        """
        return None

    def initial_state(self, network: Network, coordinates: int, dtype: str = "float32") -> RuleState:
        """The state before the first step, all zeros.

        Args:
            network: the learned weights, for their sizes.
            coordinates: N, how many there are.
            dtype: the state's dtype, that of the gradients.

        Returns:
            The state for `update`.
        """
        units = coordinatewise.architecture_of(network).lstm
        return RuleState(
            accumulators=self.accumulators_class._make(
                ops.zeros((coordinates,), dtype) for _ in self.accumulators_class._fields
            ),
            lstm=coordinatewise.zero_state(units, coordinates, dtype),
        )

    def update(
        self, network: Network, state: RuleState, gradient: Tensor, step: Tensor
    ) -> tuple[Tensor, RuleState]:
        """One step for N coordinates.

        Args:
            network: the learned weights, of the gradient's dtype.
            state: the result of `initial_state` or of the previous step.
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
        self, accumulators: Accumulators, gradient: Tensor, step: Tensor
    ) -> tuple[Observation, Accumulators]:
        """The part of `update` that knows no weights.

        Args:
            accumulators: each [N].
            gradient: [N].
            step: the number of the step, counting from 1; see `update`.

        Returns:
            What the rule sees, and the next accumulators.
        """
        new = self.accumulate(accumulators, gradient, step)
        awake = ops.not_equal(gradient, 0.0)
        seen = Observation(self.inputs(new, gradient, step), self.scale(new, step), awake)
        return seen, new._make(ops.where(awake, n, o) for n, o in zip(new, accumulators, strict=True))

    def respond(
        self, network: Network, observation: Observation, lstm: tuple[LSTMState, ...]
    ) -> tuple[Tensor, tuple[LSTMState, ...]]:
        """The part of `update` that the weights decide.

        The replayed meta-gradient runs it again on recorded observations.

        Args:
            network: the learned weights.
            observation: the result of `observe`.
            lstm: the LSTM's state, one per layer.

        Returns:
            The direction [N] and the next LSTM state.
        """
        inputs, scale, awake = observation
        output, lstm = coordinatewise.apply(network, inputs, lstm, awake)
        direction = _scaled(self.direction(output), scale)
        return ops.where(awake, direction, ops.zeros_like(output)), lstm

    def last_direction(self, network: Network, state: RuleState, step: Tensor) -> Tensor:
        """The direction that led to this state, computed again: no direction is stored.

        It follows from the h that the top LSTM layer ended with. A coordinate without a gradient keeps its h,
        so for it this is the direction of the last step that it took, not the zero of this one, but with the
        `scale` of `step`. What `AnnealingRule` adds after a sleep is not in it. For a coordinate that never
        had a gradient it has no meaning, see `touched`.

        Args:
            network: the learned weights.
            state: the state after the step; an h stored in fewer bits than the weights have costs precision.
            step: the number of the step that led to the state.

        Returns:
            The direction [N], in units of the learning rate.
        """
        h = ops.cast(state.lstm[-1].h, network.output.kernel.dtype)
        direction = self.direction(coordinatewise.output(network, h))
        return _scaled(direction, self.scale(state.accumulators, step))

    def touched(self, state: RuleState) -> Tensor:
        """The coordinates that ever had a gradient.

        Args:
            state: the state after any step.

        Returns:
            [N], boolean: true where h of the top LSTM layer is no longer all zeros.
        """
        return ops.any(ops.not_equal(state.lstm[-1].h, 0.0), axis=0)


def _scaled(direction: Tensor, scale: Tensor | tuple[()]) -> Tensor:
    return direction if isinstance(scale, tuple) else direction * scale


class RNNpropAccumulators(NamedTuple):
    """The running means of RNNprop."""

    m: Tensor
    """[N], of gradients."""
    v: Tensor
    """[N], of squared gradients."""


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

    accumulators_class: ClassVar[type[Any]] = RNNpropAccumulators
    inputs_size: ClassVar[int] = 2
    bounded: ClassVar[bool] = True

    def accumulate(self, accumulators: Accumulators, gradient: Tensor, step: Tensor) -> Accumulators:
        return accumulators._replace(
            m=self.beta_1 * accumulators.m + (1.0 - self.beta_1) * gradient,
            v=self.beta_2 * accumulators.v + (1.0 - self.beta_2) * gradient * gradient,
        )

    def inputs(self, accumulators: Accumulators, gradient: Tensor, step: Tensor) -> Tensor:
        g_tilde = gradient / self.gradient_size(accumulators, step)
        return ops.stack([self.m_tilde(accumulators, step), g_tilde])

    def direction(self, output: Tensor) -> Tensor:
        return ops.tanh(output)

    def m_tilde(self, accumulators: Accumulators, step: Tensor) -> Tensor:
        m_hat = accumulators.m / (1.0 - self.beta_1**step)
        return m_hat / self.gradient_size(accumulators, step)

    def gradient_size(self, accumulators: Accumulators, step: Tensor) -> Tensor:
        """The recent size of gradients, the denominator of Eq. (8) and (9).

        Args:
            accumulators: each [N].
            step: the number of the step, counting from 1; see `update`.

        Returns:
            sqrt(v^) + epsilon, [N].
        """
        v_hat = accumulators.v / (1.0 - self.beta_2**step)
        return ops.sqrt(v_hat) + self.epsilon


class SettlingAccumulators(NamedTuple):
    """The running means of RNNprop with `settling`."""

    m: Tensor
    """[N], of gradients."""
    v: Tensor
    """[N], of squared gradients."""
    u: Tensor
    """[N], of squared gradients, over a longer time."""


@dataclass(frozen=True)
class SettlingRule(RNNpropRule):
    """RNNprop whose steps become smaller once gradients have become smaller; with the same networks.

    It is ours, not the paper's. RNNprop forgets within 1 / (1 - beta_2) steps how large gradients were, so
    its steps are as long when only noise or nearly nothing is left of them. Here u remembers squared
    gradients for 1 / (1 - beta_3) steps, and the direction is multiplied by
    min(1, (sqrt(v^) + epsilon) / (settling sqrt(u) + epsilon))^2. u is not bias-corrected: in its first steps
    it is small, and the rule is RNNprop's. While gradients stay as large as they are, steps end at
    1 / settling^2 of RNNprop's, if that is below 1.

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

    accumulators_class: ClassVar[type[Any]] = SettlingAccumulators

    def accumulate(self, accumulators: Accumulators, gradient: Tensor, step: Tensor) -> Accumulators:
        u = self.beta_3 * accumulators.u + (1.0 - self.beta_3) * gradient * gradient
        return super().accumulate(accumulators, gradient, step)._replace(u=u)

    def scale(self, accumulators: Accumulators, step: Tensor) -> Tensor:
        remembered = self.settling * ops.sqrt(accumulators.u) + self.epsilon
        return ops.square(ops.minimum(self.gradient_size(accumulators, step) / remembered, 1.0))


class AnnealingAccumulators(NamedTuple):
    """What RNNprop with `annealing` keeps."""

    m: Tensor
    """[N], the running mean of gradients."""
    v: Tensor
    """[N], that of squared gradients."""
    u: Tensor
    """[N], the mean of squared gradients over a share of the training."""
    last: Tensor
    """[N], the number of the last step with a gradient; 0 before the first. Exact up to 2^24 steps."""


@dataclass(frozen=True)
class AnnealingRule(RNNpropRule):
    """RNNprop whose steps become smaller as training goes on, and longer after sleep; with the same networks.

    It is ours, not the paper's. u is the mean of squared gradients so far, where the newest weighs
    (g + 1) / (t + g), g = 3: on average they are a fifth of the training old. At step t the direction is
    multiplied by min(1, annealing / t * (sqrt(v^) + epsilon)^2 / (sqrt(u) + epsilon)^2). So the first
    `annealing` steps are RNNprop's where gradients stay as they are; later ones become shorter as 1 / t does,
    which makes the noise of stochastic gradients average out; and where gradients become smaller, as in a
    network that comes to fit all its data, steps do so sooner.

    Large gradients of the first n steps are forgotten: they weigh (n / t)^4. So targets far from the first
    outputs do not keep a model from moving, as they do with `SettlingRule`. One gradient late that is K times
    as large as the others does shorten steps, by 1 + 4 K^2 / t at first: clip the gradients.

    A coordinate that sleeps, such as a rare row of an embedding, takes fewer gradients into u, which starts
    at 0: its first steps are RNNprop's whenever they come, and then it takes its own steps as time. While it
    sleeps it does not coast on its momentum, as with Adam. So the step after it stands for all those since
    the last gradient, at most LONGEST: the direction is multiplied by their number. The first gradient ends
    no sleep, and from 2^24 steps on there is none. A coordinate moves by at most alpha for each step since
    its last gradient.

    Args:
        beta_1: the decay of m.
        beta_2: the decay of v.
        epsilon: added to the roots.
        annealing: T, the number of steps after which steps of gradients of one size become shorter.
    """

    annealing: float = 1_500.0

    accumulators_class: ClassVar[type[Any]] = AnnealingAccumulators
    counts_sleep: ClassVar[bool] = True

    FORGETTING: ClassVar[int] = 3
    """g, how fast u forgets. `rnnprop_tf.averaging` weighs iterates alike, with g = 8."""
    LONGEST: ClassVar[float] = 5.0
    """The most steps that the step after a sleep stands for."""

    def accumulate(self, accumulators: Accumulators, gradient: Tensor, step: Tensor) -> Accumulators:
        weight = (self.FORGETTING + 1) / (step + self.FORGETTING)
        u = accumulators.u + weight * (gradient * gradient - accumulators.u)
        last = ops.zeros_like(accumulators.last) + step
        return super().accumulate(accumulators, gradient, step)._replace(u=u, last=last)

    def observe(
        self, accumulators: Accumulators, gradient: Tensor, step: Tensor
    ) -> tuple[Observation, Accumulators]:
        seen, new = super().observe(accumulators, gradient, step)
        slept = ops.where(accumulators.last > 0.0, step - 1.0 - accumulators.last, 0.0)
        # From 2^24 steps on float32 has not all whole numbers.
        asleep = ops.logical_and(slept > 0.0, ops.less(step, 2.0**24))
        stands_for = ops.where(asleep, ops.minimum(slept + 1.0, self.LONGEST), 1.0)
        return seen._replace(scale=seen.scale * stands_for), new

    def rested(self, accumulators: Accumulators, rests: Tensor) -> Accumulators:
        # The sign is 0 before the first gradient, 1 after it.
        return accumulators._replace(last=accumulators.last + rests * ops.sign(accumulators.last))

    def scale(self, accumulators: Accumulators, step: Tensor) -> Tensor:
        past = ops.sqrt(accumulators.u) + self.epsilon
        ratio = ops.square(self.gradient_size(accumulators, step) / past)
        return ops.minimum(ratio * (self.annealing / step), 1.0)


class DMAccumulators(NamedTuple):
    """The running means of DMoptimizer: none."""


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

    accumulators_class: ClassVar[type[Any]] = DMAccumulators
    inputs_size: ClassVar[int] = 2
    bounded: ClassVar[bool] = False

    def accumulate(self, accumulators: Accumulators, gradient: Tensor, step: Tensor) -> Accumulators:
        return accumulators

    def inputs(self, accumulators: Accumulators, gradient: Tensor, step: Tensor) -> Tensor:
        # Not log 0: the bound -p would take up its minus infinity, but tools that look for one would object.
        magnitude = ops.maximum(ops.abs(gradient), 0.5 * math.exp(-self.p))
        log_magnitude = ops.maximum(ops.log(magnitude), -self.p) / self.p
        sign = ops.clip(gradient * math.exp(self.p), -1.0, 1.0)
        return ops.stack([log_magnitude, sign])

    def direction(self, output: Tensor) -> Tensor:
        return output
