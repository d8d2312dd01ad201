"""The next values of four channels of an EEG (800 samples, matplotlib's): an LSTM.

python -m examples.series_lstm
"""

from pathlib import Path

import keras
import matplotlib.cbook
import numpy as np
from keras import layers

from examples.compare import Data, Fit, compare

WINDOW, CHANNELS, TRAIN = 20, 4, 600


def load() -> tuple[Data, Data]:
    """Windows [N, WINDOW, CHANNELS] and the sample after each; the last 200 samples are for validation."""
    with matplotlib.cbook.get_sample_data("eeg.dat") as file:
        series = np.frombuffer(file.read(), float).reshape(-1, CHANNELS)
    series = np.float32((series - series[:TRAIN].mean(axis=0)) / series[:TRAIN].std(axis=0))

    def windows(part: np.ndarray) -> Data:
        starts = range(len(part) - WINDOW)
        return np.stack([part[s : s + WINDOW] for s in starts]), part[WINDOW:]

    return windows(series[:TRAIN]), windows(series[TRAIN:])


def make_model() -> keras.Model:
    """An LSTM and a linear layer."""
    return keras.Sequential([keras.Input((WINDOW, CHANNELS)), layers.LSTM(32), layers.Dense(CHANNELS)])


def run(picture: Path, epochs: int = 25, seeds: int = 3) -> list[Fit]:
    """The comparison, and what guessing that nothing changes would give."""
    train, (x, y) = load()
    print(f"\nLast value as the guess: validation loss {np.mean((y - x[:, -1]) ** 2):.4f}")
    return compare(
        "An LSTM on an EEG",
        make_model,
        train,
        (x, y),
        picture,
        batch_size=32,
        epochs=epochs,
        seeds=seeds,
        loss="mse",
    )


if __name__ == "__main__":
    run(Path(__file__).with_suffix(".png"))
