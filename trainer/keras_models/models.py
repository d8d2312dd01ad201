"""The Keras models that weights are judged by, written as Keras users write them, with Keras's initialisers.

BatchNorm, residual connections, Embedding, attention, recurrence, autoencoders, tabular regression.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

from trainer.keras_models.data import CHARACTERS, CONTEXT, LENGTH, WORDS

MOMENTUM = 0.9
"""Momentum of BatchNorm's running statistics: with Keras's 0.99 those lag behind in the first few hundred
steps."""


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
