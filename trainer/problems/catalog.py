"""The paper's tasks under the names of its code, and the problems made for meta-training here.

A name such as `mnist-nn-l2-sigmoid-100` says data, network, variation and steps. `trainer.datasets` says
where the images come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from trainer import datasets
from trainer.problems.base import Problem
from trainer.problems.cnn import CNN
from trainer.problems.lstm import RowLSTM, SineLSTM
from trainer.problems.mlp import MLP

Build: TypeAlias = Callable[[str | None], Problem]
"""Makes a problem; the argument is the data folder, None for TFDS's default."""


@dataclass(frozen=True)
class Task:
    """An optimizee and how long it is optimized."""

    build: Build
    steps: int
    """Length of a run, in optimizer steps."""


def _images(dataset: str, pool: int, data_dir: str | None) -> datasets.Images:
    images = datasets.load(dataset, data_dir=data_dir)
    return datasets.pooled(images, pool) if pool > 1 else images


def _mlp(
    dataset: str,
    pool: int = 1,
    hidden: tuple[int, ...] = (20,),
    activation: str = "sigmoid",
    batch_size: int = 128,
) -> Build:
    return lambda data_dir: MLP(_images(dataset, pool, data_dir), hidden, activation, batch_size)


def _cnn(
    dataset: str,
    structure: str,
    pool: int = 1,
    batch_size: int = 128,
    channels: tuple[int, int] = (16, 32),
) -> Build:
    return lambda data_dir: CNN(_images(dataset, pool, data_dir), structure, batch_size, channels)


def _rows(dataset: str, pool: int = 1, units: int = 20, layers: int = 1, batch_size: int = 128) -> Build:
    return lambda data_dir: RowLSTM(_images(dataset, pool, data_dir), units, layers, batch_size)


def _sine(layers: int = 1, noise: float = 0.1) -> Build:
    return lambda _: SineLSTM(layers=layers, noise=noise)


PAPER_TASKS: dict[str, Task] = {
    **{f"mnist-nn-sigmoid-{steps}": Task(_mlp("mnist"), steps) for steps in (100, 2_000, 10_000)},
    **{f"mnist-nn-{a}-100": Task(_mlp("mnist", activation=a), 100) for a in ("relu", "elu", "tanh")},
    **{f"mnist-nn-l{n}-sigmoid-100": Task(_mlp("mnist", hidden=(20,) * n), 100) for n in range(2, 11)},
    "vgg-mnist-fc1-conv2-pool1-100": Task(_cnn("mnist", "c-c-p-f"), 100),
    "vgg-mnist-fc2-conv4-pool2-100": Task(_cnn("mnist", "c-c-p-c-c-p-f-f"), 100),
    "vgg-cifar-fc1-conv2-pool1-100": Task(_cnn("cifar10", "c-c-p-f"), 100),
    "vgg-cifar-fc2-conv4-pool2-100": Task(_cnn("cifar10", "c-c-p-c-c-p-f-f"), 100),
    "sin_lstm": Task(_sine(), 100),
    "sin_lstm-x2": Task(_sine(layers=2), 100),
    "sin_lstm-no001": Task(_sine(noise=0.01), 100),
}
"""The 22 tasks of the paper and its code; each network starts from N(0, 0.1)."""

SMALL_TASKS: dict[str, Task] = {
    "digits-nn-sigmoid-100": Task(_mlp("digits"), 100),
    "digits-nn-relu-100": Task(_mlp("digits", activation="relu"), 100),
    "digits-nn-elu-b32-100": Task(_mlp("digits", hidden=(16,), activation="elu", batch_size=32), 100),
    "digits-cnn-100": Task(_cnn("digits", "c-c-p-f", channels=(4, 8), batch_size=64), 100),
    "mnist-pool2-nn-sigmoid-100": Task(_mlp("mnist", pool=2), 100),
    "mnist-pool4-nn-sigmoid-100": Task(_mlp("mnist", pool=4), 100),
    "mnist-pool4-nn-relu-100": Task(_mlp("mnist", pool=4, activation="relu"), 100),
    "mnist-pool4-nn-l2-tanh-b64-100": Task(
        _mlp("mnist", pool=4, hidden=(16, 16), activation="tanh", batch_size=64), 100
    ),
    "mnist-pool4-nn-l3-sigmoid-100": Task(_mlp("mnist", pool=4, hidden=(20,) * 3), 100),
    "mnist-pool4-nn-l5-sigmoid-100": Task(_mlp("mnist", pool=4, hidden=(16,) * 5), 100),
    "mnist-pool4-nn-relu-b16-100": Task(_mlp("mnist", pool=4, activation="relu", batch_size=16), 100),
    "mnist-pool2-nn-l2-relu-b64-100": Task(
        _mlp("mnist", pool=2, hidden=(24, 12), activation="relu", batch_size=64), 100
    ),
    "digits-nn-wide-relu-b64-100": Task(_mlp("digits", hidden=(256,), activation="relu", batch_size=64), 100),
    "mnist-pool4-cnn-100": Task(_cnn("mnist", "c-c-f", pool=4, channels=(4, 8)), 100),
    "mnist-pool2-cnn-100": Task(_cnn("mnist", "c-c-p-f", pool=2, channels=(6, 8), batch_size=64), 100),
    "mnist-pool2-cnn-wide-100": Task(_cnn("mnist", "c-c-p-f", pool=2, channels=(16, 32), batch_size=64), 100),
    "mnist-pool2-cnn-fc2-100": Task(
        _cnn("mnist", "c-c-p-c-c-p-f-f", pool=2, channels=(8, 12), batch_size=64), 100
    ),
    "digits-cnn-fc2-100": Task(_cnn("digits", "c-c-p-c-c-p-f-f", channels=(6, 8), batch_size=64), 100),
    "mnist-pool4-lstm-100": Task(_rows("mnist", pool=4, units=16), 100),
    "digits-lstm-l2-b32-100": Task(_rows("digits", units=12, layers=2, batch_size=32), 100),
}
"""Cheap tasks, for meta-training and for trying things out; `pool4`: averaged over 4x4 pixels."""

TASKS: dict[str, Task] = PAPER_TASKS | SMALL_TASKS


def task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in TASKS:
        raise ValueError(f"No task named {name!r}. Expected one of {', '.join(TASKS)}.")
    return TASKS[name]
