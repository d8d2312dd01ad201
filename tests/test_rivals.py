"""Rivals that are not Keras's own: Schedule-Free beside its authors' package, Muon's head, the average."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from rnnprop_tf import averaging
from trainer.evaluation import baselines, rivals
from trainer.evaluation.competitors import competitor
from trainer.evaluation.fit_runner import FitRunner
from trainer.keras_models.catalog import KERAS_MODELS

A = np.array([[3.0, 0.5], [0.5, 0.2]], np.float32)
START = np.array([1.0, -2.0], np.float32)
LOOKED_AT = (1, 5, 12)

REFERENCE = {
    (0.0, 0): (
        [[1.0999999990, -2.0999999997], [1.2370347305, -2.3191859813], [1.2474847480, -2.5994703130]],
        [[1.0999999990, -2.0999999997], [1.2286037296, -2.2998604665], [1.2481840590, -2.5677918616]],
    ),
    (0.05, 5): (
        [[1.0189999998, -2.0179999999], [1.1842420069, -2.2069433509], [1.2426948726, -2.5036535975]],
        [[1.0189999998, -2.0179999999], [1.1787767111, -2.1995613332], [1.2427690081, -2.4783726705]],
    ),
}
"""y and x of `schedulefree.AdamWScheduleFree(lr=0.1)`, version 1.4.1 with PyTorch 2.13 in float64, after
`LOOKED_AT` steps on `slope`, by weight decay and steps of warm-up: p after `train()` and after `eval()`."""


def slope(p):
    """The gradient of p A p / 2 + the sum of sin 3p."""
    return tf.linalg.matvec(A, p) + 3 * tf.cos(3 * p)


@pytest.mark.parametrize(("decay", "warmup"), REFERENCE)
def test_schedule_free_is_its_authors_at_y_and_at_x(decay, warmup):
    variable = keras.Variable(START)
    optimizer = rivals.ScheduleFreeAdamW(lambda: 0.1, decay=decay, warmup_steps=warmup)
    ys, xs = [], []
    for step in range(1, LOOKED_AT[-1] + 1):
        optimizer.apply([slope(variable.value)], [variable])
        if step in LOOKED_AT:
            y = variable.numpy()
            optimizer.finalize_variable_values([variable])
            ys.append(y)
            xs.append(variable.numpy())
            variable.assign(y)
    for found, expected in zip((ys, xs), REFERENCE[decay, warmup], strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_what_fit_leaves_of_schedule_free_is_the_average():
    spec = KERAS_MODELS["keras-friedman"]
    runner = FitRunner(spec, competitor(baselines.SCHEDULE_FREE).make)
    run = runner.run(20, 3, 0.01)
    x, y = runner._train
    left = float(np.mean((runner._model(x) - y) ** 2))
    assert run.final_loss == pytest.approx(left, rel=1e-5)
    # One step away from the average is y, which a look back from the average makes of z.
    weights = runner._model.trainable_variables
    z = runner._optimizer._z
    for weight, newest in zip(weights, z, strict=True):
        weight.assign(0.1 * newest + 0.9 * weight)
    assert abs(float(np.mean((runner._model(x) - y) ** 2)) - left) > 1e-4
    again = runner.run(20, 3, 0.01)  # starts at the seed's weights, z too
    np.testing.assert_allclose(again.curve["loss"], run.curve["loss"], rtol=1e-5)


def test_schedule_free_takes_the_gradients_of_an_embedding():
    tables = [keras.Variable(np.ones((4, 2), "float32")) for _ in range(2)]
    for table, sparse in zip(tables, (True, False), strict=True):
        gradient = tf.IndexedSlices(tf.ones((3, 2)), [1, 3, 3], (4, 2))
        optimizer = rivals.ScheduleFreeAdamW(0.1)
        optimizer.apply([gradient if sparse else tf.convert_to_tensor(gradient)], [table])
    np.testing.assert_array_equal(*tables)
    assert (tables[0].numpy()[[1, 3]] < 1.0).all()


def test_the_averaged_adamw_keeps_rnnprop_s_average():
    variable = keras.Variable(START)
    optimizer = rivals.AveragedAdamW(lambda: 0.1)
    average = 0.0
    for step in range(12):
        optimizer.apply([slope(variable.value)], [variable])
        share = (averaging.DECAY + 1) / (step + 1 + averaging.DECAY)
        average = (1 - share) * average + share * variable.numpy()
    last = variable.numpy()
    optimizer.finalize_variable_values([variable])
    np.testing.assert_allclose(variable.numpy(), average, rtol=1e-5)
    assert np.abs(last - average).max() > 1e-3


def test_muon_s_head_embeddings_and_vectors_are_adam_s():
    """A first step of Adam moves each coordinate by the rate, one of Muon by a fifth of it on average."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((3,)), layers.Embedding(5, 4), layers.Flatten(), layers.Dense(16), layers.Dense(6)]
    )
    optimizer = rivals.MuonWithHead(lambda: 0.01)
    optimizer.weight_decay = optimizer.adam_weight_decay = None
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    rng = np.random.default_rng(0)
    optimizer.apply([tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables], variables)
    steps = [np.abs(variable.numpy() - old) for variable, old in zip(variables, before, strict=True)]
    embeddings, kernel, *others = steps
    for step in (embeddings, *others):
        np.testing.assert_allclose(step, 0.01, rtol=1e-3)
    assert np.sqrt(np.mean(kernel**2)) == pytest.approx(0.002, rel=0.3)


def test_muon_learns_under_fit_with_its_cosine():
    one = competitor(baselines.MUON_COSINE)
    assert baselines.MUON_COSINE in baselines.COSINES
    run = FitRunner(KERAS_MODELS["keras-friedman"], one.make, cosine=True).run(40, 0, 0.03)
    assert run.final_loss < 0.5 * run.curve["loss"][0]
