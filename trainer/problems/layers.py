"""Optimizees made of Keras layers, with Keras's initialisers: what the paper's networks do not have.

Embeddings whose rows come rarely, normalisation, residual connections, attention, recurrence, autoencoders,
regression; small batches. All are small, and their data are made here or are scikit-learn's digits.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainer import datasets
from trainer.problems.base import Draw, Problem, Seed, split_seed, unpack

WORDS, LENGTH, KINDS = 600, 10, 3
"""Number of words, words of a sentence and kinds of sentences."""
SYMBOLS, CONTEXT = 24, 8
"""Number of symbols of a chain and symbols of a window."""


class Examples(NamedTuple):
    """Data of an optimizee."""

    inputs: np.ndarray
    """[examples, ...]"""
    targets: np.ndarray
    """[examples, ...]"""


class Start(NamedTuple):
    """How a tensor of parameters starts."""

    value: np.ndarray
    """Mean, flat: zeros for what is random."""
    deviation: float
    """Standard deviation; 0 for what is not random."""


class KerasProblem(Problem):
    """Loss of a Keras model, mean over the batch, which is drawn with replacement.

    Layers compute as in training: BatchNorm with the batch's statistics; its running ones are not kept.
    """

    def __init__(
        self, make: Callable[[], keras.Model], loss: str, examples: Examples, batch_size: int
    ) -> None:
        """
        Args:
            make: makes the model; without layers that draw at random, such as Dropout.
            loss: the name of a Keras loss.
            examples: the data.
            batch_size: examples a batch.
        """
        self._model, other = (_made(make, seed) for seed in range(2))
        self._loss = keras.losses.get(loss)
        self._data = tuple(tf.constant(part) for part in examples)
        self._batch_size = batch_size
        self._fixed = [variable.numpy() for variable in self._model.non_trainable_variables]
        pairs = zip(self._model.trainable_variables, other.trainable_variables, strict=True)
        self._starts = [_start(one.numpy(), another.numpy()) for one, another in pairs]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(variable.shape) for variable in self._model.trainable_variables)

    def draw(self, seed: Seed) -> Draw:
        """Tensors that Keras initialises at random are normal with the same deviation, others as they are."""
        parts = zip(self._starts, split_seed(seed, len(self._starts)), strict=True)
        values = [
            start.value + tf.random.stateless_normal([start.value.size], part, stddev=start.deviation)
            for start, part in parts
        ]
        return Draw(tf.concat(values, 0), constants=())

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        total = self._data[0].shape[0]
        indices = tf.map_fn(
            lambda position: tf.random.stateless_uniform(
                [self._batch_size], tf.random.fold_in(seed, position), maxval=total, dtype=tf.int32
            ),
            tf.cast(first, tf.int32) + tf.range(count),
        )
        return tuple(tf.gather(part, indices) for part in self._data)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        inputs, targets = batch
        outputs, _ = self._model.stateless_call(
            unpack(params, self.shapes), self._fixed, inputs, training=True
        )
        return tf.reduce_mean(self._loss(targets, outputs))


def _made(make: Callable[[], keras.Model], seed: int) -> keras.Model:
    """The model, the same in every process: Keras's initialisers take their seeds from Python's generator."""
    state = random.getstate()
    random.seed(seed)
    try:
        return make()
    finally:
        random.setstate(state)


def _start(value: np.ndarray, other: np.ndarray) -> Start:
    """From the values that two seeds give."""
    if np.array_equal(value, other):
        return Start(value.ravel(), 0.0)
    return Start(np.zeros(value.size, value.dtype), float(value.std()))


@functools.cache
def digits() -> Examples:
    """Images [N, 8, 8] in [0, 1] and labels."""
    images = datasets.load("digits")
    return Examples(images.pixels[..., 0] * np.float32(images.scale), images.labels)


def digits_again() -> Examples:
    """Images [N, 64] as their own targets."""
    pixels = digits().inputs.reshape(-1, 64)
    return Examples(pixels, pixels)


def _frequencies(count: int) -> np.ndarray:
    """Zipf's: a few words come often, most of them rarely."""
    weights = 1.0 / np.arange(1, count + 1)
    return weights / weights.sum()


