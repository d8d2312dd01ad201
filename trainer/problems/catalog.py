"""The paper's tasks under the names of its code, and the problems made for meta-training here.

A name such as `mnist-nn-l2-sigmoid-100` says data, network, variation and steps. `trainer.datasets` says
where the images come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import keras

from trainer import datasets
from trainer.problems import layers
from trainer.problems.base import Problem
from trainer.problems.cnn import CNN
from trainer.problems.layers import Examples, KerasProblem
from trainer.problems.lstm import RowLSTM, SineLSTM
from trainer.problems.mlp import MLP
from trainer.problems.tricks import Continued

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


def _layers(
    make: Callable[[], keras.Model],
    loss: str,
    load: Callable[[], Examples],
    batch_size: int,
    continued: int = 0,
) -> Build:
    def build(_: str | None) -> Problem:
        problem = KerasProblem(make, loss, load(), batch_size)
        return Continued(problem, continued) if continued else problem

    return build


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

_CLASSES, _SQUARES, _ODDS = "sparse_categorical_crossentropy", "mean_squared_error", "binary_crossentropy"
_SMALL_DENSE = layers.dense((8, 8), (24, 24), 10, last="softmax")

LAYER_TASKS: dict[str, Task] = {
    "digits-logistic-b8-100": Task(
        _layers(layers.dense((8, 8), (), 10, last="softmax"), _CLASSES, layers.digits, 8), 100
    ),
    "digits-dense-b4-100": Task(_layers(_SMALL_DENSE, _CLASSES, layers.digits, 4), 100),
    "digits-dense-l5-b32-100": Task(
        _layers(
            layers.dense((8, 8), (24,) * 5, 10, last="softmax", initializer="he_normal"),
            _CLASSES,
            layers.digits,
            32,
        ),
        100,
    ),
    "digits-batch-norm-b32-100": Task(
        _layers(
            layers.dense((8, 8), (24, 24), 10, last="softmax", batch_norm=True), _CLASSES, layers.digits, 32
        ),
        100,
    ),
    "digits-residual-b16-100": Task(_layers(layers.residual, _CLASSES, layers.digits, 16), 100),
    "digits-attention-b32-100": Task(_layers(layers.attention, _CLASSES, layers.digits, 32), 100),
    "digits-conv-batch-norm-b32-100": Task(_layers(layers.convolutions, _CLASSES, layers.digits, 32), 100),
    "digits-autoencoder-b32-100": Task(
        _layers(layers.dense((64,), (32, 6, 32), 64, last="sigmoid"), _SQUARES, layers.digits_again, 32), 100
    ),
    "table-relu-b16-100": Task(
        _layers(layers.dense((8,), (24, 24), 1), _SQUARES, lambda: layers.table(0.3), 16), 100
    ),
    "table-relu-b1-100": Task(
        _layers(layers.dense((8,), (24,), 1), _SQUARES, lambda: layers.table(0.3), 1), 100
    ),
    "table-far-b16-100": Task(
        _layers(layers.dense((8,), (24, 24), 1), _SQUARES, lambda: layers.table(0.3, offset=30.0), 16), 100
    ),
    "table-tanh-b64-100": Task(
        _layers(layers.dense((8,), (24, 24), 1, "tanh"), _SQUARES, lambda: layers.table(0.05), 64), 100
    ),
    "sentences-bag-b32-100": Task(_layers(layers.embedding_bag, _CLASSES, layers.sentences, 32), 100),
    "sentences-lstm-b16-100": Task(_layers(layers.embedding_lstm, _CLASSES, layers.sentences, 16), 100),
    "neighbours-pairs-b64-100": Task(_layers(layers.embedding_pairs, _ODDS, layers.neighbours, 64), 100),
    "chain-gru-b32-100": Task(_layers(layers.chain_gru, _CLASSES, layers.chain, 32), 100),
    "digits-residual-b16-continued-50": Task(
        _layers(layers.residual, _CLASSES, layers.digits, 16, continued=400), 50
    ),
    "sentences-bag-b32-continued-50": Task(
        _layers(layers.embedding_bag, _CLASSES, layers.sentences, 32, continued=400), 50
    ),
    "table-relu-b16-continued-50": Task(
        _layers(layers.dense((8,), (24, 24), 1), _SQUARES, lambda: layers.table(0.3), 16, continued=400), 50
    ),
}
"""Cheap tasks of Keras layers, for meta-training and for trying things out; `far`: with targets far from 0;
`continued`: from where Adam has been for 400 steps."""

TASKS: dict[str, Task] = PAPER_TASKS | SMALL_TASKS | LAYER_TASKS


def task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in TASKS:
        raise ValueError(f"No task named {name!r}. Expected one of {', '.join(TASKS)}.")
    return TASKS[name]
