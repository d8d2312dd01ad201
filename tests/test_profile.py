"""`profile` tells what training will cost, and leaves the model alone."""

import keras
import numpy as np
import pytest

import rnnprop_tf


def test_numbers_and_table(capsys):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    before = [v.numpy() for v in model.variables]
    ours, adam = rnnprop_tf.profile(model, updates=2)
    parameters = model.count_params()
    assert ours.name == "rnnprop"
    assert adam.name.startswith("adam")
    assert 0 <= ours.state_bytes - 32 * parameters < 100
    assert 0 <= adam.state_bytes - 4 * 2 * parameters < 100
    assert ours.temporary_bytes > 0
    assert min(ours.milliseconds, adam.milliseconds) > 0.0
    table = capsys.readouterr().out
    assert f"{parameters} parameters in 4 trainable variables" in table
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["rnnprop", adam.name]
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())


def test_takes_the_settings_of_an_optimizer_and_does_not_build_it():
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(10)])
    optimizer = rnnprop_tf.RNNprop.from_pretrained("rnnprop-1", state_dtype="bfloat16")
    cost, _ = rnnprop_tf.profile(model, optimizer, updates=1)
    assert 0 <= cost.state_bytes - 168 * model.count_params() < 100
    assert not optimizer.built


def test_model_without_variables_is_refused():
    with pytest.raises(ValueError, match=r"`model.build\(input_shape\)` first. Received: 'empty' with none"):
        rnnprop_tf.profile(keras.Sequential([keras.layers.Dense(2)], name="empty"))


def _temporary_bytes(optimizer, *sizes):
    return rnnprop_tf.compute.temporary_bytes(sizes, optimizer.rule, optimizer.network)


def test_temporaries_do_not_grow_with_the_largest_variable_but_for_its_direction():
    optimizer = rnnprop_tf.RNNprop.from_pretrained()
    small, large = (_temporary_bytes(optimizer, n) for n in (1_000_000, 2_000_000))
    assert large - small == 8 * 1_000_000
    assert _temporary_bytes(optimizer) == 0


def test_temporaries_count_the_third_accumulator_of_settling():
    plain, settling = (rnnprop_tf.RNNprop.from_pretrained("rnnprop-1", settling=x) for x in (0.0, 2.0))
    joined = [100, 200]
    assert _temporary_bytes(settling, *joined) - _temporary_bytes(plain, *joined) == 4 * (3 * 1_024 + 2 * 200)
