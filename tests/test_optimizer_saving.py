"""Nothing is lost between saving and loading: learned weights, state, position in training."""

import copy
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import rnnprop_tf
from rnnprop_tf import DMOptimizer, RNNprop
from rnnprop_tf.network import Architecture, initial_weights, to_tensors

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
VARIANTS = {
    "plain": {},
    "jit": {"jit_compile": True},
    "average and decay": {"use_ema": True, "weight_decay": 0.01, "clipnorm": 1.0},
    "accumulation": {"gradient_accumulation_steps": 2},
    "schedule": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.05, 1, 0.9)},
}


def random_network(seed=0):
    return tf.nest.map_structure(lambda w: 3.0 * w, initial_weights(Architecture(2, (4,), (5, 3)), seed))


def make_model(learning_rate=0.05, jit_compile=False, **arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
    model.compile(RNNprop(random_network(), learning_rate, **arguments), "mse", jit_compile=jit_compile)
    return model


def train(model, epochs):
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)


def values(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def assert_same(left, right):
    for one, two in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, two)


def assert_same_network(left, right):
    assert_same(to_tensors(left).values(), to_tensors(right).values())


def through_json(optimizer):
    config = json.loads(json.dumps(optimizer.get_config()))
    return type(optimizer).from_config(config)


def through_keras(optimizer):
    return keras.optimizers.deserialize(json.loads(json.dumps(keras.optimizers.serialize(optimizer))))


def through_pickle(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("revive", [through_json, through_keras, through_pickle, copy.deepcopy])
@pytest.mark.parametrize(
    "optimizer",
    [
        RNNprop(random_network(1), 0.02, 0.8, 0.85, 1e-7, skip_nonfinite=False, name="mine", clipvalue=2.0),
        RNNprop(random_network(1), keras.optimizers.schedules.CosineDecay(0.1, 10), use_ema=True),
        DMOptimizer(random_network(2), p=4.0, weight_decay=0.1, gradient_accumulation_steps=3),
    ],
    ids=lambda optimizer: optimizer.name,
)
def test_learned_weights_and_arguments_survive(optimizer, revive):
    revived = revive(optimizer)
    assert type(revived) is type(optimizer)
    assert_same_network(revived.network, optimizer.network)
    assert revived.rule == optimizer.rule
    assert revived.get_config() == optimizer.get_config()
    assert dir(revived) == dir(optimizer)


def test_config_takes_35_kilobytes_for_the_papers_network():
    config = RNNprop(initial_weights(Architecture(), 0)).get_config()
    assert len(json.dumps(config)) < 36_000


def test_optimizer_keeps_its_own_copy_of_the_weights():
    network = random_network()
    optimizer = RNNprop(network)
    before = optimizer.get_config()
    network.output.kernel[:] = 7.0
    assert optimizer.get_config() == before


def test_damaged_config_is_refused():
    config = RNNprop(random_network()).get_config()
    config["network"]["weights"] = config["network"]["weights"][:-8]
    with pytest.raises(ValueError, match=r"`network` is damaged: expected \d+ bytes .* Received: \d+ bytes"):
        RNNprop.from_config(config)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_fit_resumed_from_a_keras_file_equals_uninterrupted(variant, tmp_path):
    uninterrupted = make_model(**variant)
    train(uninterrupted, 2)
    uninterrupted.save(tmp_path / "model.keras")
    at_save = values(uninterrupted)
    train(uninterrupted, 2)

    resumed = keras.models.load_model(tmp_path / "model.keras")
    assert_same(values(resumed), at_save)
    train(resumed, 2)
    assert_same(values(resumed), values(uninterrupted))


def test_keras_file_continues_bit_for_bit_in_a_fresh_process(tmp_path):
    model = make_model(weight_decay=0.01)
    train(model, 1)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    train(model, 2)
    script = """
        import sys, keras, numpy as np
        import rnnprop_tf
        data = np.load("data.npz")
        model = keras.models.load_model("model.keras")
        model.fit(data["x"], data["y"], batch_size=8, epochs=2, shuffle=False, verbose=0)
        np.savez("result.npz", *[v.numpy() for v in (*model.variables, *model.optimizer.variables)])
    """
    root = str(Path(rnnprop_tf.__file__).parents[1])
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    result = np.load(tmp_path / "result.npz")
    assert_same([result[name] for name in result.files], values(model))


def test_weights_file_restores_the_state_of_a_built_optimizer(tmp_path):
    model = make_model()
    train(model, 1)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = make_model()
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert_same(values(fresh)[:-2], values(model)[:-2])


def test_set_weights_moves_the_state_to_another_optimizer():
    model, other = make_model(), make_model()
    train(model, 1)
    other.set_weights(model.get_weights())
    other.optimizer.build(other.trainable_variables)
    other.optimizer.set_weights([v.numpy() for v in model.optimizer.variables])
    for m in (model, other):
        train(m, 1)
    assert_same(
        [v.numpy() for v in other.optimizer.variables], [v.numpy() for v in model.optimizer.variables]
    )


@pytest.mark.parametrize("build_first", [True, False])
def test_tensorflow_checkpoint_restores_all_state(build_first, tmp_path):
    gradient = tf.constant([1.0, -2.0])
    variable = tf.Variable([1.0, 2.0])
    optimizer = RNNprop(random_network())
    optimizer.apply([gradient], [variable])
    path = tf.train.Checkpoint(optimizer=optimizer, variable=variable).save(str(tmp_path / "checkpoint"))
    optimizer.apply([gradient], [variable])

    other_variable = tf.Variable([0.0, 0.0])
    other = RNNprop(random_network())
    if build_first:
        other.build([other_variable])
    status = tf.train.Checkpoint(optimizer=other, variable=other_variable).restore(path)
    other.apply([gradient], [other_variable])
    status.assert_consumed()
    assert_same([v.numpy() for v in other.variables], [v.numpy() for v in optimizer.variables])
    np.testing.assert_array_equal(other_variable.numpy(), variable.numpy())


def test_pretrained_folder_round_trip(tmp_path):
    folder = str(tmp_path / "weights")
    RNNprop(random_network(), 0.3, beta_1=0.8, beta_2=0.9, epsilon=1e-7).save_pretrained(
        folder, learning_rate=0.2, provenance={"recipe": "by hand"}
    )
    optimizer = RNNprop.from_pretrained(folder, learning_rate=0.3, clipnorm=1.0, name="mine")
    assert_same_network(optimizer.network, random_network())
    config = optimizer.get_config()
    expected = {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-7, "clipnorm": 1.0, "name": "mine"}
    assert {key: config[key] for key in expected} == expected
    assert config["learning_rate"] == pytest.approx(0.3)
    loaded = rnnprop_tf.pretrained.load(folder)
    assert loaded.learning_rate == pytest.approx(0.2)
    assert loaded.config["provenance"] == {"recipe": "by hand"}


def test_the_learning_rate_in_use_is_not_that_of_the_pretrained_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    RNNprop(random_network(), 0.0).save_pretrained("~/weights")
    assert rnnprop_tf.pretrained.load("~/weights").learning_rate == 0.1
    assert (tmp_path / "weights").is_dir()


@pytest.mark.parametrize(("cls", "other"), [(RNNprop, DMOptimizer), (DMOptimizer, RNNprop)])
def test_weights_of_the_other_rule_name_the_class_to_use(cls, other, tmp_path):
    folder = str(tmp_path)
    cls(random_network()).save_pretrained(folder)
    with pytest.raises(ValueError, match=rf"another update rule.*Use `{cls.__name__}.from_pretrained\("):
        other.from_pretrained(folder)
