"""Recurrent optimizees: the sine wave that an LSTM predicts (section 5.4.2), and images read row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer.datasets import CLASSES, ImageBatches, Images
from trainer.problems.base import Draw, Problem, Seed, normal_params, split_seed, unpack

SEQUENCE = 10


def cell_shapes(inputs: int, units: int, layers: int) -> tuple[tuple[int, ...], ...]:
    """The kernel and the bias of each LSTM layer, bottom first."""
    widths = [inputs] + [units] * (layers - 1)
    return tuple(shape for i in widths for shape in ((i + units, 4 * units), (4 * units,)))


def last_output(cells: Sequence[tf.Tensor], sequence: tf.Tensor) -> tf.Tensor:
    """The top layer's output [batch, units] after a sequence [batch, time, features], from zero states.

    The LSTM is plain: no forget bias, gates in the order i, j, f, o.
    """
    layers = list(zip(cells[::2], cells[1::2], strict=True))
    zeros = tf.zeros([sequence.shape[0], cells[0].shape[1] // 4], sequence.dtype)
    states = [(zeros, zeros)] * len(layers)
    for x in tf.unstack(sequence, axis=1):
        for k, (kernel, bias) in enumerate(layers):
            h, c = states[k]
            i, j, f, o = tf.split(tf.concat([x, h], 1) @ kernel + bias, 4, axis=1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(j)
            x = tf.sigmoid(o) * tf.tanh(c)
            states[k] = (x, c)
    return states[-1][0]


class SineLSTM(Problem):
    """Mean squared error of the wave's eleventh value, predicted from ten noisy ones.

    The wave is A sin(omega x + phase) at x = 0, 1, ..., with A from U(0, 10), omega from U(0, pi / 2) and
    phase from U(0, 2 pi). The noise is on the inputs only. The LSTM is plain (no forget bias), the
    prediction linear in its last hidden state.
    """

    def __init__(self, units: int = 20, layers: int = 1, noise: float = 0.1, batch_size: int = 128) -> None:
        """
        Args:
            units: of each LSTM layer.
            layers: how many LSTM layers.
            noise: standard deviation.
            batch_size: sequences a batch.
        """
        self._units = units
        self._layers = layers
        self._noise = noise
        self._batch_size = batch_size

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return (*cell_shapes(1, self._units, self._layers), (self._units, 1), (1,))

    def draw(self, seed: Seed) -> Draw:
        return Draw(normal_params(self.size, seed), constants=())

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        positions = tf.cast(first, tf.int32) + tf.range(count)
        signature = (
            tf.TensorSpec([self._batch_size, SEQUENCE], tf.float32),
            tf.TensorSpec([self._batch_size], tf.float32),
        )
        return tf.map_fn(
            lambda position: self._batch(tf.random.fold_in(seed, position)),
            positions,
            fn_output_signature=signature,
        )

    def _batch(self, seed: Seed) -> tuple[tf.Tensor, tf.Tensor]:
        """Noisy inputs [batch, 10] and noiseless targets [batch]."""
        *wave_seeds, noise_seed = split_seed(seed, 4)
        column = [self._batch_size, 1]
        amplitude, omega, phase = (
            tf.random.stateless_uniform(column, wave_seed, maxval=limit)
            for wave_seed, limit in zip(wave_seeds, (10.0, math.pi / 2, 2 * math.pi), strict=True)
        )
        wave = amplitude * tf.sin(omega * tf.range(SEQUENCE + 1, dtype=tf.float32) + phase)
        noise = tf.random.stateless_normal([self._batch_size, SEQUENCE], noise_seed, stddev=self._noise)
        return wave[:, :SEQUENCE] + noise, wave[:, SEQUENCE]

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        noisy, target = batch
        *cells, kernel, bias = unpack(params, self.shapes)
        prediction = (last_output(cells, noisy[:, :, None]) @ kernel + bias)[:, 0]
        return tf.reduce_mean((prediction - target) ** 2)


class RowLSTM(Problem):
    """Cross-entropy of an LSTM that reads an image from top to bottom, a row a step, and names its class."""

    def __init__(self, images: Images, units: int = 20, layers: int = 1, batch_size: int = 128) -> None:
        """
        Args:
            images: the data.
            units: of each LSTM layer.
            layers: how many LSTM layers.
            batch_size: images a batch.
        """
        self._stream = ImageBatches(images, batch_size)
        self._units = units
        self._layers = layers

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        _, width, channels = self._stream.images.image_shape
        cells = cell_shapes(width * channels, self._units, self._layers)
        return (*cells, (self._units, CLASSES), (CLASSES,))

    def draw(self, seed: Seed) -> Draw:
        return Draw(normal_params(self.size, seed), constants=())

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        return self._stream.batches(seed, first, count)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        pixels, labels = batch
        *cells, kernel, bias = unpack(params, self.shapes)
        value = self._stream.images.value(pixels, params.dtype)
        rows = tf.reshape(value, [*value.shape[:2], -1])
        logits = last_output(cells, rows) @ kernel + bias
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
