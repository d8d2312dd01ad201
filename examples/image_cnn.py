"""Handwritten digits (8x8, scikit-learn's): a convolutional network with BatchNorm and augmentation.

python -m examples.image_cnn
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from rnnprop_tf import RNNprop
from trainer.comparison import ACCURACY, LOSSES, LOWEST, Fit, beside_adam, draw, fit, print_table

VALIDATION = 360
"""Number of images for validation: the last ones, not shuffled before."""


def run(picture: Path, epochs: int = 20, seeds: int = 3) -> list[Fit]:
    """Trains with RNNprop, its learning rate and weights as they come, and with Adam to compare."""
    (x, y), validation = load()

    def train(optimizer: keras.optimizers.Optimizer, seed: int) -> dict[str, list[float]]:
        keras.utils.set_random_seed(seed)
        model = make_model()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
        return fit(model, x, y, batch_size=64, epochs=epochs, validation_data=validation, verbose=0)

    fits = beside_adam(train, {"RNNprop": RNNprop.from_pretrained}, range(seeds))
    print(f"\nA CNN on digits, {make_model().count_params():,} parameters, {epochs} epochs, {seeds} seeds\n")
    print_table(LOSSES | ACCURACY | LOWEST, fits)
    draw(fits, picture, title="A CNN on digits")
    return fits


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


def load() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images [N, 8, 8, 1] in [0, 1] and labels, for training and for validation."""
    images, y = load_digits(return_X_y=True)
    x = (images / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    return (x[:-VALIDATION], y[:-VALIDATION]), (x[-VALIDATION:], y[-VALIDATION:])


if __name__ == "__main__":
    run(Path(__file__).with_suffix(".png"))
