"""Each backend of Keras makes the steps that the others make, and goes on with their model files.

`make test-backends` has each backend write its part, then runs this on each.
"""

import importlib.util
import itertools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest

if "RNNPROP_BACKENDS" not in os.environ:
    pytest.skip("needs what other backends wrote: `make test-backends`", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))

from made import BACKEND, FIT, STEPPING, VARIANTS, X, Y, values

import rnnprop_tf

FOLDER = Path(os.environ["RNNPROP_BACKENDS"])
OTHERS = sorted({"tensorflow", "jax", "torch"} - {BACKEND})


@pytest.mark.skipif(BACKEND == "tensorflow", reason="others are compared with TensorFlow's")
@pytest.mark.parametrize("name", STEPPING)
def test_steps_are_those_on_tensorflow(name):
    ours, expected = (np.load(FOLDER / backend / f"steps-{name}.npy") for backend in (BACKEND, "tensorflow"))
    rms = np.sqrt(np.mean(expected**2, axis=1))
    errors = np.abs(ours - expected).max(axis=1)
    assert rms.min() > 1e-5
    assert (errors / rms).max() < 1e-5


def test_each_makes_steps_of_its_own():
    made = {name: np.load(FOLDER / BACKEND / f"steps-{name}.npy") for name in STEPPING}
    np.testing.assert_array_equal(made.pop("rnnprop-1-settling"), made["rnnprop-1"])  # Not settling yet.
    for one, two in itertools.combinations(made.values(), 2):
        assert np.abs(one - two).max() > 1e-3


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_file_of_another_backend_goes_on(variant, backend):
    model = keras.models.load_model(FOLDER / backend / f"{variant}.keras")
    saved = np.load(FOLDER / backend / f"{variant}-saved.npz")
    for found, expected in zip(values(model), saved.values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    model.fit(X, Y, epochs=2, **FIT)
    after = np.load(FOLDER / backend / f"{variant}-after.npz")
    precision = 2e-2 if variant in ("bfloat16", "int8") else 1e-4
    for found, expected in zip(values(model), after.values(), strict=True):
        step = 1 if found.dtype == "int8" else precision
        np.testing.assert_allclose(found, expected, rtol=precision, atol=step)


not_on_tensorflow = pytest.mark.skipif(BACKEND == "tensorflow", reason="of the other backends")


@not_on_tensorflow
def test_tensorflow_is_not_imported():
    assert "tensorflow" not in sys.modules


@not_on_tensorflow
def test_weights_are_saved_and_loaded_without_tensorflow(tmp_path):
    folder = str(tmp_path / "weights")
    for rate in (0.2, 0.05):  # The second one replaces the first.
        rnnprop_tf.RNNprop().save_pretrained(folder, learning_rate=rate)
    assert float(rnnprop_tf.RNNprop.from_pretrained(folder).learning_rate) == pytest.approx(0.05)


@not_on_tensorflow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_what_needs_tensorflow_says_so(tmp_path):
    with pytest.raises(ValueError, match="expected a local folder, or `pip install tensorflow`"):
        rnnprop_tf.RNNprop.from_pretrained("gs://bucket/weights")
    with pytest.raises(OSError, match="expected a local folder, or `pip install tensorflow`"):
        rnnprop_tf.RNNprop().save_pretrained("gs://bucket/weights")
    with pytest.raises(ImportError, match=r"`rnnprop_tf\.update_statistics` gives the same numbers"):
        rnnprop_tf.OptimizerMonitor()


def test_statistics_averages_and_costs_are_there_on_each_backend():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(rnnprop_tf.RNNprop(use_averaging=True), "mse")
    model.fit(X, Y, **FIT)
    statistics = rnnprop_tf.update_statistics(model.optimizer)
    assert len(statistics) == 6
    assert all(0.0 < s.update_rms <= 0.1 and s.untouched == 0.0 for s in statistics.values())
    hidden, norm = model.layers[:2]
    rnnprop_tf.recalibrate_batch_norm(model, [(X, Y)])
    expected = X @ keras.ops.convert_to_numpy(hidden.kernel) + keras.ops.convert_to_numpy(hidden.bias)
    found = keras.ops.convert_to_numpy(norm.moving_mean)
    np.testing.assert_allclose(found, expected.mean(axis=0), rtol=1e-4, atol=1e-5)
    ours, adam = rnnprop_tf.profile(model, updates=2)
    assert ours.state_bytes > 3 * adam.state_bytes
    assert ours.milliseconds > 0.0


@not_on_tensorflow
def test_the_page_on_usage_runs(tmp_path, monkeypatch):
    """But for the monitor and blocks that need TensorFlow, or the third backend."""
    text = (Path(__file__).parents[2] / "docs" / "usage.md").read_text(encoding="utf-8")
    text = re.sub(r"^monitor = .*\n|, callbacks=\[monitor\]", "", text, flags=re.MULTILINE)
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    other = {"jax": "torch", "torch": "jax"}[BACKEND]
    needs = re.compile(rf"\btf\.|^import {other}$", re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
    namespace = {"model": model, "x": np.ones((8, 3), "float32"), "y": np.arange(8) % 2}
    steps = []
    for block in blocks:
        if not needs.search(block):
            before = model.get_weights()[0]
            exec(compile(block, "docs/usage.md", "exec"), namespace)
            if f"import {BACKEND}\n" in block:  # The loop of one's own.
                assert np.any(model.get_weights()[0] != before)
                steps.append(int(namespace["optimizer"].iterations))
    assert steps == [10]
    parameters = keras.ops.convert_to_numpy(namespace["parameters"])
    np.testing.assert_allclose(parameters, [1.0, -2.0, 0.5], atol=0.1)


ON_TWO_DEVICES = """
    import keras, numpy as np
    import rnnprop_tf

    x = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    weights = []
    for distribution in (None, keras.distribution.DataParallel()):
        keras.distribution.set_distribution(distribution)
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
        model.compile(rnnprop_tf.RNNprop(clipnorm=0.5, use_averaging=True), "mse")
        before = model.get_weights()
        model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    assert len(model.optimizer.variables[-1].value.devices()) == 2
    for one, two, start in zip(*weights, before, strict=True):
        assert np.abs(one - start).max() > 1e-3
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX lays variables out over devices")
def test_two_devices_make_the_steps_of_one():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    code = textwrap.dedent(ON_TWO_DEVICES)
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "XLA_FLAGS": flags}, check=True)


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX lays variables out over devices")
def test_a_layout_over_devices_is_refused():
    mesh = keras.distribution.DeviceMesh((1, 1), ["batch", "model"], keras.distribution.list_devices()[:1])
    layout = keras.distribution.LayoutMap(mesh)
    distribution = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    with distribution.scope(), pytest.raises(ValueError, match=r"DataParallel.*Received: ModelParallel"):
        rnnprop_tf.RNNprop()


only_on_torch = pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch has it")


@pytest.mark.slow
@only_on_torch
@pytest.mark.filterwarnings("ignore")
def test_torch_compiles_the_same_steps_for_each_optimizer(monkeypatch):
    # PyTorch goes on without compiling, but for a line in its log.
    monkeypatch.setattr("torch._dynamo.config.fail_on_recompile_limit_hit", True)
    shapes = ((150, 120), (20_000,), (3, 3, 40, 30), (20,), ())
    for beta_1 in (0.95, 0.9, 0.85):
        steps = []
        for jit_compile in ("auto", True):
            variables = [keras.Variable(np.zeros(shape, "float32")) for shape in shapes]
            optimizer = rnnprop_tf.RNNprop.from_pretrained(
                # In float32: two states that differ in the last digit may become different bfloat16 numbers.
                "rnnprop-1-small",
                beta_1=beta_1,
                jit_compile=jit_compile,
                state_dtype="float32",
            )
            rng = np.random.default_rng(0)
            for _ in range(10):
                gradients = [keras.ops.convert_to_tensor(rng.normal(size=s), "float32") for s in shapes]
                optimizer.apply(gradients, variables)
            steps.append(np.concatenate([keras.ops.convert_to_numpy(v).ravel() for v in variables]))
        assert np.abs(steps[0]).max() > 0.01
        np.testing.assert_allclose(steps[1], steps[0], rtol=1e-5, atol=1e-5)


@only_on_torch
def test_autocast_around_a_step_changes_nothing():
    import torch

    variables = [keras.Variable(np.zeros(500, "float32")) for _ in range(2)]
    for variable, enabled in zip(variables, (False, True), strict=True):
        optimizer = rnnprop_tf.RNNprop()
        rng = np.random.default_rng(0)
        for _ in range(5):
            gradient = torch.as_tensor(rng.normal(size=500), dtype=torch.float32)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                optimizer.apply([gradient], [variable])
    found, expected = (keras.ops.convert_to_numpy(variable) for variable in variables)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_array_equal(found, expected)
