"""The contract of saving: training goes on, bit for bit, as if it had not been interrupted."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from backend import BACKEND, only_on_tensorflow, slow
from subjects import SUBJECTS, assert_same, for_each_average, for_each_subject

import rnnprop_tf

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


def make_model(optimizer, policy="float32", jit_compile=False):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "tanh", dtype=policy), keras.layers.Dense(1, dtype=policy)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    if policy == "mixed_float16" and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)  # As `compile` does for the global policy.
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    return model


def values(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def run_python(script, folder, *arguments, expected=0):
    """Runs a script in a fresh process and in this folder; returns what it printed."""
    root = str(Path(rnnprop_tf.__file__).parents[1])
    contract = str(Path(__file__).parent)
    path = os.pathsep.join([root, contract])
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == expected, process.stderr[-4000:]
    return process.stdout


# The `.keras` file

AVERAGE = {"use_ema": True, "ema_momentum": 0.75, "ema_overwrite_frequency": 4, "weight_decay": 0.1}
VARIANTS = {
    "float32": ({}, {}),
    "jit": ({"weight_decay": 0.1}, {"jit_compile": True}),
    "mixed_float16": ({}, {"policy": "mixed_float16"}),
    "mixed_float16, jit": ({}, {"policy": "mixed_float16", "jit_compile": True}),
    "mixed_bfloat16": ({}, {"policy": "mixed_bfloat16"}),
    "accumulation": ({"gradient_accumulation_steps": 2}, {}),
    "accumulation, jit": ({"gradient_accumulation_steps": 2}, {"jit_compile": True}),
    "average": (AVERAGE | {"clipnorm": 1.0}, {}),
    "average, jit": (AVERAGE | {"clipnorm": 1.0}, {"jit_compile": True}),
    "schedule": ({"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.9)}, {}),
    "averaging": (
        {"use_averaging": True, "weight_decay": 0.1, "gradient_accumulation_steps": 2},
        {"policy": "mixed_float16"},
    ),
    "averaging, jit": ({"use_averaging": True}, {"jit_compile": True}),
    "all": (AVERAGE | {"gradient_accumulation_steps": 2, "clipvalue": 1.0}, {"policy": "mixed_float16"}),
}

if BACKEND == "torch":  # Its compiler takes a minute for a model.
    VARIANTS = {name: variant for name, variant in VARIANTS.items() if "jit" not in name}

QUICK = ["all", "averaging"]

CONTINUE = """
    import sys, keras, numpy as np
    import rnnprop_tf
    data = np.load("data.npz")
    for name in sys.argv[1:]:
        model = keras.models.load_model(f"{name}.keras")
        model.fit(data["x"], data["y"], epochs=2, batch_size=8, shuffle=False, verbose=0)
        np.savez(f"{name}.npz", *[v.numpy() for v in (*model.variables, *model.optimizer.variables)])
