"""Models as Keras users write them, with small data: what weights are judged by besides the paper's tasks.

BatchNorm, residual connections, Embedding, attention, recurrence, autoencoders, tabular regression; Keras's
own initialisers. Two parts: `VALIDATION` to choose weights by, `TEST` to report, which no choice may rest on.
Data that needs no download: scikit-learn's, the texts of Python's standard library (of the Python at hand),
matplotlib's EEG, synthetic ones; MNIST and CIFAR-10 in three of `TEST`. The digits and pooled MNIST are data
that mixtures meta-train on too, with other models.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainer import datasets

Data: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Inputs and targets, examples first."""
Splits: TypeAlias = tuple[Data, Data]
"""For training and for validation."""

CLASSIFIED = "sparse_categorical_crossentropy"
"""The loss of classifiers, whose last layer is a softmax."""


MOMENTUM = 0.9
"""Of BatchNorm's running statistics: with Keras's 0.99 those lag behind in the first few hundred steps."""


class Workload(NamedTuple):
    """A model and its data."""

    model: Callable[[], keras.Model]
    load: Callable[[str | None], Splits]
    """The argument is TFDS's folder, None for its default."""
    loss: str = CLASSIFIED
    """The name of a Keras loss. With `CLASSIFIED` accuracy is measured too."""
    batch_size: int = 64


def digits(_: str | None) -> Splits:
    """Images [N, 8, 8, 1] in [0, 1] and labels."""
    train, test = (datasets.load("digits", split) for split in ("train", "test"))
    return _pixels(train), _pixels(test)


