"""The rules against slow loops over coordinates, written from the paper's equations, and their symmetries."""

import re
import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal
from numpy_reference import (
    AnnealingReference,
    DMReference,
    RNNpropReference,
    SettlingReference,
    random_network,
)

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture, LSTMState, Network
from rnnprop_tf.rule import AnnealingRule, DMRule, RNNpropRule, Rule, RuleState, SettlingRule

RULES = [
    pytest.param(RNNpropRule(), Architecture(), id="rnnprop"),
    pytest.param(RNNpropRule(beta_1=0.8, beta_2=0.99, epsilon=1e-3), Architecture(2, (5,), (4,)), id="other"),
    pytest.param(SettlingRule(beta_3=0.9, settling=1.5), Architecture(2, (5,), (4,)), id="settling"),
    pytest.param(AnnealingRule(annealing=2.0), Architecture(2, (5,), (4,)), id="annealing"),
    pytest.param(DMRule(), Architecture(preprocess=()), id="dm"),
    pytest.param(DMRule(p=3.0), Architecture(2, (), (4, 3)), id="dm-p3"),
]

REFERENCES = {
    RNNpropRule: RNNpropReference,
    SettlingRule: SettlingReference,
    AnnealingRule: AnnealingReference,
    DMRule: DMReference,
}


