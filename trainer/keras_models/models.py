"""The Keras models that weights are judged by, written as Keras users write them, with Keras's initialisers.

BatchNorm, residual connections, Embedding, attention, recurrence, autoencoders, tabular regression.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from trainer.keras_models.data import CHARACTERS, CONTEXT, LENGTH, VOCABULARY, WAVES, WORDS, next_words

MOMENTUM = 0.9
"""Momentum of BatchNorm's running statistics: with Keras's 0.99 those lag behind in the first few hundred
steps."""
PRETRAINING_TEXTS = ("typing", "ast", "pdb", "subprocess")
"""Modules of the standard library on whose text `fine_tuned_gru` is pretrained."""
PRETRAINING_STEPS = 600


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


def wide_classifier() -> keras.Model:
    x = inputs = keras.Input((13,))
    for _ in range(2):
        x = layers.Dense(256, activation="relu")(x)
    return keras.Model(inputs, _classifier(x, 3))


def wide_with_dropout() -> keras.Model:
    x = inputs = keras.Input((10,))
    for _ in range(2):
        x = layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(layers.Dense(256)(x)))
        x = layers.Dropout(0.1)(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))


def map_of_heights() -> keras.Model:
    x = inputs = keras.Input((4 * WAVES,))
    for _ in range(3):
        x = layers.Dense(256, activation="swish")(x)
    return keras.Model(inputs, layers.Dense(1)(x))


def u_net() -> keras.Model:
    """Removes noise: two halvings, and back up beside what each level was."""
    x = inputs = keras.Input((16, 16, 3))
    levels = []
    for filters in (12, 24):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        levels.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    for filters, beside in ((24, levels[1]), (12, levels[0])):
        x = layers.concatenate([layers.UpSampling2D()(x), beside])
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Conv2D(3, 1)(x))


def separable_cnn() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu")(inputs)
    for _ in range(2):
        inner = layers.SeparableConv2D(24, 3, padding="same")(x)
        x = layers.add([x, layers.ReLU()(layers.GroupNormalization(4)(inner))])
    x = layers.SeparableConv2D(48, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(inputs, _classifier(layers.Flatten()(x)))


def dilated_convolutions() -> keras.Model:
    x = inputs = keras.Input((32, 3))
    for dilation in (1, 2, 4, 8):
        x = layers.Conv1D(24, 3, padding="causal", dilation_rate=dilation, activation="elu")(x)
    return keras.Model(inputs, layers.Dense(3)(x[:, -1]))


def next_word_cnn() -> keras.Model:
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 24)(inputs)
    x = layers.Conv1D(32, 3, strides=2, activation="relu")(x)
    x = layers.Dense(48, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, _classifier(x, VOCABULARY))


def fine_tuned_gru(classes: int) -> Callable[[], keras.Model]:
    """A text classifier whose embedding and GRU were trained to foretell words; its last layer is new."""

    def make() -> keras.Model:
        inputs = keras.Input((LENGTH,), dtype="int32")
        model = keras.Model(inputs, _classifier(_text_gru(inputs), classes))
        model.set_weights([*_word_model().get_weights()[:-2], *model.layers[-1].get_weights()])
        return model

    return make


def _text_gru(words: keras.KerasTensor) -> keras.KerasTensor:
    # Seeds of their own: neither these weights nor later draws depend on when the first such model is made.
    embedding = layers.Embedding(
        VOCABULARY, 24, embeddings_initializer=keras.initializers.RandomUniform(seed=1)
    )
    gru = layers.GRU(
        40,
        kernel_initializer=keras.initializers.GlorotUniform(seed=2),
        recurrent_initializer=keras.initializers.Orthogonal(seed=3),
    )
    return gru(embedding(words))


@functools.cache
def _word_model() -> keras.Model:
    """Foretells the next word; trained once a process, in seconds, to the same weights each time."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    last = layers.Dense(
        VOCABULARY, activation="softmax", kernel_initializer=keras.initializers.GlorotUniform(seed=4)
    )
    model = keras.Model(inputs, last(_text_gru(inputs)))
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    (x, y), _ = next_words(PRETRAINING_TEXTS)(None)
    chosen = np.random.default_rng(0).permutation(len(x))[: 64 * PRETRAINING_STEPS]
    model.fit(x[chosen], y[chosen], batch_size=64, shuffle=False, verbose=0)
    return model


def _classifier(x: keras.KerasTensor, classes: int = 10) -> keras.KerasTensor:
    return layers.Dense(classes, activation="softmax")(x)
