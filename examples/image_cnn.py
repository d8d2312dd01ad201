"""Handwritten digits (8x8, scikit-learn's): a convolutional network with BatchNorm and augmentation.

python -m examples.image_cnn
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from examples.compare import Data, Fit, compare

VALIDATION = 360
"""The last images, not shuffled before."""


def load() -> tuple[Data, Data]:
    """Images [N, 8, 8, 1] in [0, 1] and labels, for training and for validation."""
    digits = load_digits()
    x, y = np.float32(digits.images / 16.0)[..., None], digits.target
    return (x[:-VALIDATION], y[:-VALIDATION]), (x[-VALIDATION:], y[-VALIDATION:])


def make_model() -> keras.Model:
    """Two blocks of convolution and BatchNorm; the augmentation is part of the model."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.RandomTranslation(0.1, 0.1, fill_mode="constant"),
            layers.RandomRotation(0.03, fill_mode="constant"),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def run(picture: Path, epochs: int = 20, seeds: int = 3) -> list[Fit]:
    """The comparison."""
    train, validation = load()
    return compare(
        "A CNN on digits",
        make_model,
        train,
        validation,
        picture,
        batch_size=64,
        epochs=epochs,
        seeds=seeds,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


if __name__ == "__main__":
    run(Path(__file__).with_suffix(".png"))
