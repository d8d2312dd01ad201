"""Data of the Keras models: the image sets of `trainer.datasets`, and further ones that need no download.

Those are scikit-learn's, the texts of Python's standard library (of the Python at hand), matplotlib's EEG and
elevations, and synthetic ones. Each loader takes TFDS's folder, None for its default, and gives the same data
at every call.
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from trainer import datasets

Data: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Inputs and targets, examples first."""
Splits: TypeAlias = tuple[Data, Data]
"""Data for training and for validation."""
Load: TypeAlias = Callable[[str | None], Splits]
"""Reads the data; the argument is TFDS's folder, None for its default."""

CHARACTERS, CONTEXT = 96, 24
"""Number of characters that `characters` tells apart, and length of its windows."""
WORDS, LENGTH = 2_000, 16
"""Number of words that `lines` tells apart, the rare ones as one, and length of its pieces."""
VOCABULARY = 1_000
"""Number of words that `next_words` tells apart."""
WAVES = 6
"""Frequencies that `elevations` describes each of two coordinates by."""


def digits(_: str | None) -> Splits:
    """Images [N, 8, 8, 1] in [0, 1] and labels."""
    train, test = (datasets.load("digits", split) for split in ("train", "test"))
    return _pixels(train), _pixels(test)


def images(name: str, pool: int, count: int = 10_000, last: bool = False) -> Load:
    """The first images of a data set, or the last, averaged over windows of pixels; a fifth as many for
    validation."""
    taken = datasets.last if last else datasets.first

    def load(data_dir: str | None) -> Splits:
        train, test = (
            _pixels(datasets.pooled(taken(datasets.load(name, split, data_dir), most), pool))
            for split, most in (("train", count), ("test", count // 5))
        )
        return train, test

    return load


def _pixels(part: datasets.Images) -> Data:
    return np.asarray(part.value(part.pixels, tf.float32)), part.labels


def reconstructed(load: Load) -> Load:
    """The inputs as their own targets."""

    def loaded(data_dir: str | None) -> Splits:
        (x, _), (held_out, _) = load(data_dir)
        return (x, x), (held_out, held_out)

    return loaded


def _split(x: np.ndarray, y: np.ndarray) -> Splits:
    """Every fifth example for validation."""
    held_out = np.arange(len(x)) % 5 == 4
    return (x[~held_out], y[~held_out]), (x[held_out], y[held_out])


def _standardised(x: np.ndarray) -> np.ndarray:
    mean, deviation = np.mean(x, axis=0, keepdims=True), np.std(x, axis=0, keepdims=True)
    return ((x - mean) / deviation).astype(np.float32)


def friedman(_: str | None) -> Splits:
    """2,500 noisy values of a function of five of ten features."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(2_500, noise=1.0, random_state=0)
    return _split(_standardised(x), _standardised(y[:, None]))


def diabetes(_: str | None) -> Splits:
    """442 patients, ten measurements, the disease's progress."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return _split(_standardised(x), _standardised(y[:, None]))


def breast_cancer(_: str | None) -> Splits:
    """569 samples of cells, 30 measurements, benign or not."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return _split(_standardised(x), y)


def wine(_: str | None) -> Splits:
    """178 wines of three growers, 13 measurements."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    return _split(_standardised(x), y)


def hastie(_: str | None) -> Splits:
    """4,000 points, ten features: whether the sum of their squares is above its median, 0.0 or 1.0."""
    from sklearn.datasets import make_hastie_10_2

    x, y = make_hastie_10_2(4_000, random_state=0)
    return _split(x.astype(np.float32), (y[:, None] > 0).astype(np.float32))


def elevations(_: str | None) -> Splits:
    """6,000 places of a map and their height: sines and cosines [N, 4 * WAVES] of the two coordinates."""
    import matplotlib.cbook

    with np.load(matplotlib.cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)) as file:
        height = file["elevation"]
    places = np.random.default_rng(0).permutation(height.size)[:6_000]
    coordinates = np.stack(np.unravel_index(places, height.shape), axis=1) / height.shape
    angles = (coordinates[:, :, None] * np.pi * 2.0 ** np.arange(WAVES)).reshape(len(places), -1)
    x = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    return _split(x, _standardised(height.ravel()[places, None].astype(float)))


def noisy_photo(_: str | None) -> Splits:
    """Pieces [N, 16, 16, 3] of a photo in [0, 1], with noise, and without."""
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("china.jpg").astype(np.float32) / 255
    height, width = (16 * (size // 16) for size in photo.shape[:2])
    rows = photo[:height, :width].reshape(height // 16, 16, width // 16, 16, 3)
    pieces = rows.swapaxes(1, 2).reshape(-1, 16, 16, 3)
    noise = np.random.default_rng(0).normal(0.0, 0.2, pieces.shape)
    return _split((pieces + noise).astype(np.float32), pieces)


def lorenz(_: str | None) -> Splits:
    """Windows [N, 32, 3] of Lorenz's chaotic series and its state ten samples after; the last fifth for
    validation."""

    def flow(state: np.ndarray) -> np.ndarray:
        x, y, z = state
        return np.array([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z])

    series, h = [np.array([1.0, 1.0, 25.0])], 0.02
    for _step in range(5_500):  # the classical method of Runge and Kutta
        a = flow(series[-1])
        b = flow(series[-1] + h / 2 * a)
        c = flow(series[-1] + h / 2 * b)
        d = flow(series[-1] + h * c)
        series.append(series[-1] + h / 6 * (a + 2 * b + 2 * c + d))
    settled: np.ndarray = _standardised(np.array(series[500:]))
    starts = np.arange(len(settled) - 42)
    windows, targets = settled[starts[:, None] + np.arange(32)], settled[starts + 41]
    cut = len(starts) * 4 // 5
    return (windows[:cut], targets[:cut]), (windows[cut + 42 :], targets[cut + 42 :])


def ratings(_: str | None) -> Splits:
    """20,000 ratings, 400 users of 300 items, of rank 4 with noise: pairs [N, 2] and [N, 1]."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(400, 4)), rng.normal(size=(300, 4))
    # Some items are rated often, most of them rarely.
    pairs = np.stack([rng.integers(400, size=20_000), (300 * rng.uniform(size=20_000) ** 2).astype(int)], 1)
    value = np.sum(users[pairs[:, 0]] * items[pairs[:, 1]], axis=1) / 2
    noisy = value + rng.normal(0.0, 0.3, len(pairs))
    return _split(pairs, noisy.astype(np.float32)[:, None])


def _source(module: str) -> str:
    return (Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py").read_text(encoding="utf-8")


def characters(_: str | None) -> Splits:
    """20,000 windows [N, CONTEXT] of a source text, and the character after each."""
    text = np.frombuffer(_source("argparse").encode("ascii", "replace"), np.uint8)[:20_000].astype(np.int32)
    text = np.clip(text - 31, 0, CHARACTERS - 1)  # 0 stands for line breaks
    starts = np.arange(len(text) - CONTEXT)
    windows = text[starts[:, None] + np.arange(CONTEXT)]
    cut = len(starts) * 4 // 5
    targets = text[CONTEXT:]
    return (windows[:cut], targets[:cut]), (windows[cut + CONTEXT :], targets[cut + CONTEXT :])


def _words(module: str) -> list[str]:
    return re.findall(r"[A-Za-z]+|[^\sA-Za-z]", _source(module))


def _pieces(words: list[str]) -> list[list[str]]:
    return [words[k : k + LENGTH] for k in range(0, len(words) - LENGTH, LENGTH)]


def _numbers(words: Iterable[str], count: int) -> dict[str, int]:
    """The most common words by number, 1 to count - 1; 0 is left for the rarer ones."""
    counts = Counter(words)
    common = sorted(counts, key=lambda word: (-counts[word], word))[: count - 1]
    return {word: k + 1 for k, word in enumerate(common)}


def lines(modules: tuple[str, ...], known: tuple[str, ...] = ()) -> Load:
    """Word numbers [N, LENGTH] of pieces of source text, and the module that each is from.

    Args:
        modules: of the standard library.
        known: number the words as `next_words` of these modules does, for a model that was trained on those.
    """

    def load(data_dir: str | None) -> Splits:
        found = [(words, label) for label, module in enumerate(modules) for words in _pieces(_words(module))]
        number = (
            _numbers((word for module in known for word in _words(module)), VOCABULARY)
            if known
            else _numbers((word for words, _ in found for word in words), WORDS)
        )
        x = np.array([[number.get(word, 0) for word in words] for words, _ in found], np.int32)
        return _split(x, np.array([label for _, label in found], np.int32))

    return load


def next_words(modules: tuple[str, ...]) -> Load:
    """Word numbers [N, LENGTH] of windows of source text, and the word after each; the last fifth for
    validation."""

    def load(data_dir: str | None) -> Splits:
        words = [word for module in modules for word in _words(module)]
        number = _numbers(words, VOCABULARY)
        text = np.array([number.get(word, 0) for word in words], np.int32)
        starts = np.arange(len(text) - LENGTH)
        windows, targets = text[starts[:, None] + np.arange(LENGTH)], text[LENGTH:]
        cut = len(starts) * 4 // 5
        return (windows[:cut], targets[:cut]), (windows[cut + LENGTH :], targets[cut + LENGTH :])

    return load


def eeg(_: str | None) -> Splits:
    """Windows [N, 20, 4] of an EEG and the sample after each; the last quarter for validation."""
    import matplotlib.cbook

    path = matplotlib.cbook.get_sample_data("eeg.dat", asfileobj=False)
    series: np.ndarray = _standardised(np.fromfile(path, float).reshape(-1, 4))
    starts = np.arange(len(series) - 20)
    windows, targets = series[starts[:, None] + np.arange(20)], series[20:]
    return (windows[:580], targets[:580]), (windows[600:], targets[600:])
