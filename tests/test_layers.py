"""Optimizees of Keras layers: their loss is the Keras model's, their starts are its initialisers'."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.problems import catalog, layers
from trainer.problems.base import loss_and_gradient, unpack
from trainer.problems.layers import Examples, KerasProblem
from trainer.problems.tricks import Continued

SEED = tf.constant([3, 4])
QUICK = {"digits-logistic-b8-100", "digits-batch-norm-b32-100", "sentences-bag-b32-100", "table-relu-b1-100"}
SOME_OR_ALL = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in catalog.LAYER_TASKS
]


def first_batch(problem):
    return tf.nest.map_structure(lambda b: b[0], problem.batches(SEED, tf.constant(0), 1))


@pytest.mark.parametrize("name", SOME_OR_ALL)
def test_a_task_is_learned_a_little_in_100_steps(name):
    problem = catalog.task(name).build(None)
    draw = problem.draw(SEED)
    assert draw.params.shape == (problem.size,)

    @tf.function(jit_compile=True)
    def better(params, batch):
        loss, gradient = loss_and_gradient(problem, params, draw.constants, batch)
        return loss, params - 0.003 * tf.sign(gradient)

    params, losses = draw.params, []
    batches = problem.batches(SEED, tf.constant(0), 100)
    for k in range(100):
        loss, params = better(params, tf.nest.map_structure(lambda b, k=k: b[k], batches))
        losses.append(float(loss))
    assert np.mean(losses[-30:]) < np.mean(losses[:10])
    assert all(np.isfinite(losses))


def test_the_loss_is_that_of_the_keras_model_in_training():
    examples = layers.digits()
    make = layers.dense((8, 8), (6, 5), 10, last="softmax", batch_norm=True)
    problem = KerasProblem(make, "sparse_categorical_crossentropy", examples, batch_size=16)
    params, (inputs, labels) = problem.draw(SEED).params, first_batch(problem)
    assert inputs.shape == (16, 8, 8)
    model = make()
    for variable, value in zip(model.trainable_variables, unpack(params, problem.shapes), strict=True):
        variable.assign(value)
    odds = model(inputs, training=True).numpy()[np.arange(16), labels]
    np.testing.assert_allclose(problem.loss(params, (), (inputs, labels)), -np.log(odds).mean(), rtol=1e-5)


@pytest.mark.parametrize("make", [layers.attention, layers.embedding_lstm])
def test_starts_are_keras_s_initialisers(make):
    examples = layers.digits() if make is layers.attention else layers.sentences()
    problem = KerasProblem(make, "sparse_categorical_crossentropy", examples, 4)
    one, other = (unpack(problem.draw(SEED + k).params, problem.shapes) for k in range(2))
    variables = layers._made(make, seed=5).trainable_variables
    for variable, value, different in zip(variables, one, other, strict=True):
        initial = variable.numpy()
        if "bias" in variable.path or "gamma" in variable.path or "beta" in variable.path:
            np.testing.assert_array_equal(value, initial)  # An LSTM's forget bias, too.
            np.testing.assert_array_equal(different, initial)
        else:
            assert np.std(value) == pytest.approx(initial.std(), rel=0.3)
            assert abs(np.mean(value)) < 4 * initial.std() / np.sqrt(initial.size)
            assert not np.allclose(value, different)


def test_a_task_is_the_same_whatever_python_s_generator_was_used_for():
    def losses():
        problem = KerasProblem(layers.attention, "sparse_categorical_crossentropy", layers.digits(), 4)
        state = random.getstate()
        assert state == before
        return problem.loss(problem.draw(SEED).params, (), first_batch(problem))

    random.seed(7)
    before = random.getstate()
    one = losses()
    random.seed(8)
    before = random.getstate()
    np.testing.assert_array_equal(losses(), one)
    assert (8, 16) in {tuple(v.shape) for v in layers.attention().trainable_variables}  # places


def test_batches_are_a_function_of_seed_and_position():
    examples = Examples(np.arange(50, dtype=np.float32)[:, None], np.arange(50, dtype=np.float32)[:, None])
    problem = KerasProblem(layers.dense((1,), (), 1), "mean_squared_error", examples, batch_size=5)
    inputs, targets = problem.batches(SEED, tf.constant(0), 40)
    np.testing.assert_array_equal(inputs, targets)
    later, _ = problem.batches(SEED, tf.constant(30), 10)
    np.testing.assert_array_equal(later, inputs[30:])
    assert len(np.unique(inputs)) == 50


def test_continued_starts_where_keras_s_adam_gets():
    problem = KerasProblem(layers.dense((8,), (4,), 1), "mean_squared_error", layers.table(0.3), 16)
    continued = Continued(problem, steps=20)
    start_seed, data_seed = tf.unstack(tf.random.split(SEED, 2))
    params = tf.Variable(problem.draw(start_seed).params)
    batches = problem.batches(data_seed, tf.constant(0), 20)
    adam = keras.optimizers.Adam(Continued.LEARNING_RATE)
    for k in range(20):
        batch = tf.nest.map_structure(lambda b, k=k: b[k], batches)
        adam.apply([loss_and_gradient(problem, params.value(), (), batch)[1]], [params])
    np.testing.assert_allclose(continued.draw(SEED).params, params, atol=1e-5)
    batch = first_batch(continued)
    np.testing.assert_array_equal(
        continued.loss(params.value(), (), batch), problem.loss(params.value(), (), batch)
    )


def test_rare_words_are_rare_and_each_kind_and_symbol_comes():
    words, kinds = layers.sentences()
    counts = np.bincount(words.ravel(), minlength=layers.WORDS)
    assert counts.max() > 100 * np.median(counts)
    assert np.bincount(kinds).min() > 400
    pairs, together = layers.neighbours()
    assert 0.45 < together.mean() < 0.55
    assert pairs.max() < layers.WORDS
    windows, following = layers.chain()
    np.testing.assert_array_equal(windows[1:, -1], following[:-1])
    assert len(np.unique(following)) == layers.SYMBOLS
