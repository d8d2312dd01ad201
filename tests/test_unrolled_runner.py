"""Runs of optimizees: the plain loop's curve and final loss, the same start and data for every optimizer."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import RNNpropRule
from trainer import datasets
from trainer.evaluation import baselines, unrolled_runner
from trainer.evaluation.unrolled_runner import KerasRunner, LearnedRunner
from trainer.problems.base import loss_and_gradient
from trainer.problems.mlp import MLP

NETWORK = coordinatewise.initial_weights(Architecture(preprocess=(4,), lstm=(4,)), 1)


@functools.cache
def problem():
    return MLP(datasets.load("digits"), hidden=(4,), batch_size=16)


@functools.cache
def adam_runner():
    return KerasRunner(problem(), keras.optimizers.Adam)


@functools.cache
def learned_runner():
    return LearnedRunner(problem(), RNNpropRule(), NETWORK)


@pytest.fixture
def short_chunks(monkeypatch):
    """Ten steps a compiled call, so that short runs have several."""
    monkeypatch.setattr(unrolled_runner, "CHUNK", 10)


def slow_run(seed, steps, make_step):
    """Step by step, eagerly; `make_step(params, gradient)` gives the next parameters."""
    start_seed, data_seed = tf.unstack(tf.random.split(tf.constant([seed, 0x45564C], tf.int32)))
    params, constants = problem().draw(start_seed)
    batches = problem().batches(data_seed, tf.constant(0), steps)
    curve = []
    for t in range(steps):
        batch = tf.nest.map_structure(lambda b: b[t], batches)  # noqa: B023
        loss, gradient = loss_and_gradient(problem(), params, constants, batch)
        curve.append(float(loss))
        params = make_step(params, gradient)
    final = [
        float(problem().loss(params, constants, tf.nest.map_structure(lambda b: b[t], batches)))  # noqa: B023
        for t in range(steps)
    ]
    return curve, np.mean(final)


@pytest.mark.parametrize("steps", [25, 10, 3])
def test_a_keras_run_is_the_plain_loop_and_its_final_loss_the_mean_over_all_batches(steps, short_chunks):
    run = adam_runner().run(steps, seed=5, learning_rate=0.02)
    variable = tf.Variable(tf.zeros([problem().size]))
    adam = keras.optimizers.Adam(0.02)
    adam.build([variable])

    def step(params, gradient):
        variable.assign(params)
        adam.apply([gradient], [variable])
        return variable.read_value()

    curve, final_loss = slow_run(5, steps, step)
    np.testing.assert_array_equal(run.curve["step"], np.arange(steps))
    np.testing.assert_allclose(run.curve["loss"], curve, rtol=1e-4)
    np.testing.assert_allclose(run.final_loss, final_loss, rtol=1e-4)


def test_a_learned_run_is_the_plain_loop(short_chunks):
    rule = RNNpropRule()
    run = learned_runner().run(25, seed=5, learning_rate=0.1)
    state = rule.initial_state(NETWORK, problem().size)
    count = 0

    def step(params, gradient):
        nonlocal state, count
        count += 1
        direction, state = rule.update(NETWORK, state, gradient, tf.constant(float(count)))
        return params + 0.1 * direction

    curve, final_loss = slow_run(5, 25, step)
    np.testing.assert_array_equal(run.curve["step"], np.arange(25))
    np.testing.assert_allclose(run.curve["loss"], curve, rtol=1e-4)
    np.testing.assert_allclose(run.final_loss, final_loss, rtol=1e-4)


def test_a_seed_is_the_same_start_and_data_for_every_optimizer(short_chunks):
    """Without a step, the curve is the start's loss on each batch."""
    keras_runner = KerasRunner(problem(), keras.optimizers.SGD)
    learned = learned_runner()
    curves = []
    for seed in (0, 1):
        ours, theirs = (runner.run(15, seed, 0.0) for runner in (learned, keras_runner))
        np.testing.assert_allclose(ours.curve["loss"], theirs.curve["loss"], rtol=1e-6)
        np.testing.assert_allclose(ours.final_loss, theirs.final_loss, rtol=1e-6)
        np.testing.assert_allclose(ours.final_loss, ours.curve["loss"].mean(), rtol=1e-6)
        curves.append(ours.curve["loss"])
    assert not np.allclose(*curves)


def test_a_run_leaves_nothing_behind(short_chunks):
    """Adam's moments, step counter and rate are those of a new optimizer at each start."""
    runner = adam_runner()
    first, other, again = (runner.run(15, 0, rate) for rate in (0.05, 0.5, 0.05))
    np.testing.assert_array_equal(first.curve["loss"], again.curve["loss"])
    assert first.final_loss == again.final_loss != other.final_loss


# Muon asks for the names of variables, which Keras models alone have.
@pytest.mark.parametrize("name", [name for name in baselines.FIRST_GRID if name != baselines.MUON_COSINE])
def test_every_baseline_can_be_tuned_and_learns(name, short_chunks):
    runner = KerasRunner(problem(), baselines.OPTIMIZERS[name])
    exponents = baselines.FIRST_GRID[name]
    rate = baselines.learning_rate(exponents[len(exponents) // 2])
    assert runner.run(30, 0, rate).final_loss < runner.run(30, 0, 0.0).final_loss
