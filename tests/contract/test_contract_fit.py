"""The contract of training a model: `fit` in every mode, against a loop with the pure rule."""

import copy
import pickle

import keras
import numpy as np
import pytest
from backend import BACKEND, COMPILED, JIT, gradients_of, only_on_tensorflow, slow, tensor
from keras import ops
from subjects import RATE, Expected, Subject, assert_same, for_each_average, for_each_subject

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


def make_model():
    keras.utils.set_random_seed(0)
    hidden, out = keras.layers.Dense(4, "tanh", name="hidden"), keras.layers.Dense(1, name="out")
    return keras.Sequential([keras.Input((3,)), hidden, out], name="model")


def values(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def loop(subject: Subject, model, batches, rates=None, scale=1.0, accumulate=1, **arguments) -> Expected:
    """Trains the model by the pure rule; each batch of `batches` once.

    As in dynamic loss scaling, a step that overflows is not taken and halves the scale.
    """
    weights = model.trainable_variables
    expected = Expected(subject, [w.numpy() for w in weights])
    waiting = []
    for i, (x, y) in enumerate(batches):

        def loss(model, x=x, y=y, scale=scale):
            return scale * ops.mean((ops.cast(model(tensor(x), training=True), "float32") - tensor(y)) ** 2)

        waiting.append([gradient / scale for gradient in gradients_of(model, loss)])
        if not all(np.isfinite(g).all() for g in waiting[-1]):
            waiting.pop()
            scale /= 2.0
        if len(waiting) < accumulate:
            continue
        mean = [np.mean(parts, axis=0) for parts in zip(*waiting, strict=True)]
        waiting = []
        expected.step(mean, RATE if rates is None else rates[i], **arguments)
        for weight, value in zip(weights, expected.values, strict=True):
            weight.assign(value)
    return expected


@for_each_subject()
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(arguments, id=name, marks=() if name in ("eager", "graph", "jit") else slow)
        for name, arguments in COMPILED.items()
    ],
)
def test_fit_is_a_loop_with_the_rule(subject, arguments):
    model = make_model()
    model.compile(subject.make(), "mse", **arguments)
    model.fit(X, Y, epochs=2, **FIT)
    loop(subject, make_model(), 2 * BATCHES).check(model.trainable_variables)
    assert int(model.optimizer.iterations) == 6


@for_each_subject()
def test_train_on_batch_is_a_step(subject):
    model = make_model()
    model.compile(subject.make(), "mse")
    for x, y in BATCHES:
        model.train_on_batch(x, y)
    loop(subject, make_model(), BATCHES).check(model.trainable_variables)


@for_each_subject()
@JIT
def test_layers_with_sparse_gradients_and_with_moving_statistics(subject, jit_compile):
    def make():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Embedding(8, 3), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        return keras.Sequential([keras.Input((), dtype="int32"), *layers])

    # Each row once, as Adam does not add up those that come twice.
    batches = [(np.random.default_rng(i).permutation(8), Y[:8]) for i in range(4)]
    model, reference = make(), make()
    model.compile(subject.make(), "mse", jit_compile=jit_compile)
    for x, y in batches:
        model.fit(x, y, **FIT)
    loop(subject, reference, batches).check(model.trainable_variables, 1e-3)
    for ours, expected in zip(model.non_trainable_variables, reference.non_trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), rtol=1e-3, atol=1e-3)


@only_on_tensorflow("datasets of unknown length that fail within a step")
@for_each_subject(adam_fails="Keras's Adam decays the weights and counts once more at the end of an epoch")
def test_the_end_of_data_of_unknown_length_is_not_a_step(subject):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda *_: True).batch(8)
    assert data.cardinality() == tf.data.UNKNOWN_CARDINALITY
    model = make_model()
    model.compile(subject.make(weight_decay=0.5), "mse", jit_compile=False)
    model.fit(data, epochs=2, verbose=0)
    loop(subject, make_model(), 2 * BATCHES, decay=[0.5] * 4).check(model.trainable_variables)
    assert int(model.optimizer.iterations) == 6


# Precision


@pytest.fixture
def dtype_policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


HALF = {"mixed_float16": 5e-3, "mixed_bfloat16": 4e-2}


