"""The optimizers under contract, and what their steps must do, written plainly.

Adam is under contract to test the suite: what it passes is Keras's contract and not our idea of it.
`make test` runs RNNprop's column; the others are slow, see `make test-contract`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from backend import numpy, tensor, traced

from rnnprop_tf import DMOptimizer, RNNprop
from rnnprop_tf.network import Architecture, Network, from_tensors, initial_weights, to_tensors
from rnnprop_tf.rule import DMRule, RNNpropRule, Rule

RATE = 0.05

ARCHITECTURE = Architecture(2, (4,), (4,))


def lively_network() -> Network:
    """Small, and quick to answer a gradient: a step that went wrong must show."""
    gains = {"preprocess.0.kernel": 10.0, "output.kernel": 15.0}
    tensors = to_tensors(initial_weights(ARCHITECTURE, 0))
    return from_tensors({name: gains.get(name, 1.0) * w for name, w in tensors.items()}, ARCHITECTURE)


NETWORK = lively_network()

Direction = Callable[[np.ndarray, int], np.ndarray]
"""From a gradient and the number of the step to the change in units of the learning rate; remembers."""


class Subject(NamedTuple):
    """One optimizer under contract."""

    make: Callable[..., keras.optimizers.Optimizer]
    """From Keras's arguments."""
    direction: Callable[[int], Direction]
    """The pure rule for one variable of so many coordinates, from its start."""


@functools.cache
def update(rule: Rule) -> Callable[..., Any]:
    """`rule.update`, traced once for each number of coordinates."""
    return traced(functools.partial(rule.update, keras.tree.map_structure(tensor, NETWORK)))


def learned_direction(rule: Rule) -> Callable[[int], Direction]:
    def start(coordinates: int) -> Direction:
        state = rule.initial_state(NETWORK, coordinates)

        def direction(gradient: np.ndarray, step: int) -> np.ndarray:
            nonlocal state
            flat = tensor(gradient.ravel(), "float32")
            result, state = update(rule)(state, flat, tensor(float(step), "float32"))
            return numpy(result).reshape(gradient.shape)

        return direction

    return start


def adams_direction(coordinates: int) -> Direction:
    m = v = np.zeros(coordinates)

    def direction(gradient: np.ndarray, step: int) -> np.ndarray:
        nonlocal m, v
        m = 0.9 * m + 0.1 * gradient.ravel()
        v = 0.999 * v + 0.001 * gradient.ravel() ** 2
        corrected = m * math.sqrt(1.0 - 0.999**step) / (1.0 - 0.9**step)
        return -(corrected / (np.sqrt(v) + 1e-7)).reshape(gradient.shape)

    return direction


def make_rnnprop(learning_rate: Any = RATE, **arguments: Any) -> RNNprop:
    return RNNprop(learning_rate, network=NETWORK, **arguments)


def make_dm_optimizer(learning_rate: Any = RATE, **arguments: Any) -> DMOptimizer:
    return DMOptimizer(learning_rate, network=NETWORK, **arguments)


def make_adam(learning_rate: Any = RATE, **arguments: Any) -> keras.optimizers.Adam:
    return keras.optimizers.Adam(learning_rate, **{"name": "adam"} | arguments)


SUBJECTS = {
    "RNNprop": Subject(make_rnnprop, learned_direction(RNNpropRule())),
    "DMOptimizer": Subject(make_dm_optimizer, learned_direction(DMRule())),
    "Adam": Subject(make_adam, adams_direction),
}


MARKS = {"RNNprop": (), "DMOptimizer": (pytest.mark.slow,), "Adam": (pytest.mark.slow,)}


class Average(NamedTuple):
    """A way to keep an average of the iterates."""

    arguments: dict[str, Any]
    """The optimizer's, that ask for it."""
    newest: Callable[[int], float]
    """The weight of an iterate by how many were before it."""

    def of(self, iterates: Sequence[Sequence[Any]]) -> list[np.ndarray]:
        """Averages of the variables from their values after each step, by the formula."""
        averages = [np.zeros_like(value, "float64") for value in iterates[0]]
        for t, values in enumerate(iterates):
            weight = self.newest(t)
            averages = [(1 - weight) * a + weight * v for a, v in zip(averages, values, strict=True)]
        return averages


AVERAGES = {
    "use_ema": Average({"use_ema": True, "ema_momentum": 0.75}, lambda t: 0.25 if t else 1.0),
    "use_averaging": Average({"use_averaging": True}, lambda t: 9 / (t + 9)),
}


def for_each_average() -> pytest.MarkDecorator:
    """Parametrises a test with `subject` and `average`, one of those that the subject can keep."""
    cases = [(name, key) for name in SUBJECTS for key in AVERAGES if (name, key) != ("Adam", "use_averaging")]
    return pytest.mark.parametrize(
        ("subject", "average"),
        [
            pytest.param(SUBJECTS[name], AVERAGES[key], marks=MARKS[name], id=f"{name}, {key}")
            for name, key in cases
        ],
    )


def for_each_subject(adam_fails: str | None = None) -> pytest.MarkDecorator:
    """Parametrises a test with `subject`.

    Args:
        adam_fails: why the pinned Keras's Adam does not keep this part of the contract, if so.
    """
    marks = dict(MARKS)
    if adam_fails is not None:
        marks["Adam"] += (pytest.mark.xfail(reason=adam_fails, strict=True),)
    return pytest.mark.parametrize(
        "subject", [pytest.param(SUBJECTS[name], marks=marks[name], id=name) for name in SUBJECTS]
    )


class Expected:
    """What variables must become: the pure rule in a loop, no Keras optimizer in sight."""

    def __init__(self, subject: Subject, values: Sequence[Any]) -> None:
        self.values = [np.array(value, "float64") for value in values]
        self._directions = [subject.direction(value.size) for value in self.values]
        self.steps = 0

    def step(
        self, gradients: Sequence[np.ndarray | None], rate: float = RATE, decay: Sequence[float] | None = None
    ) -> None:
        """One step; `decay` is the weight decay of each variable."""
        self.steps += 1
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            shrunk = self.values[i] * (1.0 - rate * (decay[i] if decay else 0.0))
            self.values[i] = shrunk + rate * self._directions[i](np.asarray(gradient), self.steps)

    def check(self, variables: Sequence[Any], precision: float = 1e-4) -> None:
        """That the variables have come here."""
        for variable, value in zip(variables, self.values, strict=True):
            found = np.asarray(variable.numpy(), "float64")
            np.testing.assert_allclose(found, value, rtol=precision, atol=precision)


def assert_same(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> None:
    """Bit for bit."""
    for one, two in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, two)
