"""Files of weight folders: TensorFlow's file systems, and local files where TensorFlow is not needed."""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import keras


class Stat(NamedTuple):
    """What is known of a file."""

    length: int
    """Bytes."""


class Local:
    """The part of `tf.io.gfile` that weight folders need, for local paths."""

    GFile = staticmethod(open)
    isdir = staticmethod(os.path.isdir)
    join = staticmethod(os.path.join)

    @staticmethod
    def makedirs(path: str) -> None:
        """Creates the folder, if it is not there."""
        os.makedirs(path, exist_ok=True)

    @staticmethod
    def stat(path: str) -> Stat:
        """What is known of the file."""
        return Stat(os.stat(path).st_size)

    @staticmethod
    def rename(source: str, destination: str, overwrite: bool = False) -> None:
        """Renames a file, in place of another one with `overwrite`."""
        if not overwrite and os.path.exists(destination):
            raise FileExistsError(destination)
        os.replace(source, destination)


def system(path: str) -> Any:
    """`tf.io.gfile` or what stands in for it.

    Args:
        path: a local path, or a URL.

    Returns:
        `tf.io.gfile` for a URL and where Keras runs on TensorFlow; else `Local`, as importing TensorFlow
        takes seconds and it may not be there.

    Raises:
        OSError: the path is a URL and TensorFlow is not installed.
    """
    if "://" not in path and keras.backend.backend() != "tensorflow":
        return Local
    try:
        import tensorflow as tf
    except ImportError as error:
        raise OSError(
            "TensorFlow reads and writes weights at URLs, and it is not installed: expected a local folder, "
            f"or `pip install tensorflow`. Received: {path}"
        ) from error
    return tf.io.gfile


def error_types() -> tuple[type[Exception], ...]:
    """What these file systems raise: `OSError`, and TensorFlow's own where it is imported."""
    tensorflow = sys.modules.get("tensorflow")
    return (OSError,) if tensorflow is None else (tensorflow.errors.OpError, OSError)