@for_each_subject()
@JIT
@pytest.mark.parametrize("dtype_policy", HALF, indirect=True)
def test_mixed_precision(subject, jit_compile, dtype_policy):
    model = make_model()
    model.compile(subject.make(), "mse", jit_compile=jit_compile)
    model.fit(X, Y, epochs=2, **FIT)
    scaled = dtype_policy == "mixed_float16"
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == scaled
    expected = loop(subject, make_model(), 2 * BATCHES, scale=2.0**15 if scaled else 1.0)
    # XLA rounds to half precision in other places.
    expected.check(model.trainable_variables, HALF[dtype_policy] if jit_compile else 1e-3)
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


@for_each_subject()
@pytest.mark.parametrize("dtype_policy", ["mixed_float16"], indirect=True)
def test_a_loss_scale_that_is_too_large_is_found_and_costs_no_step(subject, dtype_policy):
    model, reference = make_model(), make_model()
    optimizer = keras.optimizers.LossScaleOptimizer(subject.make(), initial_scale=2.0**22)
    model.compile(optimizer, "mse", jit_compile=False)
    model.fit(X, Y, epochs=8, **FIT)
    expected = loop(subject, reference, 8 * BATCHES, scale=2.0**22)
    expected.check(model.trainable_variables, 5e-3)
    skipped = 22 - np.log2(optimizer.dynamic_scale.numpy())
    assert skipped > 3
    assert int(optimizer.iterations) == expected.steps == 24 - skipped


# Arguments and callbacks


@for_each_subject()
@JIT
def test_accumulation_goes_on_from_epoch_to_epoch(subject, jit_compile):
    model = make_model()
    model.compile(subject.make(gradient_accumulation_steps=2), "mse", jit_compile=jit_compile)
    model.fit(X, Y, epochs=2, **FIT)
    loop(subject, make_model(), 2 * BATCHES, accumulate=2).check(model.trainable_variables)
    assert int(model.optimizer.iterations) == 3


def averaged(subject, average, epochs):
    """A model with the averages of `loop`'s iterates, and where the weights themselves come."""
    batches = epochs * BATCHES
    iterates = [loop(subject, make_model(), batches[: i + 1]).values for i in range(len(batches))]
    model = make_model()
    for variable, value in zip(model.trainable_variables, average.of(iterates), strict=True):
        variable.assign(value)
    return model, iterates[-1]


@for_each_average()
@JIT
def test_averages_are_in_the_model_when_fit_ends(subject, average, jit_compile):
    model = make_model()
    model.compile(subject.make(**average.arguments), "mse", jit_compile=jit_compile)
    model.fit(X, Y, epochs=2, **FIT)
    expected, _ = averaged(subject, average, 2)
    for ours, theirs in zip(model.trainable_variables, expected.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-4)


@for_each_average()
def test_averages_are_swapped_in_for_evaluation(subject, average):
    model, swap = make_model(), keras.callbacks.SwapEMAWeights()
    model.compile(subject.make(**average.arguments), "mse", jit_compile=False)
    for x, y in BATCHES:
        model.train_on_batch(x, y)
    found = model.evaluate(X, Y, callbacks=[swap], verbose=0)
    expected, weights = averaged(subject, average, 1)
    expected.compile(loss="mse")
    assert found == pytest.approx(expected.evaluate(X, Y, verbose=0), rel=1e-4)
    for ours, value in zip(model.trainable_variables, weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), value, rtol=1e-4, atol=1e-4)


@for_each_average()
def test_swapping_averages_at_each_epoch_leaves_training_alone(subject, average):
    models = []
    for callbacks in ([], [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]):
        model = make_model()
        model.compile(subject.make(**average.arguments), "mse", jit_compile=False)
        model.fit(X, Y, epochs=2, callbacks=callbacks, **FIT)
        models.append(model)
    for one, two in zip(*(model.trainable_variables for model in models), strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-4, atol=1e-4)


@for_each_average()
def test_checkpoints_after_swapping_hold_the_averages(subject, average, tmp_path):
    model, path = make_model(), str(tmp_path / "averaged.weights.h5")
    model.compile(subject.make(**average.arguments), "mse", jit_compile=False)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model.fit(X, Y, callbacks=[swap, keras.callbacks.ModelCheckpoint(path, save_weights_only=True)], **FIT)
    saved, (expected, _) = make_model(), averaged(subject, average, 1)
    saved.load_weights(path)
    for ours, theirs in zip(saved.trainable_variables, expected.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-4)


