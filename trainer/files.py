"""Whole files, or none: what is written is written beside and renamed. Any path that `tf.io.gfile` opens."""

from __future__ import annotations

import os
import uuid

import tensorflow as tf


def write_atomically(path: str, content: bytes) -> None:
    """Replaces the file at once; a crash or a full disk leaves the old one.

    Missing folders are made. Local files are flushed to the disk before the rename.
    """
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
    """The file's content."""
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def _flush_to_disk(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
