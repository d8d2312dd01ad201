"""The image sets, the only door to TFDS: `mnist`, `fashion_mnist`, `cifar10`, and scikit-learn's digits.

What Keras models are fed beside images (tables, texts, series) is read by `trainer.keras_models.data`.

Images are held in memory as bytes. Batches are a pure function of a seed and a position: each epoch is a
pseudo-random permutation computed index by index, so nothing need be shuffled, stored or remembered.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

TFDS_NAMES = ("mnist", "fashion_mnist", "cifar10")
NAMES = (*TFDS_NAMES, "digits")
CLASSES = 10
"""Classes of each data set."""
DOWNLOAD_RETRIES = 4
SHUFFLE_ROUNDS = 8
"""With TensorFlow's default, 4, an image's position predicts that of the next one, if there are many."""


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled image set in memory."""

    pixels: np.ndarray
    """[images, height, width, channels], uint8."""
    labels: np.ndarray
    """[images], int32."""
    scale: float
    """A pixel's value is byte * scale + offset."""
    offset: float = 0.0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.pixels.shape[1:]

    def value(self, pixels: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Bytes as network inputs of that dtype."""
        return tf.cast(pixels, dtype) * self.scale + self.offset


def load(name: str, split: str = "train", data_dir: str | None = None) -> Images:
    """One split of a data set, read once per process.

    MNIST and Fashion-MNIST pixels lie in [0, 1], CIFAR-10's in [-0.5, 0.5], the digits' in [0, 1].

    Args:
        name: one of `NAMES`.
        split: "train" or "test".
        data_dir: TFDS's folder or bucket; TFDS's own default where None. Unused by `digits`.

    Raises:
        ValueError: unknown name or split.
        RuntimeError: the data set can be neither read nor downloaded.
    """
    if name not in NAMES:
        raise ValueError(f"No data set named {name!r}. Expected one of {', '.join(NAMES)}.")
    if split not in ("train", "test"):
        raise ValueError(f"No split named {split!r}. Expected 'train' or 'test'.")
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    return _load(name, split, folder and os.path.expanduser(folder))


@functools.lru_cache(maxsize=4)
def _load(name: str, split: str, data_dir: str | None) -> Images:
    if name == "digits":
        return _load_digits(split)
    import tensorflow_datasets as tfds  # slow to import, and digits do without it
    from tensorflow_datasets.core.download import downloader

    # TFDS waits twice as long before each retry of a download: with its own 10 retries it takes minutes to
    # say that there is no network, with these 3 seconds.
    downloader.MAX_RETRIES = DOWNLOAD_RETRIES
    try:
        data = tfds.as_numpy(tfds.load(name, split=split, data_dir=data_dir, batch_size=-1))
    except Exception as error:  # TFDS and its downloads fail in many types
        where = data_dir or "TFDS's default folder"
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
        raise RuntimeError(
            f"The data set {name!r} is not in {where} and could not be downloaded ({reason}). Point "
            "--data_dir or TFDS_DATA_DIR to a folder that holds it, or use `digits`, which needs no download."
        ) from error
    return Images(
        pixels=data["image"],
        labels=data["label"].astype(np.int32),
        scale=1.0 / 255.0,
        offset=-0.5 if name == "cifar10" else 0.0,
    )


def _load_digits(split: str) -> Images:
    """1,797 images of 8x8 pixels with 17 grey levels; every fifth one is the test split."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    test = np.arange(len(labels)) % 5 == 4
    chosen = test if split == "test" else ~test
    return Images(
        pixels=pixels[chosen].astype(np.uint8).reshape(-1, 8, 8, 1),
        labels=labels[chosen].astype(np.int32),
        scale=1.0 / 16.0,
    )


def first(images: Images, count: int) -> Images:
    """The first images."""
    return replace(images, pixels=images.pixels[:count], labels=images.labels[:count])


def last(images: Images, count: int) -> Images:
    """The last images."""
    return replace(images, pixels=images.pixels[-count:], labels=images.labels[-count:])


def pooled(images: Images, window: int) -> Images:
    """The images averaged over `window` x `window` pixels, rounded to bytes."""
    n, height, width, channels = images.pixels.shape
    if height % window or width % window:
        raise ValueError(
            f"Images of {height}x{width} pixels cannot be pooled by {window}: it must divide both."
        )
    blocks = images.pixels.reshape(n, height // window, window, width // window, window, channels)
    return replace(images, pixels=np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8))


class ImageBatches:
    """An endless stream of image batches in epoch-shuffled order; the tail of an epoch is dropped."""

    def __init__(self, images: Images, batch_size: int) -> None:
        if not 0 < batch_size <= len(images.labels):
            raise ValueError(
                f"Expected a batch size from 1 to {len(images.labels)}, the number of images. "
                f"Received: {batch_size}"
            )
        self.images = images
        self.batch_size = batch_size
        self._pixels = tf.constant(images.pixels)
        self._labels = tf.constant(images.labels)

    def batches(self, seed: tf.Tensor, first: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Pixels [count, batch, height, width, channels], uint8, and labels [count, batch]."""
        indices = self._indices(seed, first, count)
        return tf.gather(self._pixels, indices), tf.gather(self._labels, indices)

    def _indices(self, seed: tf.Tensor, first: tf.Tensor, count: int) -> tf.Tensor:
        """Which images are in batches `first`, ...: [count, batch]."""
        total = len(self.images.labels)
        per_epoch = total // self.batch_size
        position = tf.cast(first, tf.int64) + tf.range(count, dtype=tf.int64)
        epoch = tf.repeat(position // per_epoch, self.batch_size)
        in_epoch = (position % per_epoch)[:, None] * self.batch_size + tf.range(
            self.batch_size, dtype=tf.int64
        )
        seeds = tf.concat(
            [
                tf.broadcast_to(tf.cast(seed, tf.uint32), [count * self.batch_size, 2]),
                tf.cast(epoch, tf.uint32)[:, None],
            ],
            axis=1,
        )
        # The raw op, as `tf.random.experimental.index_shuffle` cannot take a seed for each index.
        shuffled = tf.raw_ops.RandomIndexShuffle(
            index=tf.cast(tf.reshape(in_epoch, [-1]), tf.uint32),
            seed=seeds,
            max_index=tf.constant(total - 1, tf.uint32),
            rounds=SHUFFLE_ROUNDS,
        )
        return tf.reshape(tf.cast(shuffled, tf.int32), [count, self.batch_size])
