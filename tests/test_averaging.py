"""The average of the iterates: which steps count, who may ask for it, and the statistics that go with it.

What it has in common with Keras's own average is under contract, see tests/contract.
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import rnnprop_tf
from rnnprop_tf import DMOptimizer, RNNprop, averaging
from rnnprop_tf.network import Architecture, initial_weights

NETWORK = tf.nest.map_structure(lambda w: 3 * w, initial_weights(Architecture(2, (4,), (5, 3)), 0))
GRADIENTS = [[1.0, 3.0], [-2.0, 1.0], [0.5, -1.0], [4.0, 2.0], [-1.0, -1.0], [2.0, 0.5]]
NAN = [1.0, np.nan]


def make_optimizer(learning_rate=0.5, **arguments):
    return RNNprop(learning_rate, network=NETWORK, use_averaging=True, **arguments)


def average_of(iterates):
    """Shamir and Zhang's, with g = 8: the newest of t + 1 iterates weighs (g + 1) / (t + g + 1)."""
    average = np.zeros_like(iterates[0], "float64")
    for t, values in enumerate(iterates):
        average += 9.0 / (t + 9.0) * (values - average)
    return average


def iterates_of(optimizer, variable, gradients):
    """The variable after each call of `apply`."""
    iterates = []
    for gradient in gradients:
        optimizer.apply([None if gradient is None else tf.constant(gradient)], [variable])
        iterates.append(variable.numpy())
    return iterates


class Record(keras.callbacks.Callback):
    """Keeps the first variable after each batch."""

    def __init__(self):
        super().__init__()
        self.iterates = []

    def on_train_batch_end(self, batch, logs=None):
        self.iterates.append(self.model.get_weights()[0])


def average_in(optimizer):
    return next(v for v in optimizer.variables if v.path.endswith("_average")).numpy()


def test_average_covers_about_the_last_tenth_of_any_number_of_steps():
    for steps in (200, 2_000):
        weights = average_of(np.eye(steps))
        assert weights.sum() == pytest.approx(1.0)
        age = np.arange(steps)[::-1] @ weights
        assert age / steps == pytest.approx(0.1, abs=0.01)


# Steps that count


def test_skipped_steps_do_not_count_and_leave_the_average_alone():
    variable, optimizer = keras.Variable([1.0, 2.0]), make_optimizer()
    iterates = iterates_of(optimizer, variable, GRADIENTS[:3])
    before = average_in(optimizer)
    iterates_of(optimizer, variable, [NAN] * 5)
    np.testing.assert_array_equal(average_in(optimizer), before)
    iterates += iterates_of(optimizer, variable, GRADIENTS[3:])
    np.testing.assert_allclose(average_in(optimizer), average_of(iterates), rtol=1e-6)
    assert np.abs(average_in(optimizer) - variable.numpy()).max() > 0.01


@pytest.mark.parametrize(
    ("arguments", "gradients"),
    [({}, [NAN, NAN]), ({"gradient_accumulation_steps": 4}, GRADIENTS[:3])],
    ids=["all skipped", "an accumulation that is not complete"],
)
def test_before_the_first_step_the_average_is_the_start(arguments, gradients):
    variable, optimizer = keras.Variable([1.0, 2.0]), make_optimizer(**arguments)
    iterates_of(optimizer, variable, gradients)
    optimizer.finalize_variable_values([variable])
    np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])


@pytest.mark.parametrize("traced", [False, True])
def test_batches_of_an_accumulation_do_not_count(traced):
    variable, optimizer = keras.Variable([1.0, 2.0]), make_optimizer(gradient_accumulation_steps=3)
    optimizer.build([variable])

    def apply(gradient):
        optimizer.apply([gradient], [variable])

    step = tf.function(apply) if traced else apply
    iterates = []
    for gradient in GRADIENTS + GRADIENTS[:2]:  # Two steps, and two batches towards a third.
        step(tf.constant(gradient))
        iterates.append(variable.numpy())
    np.testing.assert_allclose(average_in(optimizer), average_of([iterates[2], iterates[5]]), rtol=1e-6)


def test_steps_that_loss_scaling_skips_do_not_count():
    variable, inner = keras.Variable([1.0, 2.0]), make_optimizer()
    optimizer = keras.optimizers.LossScaleOptimizer(inner)
    iterates = iterates_of(optimizer, variable, [*GRADIENTS[:2], NAN, *GRADIENTS[2:]])
    del iterates[2]
    np.testing.assert_allclose(average_in(inner), average_of(iterates), rtol=1e-6)


