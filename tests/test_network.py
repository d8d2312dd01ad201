"""The coordinatewise network against the LSTM's equations, and the shapes and numbers of its weights."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy_reference import network_step, random_network

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture, LSTMState

ARCHITECTURES = [Architecture(), Architecture(preprocess=()), Architecture(3, (5, 4), (7, 2, 6))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_apply_equals_the_lstm_equations(architecture: Architecture) -> None:
    coordinates, steps = 4, 20
    network = random_network(architecture, seed=1)
    inputs = np.random.default_rng(2).normal(size=(steps, architecture.inputs, coordinates))
    states = coordinatewise.zero_state(architecture.lstm, coordinates, "float64")
    reference = [[(np.zeros(h), np.zeros(h)) for h in architecture.lstm] for _ in range(coordinates)]
    for x in inputs:
        output, states = coordinatewise.apply(network, x, states, awake=np.ones(coordinates, bool))
        for n in range(coordinates):
            expected, reference[n] = network_step(network, x[:, n], reference[n])
            assert_allclose(output[n], expected, atol=1e-12)
            for state, (h, c) in zip(states, reference[n], strict=True):
                assert_allclose(state.h[:, n], h, atol=1e-12)
                assert_allclose(state.c[:, n], c, atol=1e-12)


@pytest.mark.parametrize(
    ("architecture", "count"), [(Architecture(), 6641), (Architecture(preprocess=()), 5141)]
)
def test_parameter_count_is_the_paper_s(architecture: Architecture, count: int) -> None:
    assert sum(np.prod(shape) for shape in coordinatewise.tensor_shapes(architecture).values()) == count


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensors_and_architecture_round_trip(architecture: Architecture) -> None:
    network = random_network(architecture, seed=3)
    tensors = coordinatewise.to_tensors(network)
    assert {name: t.shape for name, t in tensors.items()} == coordinatewise.tensor_shapes(architecture)
    assert list(tensors) == list(coordinatewise.tensor_shapes(architecture))
    assert coordinatewise.architecture_of(network) == architecture
    again = coordinatewise.to_tensors(coordinatewise.from_tensors(tensors, architecture))
    assert all(again[name] is tensors[name] for name in tensors)


def test_zero_state_is_features_first() -> None:
    states = coordinatewise.zero_state((3, 2), 5)
    assert [type(state) for state in states] == [LSTMState, LSTMState]
    assert [tuple(state.h.shape) for state in states] == [(3, 5), (2, 5)]
    assert not any(np.any(array) for state in states for array in state)


def test_initial_weights_follow_their_distributions() -> None:
    architecture = Architecture(preprocess=(400,), lstm=(60, 50))
    tensors = coordinatewise.to_tensors(coordinatewise.initial_weights(architecture, seed=4))
    assert {t.dtype for t in tensors.values()} == {np.dtype("float32")}

    dense = np.concatenate([tensors["preprocess.0.kernel"].ravel(), tensors["output.kernel"].ravel()])
    assert np.abs(dense).max() <= np.float32(0.2)
    # The standard deviation of a unit normal distribution truncated at 2 is 0.880.
    assert_allclose([dense.mean(), dense.std()], [0.0, 0.0880], atol=0.008)

    for name, inputs in (("lstm.0.kernel", 460), ("lstm.1.kernel", 110)):
        bound = np.sqrt(3.0 / inputs)
        assert 0.99 * bound < np.abs(tensors[name]).max() <= np.float32(bound)
        assert_allclose([tensors[name].mean(), tensors[name].std()], [0.0, bound / np.sqrt(3)], atol=0.002)

    assert not tensors["preprocess.0.bias"].any()
    assert not tensors["output.bias"].any()
    for k, units in enumerate(architecture.lstm):
        assert_array_equal(
            tensors[f"lstm.{k}.bias"].reshape(4, units), np.eye(4)[2][:, None] * np.ones(units)
        )


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first, same, other = (
        coordinatewise.to_tensors(coordinatewise.initial_weights(Architecture(), seed)) for seed in (5, 5, 6)
    )
    for name in first:
        assert_array_equal(first[name], same[name])
        if name.endswith("kernel"):
            assert (first[name] != other[name]).all()
