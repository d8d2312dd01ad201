"""The paper's equations as slow loops over coordinates, for tests to compare with."""

import math

import numpy as np

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture, Network
from rnnprop_tf.rule import AnnealingRule, DMRule, RNNpropRule, SettlingRule


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def random_network(architecture: Architecture, seed: int) -> Network:
    """float64 and all random, biases included."""
    rng = np.random.default_rng(seed)
    shapes = coordinatewise.tensor_shapes(architecture)
    tensors = {name: rng.normal(size=shape, scale=0.5) for name, shape in shapes.items()}
    return coordinatewise.from_tensors(tensors, architecture)


def network_step(
    network: Network, x: np.ndarray, states: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, list[tuple[np.ndarray, np.ndarray]]]:
    """One step of one coordinate: x [I] and each h and c [H]."""
    for layer in network.preprocess:
        y = layer.kernel @ x + layer.bias
        x = np.where(y > 0, y, np.exp(np.minimum(y, 0)) - 1)
    next_states = []
    for layer, (h, c) in zip(network.lstm, states, strict=True):
        units, inputs = len(h), len(x)

        def gate(k: int, layer=layer, x=x, h=h, units=units, inputs=inputs) -> np.ndarray:
            rows = slice(k * units, (k + 1) * units)
            return layer.kernel[rows, :inputs] @ x + layer.kernel[rows, inputs:] @ h + layer.bias[rows]

        i, j, f, o = (gate(k) for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
        next_states.append((h, c))
        x = h
    return float(network.output.kernel[0] @ x + network.output.bias[0]), next_states


class RNNpropReference:
    """One coordinate: Adam's m and v (Table 1), Eq. (8), (9) and (7)."""

    def __init__(self, rule: RNNpropRule, network: Network):
        self.rule, self.network = rule, network
        self.m = self.v = 0.0
        self.states = [(np.zeros(len(k.bias) // 4), np.zeros(len(k.bias) // 4)) for k in network.lstm]

    def step(self, g: float, t: int) -> float:
        if g == 0.0:
            return 0.0
        rule = self.rule
        self.m = rule.beta_1 * self.m + (1 - rule.beta_1) * g
        self.v = rule.beta_2 * self.v + (1 - rule.beta_2) * g**2
        m_hat = self.m / (1 - rule.beta_1**t)
        v_hat = self.v / (1 - rule.beta_2**t)
        m_tilde = m_hat / (math.sqrt(v_hat) + rule.epsilon)
        g_tilde = g / (math.sqrt(v_hat) + rule.epsilon)
        x_out, self.states = network_step(self.network, np.array([m_tilde, g_tilde]), self.states)
        return math.tanh(x_out)

    def accumulators(self) -> list[float]:
        return [self.m, self.v]


class WithMemoryReference(RNNpropReference):
    """One coordinate: as RNNprop, times a factor of recent and remembered sizes, if that is below 1."""

    def __init__(self, rule: SettlingRule | AnnealingRule, network: Network):
        super().__init__(rule, network)
        self.u = 0.0

    def step(self, g: float, t: int) -> float:
        if g == 0.0:
            return 0.0
        direction = super().step(g, t)
        recent = math.sqrt(self.v / (1 - self.rule.beta_2**t)) + self.rule.epsilon
        return direction * min(1.0, self.factor(g, t, recent))

    def accumulators(self) -> list[float]:
        return [self.m, self.v, self.u]


class SettlingReference(WithMemoryReference):
    """The square of recent over remembered size."""

    def factor(self, g: float, t: int, recent: float) -> float:
        rule = self.rule
        self.u = rule.beta_3 * self.u + (1 - rule.beta_3) * g**2
        return (recent / (rule.settling * math.sqrt(self.u) + rule.epsilon)) ** 2


class AnnealingReference(WithMemoryReference):
    """T / t and the square of recent over past size; a step after a sleep stands for several."""

    def __init__(self, rule: AnnealingRule, network: Network):
        super().__init__(rule, network)
        self.last = 0

    def step(self, g: float, t: int) -> float:
        if g == 0.0:
            return 0.0
        slept = t - self.last - 1 if self.last else 0
        coasting = min(slept + 1, 5)
        self.last = t
        return super().step(g, t) * coasting

    def factor(self, g: float, t: int, recent: float) -> float:
        weight = 4 / (t + 3)
        self.u = (1 - weight) * self.u + weight * g**2
        return self.rule.annealing / t * (recent / (math.sqrt(self.u) + self.rule.epsilon)) ** 2

    def accumulators(self) -> list[float]:
        return [*super().accumulators(), self.last]


class DMReference:
    """One coordinate: the preprocessing of Andrychowicz et al. 2016, appendix A."""

    def __init__(self, rule: DMRule, network: Network):
        self.rule, self.network = rule, network
        self.states = [(np.zeros(len(k.bias) // 4), np.zeros(len(k.bias) // 4)) for k in network.lstm]

    def step(self, g: float, t: int) -> float:
        if g == 0.0:
            return 0.0
        p = self.rule.p
        x = (max(math.log(abs(g)) / p, -1.0), min(max(math.exp(p) * g, -1.0), 1.0))
        x_out, self.states = network_step(self.network, np.array(x), self.states)
        return x_out

    def accumulators(self) -> list[float]:
        return []
