"""What the package needs around it, checked before anything fails for the lack of it."""

from __future__ import annotations

import os
import re
import sys
import warnings

import keras

TESTED = {
    "keras": ("3.15", "3.16"),
    "tensorflow": ("2.21", "2.22"),
    "jax": ("0.10", "0.11"),
    "torch": ("2.14", "2.15"),
}
"""Versions that the tests ran with: from the first on, before the second. `pyproject.toml` has the same for
Keras and TensorFlow. Besides Keras these are the backends that a learned optimizer can run on."""


def warn_of_untested_versions() -> None:
    """Warns, in a sentence a package, if Keras or its backend is of a version that was not tested."""
    # Keras has imported its backend.
    for package in ("keras", keras.backend.backend()):
        if package not in TESTED:  # The constructor refuses it.
            continue
        version = sys.modules[package].__version__
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
        RuntimeError: If Keras runs on another backend than TensorFlow, JAX or PyTorch, or `tf.keras` is
            Keras 2.
    """
    if (backend := keras.backend.backend()) not in TESTED:
        raise RuntimeError(
            "RNNprop needs Keras on TensorFlow, JAX or PyTorch. Set the environment variable KERAS_BACKEND "
            f"to 'tensorflow', 'jax' or 'torch' before Keras is imported. Received: the backend {backend!r}"
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