"""


@for_each_subject()
@pytest.mark.parametrize("names", [QUICK, pytest.param([n for n in VARIANTS if n not in QUICK], marks=slow)])
def test_keras_files_go_on_bit_for_bit_in_a_fresh_process(subject, names, tmp_path):
    if subject is SUBJECTS["Adam"]:
        names = [name for name in names if "use_averaging" not in VARIANTS[name][0]]
        if BACKEND == "jax":  # Keras's Adam cannot go on after `fit` has left its average in the model.
            names = [name for name in names if not name.startswith("average")]
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    expected = {}
    for name in names:
        arguments, model_arguments = VARIANTS[name]
        model = make_model(subject.make(**arguments), **model_arguments)
        model.fit(X, Y, **FIT)  # Three batches: with accumulation, to the middle of a step.
        model.save(tmp_path / f"{name}.keras")
        start = values(model)
        model.fit(X, Y, epochs=2, **FIT)
        expected[name] = values(model)
        assert any(np.any(one != two) for one, two in zip(start, expected[name], strict=True))
    run_python(CONTINUE, tmp_path, *names)
    for name in names:
        result = np.load(tmp_path / f"{name}.npz")
        assert_same([result[part] for part in result.files], expected[name])


# Callbacks


@for_each_subject()
@pytest.mark.parametrize("weights_only", [False, True])
def test_model_checkpoint_keeps_the_state(subject, weights_only, tmp_path):
    path = str(tmp_path / "{epoch}") + (".weights.h5" if weights_only else ".keras")
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=weights_only)
    model = make_model(subject.make())
    model.fit(X, Y, epochs=3, callbacks=[checkpoint], **FIT)
    path = path.format(epoch=2)
    if weights_only:
        resumed = make_model(subject.make())
        resumed.optimizer.build(resumed.trainable_variables)  # Or Keras drops the state, with a warning.
        resumed.load_weights(path)
    else:
        resumed = keras.models.load_model(path)
    resumed.fit(X, Y, epochs=3, initial_epoch=2, **FIT)
    assert_same(values(resumed)[:-2], values(model)[:-2])


BACKED_UP = """
    import os, signal, sys, keras, numpy as np
    from subjects import SUBJECTS
    from test_contract_saving import FIT, X, Y, make_model, values

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 8:  # In the middle of the third epoch.
                os.kill(os.getpid(), signal.SIGKILL)

    subject, killed = sys.argv[1], sys.argv[2] == "killed"
    model = make_model(SUBJECTS[subject].make(weight_decay=0.1))
    callbacks = [keras.callbacks.BackupAndRestore("backup")] + [Kill()] * killed
    history = model.fit(X, Y, epochs=4, callbacks=callbacks, **FIT)
    np.savez("result.npz", *values(model))
    print(history.epoch)
"""


@slow
@for_each_subject()
def test_backup_and_restore_after_a_kill(subject, tmp_path, request):
    name = request.node.callspec.id
    run_python(BACKED_UP, tmp_path, name, "killed", expected=-signal.SIGKILL)
    assert not (tmp_path / "result.npz").exists()
    assert run_python(BACKED_UP, tmp_path, name, "whole").split("\n")[-2] == "[2, 3]"
    model = make_model(subject.make(weight_decay=0.1))
    model.fit(X, Y, epochs=4, **FIT)
    result = np.load(tmp_path / "result.npz")
    assert_same([result[name] for name in result.files][:-2], values(model)[:-2])


# TensorFlow's own formats


@only_on_tensorflow("checkpoints of its own")
@for_each_subject()
@pytest.mark.parametrize("build_first", [True, False])
def test_a_tensorflow_checkpoint_restores_all_state(subject, build_first, tmp_path):
    import tensorflow as tf

    gradient, variable = tf.constant([1.0, -2.0]), tf.Variable([1.0, 2.0])
    optimizer = subject.make(use_ema=True)
    optimizer.apply([gradient], [variable])
    path = tf.train.Checkpoint(optimizer=optimizer, variable=variable).save(str(tmp_path / "checkpoint"))
    optimizer.apply([gradient], [variable])

    other, other_variable = subject.make(use_ema=True), tf.Variable([0.0, 0.0])
    if build_first:
        other.build([other_variable])
    status = tf.train.Checkpoint(optimizer=other, variable=other_variable).restore(path)
    other.apply([gradient], [other_variable])
    status.assert_consumed()
    assert_same([v.numpy() for v in other.variables], [v.numpy() for v in optimizer.variables])
    np.testing.assert_array_equal(other_variable.numpy(), variable.numpy())


@only_on_tensorflow("SavedModel")
@for_each_subject()
def test_a_saved_model_holds_the_model_and_the_state(subject, tmp_path):
    import tensorflow as tf

    model = make_model(subject.make())
    model.fit(X, Y, **FIT)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(X).numpy(), model.predict(X, verbose=0), rtol=1e-6)

    tf.saved_model.save(model, str(tmp_path / "saved"))
    saved = tf.train.load_checkpoint(str(tmp_path / "saved" / "variables" / "variables"))
    found = [saved.get_tensor(name) for name in saved.get_variable_to_shape_map() if "optimizer" in name]
    for variable in model.optimizer.variables:
        assert any(np.array_equal(variable.numpy(), value) for value in found), variable.path


# Replicas

REPLICAS = """
    import json, sys, keras, numpy as np, tensorflow as tf
    from subjects import SUBJECTS, assert_same
    from test_contract_saving import FIT, X, Y, make_model, values

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    subject = SUBJECTS[sys.argv[1]]
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    single = make_model(subject.make(weight_decay=0.1, **json.loads(sys.argv[2])))
    single.fit(X, Y, **FIT)
    single.save("single.keras")
    with strategy.scope():
        double = keras.models.load_model("single.keras")
    assert_same(values(double), values(single))
    for variable in (*double.weights, *double.optimizer.variables):
        assert len(variable.value.values) == 2, variable.path

    for model in (single, double):
        model.fit(X, Y, epochs=2, **FIT)
    for one, two in zip(values(single), values(double), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4)
    for variable in (*double.weights, *double.optimizer.variables):
        first, second = (replica.numpy() for replica in variable.value.values)
        np.testing.assert_array_equal(first, second, err_msg=variable.path)

    double.save("double.keras")
    again = keras.models.load_model("double.keras")
    assert_same(values(again), values(double))
    for model in (again, double):
        model.fit(X, Y, **FIT)
    for one, two in zip(values(again), values(double), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4)
