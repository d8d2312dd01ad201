"""The sequence prediction task of section 5.4.2: an LSTM foretells a noisy sine wave."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from trainer.problems.base import Draw, Problem, Seed, normal_params, split_seed, unpack

SEQUENCE = 10


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
        units = self._units
        inputs = [1] + [units] * (self._layers - 1)
        cells = tuple(shape for i in inputs for shape in ((i + units, 4 * units), (4 * units,)))
        return (*cells, (units, 1), (1,))

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
        zeros = tf.zeros([self._batch_size, self._units], params.dtype)
        states = [(zeros, zeros)] * self._layers
        for x in tf.unstack(noisy[:, :, None], axis=1):
            for k, (h, c) in enumerate(states):
                i, j, f, o = tf.split(tf.concat([x, h], 1) @ cells[2 * k] + cells[2 * k + 1], 4, axis=1)
                c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(j)
                x = tf.sigmoid(o) * tf.tanh(c)
                states[k] = (x, c)
        prediction = (x @ kernel + bias)[:, 0]
        return tf.reduce_mean((prediction - target) ** 2)
