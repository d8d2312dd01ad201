"""What `OptimizerMonitor` logs is what the optimizer did, whatever runs the step."""

import importlib.util
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import numpy_reference as reference
import pytest
import tensorflow as tf
from tensorflow.python.summary.summary_iterator import summary_iterator

from rnnprop_tf import DMOptimizer, OptimizerMonitor, RNNprop, update_statistics
from rnnprop_tf.callbacks import SATURATED
from rnnprop_tf.network import Architecture
from rnnprop_tf.rule import DMRule, RNNpropRule, SettlingRule

RULES = {RNNprop: (RNNpropRule(), reference.RNNpropReference), DMOptimizer: (DMRule(), reference.DMReference)}


def network(seed=0):
    """With an output layer large enough that some coordinates saturate and some do not."""
    weights = reference.random_network(Architecture(2, (4,), (5, 3)), seed)
    return weights._replace(output=weights.output._replace(kernel=20.0 * weights.output.kernel))


def rms(values):
    return math.sqrt(np.mean(np.square(values)))


def test_update_rms_is_that_of_the_shortened_step():
    gradients = np.random.default_rng(2).normal(size=(8, 24))
    weights = network()
    coordinates = [
        reference.SettlingReference(SettlingRule(beta_3=0.5, settling=3.0), weights) for _ in range(24)
    ]
    optimizer = RNNprop(network=weights, settling=3.0, beta_3=0.5)
    variable = keras.Variable(np.ones(24, "float32"), name="kernel")
    for t, row in enumerate(gradients, start=1):
        moves = [c.step(g, t) for c, g in zip(coordinates, row, strict=True)]
        optimizer.apply([tf.constant(row, "float32")], [variable])
    assert np.median(np.abs(moves)) < 0.2  # shortened
    assert update_statistics(optimizer)["kernel"].update_rms == pytest.approx(0.1 * rms(moves), rel=1e-4)


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("optimizer_class", RULES)
def test_statistics_are_those_of_the_reference(optimizer_class, state_dtype):
    # Coordinate 0 never has a gradient, 1 to 4 none in the last step, a skipped one comes after that.
    steps, size = 6, 24
    gradients = np.random.default_rng(1).normal(size=(steps, size))
    gradients[:, 0] = gradients[-1, 1:5] = 0.0
    rule, reference_class = RULES[optimizer_class]
    weights = network()
    coordinates = [reference_class(rule, weights) for _ in range(size)]
    moves = np.array([[c.step(g, t) for c, g in zip(coordinates, row, strict=True)]
                      for t, row in enumerate(gradients, start=1)])  # fmt: skip
    last = np.where(moves[-1] == 0.0, moves[-2], moves[-1])[1:]

    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    optimizer = optimizer_class(schedule, network=weights, state_dtype=state_dtype, weight_decay=0.1)
    variables = [keras.Variable(np.ones((4, 6), "float32"), name=name) for name in ("kernel", "idle")]
    idle = tf.zeros((4, 6))
    optimizer.build(variables)
    assert update_statistics(optimizer) == {}
    for row in gradients:
        optimizer.apply([tf.constant(row.reshape(4, 6), "float32"), idle], variables)
    found = update_statistics(optimizer)
    tolerance = 1e-5 if state_dtype == "float32" else 1e-2
    assert list(found) == ["kernel", "idle"]
    assert found["kernel"].untouched == pytest.approx(1 / size)
    assert found["kernel"].update_rms == pytest.approx(0.1 * 0.5 ** (steps - 1) * rms(last), rel=tolerance)
    assert found["idle"].untouched == 1.0
    assert found["idle"].update_rms == 0.0
    if optimizer_class is DMOptimizer:
        assert found["kernel"].m_tilde_rms is found["kernel"].saturated is None
    else:
        m, v = np.array([c.accumulators() for c in coordinates[1:]]).T
        m_tilde = m / (1 - 0.95**steps) / (np.sqrt(v / (1 - 0.95**steps)) + 1e-8)
        assert found["kernel"].m_tilde_rms == pytest.approx(rms(m_tilde), rel=1e-5)
        share = np.mean(np.abs(last) > SATURATED)
        assert 0.2 < share < 0.8
        assert found["kernel"].saturated == pytest.approx(share)

    optimizer.apply([tf.fill((4, 6), np.nan), idle], variables)
    after = update_statistics(optimizer)["kernel"]
    assert after.untouched == found["kernel"].untouched
    # The schedule has moved on by the skipped step.
    assert after.update_rms == pytest.approx(found["kernel"].update_rms / 2)


def test_variables_that_share_a_path_are_told_apart():
    variables = [keras.Variable(np.zeros(3), dtype="float32", name="same") for _ in range(2)]
    optimizer = RNNprop(network=network())
    optimizer.build(variables)
    optimizer.apply([tf.ones(3), tf.zeros(3)], variables)
    found = update_statistics(optimizer)
    assert [found[name].untouched for name in ("same", "same_1")] == [0.0, 1.0]


