"""Checkpoints of meta-training: one safetensors file each, a JSON record in its header, written atomically.

A checkpoint holds everything that the rest of the run depends on: all random draws and the position in the
data are functions of the config's seed and the iteration.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import tensorflow as tf

from trainer import files

_NAME = re.compile(r"checkpoint-(\d{8})\.safetensors")


class Checkpoint(NamedTuple):
    """The state of a run between two iterations."""

    tensors: Mapping[str, np.ndarray]
    """`network.NAME`: the weights, by the names of `network.tensor_shapes`; `outer.K`: the outer optimizer's
    variables in their order; `estimator.NAME`: what the estimator keeps between episodes."""
    record: dict[str, Any]
    """JSON: "iteration", "config", running averages and counts; "interrupted" if it was not yet due."""


def part(checkpoint: Checkpoint, name: str) -> dict[str, np.ndarray]:
    """The tensors below that name, such as "network", by the rest of their names."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in checkpoint.tensors.items()
        if key.startswith(prefix)
    }


def path_of(folder: str, iteration: int) -> str:
    """Path of the checkpoint after that many iterations."""
    return os.path.join(folder, f"checkpoint-{iteration:08d}.safetensors")


def save(folder: str, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint of its iteration, whole or not at all."""
    files.write_atomically(path_of(folder, checkpoint.record["iteration"]), to_bytes(checkpoint))


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """The content of its file; equal checkpoints have equal bytes."""
    return safetensors.numpy.save(dict(checkpoint.tensors), {"record": json.dumps(checkpoint.record)})


def load(path: str) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        ValueError: the file is not a whole checkpoint.
    """
    content = files.read(path)
    try:
        tensors = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        record = json.loads(header["__metadata__"]["record"])
    except Exception as error:  # safetensors raises a type of its own beside KeyError and JSON's
        raise ValueError(
            f"{path} is not a whole checkpoint ({error}). Remove it to go on from the one before."
        ) from error
    return Checkpoint(tensors, record)


def iterations(folder: str) -> list[int]:
    """The iterations of the checkpoints in a run's folder, ascending; empty where there is no folder."""
    if not tf.io.gfile.isdir(folder):
        return []
    matches = (_NAME.fullmatch(name) for name in tf.io.gfile.listdir(folder))
    return sorted(int(match.group(1)) for match in matches if match)