"""


@slow
@only_on_tensorflow("MirroredStrategy")
@for_each_average()
def test_what_one_replica_saved_goes_on_with_two_and_back(subject, average, tmp_path):
    name = next(name for name in SUBJECTS if SUBJECTS[name] is subject)
    run_python(REPLICAS, tmp_path, name, json.dumps(average.arguments))


# The state in the file once

LOSS_SCALE = {"ours": rnnprop_tf.LossScaleOptimizer, "keras": keras.optimizers.LossScaleOptimizer}


@for_each_subject()
def test_loss_scaling_of_ours_saves_the_state_once(subject, tmp_path):
    sizes = {}
    for name, cls in LOSS_SCALE.items():
        model = make_model(cls(subject.make()), policy="mixed_float16")
        model.fit(X, Y, **FIT)
        model.save_weights(tmp_path / f"{name}.weights.h5")
        arrays = []
        with h5py.File(tmp_path / f"{name}.weights.h5") as file:
            file.visititems(lambda _, node, arrays=arrays: arrays.append(getattr(node, "size", 0)))
        sizes[name] = sum(arrays)
    state = sum(v.numpy().size for v in model.optimizer.inner_optimizer.variables)
    assert sizes["keras"] - sizes["ours"] == state


@for_each_subject()
@pytest.mark.parametrize(("saved", "loaded"), [("ours", "ours"), ("keras", "ours"), ("ours", "keras")])
def test_loss_scaling_loads_files_of_either_class(subject, saved, loaded, tmp_path):
    model = make_model(LOSS_SCALE[saved](subject.make(), initial_scale=2.0**18), policy="mixed_float16")
    model.fit(X, Y, epochs=3, **FIT)
    model.save_weights(tmp_path / "model.weights.h5")
    scale = model.optimizer.dynamic_scale.numpy()
    assert scale < 2.0**18

    other = make_model(LOSS_SCALE[loaded](subject.make(), initial_scale=2.0**18), policy="mixed_float16")
    other.optimizer.build(other.trainable_variables)
    if loaded == "keras":
        with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
            other.load_weights(tmp_path / "model.weights.h5")
        assert other.optimizer.dynamic_scale.numpy() == 2.0**18
        other.optimizer.dynamic_scale.assign(scale)
        other.optimizer.step_counter.assign(model.optimizer.step_counter)
    else:
        other.load_weights(tmp_path / "model.weights.h5")
    for m in (model, other):
        m.fit(X, Y, **FIT)
    assert_same([v.numpy() for v in other.variables], [v.numpy() for v in model.variables])
    assert_same(
        [v.numpy() for v in other.optimizer.inner_optimizer.variables],
        [v.numpy() for v in model.optimizer.inner_optimizer.variables],
    )
