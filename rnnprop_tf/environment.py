"""What the package needs around it, checked before anything fails for the lack of it."""

from __future__ import annotations

import os
import re
import warnings

import keras
import tensorflow as tf

TESTED = {"tensorflow": ("2.21", "2.22"), "keras": ("3.15", "3.16")}
"""Versions that the tests ran with: from the first on, before the second. `pyproject.toml` has the same."""


def warn_of_untested_versions() -> None:
    """Warns, in a sentence a package, if TensorFlow or Keras is of a version that was not tested."""
    for package, version in {"tensorflow": tf.__version__, "keras": keras.__version__}.items():
        first, end = TESTED[package]
        if not _numbers(first) <= _numbers(version) < _numbers(end):
            warnings.warn(
                f"rnnprop_tf was not tested with {package} {version}: expected {package}>={first},<{end}. "
                "If something fails, install a version from this range.",
                stacklevel=2,
            )


def check() -> None:
    """Refuses what no learned optimizer can work with.

    Raises:
        RuntimeError: If Keras runs on another backend than TensorFlow, or `tf.keras` is Keras 2.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise RuntimeError(
            "RNNprop needs Keras on the TensorFlow backend. Set the environment variable "
            f"KERAS_BACKEND=tensorflow before Keras is imported. Received: the backend {backend!r}"
        )
    # The values that TensorFlow takes for yes.
    if (legacy := os.environ.get("TF_USE_LEGACY_KERAS")) in ("true", "True", "1"):
        raise RuntimeError(
            "RNNprop needs Keras 3, and TF_USE_LEGACY_KERAS makes `tf.keras` Keras 2 (tf_keras), whose "
            "models take no optimizer of Keras 3. Remove the environment variable before TensorFlow is "
            f"imported. Received: TF_USE_LEGACY_KERAS={legacy}"
        )


def _numbers(version: str) -> tuple[int, int]:
    """The first two numbers of a version."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)
