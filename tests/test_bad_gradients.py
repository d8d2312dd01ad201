"""A long fit with NaN and infinity in its gradients at random steps is the fit without these steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import DMOptimizer, RNNprop
from rnnprop_tf.network import Architecture, Network, initial_weights

STEPS = 300
BATCH = 4
BAD = [np.nan, np.inf, -np.inf]
HUGE = 3e38
"""As a target, it makes finite gradients whose squares are infinite. Clipping makes usable ones of them."""


def network() -> Network:
    """Large enough for steps that matter."""
    return tf.nest.map_structure(lambda w: 3.0 * w, initial_weights(Architecture(2, (4,), (5, 3)), 0))


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS, BATCH, 3)).astype("float32")
    return x, np.sin(x.sum(axis=2, keepdims=True))


def make_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])


def fit(optimizer: keras.Optimizer, x: np.ndarray, y: np.ndarray, **arguments: bool) -> keras.Model:
    """One step for each leading index of x and y."""
    model = make_model()
    model.compile(optimizer, "mse", **arguments)
    model.fit(x.reshape(-1, 3), y.reshape(-1, 1), batch_size=BATCH, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize(
    ("cls", "arguments", "of_fit"),
    [
        (RNNprop, {}, {}),
        (RNNprop, {"weight_decay": 0.01, "clipnorm": 0.1}, {"jit_compile": True}),
        pytest.param(DMOptimizer, {"clipvalue": 0.1}, {}, marks=pytest.mark.slow),
        pytest.param(RNNprop, {"gradient_accumulation_steps": 3}, {}, marks=pytest.mark.slow),
    ],
    ids=["plain", "decay, clipped, compiled", "dm, clipped", "accumulated"],
)
def test_bad_steps_are_as_if_left_out(cls, arguments, of_fit) -> None:
    x, y = data()
    rng = np.random.default_rng(2)
    bad = rng.random(STEPS) < 0.1
    bad[[0, 7, 8, 9, STEPS - 1]] = True  # The first, the last, and some in a row.
    poisoned = y.copy()
    targets = BAD if any("clip" in name for name in arguments) else [*BAD, HUGE]
    poisoned[bad, rng.integers(BATCH, size=bad.sum())] = rng.choice(targets, size=(bad.sum(), 1))

    # One bad micro-batch costs the accumulated step that it belongs to.
    together = arguments.get("gradient_accumulation_steps", 1)
    lost = bad.reshape(-1, together).any(axis=1)
    kept = np.repeat(~lost, together)

    # DMOptimizer's steps are not bounded.
    rate = 0.05 if cls is RNNprop else 0.005
    optimizer, reference = (cls(rate, network=network(), **arguments) for _ in range(2))
    found = fit(optimizer, x, poisoned, **of_fit)
    expected = fit(reference, x[kept], y[kept], **of_fit)

    assert 20 < lost.sum() < len(lost)
    assert optimizer.skipped_steps.numpy() == lost.sum()
    assert reference.skipped_steps.numpy() == 0
    assert optimizer.iterations.numpy() == len(lost)
    weights = (model.get_weights() for model in (found, expected, make_model()))
    for weight, other, start in zip(*weights, strict=True):
        assert np.isfinite(other).all()
        assert np.abs(other - start).max() > rate, "training did not go on"
        np.testing.assert_array_equal(weight, other)
    skip = ("iteration", "skipped_steps")
    states = [[v for v in o.variables if not v.path.endswith(skip)] for o in (optimizer, reference)]
    for slot, other in zip(*states, strict=True):
        np.testing.assert_array_equal(slot.numpy(), other.numpy(), err_msg=slot.path)
