"""Residual perceptrons with layer normalisation, which the paper has not: what today's networks are made of.

A layer's scale does not matter before a normalisation, so the same step turns weights less the larger they
have become, and a long step can throw back a network whose loss was close to zero.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from trainer.datasets import CLASSES, ImageBatches, Images
from trainer.problems.base import Draw, Problem, Seed, normal_params, unpack

EPSILON = 1e-3
"""Added to a normalised layer's variance, as in Keras."""


class ResidualMLP(Problem):
    """Cross-entropy of a classifier of images, mean over the batch.

    A layer to `width` units, then blocks x + W' relu(W norm(x) + b) + b', then a layer to the classes. The
    normalisation's factors are 1 plus a parameter.
    """

    def __init__(self, images: Images, width: int = 32, blocks: int = 2, batch_size: int = 128) -> None:
        """
        Args:
            images: the data.
            width: units of all layers but the last.
            blocks: how many.
            batch_size: images a batch.
        """
        self._stream = ImageBatches(images, batch_size)
        self._inputs = math.prod(images.image_shape)
        self._width = width
        self._blocks = blocks

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        row, square = (self._width,), (self._width, self._width)
        block = (row, row, square, row, square, row)
        return (
            (self._inputs, self._width),
            row,
            *(block * self._blocks),
            (self._width, CLASSES),
            (CLASSES,),
        )

    def draw(self, seed: Seed) -> Draw:
        return Draw(normal_params(self.size, seed), constants=())

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        return self._stream.batches(seed, first, count)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        pixels, labels = batch
        kernel, bias, *blocks, last_kernel, last_bias = unpack(params, self.shapes)
        x = tf.reshape(self._stream.images.value(pixels, params.dtype), [-1, self._inputs])
        x = x @ kernel + bias
        for k in range(0, len(blocks), 6):
            factor, offset, inner_kernel, inner_bias, outer_kernel, outer_bias = blocks[k : k + 6]
            normalised = _normalised(x) * (1.0 + factor) + offset
            inner = tf.nn.relu(normalised @ inner_kernel + inner_bias)
            x += inner @ outer_kernel + outer_bias
        logits = x @ last_kernel + last_bias
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def _normalised(x: tf.Tensor) -> tf.Tensor:
    """Mean 0 and variance 1 over the units of each example."""
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + EPSILON)
