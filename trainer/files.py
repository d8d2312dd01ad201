"""Whole files, or none: what is written is written beside and renamed. Any path that `tf.io.gfile` opens."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf


def write_atomically(path: str, content: bytes) -> None:
    """Replaces the file at once; a crash or a full disk leaves the old one.

    Missing folders are made. Local files are flushed to the disk before the rename.

    Raises:
        OSError: writing failed.
    """
    with os_errors(f"write {path}"):
        tf.io.gfile.makedirs(os.path.dirname(path) or ".")
        beside = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with tf.io.gfile.GFile(beside, "wb") as file:
                file.write(content)
            if "://" not in path:
                _flush_to_disk(beside)
            tf.io.gfile.rename(beside, path, overwrite=True)
        except BaseException:
            if tf.io.gfile.exists(beside):
                tf.io.gfile.remove(beside)
            raise


def read(path: str) -> bytes:
    """The file's content.

    Raises:
        OSError: reading failed.
    """
    with os_errors(f"read {path}"), tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


@contextmanager
def os_errors(action: str) -> Iterator[None]:
    """Turns the errors of TensorFlow's file systems, a class of their own, into OSError."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"Cannot {action}: {error.message}") from error


def _flush_to_disk(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