@for_each_subject()
def test_callbacks_set_the_learning_rate(subject):
    model = make_model()
    model.compile(subject.make(), "mse", jit_compile=False)
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, _: [0.2, 0.02][epoch])
    model.fit(X, Y, epochs=2, callbacks=[scheduler], **FIT)
    # Nothing counts as better than the first epoch: from the second on the rate is halved.
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
    history = model.fit(X, Y, epochs=4, callbacks=[plateau], **FIT).history
    np.testing.assert_allclose(history["learning_rate"], [0.02, 0.02, 0.01, 0.005], rtol=1e-6)
    rates = np.repeat([0.2, 0.02, 0.02, 0.02, 0.01, 0.005], 3)
    loop(subject, make_model(), 6 * BATCHES, rates).check(model.trainable_variables)


# Layers and models


@for_each_subject()
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_frozen_layers_stay_and_can_be_unfrozen(subject):
    model, reference = make_model(), make_model()
    for m in (model, reference):
        m.get_layer("hidden").trainable = False
    optimizer = subject.make()
    model.compile(optimizer, "mse", jit_compile=False)
    model.fit(X, Y, **FIT)
    loop(subject, reference, BATCHES).check(model.trainable_variables)
    assert_same(model.get_layer("hidden").get_weights(), make_model().get_layer("hidden").get_weights())
    assert not any("hidden" in variable.path for variable in optimizer.variables)

    model.get_layer("hidden").trainable = reference.get_layer("hidden").trainable = True
    model.compile(optimizer, "mse", jit_compile=False)
    with pytest.raises(ValueError, match=r"Unknown variable|Received len\(trainable_variables\) == 4"):
        model.fit(X, Y, **FIT)
    if BACKEND == "jax":  # There `fit` took the values away before it failed.
        model = make_model()
        reference = make_model()
    model.compile(subject.make(), "mse", jit_compile=False)
    model.fit(X, Y, **FIT)
    loop(subject, reference, BATCHES).check(model.variables)

    if BACKEND == "jax":  # Keras's optimizers need all of their variables there.
        return
    # One that knows all variables may go on with some of them.
    before = model.get_layer("hidden").get_weights(), model.get_layer("out").get_weights()
    model.get_layer("hidden").trainable = False
    model.compile(model.optimizer, "mse", jit_compile=False)
    model.fit(X, Y, **FIT)
    assert_same(model.get_layer("hidden").get_weights(), before[0])
    assert np.any(model.get_layer("out").get_weights()[0] != before[1][0])


@pytest.mark.xfail(BACKEND == "jax", reason="Keras knows variables by their position on JAX", strict=True)
@for_each_subject()
def test_an_optimizer_belongs_to_one_model(subject):
    optimizer = subject.make()
    for model, error in ((make_model(), None), (make_model(), "Unknown variable")):
        model.compile(optimizer, "mse", jit_compile=False)
        if error is None:
            model.fit(X, Y, **FIT)
        else:
            with pytest.raises(ValueError, match=error):
                model.fit(X, Y, **FIT)


@for_each_subject()
@JIT
def test_layers_may_have_optimizers_of_their_own(subject, jit_compile):
    model, reference = make_model(), make_model()
    others = {".*/hidden/.*": keras.optimizers.SGD(0.0)}
    optimizer = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(subject.make(), others))
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    model.fit(X, Y, **FIT)
    reference.get_layer("hidden").trainable = False  # As a rate of zero does.
    loop(subject, reference, BATCHES).check(model.get_layer("out").trainable_variables)


def cloned(model):
    clone = keras.models.clone_model(model)
    clone.compile(type(model.optimizer).from_config(model.optimizer.get_config()), "mse", jit_compile=False)
    clone.set_weights(model.get_weights())
    clone.optimizer.build(clone.trainable_variables)
    clone.optimizer.set_weights([v.numpy() for v in model.optimizer.variables])
    return clone


@for_each_subject()
@pytest.mark.parametrize("copied", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, cloned])
@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 2, "use_ema": True}], ids=str)
def test_a_copy_of_the_model_goes_on_alike(subject, copied, arguments):
    model = make_model()
    model.compile(subject.make(**arguments), "mse", jit_compile=False)
    model.fit(X, Y, **FIT)
    other = copied(model)
    assert other.optimizer is not model.optimizer
    for m in (model, other):
        m.fit(X, Y, **FIT)
    assert_same([v.numpy() for v in other.variables], [v.numpy() for v in model.variables])
    assert_same(
        [v.numpy() for v in other.optimizer.variables], [v.numpy() for v in model.optimizer.variables]
    )
