"""The multilayer perceptrons of sections 5.1 to 5.3; the base MLP is 784-20-10 with sigmoids."""

from __future__ import annotations

import itertools
import math
from typing import Any

import tensorflow as tf

from trainer.datasets import CLASSES, ImageBatches, Images
from trainer.problems.base import Draw, Problem, Seed, normal_params, unpack

ACTIVATIONS = {"sigmoid": tf.sigmoid, "relu": tf.nn.relu, "elu": tf.nn.elu, "tanh": tf.tanh}


class MLP(Problem):
    """Cross-entropy of a fully connected classifier of images, mean over the batch."""

    def __init__(
        self,
        images: Images,
        hidden: tuple[int, ...] = (20,),
        activation: str = "sigmoid",
        batch_size: int = 128,
    ) -> None:
        """
        Args:
            images: the data.
            hidden: units of each hidden layer.
            activation: of the hidden layers, one of `ACTIVATIONS`.
            batch_size: images a batch.
        """
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"Expected an activation among {', '.join(ACTIVATIONS)}. Received: {activation!r}"
            )
        self._stream = ImageBatches(images, batch_size)
        self._activation = ACTIVATIONS[activation]
        self._widths = (math.prod(images.image_shape), *hidden, CLASSES)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        layers = itertools.pairwise(self._widths)
        return tuple(shape for inputs, units in layers for shape in ((inputs, units), (units,)))

    def draw(self, seed: Seed) -> Draw:
        return Draw(normal_params(self.size, seed), constants=())

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        return self._stream.batches(seed, first, count)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        pixels, labels = batch
        tensors = unpack(params, self.shapes)
        x = tf.reshape(self._stream.images.value(pixels, params.dtype), [-1, self._widths[0]])
        for kernel, bias in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
            x = self._activation(x @ kernel + bias)
        logits = x @ tensors[-2] + tensors[-1]
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
