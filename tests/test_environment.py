"""What cannot work is said in a sentence, at once; what was not tested is said too."""

import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from rnnprop_tf import DMOptimizer, RNNprop, environment

ROOT = Path(__file__).parent.parent


def test_another_backend_of_keras_is_refused_when_the_optimizer_is_made(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "openvino")
    for make in (RNNprop, RNNprop.from_pretrained, DMOptimizer):  # The last one lacks weights too.
        with pytest.raises(
            RuntimeError, match=r"on TensorFlow, JAX or PyTorch.*Received: the backend 'openvino'"
        ):
            make()


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_keras_2_is_refused(value, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    with pytest.raises(RuntimeError, match=rf"needs Keras 3.*Remove.*Received: TF_USE_LEGACY_KERAS={value}"):
        RNNprop()


def test_what_tensorflow_takes_for_no_is_no(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    RNNprop()


@pytest.mark.parametrize(
    ("module", "version"), [(keras, "3.16.0"), (keras, "3.14.2"), (tf, "2.22.0-dev20261101"), (tf, "3.0.0")]
)
def test_untested_versions_are_warned_of(module, version, monkeypatch):
    monkeypatch.setattr(module, "__version__", version)
    with pytest.warns(
        UserWarning, match=rf"not tested with {module.__name__} {version}: expected .*>=\d.*,<\d"
    ):
        environment.warn_of_untested_versions()


@pytest.mark.parametrize("version", ["3.15.0", "3.15.1", "3.15.9rc1"])
def test_tested_versions_are_not(version, monkeypatch):
    monkeypatch.setattr(keras, "__version__", version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        environment.warn_of_untested_versions()


def test_importing_the_package_warns_before_an_untested_version_can_break_it():
    script = "import keras; keras.__version__ = '3.99.0'; del keras.callbacks; import rnnprop_tf"
    variables = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | variables, text=True, capture_output=True
    )
    assert "not tested with keras 3.99.0: expected keras>=3.15,<3.16" in done.stderr


def test_the_package_requires_the_tested_versions():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, groups = content["project"], content["dependency-groups"]
    for package in ("keras", "tensorflow"):
        first, end = environment.TESTED[package]
        assert f"{package}>={first},<{end}" in project["dependencies"]
    for package in ("jax", "torch"):
        first, end = environment.TESTED[package]
        assert f"{package}>={first},<{end}" in groups[package]