def test_the_end_of_data_of_unknown_length_does_not_count():
    x = np.ones((6, 1), "float32")
    data = tf.data.Dataset.from_tensor_slices((x, 2 * x)).filter(lambda *_: True).batch(2)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    record = Record()
    model.compile(make_optimizer(0.1), "mse", jit_compile=False)
    model.fit(data, epochs=2, verbose=0, callbacks=[record])
    assert len(record.iterates) == 6
    np.testing.assert_allclose(model.get_weights()[0], average_of(record.iterates), rtol=1e-6)


# Values that are averaged


def test_average_is_of_what_constraints_leave():
    """Keras's own average is of what they meet."""
    variable = keras.Variable([0.1, 0.1], name="x")
    variable.constraint = keras.constraints.NonNeg()
    optimizer = make_optimizer()
    iterates = iterates_of(optimizer, variable, GRADIENTS)
    assert np.min(iterates) == 0.0
    np.testing.assert_allclose(average_in(optimizer), average_of(iterates), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_variables_without_a_gradient_are_averaged_too():
    one, two, optimizer = keras.Variable([1.0, 2.0]), keras.Variable([3.0, 4.0]), make_optimizer()
    optimizer.build([one, two])
    iterates = []
    for i, gradient in enumerate(GRADIENTS):
        optimizer.apply([tf.constant(gradient), tf.constant(gradient) if i < 2 else None], [one, two])
        iterates.append(two.numpy())
    optimizer.finalize_variable_values([one, two])
    np.testing.assert_allclose(two.numpy(), average_of(iterates), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", 1e-2), ("float64", 1e-12)])
def test_average_is_computed_in_float32_at_least(dtype, precision):
    variable, optimizer = keras.Variable([1.0, 2.0], dtype=dtype), make_optimizer()
    iterates = [np.asarray(v, "float64") for v in iterates_of(optimizer, variable, GRADIENTS)]
    found = average_in(optimizer)
    assert found.dtype == dtype
    weights = np.float32(9.0) / (np.arange(6, dtype="float32") + 9)
    expected = np.zeros(2)
    for weight, values in zip(weights, iterates, strict=True):
        expected = (1 - np.float64(weight)) * expected + np.float64(weight) * values
    np.testing.assert_allclose(np.asarray(found, "float64"), expected, rtol=precision)


def test_averaging_leaves_the_iterates_as_they_are():
    starts = [keras.Variable([1.0, 2.0]) for _ in range(2)]
    plain = RNNprop(0.5, network=NETWORK)
    with_average, without = (
        iterates_of(o, v, GRADIENTS) for o, v in zip((make_optimizer(), plain), starts, strict=True)
    )
    np.testing.assert_array_equal(with_average, without)


# Arguments


@pytest.mark.parametrize("optimizer_class", [RNNprop, DMOptimizer])
@pytest.mark.parametrize(
    "arguments", [{"use_ema": True}, {"ema_momentum": 0.999}, {"ema_overwrite_frequency": 10}]
)
def test_two_averages_are_one_too_many(optimizer_class, arguments):
    [(name, value)] = arguments.items()
    expected = rf"Choose one of the two: leave out `{name}`, or `use_averaging`. .*True, {name}={value}"
    with pytest.raises(ValueError, match=expected):
        optimizer_class(network=NETWORK, use_averaging=True, **arguments)


def test_a_config_holds_one_average_and_an_old_config_none():
    config = json.loads(json.dumps(make_optimizer().get_config()))
    assert (config["use_averaging"], config["use_ema"]) == (True, False)
    again = RNNprop.from_config(config).get_config()
    assert json.loads(json.dumps(again)) == config
    del config["use_averaging"]
    old = RNNprop.from_config(config)
    assert (old.use_averaging, old.use_ema) == (False, False)
    config["use_ema"] = True
    assert RNNprop.from_config(config).get_config()["use_ema"]


def test_pretrained_weights_come_with_an_average():
    assert RNNprop.from_pretrained(use_averaging=True).use_averaging
    assert not RNNprop.from_pretrained().use_averaging


# A second fit


def test_a_second_fit_begins_at_the_average_and_goes_on_averaging():
    x = np.ones((6, 1), "float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(make_optimizer(0.1), "mse", jit_compile=False)
    record = Record()
    for _ in range(2):
        model.fit(x, 2 * x, batch_size=2, verbose=0, callbacks=[record])
        np.testing.assert_allclose(model.get_weights()[0], average_of(record.iterates), rtol=1e-6)


# Statistics of BatchNormalization


def digits_like(seed, count=256):
    """Images [count, 6, 6, 1] of three classes, their brightest rows, under noise and a brightness each."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=count)
    x = rng.normal(size=(count, 6, 6, 1)) * 0.7
    x[np.arange(count), 2 * y] += 1.0
    return x.astype("float32"), y


def make_cnn():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, "softmax"),
        ]
    )


def batches(x, y=None, size=32):
    return tf.data.Dataset.from_tensor_slices(x if y is None else (x, y)).batch(size)


def test_statistics_of_the_iterates_can_be_wrong_for_the_average_and_are_mended():
    (x, y), validation, model = digits_like(0), digits_like(1), make_cnn()
    model.compile(RNNprop.from_pretrained(use_averaging=True), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=32, epochs=6, verbose=0)
    before = model.evaluate(*validation, verbose=0)
    weights = [v.numpy() for v in model.trainable_variables]
    rnnprop_tf.recalibrate_batch_norm(model, batches(x, y))
    after = model.evaluate(*validation, verbose=0)
    assert after < 0.8 * before
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_statistics_are_the_means_of_those_of_the_batches():
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(40, 3)).astype("float32")
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.0), norm])
    rnnprop_tf.recalibrate_batch_norm(model, batches(x, size=10), steps=3)
    parts = x[:30].reshape(3, 10, 3)
    np.testing.assert_allclose(norm.moving_mean.numpy(), parts.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), parts.var(axis=1).mean(axis=0), rtol=1e-5)
    assert norm.momentum == 0.99


class Batches(keras.utils.PyDataset):
    """Has a length and no end."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return (self.x[10 * i : 10 * i + 10],)


def test_statistics_are_found_in_inner_models_and_data_may_be_any_that_fit_takes():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    norm, frozen = keras.layers.BatchNormalization(), keras.layers.BatchNormalization(trainable=False)
    inner = keras.Sequential([keras.Input((3,)), norm])
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    model = keras.Model({"a": a, "b": b}, [inner(a), frozen(b)])
    rnnprop_tf.recalibrate_batch_norm(model, batches({"a": x, "b": x}, np.zeros(40), size=10))
    expected = norm.moving_variance.numpy()
    np.testing.assert_allclose(expected, x.reshape(4, 10, 3).var(axis=1).mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(frozen.moving_variance.numpy(), np.ones(3))
    inner.layers[-1].moving_variance.assign(np.zeros(3))
    rnnprop_tf.recalibrate_batch_norm(inner, Batches(x))
    np.testing.assert_allclose(norm.moving_variance.numpy(), expected, rtol=1e-6)


def test_data_that_are_no_batches_or_too_few_are_refused_and_change_nothing():
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), norm])
    x = np.ones((4, 3), "float32")
    with pytest.raises(
        TypeError, match=r"from_tensor_slices\(x\).batch\(32\).*Received: an array of shape \(4, 3\)"
    ):
        rnnprop_tf.recalibrate_batch_norm(model, x)
    with pytest.raises(ValueError, match=r"must have 3 batches .* Received: 2 batches"):
        rnnprop_tf.recalibrate_batch_norm(model, batches(x, size=2), steps=3)
    with pytest.raises(ValueError, match=r"must have at least one batch .* Received: 0 batches"):
        rnnprop_tf.recalibrate_batch_norm(model, [])
    np.testing.assert_array_equal(norm.moving_mean.numpy(), np.zeros(3))
    assert norm.momentum == 0.99


def test_a_model_without_moving_statistics_needs_no_data():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    rnnprop_tf.recalibrate_batch_norm(model, [])


def test_weights_of_the_newest():
    weight = [
        averaging.newest_weight(tf.constant(a), tf.constant(b)).numpy()
        for a, b in ((0, 0), (0, 1), (1, 1), (1, 2))
    ]
    np.testing.assert_allclose(weight, [1.0, 1.0, 0.0, 0.9])
