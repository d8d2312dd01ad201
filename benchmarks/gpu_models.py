"""The Keras models that `benchmarks.gpu` times: a small convolutional network and vision transformers."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers


def cnn(size: int = 32, width: int = 64, classes: int = 10) -> keras.Model:
    """Three convolutions and two dense layers."""
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Conv2D(width // 2, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(width, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(width, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(2 * width, "relu"),
            layers.Dense(classes),
        ]
    )


class Tokens(layers.Layer):
    """A class token before the patches, and a learned position for each."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        _, patches, width = input_shape
        self.first = self.add_weight(shape=(1, 1, width), initializer="zeros", name="class")
        self.positions = self.add_weight(
            shape=(1, patches + 1, width),
            initializer=keras.initializers.TruncatedNormal(0.02),
            name="positions",
        )

    def call(self, patches: tf.Tensor) -> tf.Tensor:
        first = keras.ops.repeat(self.first, keras.ops.shape(patches)[0], axis=0)
        return keras.ops.concatenate([first, patches], axis=1) + self.positions


def encoder(x: keras.KerasTensor, width: int, heads: int, depth: int) -> keras.KerasTensor:
    """Blocks of attention and two dense layers, each with a normalisation before it."""
    for _ in range(depth):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.Dense(width)(layers.Dense(4 * width, "gelu")(y))
    return x


def vision_transformer(
    width: int, heads: int, depth: int = 12, size: int = 224, classes: int = 1_000
) -> keras.Model:
    """ViT with patches of 16 x 16 (Dosovitskiy et al. 2021). ViT-B/16 has width 768 and 12 heads."""
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(width, 16, strides=16)(image)
    x = Tokens()(layers.Reshape((-1, width))(x))
    x = layers.LayerNormalization(epsilon=1e-6)(encoder(x, width, heads, depth))
    return keras.Model(image, layers.Dense(classes)(x[:, 0]))