def images(name: str, pool: int, count: int = 10_000) -> Callable[[str | None], Splits]:
    """The first images of a data set, averaged over windows of pixels; a fifth as many for validation."""

    def load(data_dir: str | None) -> Splits:
        train, test = (
            _pixels(datasets.pooled(datasets.first(datasets.load(name, split, data_dir), most), pool))
            for split, most in (("train", count), ("test", count // 5))
        )
        return train, test

    return load


def _pixels(part: datasets.Images) -> Data:
    return np.asarray(part.value(part.pixels, tf.float32)), part.labels


def reconstructed(load: Callable[[str | None], Splits]) -> Callable[[str | None], Splits]:
    """The inputs as their own targets."""

    def loaded(data_dir: str | None) -> Splits:
        (x, _), (held_out, _) = load(data_dir)
        return (x, x), (held_out, held_out)

    return loaded


def _split(x: np.ndarray, y: np.ndarray) -> Splits:
    """Every fifth example for validation."""
    held_out = np.arange(len(x)) % 5 == 4
    return (x[~held_out], y[~held_out]), (x[held_out], y[held_out])


def _standardised(x: np.ndarray) -> np.ndarray:
    mean, deviation = np.mean(x, axis=0, keepdims=True), np.std(x, axis=0, keepdims=True)
    return ((x - mean) / deviation).astype(np.float32)


def friedman(_: str | None) -> Splits:
    """2,500 noisy values of a function of five of ten features."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(2_500, noise=1.0, random_state=0)
    return _split(_standardised(x), _standardised(y[:, None]))


def diabetes(_: str | None) -> Splits:
    """442 patients, ten measurements, the disease's progress."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return _split(_standardised(x), _standardised(y[:, None]))


def breast_cancer(_: str | None) -> Splits:
    """569 samples of cells, 30 measurements, benign or not."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return _split(_standardised(x), y)


def ratings(_: str | None) -> Splits:
    """20,000 ratings, 400 users of 300 items, of rank 4 with noise: pairs [N, 2] and [N, 1]."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(400, 4)), rng.normal(size=(300, 4))
    # Some items are rated often, most of them rarely.
    pairs = np.stack([rng.integers(400, size=20_000), (300 * rng.uniform(size=20_000) ** 2).astype(int)], 1)
    value = np.sum(users[pairs[:, 0]] * items[pairs[:, 1]], axis=1) / 2
    noisy = value + rng.normal(0.0, 0.3, len(pairs))
    return _split(pairs, noisy.astype(np.float32)[:, None])


def _source(module: str) -> str:
    return (Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py").read_text(encoding="utf-8")


CHARACTERS, CONTEXT = 96, 24


def characters(_: str | None) -> Splits:
    """20,000 windows [N, CONTEXT] of a source text, and the character after each."""
    text = np.frombuffer(_source("argparse").encode("ascii", "replace"), np.uint8)[:20_000].astype(np.int32)
    text = np.clip(text - 31, 0, CHARACTERS - 1)  # 0 stands for line breaks
    starts = np.arange(len(text) - CONTEXT)
    windows = text[starts[:, None] + np.arange(CONTEXT)]
    cut = len(starts) * 4 // 5
    targets = text[CONTEXT:]
    return (windows[:cut], targets[:cut]), (windows[cut + CONTEXT :], targets[cut + CONTEXT :])


WORDS, LENGTH = 2_000, 16


def lines(modules: tuple[str, ...]) -> Callable[[str | None], Splits]:
    """Word numbers [N, LENGTH] of pieces of source text, and the module that each is from."""

    def load(data_dir: str | None) -> Splits:
        found = []
        for label, module in enumerate(modules):
            words = re.findall(r"[A-Za-z]+|[^\sA-Za-z]", _source(module))
            found += [(words[k : k + LENGTH], label) for k in range(0, len(words) - LENGTH, LENGTH)]
        counts: dict[str, int] = {}
        for words, _ in found:
            for word in words:
                counts[word] = counts.get(word, 0) + 1
        common = sorted(counts, key=lambda word: (-counts[word], word))[: WORDS - 1]
        number = {word: k + 1 for k, word in enumerate(common)}  # 0: a rarer word
        x = np.array([[number.get(word, 0) for word in words] for words, _ in found], np.int32)
        return _split(x, np.array([label for _, label in found], np.int32))

    return load


def eeg(_: str | None) -> Splits:
    """Windows [N, 20, 4] of an EEG and the sample after each; the last quarter for validation."""
    import matplotlib.cbook

    path = matplotlib.cbook.get_sample_data("eeg.dat", asfileobj=False)
    series: np.ndarray = _standardised(np.fromfile(path, float).reshape(-1, 4))
    starts = np.arange(len(series) - 20)
    windows, targets = series[starts[:, None] + np.arange(20)], series[20:]
    return (windows[:580], targets[:580]), (windows[600:], targets[600:])


def cnn_with_batch_norm() -> keras.Model:
    x = inputs = keras.Input((8, 8, 1))
    for filters in (12, 24):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(x))
        x = layers.MaxPooling2D()(x)
    return keras.Model(inputs, _classifier(layers.GlobalAveragePooling2D()(x)))


def residual_mlp() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = layers.Dense(48)(layers.Flatten()(inputs))
    for _ in range(4):
        inner = layers.Dense(48, activation="relu")(layers.LayerNormalization()(x))
        x = layers.add([x, layers.Dense(48)(inner)])
    return keras.Model(inputs, _classifier(x))


def autoencoder() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(inputs)
    for units in (40, 8, 40):
        x = layers.Dense(units, activation="tanh")(x)
    x = layers.Dense(64, activation="sigmoid")(x)
    return keras.Model(inputs, layers.Reshape((8, 8, 1))(x))


def regression(features: int, activation: str, batch_norm: bool) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        x = inputs = keras.Input((features,))
        for _ in range(2):
            x = layers.Dense(48)(x)
            x = layers.Activation(activation)(
                layers.BatchNormalization(momentum=MOMENTUM)(x) if batch_norm else x
            )
        return keras.Model(inputs, layers.Dense(1)(x))

    return make


def selu_classifier() -> keras.Model:
    x = inputs = keras.Input((30,))
    for _ in range(3):
        x = layers.Dense(24, activation="selu", kernel_initializer="lecun_normal")(x)
    return keras.Model(inputs, _classifier(x, 2))


def bag_of_words(classes: int) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        inputs = keras.Input((LENGTH,), dtype="int32")
        x = layers.GlobalAveragePooling1D()(layers.Embedding(WORDS, 12)(inputs))
        return keras.Model(inputs, _classifier(layers.Dense(16, activation="relu")(x), classes))

    return make


def text_lstm(classes: int) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        inputs = keras.Input((LENGTH,), dtype="int32")
        x = layers.Bidirectional(layers.LSTM(12))(layers.Embedding(WORDS, 8)(inputs))
        return keras.Model(inputs, _classifier(x, classes))

    return make


def character_lstm() -> keras.Model:
    inputs = keras.Input((CONTEXT,), dtype="int32")
    x = layers.LSTM(32)(layers.Embedding(CHARACTERS, 12)(inputs))
    return keras.Model(inputs, _classifier(x, CHARACTERS))


def series_gru() -> keras.Model:
    return keras.Sequential([keras.Input((20, 4)), layers.GRU(24), layers.Dense(4)])


def transformer(image_shape: tuple[int, int, int]) -> Callable[[], keras.Model]:
    """An image's rows as tokens."""

    def make() -> keras.Model:
        inputs = keras.Input(image_shape)
        rows = layers.Reshape((image_shape[0], image_shape[1] * image_shape[2]))(inputs)
        places = layers.Embedding(image_shape[0], 24)(keras.ops.arange(image_shape[0]))
        x = layers.Dense(24)(rows) + places
        for _ in range(2):
            normal = layers.LayerNormalization()(x)
            x = x + layers.MultiHeadAttention(2, 12)(normal, normal)
            inner = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
            x = x + layers.Dense(24)(inner)
        return keras.Model(inputs, _classifier(layers.GlobalAveragePooling1D()(x)))

    return make


def residual_cnn() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    for _ in range(2):
        inner = x
        for _ in range(2):
            inner = layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(inner))
            inner = layers.Conv2D(16, 3, padding="same", use_bias=False)(inner)
        x = layers.add([x, inner])
    x = layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(x))
    return keras.Model(inputs, _classifier(layers.GlobalAveragePooling2D()(x)))