def gradients_with_zeros(steps: int, coordinates: int, seed: int) -> np.ndarray:
    """[steps, N] over many magnitudes, a fifth of them zero; the last coordinate never has a gradient."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(steps, coordinates)) * 10.0 ** rng.uniform(-7, 2, size=(steps, coordinates))
    g[rng.uniform(size=g.shape) < 0.2] = 0.0
    g[:, -1] = 0.0
    return g


def run(
    rule: Rule, network: Network, gradients: np.ndarray, observe: Callable[[int, np.ndarray, RuleState], None]
) -> None:
    state = rule.initial_state(network, gradients.shape[1], "float64")
    for t, gradient in enumerate(gradients, start=1):
        direction, state = rule.update(network, state, gradient, np.float64(t))
        observe(t, np.asarray(direction), state)


def directions(rule: Rule, network: Network, gradients: np.ndarray) -> np.ndarray:
    """[steps, N]"""
    collected: list[np.ndarray] = []
    run(rule, network, gradients, lambda t, direction, state: collected.append(direction))
    return np.stack(collected)


@pytest.mark.parametrize(("rule", "architecture"), RULES)
def test_rule_equals_the_paper_s_equations(rule: Rule, architecture: Architecture) -> None:
    coordinates = 5
    network = random_network(architecture, seed=1)
    gradients = gradients_with_zeros(100, coordinates, seed=2)
    reference_class = REFERENCES[type(rule)]
    references = [reference_class(rule, network) for _ in range(coordinates)]

    def compare(t: int, direction: np.ndarray, state: RuleState) -> None:
        for n, reference in enumerate(references):
            assert_allclose(direction[n], reference.step(gradients[t - 1, n], t), atol=1e-11)
            found = [np.asarray(accumulator)[n] for accumulator in state.accumulators]
            assert_allclose(found, reference.accumulators(), rtol=1e-12)
            for layer, (h, c) in zip(state.lstm, reference.states, strict=True):
                assert_allclose(layer.h[:, n], h, atol=1e-11)
                assert_allclose(layer.c[:, n], c, atol=1e-11)

    run(rule, network, gradients, compare)


@pytest.mark.parametrize(("rule", "architecture"), RULES)
def test_coordinate_without_gradient_sleeps(rule: Rule, architecture: Architecture) -> None:
    network = random_network(architecture, seed=3)
    gradients = gradients_with_zeros(30, 20, seed=4)
    states = [rule.initial_state(network, 20, "float64")]

    def compare(t: int, direction: np.ndarray, state: RuleState) -> None:
        asleep = gradients[t - 1] == 0.0
        assert_array_equal(direction[asleep], 0.0)
        assert (direction[~asleep] != 0.0).all()
        for new, old in zip(flat(state), flat(states[-1]), strict=True):
            assert_array_equal(new[..., asleep], old[..., asleep])
        states.append(state)

    run(rule, network, gradients, compare)
    assert not any(array[..., -1].any() for array in flat(states[-1]))


def flat(state: RuleState) -> list[np.ndarray]:
    return [np.asarray(array) for array in (*state.accumulators, *(a for layer in state.lstm for a in layer))]


@pytest.mark.parametrize(("rule", "architecture"), RULES)
def test_last_direction_is_what_update_returned(rule: Rule, architecture: Architecture) -> None:
    network = random_network(architecture, seed=16)
    gradients = gradients_with_zeros(30, 20, seed=17)

    def compare(t: int, direction: np.ndarray, state: RuleState) -> None:
        awake = gradients[t - 1] != 0.0
        if rule.counts_sleep and t > 1:  # What makes the step after a sleep longer is not known any more.
            awake &= gradients[t - 2] != 0.0
        assert_array_equal(rule.last_direction(network, state, np.float64(t))[awake], direction[awake])
        assert_array_equal(rule.touched(state), gradients[:t].any(axis=0))

    run(rule, network, gradients, compare)


@pytest.mark.parametrize("rule", [RNNpropRule(), DMRule()])
def test_last_direction_of_a_sleeper_is_that_of_its_last_step(rule: Rule) -> None:
    network = random_network(Architecture(2, (), (4,)), seed=16)
    gradients = gradients_with_zeros(10, 20, seed=17)
    gradients[4] = 1.0
    gradients[5:] = 0.0
    found = []
    run(rule, network, gradients, lambda t, d, state: found.append(rule.last_direction(network, state, t)))
    assert_array_equal(found[-1], directions(rule, network, gradients)[4])


def test_last_direction_reads_an_h_of_fewer_bits() -> None:
    rule, network = RNNpropRule(), coordinatewise.initial_weights(Architecture(), seed=18)
    direction, state = rule.update(network, rule.initial_state(network, 3), np.ones(3, "float32"), 1.0)
    stored = state._replace(lstm=tuple(LSTMState(*(ops.cast(x, "bfloat16") for x in s)) for s in state.lstm))
    found = rule.last_direction(network, stored, 1.0)
    assert found.dtype == "float32"
    assert_allclose(found, direction, rtol=0.02)


@pytest.mark.parametrize(("rule", "architecture"), RULES)
def test_what_a_rule_says_of_itself(rule: Rule, architecture: Architecture) -> None:
    """Shapes and meaning of the fields, which the callers rely on."""
    state = rule.initial_state(random_network(architecture, seed=19), 3, "float64")
    gradient, step = np.array([2.0, 0.0, -0.1]), np.float64(1.0)
    seen, accumulators = rule.observe(state.accumulators, gradient, step)
    assert seen.inputs.shape == (rule.inputs_size, 3)
    assert_array_equal(seen.awake, [True, False, True])
    assert (
        (np.shape(seen.scale) == (3,))
        if isinstance(rule, SettlingRule | AnnealingRule)
        else (seen.scale == ())
    )
    assert type(accumulators) is type(state.accumulators) is rule.accumulators_class
    m_tilde = rule.m_tilde(accumulators, step)
    if isinstance(rule, DMRule):
        assert not rule.bounded
        assert m_tilde is None
    else:
        assert rule.bounded
        assert_array_equal(m_tilde, seen.inputs[0])


def test_fields_of_the_state_are_the_papers_names() -> None:
    """Their order is the checkpoint's."""
    assert RNNpropRule.accumulators_class._fields == ("m", "v")
    assert SettlingRule.accumulators_class._fields == ("m", "v", "u")
    assert AnnealingRule.accumulators_class._fields == ("m", "v", "u", "last")
    assert DMRule.accumulators_class._fields == ()


@pytest.mark.parametrize("scale", [1e-4, 1e5, -1.0])
def test_rnnprop_does_not_see_the_scale_of_the_loss(scale: float) -> None:
    """A negative scale is another loss: it must make a difference, or this test would show nothing."""
    network = random_network(Architecture(), seed=5)
    # Gradients well above epsilon, which alone sees their scale.
    gradients = np.random.default_rng(6).normal(size=(50, 10))
    plain = directions(RNNpropRule(), network, gradients)
    scaled = directions(RNNpropRule(), network, gradients * scale)
    if scale > 0:
        # At scale 1e-4 epsilon is 1e-4 of sqrt(v), and the LSTM's state adds its effects up.
        assert_allclose(scaled, plain, atol=2e-3)
    else:
        assert np.abs(scaled - plain).max() > 0.1