def events(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, of TensorBoard's files."""
    result: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for event in summary_iterator(str(file)):
            for value in event.summary.value:
                result.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return result


def model(dtype=None):
    layers = [keras.Input((4,)), keras.layers.Dense(3, "tanh", name="first", dtype=dtype)]
    return keras.Sequential([*layers, keras.layers.Dense(1, name="last", dtype=dtype)], name="net")


def fit(compiled, *callbacks, batches=6, epochs=1):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4 * batches, 4)), rng.normal(size=(4 * batches, 1))
    compiled.fit(x, y, batch_size=4, epochs=epochs, callbacks=list(callbacks), verbose=0)


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ({"run_eagerly": True}, None),
        ({"jit_compile": False}, None),
        ({"jit_compile": True, "steps_per_execution": 3}, None),
        ({"jit_compile": False}, "mixed_float16"),
    ],
    ids=["eager", "graph", "jit, 3 steps an execution", "mixed_float16"],
)
def test_every_way_to_fit_logs_what_the_optimizer_did(tmp_path, how, dtype):
    if dtype is None:
        optimizer = inner = RNNprop(network=network())
    else:
        inner = RNNprop(network=network())
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    compiled = model(dtype)
    compiled.compile(optimizer, "mse", **how)
    changes = []
    kernel = compiled.get_layer("last").kernel
    spy = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: changes.append(kernel.numpy()))
    fit(compiled, OptimizerMonitor(tmp_path, update_freq=3), spy, epochs=2)
    logged = events(tmp_path / "optimizer")
    paths = [f"net/{layer}/{name}" for layer in ("first", "last") for name in ("kernel", "bias")]
    tags = ("update_rms", "m_tilde_rms", "saturated", "untouched")
    assert logged.keys() == {f"{tag}/{path}" for tag in tags for path in paths} | {"skipped_steps"}
    for tag, values in logged.items():
        assert list(values) == [3, 6, 9, 12], tag
    # The last step's change is the update, as there is no weight decay.
    if "steps_per_execution" not in how:
        assert logged["update_rms/net/last/kernel"][12] == pytest.approx(rms(changes[-1] - changes[-2]), 1e-4)
    for path, statistics in update_statistics(inner).items():
        for tag, value in statistics._asdict().items():
            assert logged[f"{tag}/{path}"][12] == pytest.approx(value)


def test_epochs_dm_and_accumulation_and_a_second_fit(tmp_path):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    optimizer = DMOptimizer(schedule, network=network(), gradient_accumulation_steps=2)
    compiled = model()
    compiled.compile(optimizer, "mse", run_eagerly=True)
    kernel = compiled.get_layer("last").kernel
    values = []
    spy = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: values.append(kernel.numpy()))
    for _ in range(2):
        fit(compiled, OptimizerMonitor(str(tmp_path)), spy, batches=4)
    logged = events(tmp_path / "optimizer")["update_rms/net/last/kernel"]
    assert list(logged) == [2, 4]  # updates, not batches
    assert logged[4] == pytest.approx(rms(values[-1] - values[-2]), 1e-3)
    assert not any(tag.startswith(("saturated", "m_tilde")) for tag in events(tmp_path / "optimizer"))


def test_ours_is_found_among_several_optimizers(tmp_path):
    mapping = keras.optimizers.OptimizerMap(
        keras.optimizers.Adam(), {"net/last/.*": RNNprop(network=network())}
    )
    compiled = model()
    compiled.compile(keras.optimizers.MultiOptimizer(mapping), "mse", run_eagerly=True)
    fit(compiled, OptimizerMonitor(tmp_path, update_freq="batch"), batches=2)
    logged = events(tmp_path / "optimizer")
    assert {tag for tag in logged if tag.startswith("update")} == {
        "update_rms/net/last/kernel",
        "update_rms/net/last/bias",
    }
    assert list(logged["skipped_steps"]) == [1, 2]


def test_another_optimizer_is_refused(tmp_path):
    compiled = model()
    compiled.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"expected a model compiled with one of them.*Received: .*Adam"):
        fit(compiled, OptimizerMonitor(tmp_path))


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "step", None])
def test_bad_update_freq_is_refused(value):
    with pytest.raises(ValueError, match=f'"epoch", "batch" or a positive integer. Received: .*{value!r}'):
        OptimizerMonitor("logs", update_freq=value)


@pytest.mark.slow  # A process of its own, for two devices.
def test_with_two_replicas_the_numbers_are_those_of_the_change(tmp_path):
    program = f"""
        import keras, numpy as np, tensorflow as tf
        from rnnprop_tf import OptimizerMonitor, RNNprop, update_statistics

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="last")])
            model.compile(RNNprop.from_pretrained(), "mse")
        kernel, values = model.get_layer("last").kernel, []
        watch = lambda *_, **__: values.append(kernel.numpy())
        spy = keras.callbacks.LambdaCallback(on_train_batch_end=watch)
        monitor = OptimizerMonitor({str(tmp_path)!r}, update_freq=1)
        model.fit(np.ones((8, 3)), np.ones((8, 2)), batch_size=4, verbose=0, callbacks=[monitor, spy])
        [found] = [s.update_rms for path, s in update_statistics(model.optimizer).items() if "kernel" in path]
        np.testing.assert_allclose(found, np.sqrt(np.mean((values[1] - values[0]) ** 2)), rtol=1e-4)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=300)
    logged = events(tmp_path / "optimizer")
    assert list(next(values for tag, values in logged.items() if tag.startswith("update_rms"))) == [1, 2]


def test_a_missing_tensorboard_is_said_when_the_monitor_is_made(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    with pytest.raises(ImportError, match="`pip install tensorboard`"):
        OptimizerMonitor("logs")
