"""The next values of four channels of an EEG (800 samples, matplotlib's): an LSTM.

python -m examples.series_lstm
"""

from pathlib import Path

import keras
import matplotlib.cbook
import numpy as np
from keras import layers

from rnnprop_tf import RNNprop
from trainer.comparison import LOSSES, LOWEST, Fit, beside_adam, draw, fit, print_table

WINDOW = 20
"""Samples that the model sees."""
CHANNELS = 4
TRAIN = 600
"""Number of samples for training: the first ones."""


def run(picture: Path, epochs: int = 25, seeds: int = 3) -> list[Fit]:
    """Trains with RNNprop, its learning rate and weights as they come, and with Adam to compare."""
    (x, y), validation = load()

    def train(optimizer: keras.optimizers.Optimizer, seed: int) -> dict[str, list[float]]:
        keras.utils.set_random_seed(seed)
        model = make_model()
        model.compile(optimizer, loss="mse")
        return fit(model, x, y, batch_size=32, epochs=epochs, validation_data=validation, verbose=0)

    fits = beside_adam(train, {"RNNprop": RNNprop.from_pretrained}, range(seeds))
    guess = np.mean((validation[1] - validation[0][:, -1]) ** 2)
    print(f"\nAn LSTM on an EEG, {make_model().count_params():,} parameters, {epochs} epochs, {seeds} seeds")
    print(f"(the last value as the guess: validation loss {guess:.4f})\n")
    print_table(LOSSES | LOWEST, fits)
    draw(fits, picture, title="An LSTM on an EEG")
    return fits


def make_model() -> keras.Model:
    """An LSTM and a linear layer."""
    return keras.Sequential([keras.Input((WINDOW, CHANNELS)), layers.LSTM(32), layers.Dense(CHANNELS)])


def load() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Windows [N, WINDOW, CHANNELS] and the sample after each; the last 200 samples are for validation."""
    values = np.fromfile(matplotlib.cbook.get_sample_data("eeg.dat", asfileobj=False))
    series = values.reshape(-1, CHANNELS)
    series = ((series - series[:TRAIN].mean(axis=0)) / series[:TRAIN].std(axis=0)).astype("float32")

    def windows(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = range(len(part) - WINDOW)
        return np.stack([part[s : s + WINDOW] for s in starts]), part[WINDOW:]

    return windows(series[:TRAIN]), windows(series[TRAIN:])


if __name__ == "__main__":
    run(Path(__file__).with_suffix(".png"))
