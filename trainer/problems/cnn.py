"""The VGG-like convolutional networks of section 5.4.1."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from trainer.datasets import CLASSES, ImageBatches, Images
from trainer.problems.base import Draw, Problem, Seed, normal_params, unpack

FULLY_CONNECTED_UNITS = 64


class CNN(Problem):
    """Cross-entropy of a convolutional classifier, mean over the batch.

    `structure` is written as in the paper: c, a 3x3 convolution with bias and ReLU that keeps the image's
    size; p, 2x2 max-pooling with stride 2; f, fully connected, the last one linear with 10 outputs and those
    before it with 64 units and ReLU.
    """

    def __init__(
        self,
        images: Images,
        structure: str = "c-c-p-f",
        batch_size: int = 128,
        channels: tuple[int, int] = (16, 32),
    ) -> None:
        """
        Args:
            images: the data.
            structure: the layers.
            batch_size: images a batch.
            channels: of the convolutions before and after the first pooling layer.
        """
        if not re.fullmatch(r"(?:[cp]-)*f(?:-f)*", structure):
            raise ValueError(
                f"Expected a structure of c and p, then f, such as 'c-c-p-f'. Received: {structure!r}"
            )
        self._stream = ImageBatches(images, batch_size)
        self._layers = structure.split("-")
        self._channels = channels

    @property
    def compiles_well(self) -> bool:
        # XLA's convolutions on a CPU take about three times as long.
        return False

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        height, width, channels = self._stream.images.image_shape
        shapes: list[tuple[int, ...]] = []
        pools = 0
        flat = 0
        for k, layer in enumerate(self._layers):
            if layer == "p":
                height, width, pools = height // 2, width // 2, pools + 1
                continue
            if layer == "c":
                units = self._channels[min(pools, 1)]
                shapes.append((3, 3, channels, units))
                channels = units
            else:
                last = k == len(self._layers) - 1
                units = CLASSES if last else FULLY_CONNECTED_UNITS
                shapes.append((flat or height * width * channels, units))
                flat = units
            shapes.append((units,))
        return tuple(shapes)

    def draw(self, seed: Seed) -> Draw:
        return Draw(normal_params(self.size, seed), constants=())

    def batches(self, seed: Seed, first: tf.Tensor, count: int) -> Any:
        return self._stream.batches(seed, first, count)

    def loss(self, params: tf.Tensor, constants: Any, batch: Any) -> tf.Tensor:
        pixels, labels = batch
        tensors = iter(unpack(params, self.shapes))
        x = self._stream.images.value(pixels, params.dtype)
        for k, layer in enumerate(self._layers):
            if layer == "p":
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
                continue
            kernel, bias = next(tensors), next(tensors)
            if layer == "c":
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)
                continue
            x = tf.reshape(x, [-1, kernel.shape[0]]) @ kernel + bias
            if k < len(self._layers) - 1:
                x = tf.nn.relu(x)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x))