@functools.cache
def sentences() -> Examples:
    """Word numbers [4000, LENGTH] and the kind that most of a sentence's words are of."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(WORDS, KINDS))
    words = rng.choice(WORDS, size=(4_000, LENGTH), p=_frequencies(WORDS))
    return Examples(words.astype(np.int32), scores[words].sum(1).argmax(1).astype(np.int32))


@functools.cache
def neighbours() -> Examples:
    """Pairs of word numbers [12000, 2], and 1.0 where the two stand together, half of them; [12000, 1]."""
    rng = np.random.default_rng(2)
    topics = rng.integers(12, size=WORDS)
    frequencies = _frequencies(WORDS)
    first, second = (rng.choice(WORDS, size=60_000, p=frequencies) for _ in range(2))
    together = topics[first] == topics[second]
    apart = np.flatnonzero(~together)[: together.sum()]
    chosen = rng.permutation(np.concatenate([np.flatnonzero(together), apart]))[:12_000]
    pairs = np.stack([first, second], 1)[chosen].astype(np.int32)
    return Examples(pairs, together[chosen].astype(np.float32)[:, None])


@functools.cache
def chain() -> Examples:
    """Windows [6000, CONTEXT] of a Markov chain whose next symbol hangs on the last two, and that symbol."""
    rng = np.random.default_rng(3)
    odds = rng.dirichlet(np.full(SYMBOLS, 0.1), size=(SYMBOLS, SYMBOLS)).cumsum(-1)
    text = [0, 1]
    for draw in rng.uniform(size=6_000 + CONTEXT):
        text.append(min(int(np.searchsorted(odds[text[-2], text[-1]], draw)), SYMBOLS - 1))
    windows = np.lib.stride_tricks.sliding_window_view(np.array(text, np.int32), CONTEXT + 1)[:6_000]
    return Examples(windows[:, :-1].copy(), windows[:, -1].copy())


@functools.cache
def table(noise: float, offset: float = 0.0) -> Examples:
    """Features [3000, 8], and a smooth function of them plus an offset, with noise of that deviation."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3_000, 8)).astype(np.float32)
    hidden = np.tanh(x @ rng.normal(size=(8, 16)) / 2)
    y = hidden @ rng.normal(size=(16, 1)) / 2 + offset + noise * rng.normal(size=(3_000, 1))
    return Examples(x, y.astype(np.float32))


def dense(
    shape: tuple[int, ...],
    hidden: tuple[int, ...],
    outputs: int,
    activation: str = "relu",
    last: str | None = None,
    batch_norm: bool = False,
    initializer: str = "glorot_uniform",
) -> Callable[[], keras.Model]:
    """A multilayer perceptron."""

    def make() -> keras.Model:
        inputs = keras.Input(shape)
        x = layers.Flatten()(inputs)
        for units in hidden:
            x = layers.Dense(units, kernel_initializer=initializer)(x)
            x = layers.Activation(activation)(layers.BatchNormalization()(x) if batch_norm else x)
        return keras.Model(inputs, layers.Dense(outputs, activation=last)(x))

    return make


def residual() -> keras.Model:
    inputs = keras.Input((8, 8))
    x = layers.Dense(24)(layers.Flatten()(inputs))
    for _ in range(2):
        inner = layers.Dense(24, activation="relu")(layers.LayerNormalization()(x))
        x = layers.add([x, layers.Dense(24)(inner)])
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.LayerNormalization()(x)))


def attention() -> keras.Model:
    """An image's rows as tokens."""
    inputs = keras.Input((8, 8))
    # Of the inputs, as a layer that is called on a constant runs once and is none of the model's.
    places = keras.ops.zeros_like(inputs[:, :, 0], dtype="int32") + keras.ops.arange(8, dtype="int32")
    x = layers.Dense(16)(inputs) + layers.Embedding(8, 16)(places)
    normal = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 8)(normal, normal)
    x = x + layers.Dense(16)(layers.Dense(24, activation="gelu")(layers.LayerNormalization()(x)))
    pooled = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(pooled))


def convolutions() -> keras.Model:
    inputs = keras.Input((8, 8))
    x = layers.Reshape((8, 8, 1))(inputs)
    for filters in (6, 10):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.AveragePooling2D(2)(layers.ReLU()(layers.BatchNormalization()(x)))
    pooled = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(pooled))


def embedding_bag() -> keras.Model:
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(WORDS, 8)(inputs))
    x = layers.Dense(12, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(KINDS, activation="softmax")(x))


def embedding_lstm() -> keras.Model:
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.LSTM(10, unroll=True)(layers.Embedding(WORDS, 6)(inputs))
    return keras.Model(inputs, layers.Dense(KINDS, activation="softmax")(x))


def embedding_pairs() -> keras.Model:
    inputs = keras.Input((2,), dtype="int32")
    x = layers.Embedding(WORDS, 8)(inputs)
    score = keras.ops.sum(x[:, 0] * x[:, 1], axis=1, keepdims=True)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(score))


def chain_gru() -> keras.Model:
    inputs = keras.Input((CONTEXT,), dtype="int32")
    x = layers.GRU(16, unroll=True)(layers.Embedding(SYMBOLS, 8)(inputs))
    return keras.Model(inputs, layers.Dense(SYMBOLS, activation="softmax")(x))