@pytest.mark.parametrize(("rule", "architecture"), RULES)
def test_permuted_coordinates_get_permuted_updates(rule: Rule, architecture: Architecture) -> None:
    network = random_network(architecture, seed=7)
    gradients = gradients_with_zeros(30, 40, seed=8)
    order = np.random.default_rng(9).permutation(40)
    plain = directions(rule, network, gradients)
    permuted = directions(rule, network, gradients[:, order])
    assert_allclose(permuted, plain[:, order], atol=1e-12)


def test_rnnprop_s_direction_is_bounded_by_one() -> None:
    # Weights far larger than any that are learned, and gradients up to the largest that float64 can square.
    network = coordinatewise.from_tensors(
        {k: 100 * w for k, w in coordinatewise.to_tensors(random_network(Architecture(), seed=10)).items()},
        Architecture(),
    )
    gradients = gradients_with_zeros(50, 30, seed=11)
    gradients[::7] *= 1e140
    found = directions(RNNpropRule(), network, gradients)
    assert np.isfinite(found).all()
    assert 0.99 < np.abs(found).max() <= 1.0


def test_settling_shortens_steps_once_gradients_have_shrunk_and_not_before() -> None:
    network = random_network(Architecture(), seed=14)
    gradients = np.sign(np.random.default_rng(15).normal(size=(60, 20)))
    gradients[30:] *= 1e-2
    plain = directions(RNNpropRule(beta_2=0.5), network, gradients)
    settling = directions(SettlingRule(beta_2=0.5), network, gradients)
    assert_allclose(settling[:30], plain[:30])
    # u is 30 times 1e-4, v is 1e-4.
    assert_allclose(settling[-10:] / plain[-10:], 1e-4 / (4 * 30e-4), rtol=1e-2)
    assert_allclose(directions(SettlingRule(beta_2=0.5, settling=0.0), network, gradients), plain)


def test_annealing_shortens_steps_as_1_over_t_and_sooner_where_gradients_shrink() -> None:
    network = random_network(Architecture(), seed=14)
    rule, plain = AnnealingRule(beta_2=0.0, annealing=20.0), RNNpropRule(beta_2=0.0)
    gradients = np.sign(np.random.default_rng(15).normal(size=(80, 20)))
    ratio = directions(rule, network, gradients) / directions(plain, network, gradients)
    assert_allclose(ratio, np.minimum(1.0, 20.0 / np.arange(1, 81))[:, None] * np.ones(20))
    # With v the last square alone, the mean of the last quarter's squares is all that is remembered.
    shrunk = gradients * np.where(np.arange(80) < 40, 1.0, 0.1)[:, None]
    ratio = directions(rule, network, shrunk) / directions(plain, network, shrunk)
    past = 0.01 + 0.99 * np.prod(1.0 - 4.0 / (np.arange(41, 81) + 3.0))
    assert_allclose(ratio[-1], 20.0 / 80.0 * 0.01 / past, rtol=1e-6)
    assert ratio[41].max() < 0.02
    # Large gradients of the first steps are forgotten with the fourth power of the steps since.
    grown = gradients * np.where(np.arange(80) < 8, 10.0, 1.0)[:, None]
    ratio = directions(rule, network, grown) / directions(plain, network, grown)
    assert_allclose(ratio[-1], 20.0 / 80.0, rtol=0.02)


def test_a_step_after_a_sleep_stands_for_up_to_five() -> None:
    """Beside the plain rule from the same state."""
    network = random_network(Architecture(2, (5,), (4,)), seed=16)
    rule, plain = AnnealingRule(annealing=1e6), RNNpropRule()
    for slept, coasting in ((0, 1.0), (1, 2.0), (3, 4.0), (4, 5.0), (5, 5.0), (5_000, 5.0)):
        state, start = (one.initial_state(network, 3, "float64") for one in (rule, plain))
        gradient = np.array([1.0, -2.0, 0.5])
        for step in (1.0, 2.0):
            _, state = rule.update(network, state, gradient, np.float64(step))
            _, start = plain.update(network, start, gradient, np.float64(step))
        woken = np.float64(3.0 + slept)
        direction, state = rule.update(network, state, gradient, woken)
        expected, _ = plain.update(network, start, gradient, woken)
        assert_allclose(direction, coasting * np.asarray(expected), rtol=1e-9)
        assert_array_equal(state.accumulators.last, np.full(3, woken))