def convolutional_autoencoder() -> keras.Model:
    x = inputs = keras.Input((14, 14, 1))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Dense(12)(layers.Flatten()(x))
    x = layers.Reshape((7, 7, 8))(layers.Dense(7 * 7 * 8, activation="relu")(x))
    x = layers.Conv2DTranspose(1, 3, strides=2, padding="same", activation="sigmoid")(x)
    return keras.Model(inputs, x)


def factorization() -> keras.Model:
    inputs = keras.Input((2,), dtype="int32")
    users, items = layers.Embedding(400, 6), layers.Embedding(300, 6)
    products = users(inputs[:, 0]) * items(inputs[:, 1])
    return keras.Model(inputs, keras.ops.sum(products, axis=-1, keepdims=True))


def _classifier(x: keras.KerasTensor, classes: int = 10) -> keras.KerasTensor:
    return layers.Dense(classes, activation="softmax")(x)


VALIDATION: dict[str, Workload] = {
    "keras-digits-cnn": Workload(cnn_with_batch_norm, digits),
    "keras-digits-residual": Workload(residual_mlp, digits, batch_size=32),
    "keras-digits-autoencoder": Workload(autoencoder, reconstructed(digits), "mean_squared_error"),
    "keras-digits-transformer": Workload(transformer((8, 8, 1)), digits),
    "keras-friedman": Workload(regression(10, "relu", False), friedman, "mean_squared_error", 32),
    "keras-lines-bag": Workload(bag_of_words(4), lines(("argparse", "decimal", "inspect", "tarfile"))),
    "keras-characters-lstm": Workload(character_lstm, characters),
}
"""To choose weights by."""

TEST: dict[str, Workload] = {
    "keras-cifar-residual": Workload(residual_cnn, images("cifar10", 4), batch_size=128),
    "keras-mnist-autoencoder": Workload(
        convolutional_autoencoder, reconstructed(images("mnist", 2)), "mean_squared_error"
    ),
    "keras-mnist-transformer": Workload(transformer((14, 14, 1)), images("mnist", 2)),
    "keras-diabetes": Workload(regression(10, "elu", True), diabetes, "mean_squared_error", 32),
    "keras-cancer": Workload(selu_classifier, breast_cancer, batch_size=16),
    "keras-lines-lstm": Workload(text_lstm(3), lines(("turtle", "doctest", "optparse"))),
    "keras-eeg-gru": Workload(series_gru, eeg, "mean_squared_error", 32),
    "keras-ratings": Workload(factorization, ratings, "mean_squared_error", 128),
}
"""To report: looked at once, when the weights are chosen."""

WORKLOADS: dict[str, Workload] = VALIDATION | TEST
