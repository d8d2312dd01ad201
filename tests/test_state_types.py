"""What is stored of h and c: rounded once, bounded in error, and unchanged where nothing changes."""

import math

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from rnnprop_tf import state_types
from rnnprop_tf.network import LSTMState

CODES = np.arange(-127, 128, dtype="int8")


def of(values, dtype):
    """One layer whose h and c are both these values."""
    tensor = ops.convert_to_tensor(values, dtype)
    return (LSTMState(tensor, tensor),)


def there_and_back(values, dtype):
    like = of([0.0], dtype)
    (state,) = state_types.exact(state_types.stored(of(values, "float32"), like), "float32")
    return np.array(state.h), np.array(state.c)


def test_bits_of_bfloat16_are_those_of_a_cast():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 100_000, dtype="uint32").view("float32")
    values = np.append(values, [0.0, -0.0, np.inf, -np.inf, 1.00390625, 1.01171875, 3.4e38, 1e-40])
    values = tf.constant(values[~np.isnan(values)], "float32")
    expected = tf.cast(values, "bfloat16")
    (bits,) = state_types.stored(of(values, "float32"), of([0], "uint16"))
    np.testing.assert_array_equal(bits.h, state_types.as_bits(expected))
    np.testing.assert_array_equal(bits.c, bits.h)
    assert tf.reduce_all(state_types.from_bits(bits.h, "bfloat16") == expected)
    (back,) = state_types.exact((bits,), "float32")
    np.testing.assert_array_equal(back.h, tf.cast(expected, "float32"))
    assert all(math.isnan(x[0]) for x in there_and_back([math.nan], "bfloat16"))


@pytest.mark.parametrize("compiled", [False, True])
def test_each_code_of_int8_comes_back(compiled):
    """As the state of a sleeping coordinate must; in XLA's arithmetic too."""
    run = tf.function(
        lambda lstm: state_types.stored(state_types.exact(lstm, "float32"), lstm), jit_compile=compiled
    )
    (back,) = run(of(CODES, "int8"))
    np.testing.assert_array_equal(back.h, CODES)
    np.testing.assert_array_equal(back.c, CODES)


def test_int8_is_as_near_as_its_steps():
    h = np.linspace(-1.0, 1.0, 10_001, dtype="float32")
    np.testing.assert_allclose(there_and_back(h, "int8")[0], h, atol=0.5 / 127 + 1e-6)
    c = np.sinh(np.linspace(-3.5, 3.5, 10_001, dtype="float32"))
    # The derivative of c / (1 + |c|) is 1 / (1 + |c|)^2: half a step of the code, at the far end of the step.
    found = there_and_back(c, "int8")[1]
    farther = 1.0 + np.maximum(np.abs(c), np.abs(found))
    assert np.all(np.abs(found - c) <= farther**2 / 256 + 1e-6)
    assert np.all(np.diff(found) >= 0.0)


def test_a_c_beyond_the_codes_has_the_last_one():
    found = there_and_back([127.0, 1e6, 3e38, -1e6], "int8")[1]
    np.testing.assert_allclose(found, [127.0, 127.0, 127.0, -127.0])