def test_a_variable_that_rested_has_not_slept() -> None:
    rule = AnnealingRule()
    kept = rule.initial_state(random_network(Architecture(), seed=18), 2, "float64").accumulators
    _, kept = rule.observe(kept, np.array([1.0, 0.0]), np.float64(1.0))
    for _ in range(9):
        kept = rule.rested(kept, np.float64(1.0))
    assert_array_equal(rule.rested(kept, np.float64(0.0)).last, kept.last)
    assert_array_equal(kept.last, [10.0, 0.0])
    seen, _ = rule.observe(kept, np.array([1.0, 1.0]), np.float64(11.0))
    assert_array_equal(seen.scale, [1.0, 1.0])
    assert RNNpropRule().rested(kept, np.float64(1.0)) is kept


def test_gaps_of_float32_are_no_sleep() -> None:
    rule = AnnealingRule(annealing=1e30)
    for step in 2.0 ** np.arange(20, 40):
        last = np.nextafter(np.float32(step), np.float32(0.0))
        kept = AnnealingRule.accumulators_class(*(np.full(1, x, "float32") for x in (1.0, 1.0, 1.0, last)))
        seen, _ = rule.observe(kept, np.ones(1, "float32"), np.float32(step))
        assert_array_equal(seen.scale, [1.0])


def test_a_first_gradient_ends_no_sleep() -> None:
    network = random_network(Architecture(2, (5,), (4,)), seed=17)
    found, expected = (
        rule.update(
            network, rule.initial_state(network, 2, "float64"), np.array([1.0, -3.0]), np.float64(400.0)
        )
        for rule in (AnnealingRule(annealing=1e6), RNNpropRule())
    )
    assert_allclose(found[0], expected[0], rtol=1e-9)


@pytest.mark.parametrize(("rule", "architecture"), RULES)
def test_float32_follows_float64(rule: Rule, architecture: Architecture) -> None:
    network = coordinatewise.initial_weights(architecture, seed=12)
    wide = coordinatewise.from_tensors(
        {k: w.astype("float64") for k, w in coordinatewise.to_tensors(network).items()}, architecture
    )
    gradients = gradients_with_zeros(30, 20, seed=13).astype("float32")
    state = rule.initial_state(network, 20)
    for t, (gradient, expected) in enumerate(
        zip(gradients, directions(rule, wide, gradients.astype("float64")), strict=True), start=1
    ):
        direction, state = rule.update(network, state, gradient, np.float32(t))
        assert_allclose(direction, expected, atol=1e-4)
    assert {array.dtype for array in flat(state)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        (RNNpropRule, "beta_1", 1.0),
        (RNNpropRule, "beta_1", -0.1),
        (RNNpropRule, "beta_2", 0.99999999),  # 1 in float32
        (RNNpropRule, "beta_2", "0.9"),
        (RNNpropRule, "epsilon", float("inf")),
        (RNNpropRule, "epsilon", float("nan")),
        (RNNpropRule, "epsilon", 1e-60),  # 0 in float32
        (RNNpropRule, "epsilon", None),
        (AnnealingRule, "annealing", 0.0),
        (AnnealingRule, "annealing", float("inf")),
        (SettlingRule, "beta_3", 1.0),
        (SettlingRule, "settling", -1.0),
        (SettlingRule, "settling", 10.5),
        (SettlingRule, "settling", float("nan")),
        (DMRule, "p", 100.0),  # e^p is infinite in float32
        (DMRule, "p", 0),
        (DMRule, "p", True),
        (DMRule, "p", 10**400),
    ],
)
def test_hyperparameters_outside_of_their_range_are_refused(rule: type[Rule], name: str, value: Any) -> None:
    received = re.escape(reprlib.repr(value))
    with pytest.raises(
        ValueError, match=rf"Expected {name} to be a number .*, in float32\. Received: {received}"
    ):
        rule(**{name: value})


def test_hyperparameters_are_python_floats() -> None:
    for p in (7, np.float32(7.0), np.float64(7.0), 7.0):
        assert type(DMRule(p).p) is float
        assert DMRule(p) == DMRule(7.0)
