"""Trains one model with several optimizers, and shows how they did in a table and a picture.

Who compares writes `model.compile(...)` and `model.fit(...)` in a function of an optimizer and a seed:

    def train(optimizer, seed):
        keras.utils.set_random_seed(seed)
        model = make_model()
        model.compile(optimizer, loss="mse")
        return fit(model, x, y, epochs=10, validation_data=validation, verbose=0)

    fits = beside_adam(train, {"RNNprop": RNNprop.from_pretrained}, range(3))
    print_table(LOSSES | LOWEST, fits)
    draw(fits, "losses.png", title="My model")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any, NamedTuple, TypeAlias

import keras
import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

Train: TypeAlias = Callable[[keras.optimizers.Optimizer, int], Mapping[str, Sequence[float]]]
"""Trains a new model with the optimizer, started from the seed, and returns the history of `fit`."""
Optimizers: TypeAlias = Mapping[str, Callable[[], keras.optimizers.Optimizer]]
"""Functions that make each optimizer, by its name in the table and in the picture."""

ADAM_DEFAULT = 0.001
ADAM_RATES = (ADAM_DEFAULT, 0.003, 0.01, 0.03)


class Fit(NamedTuple):
    """Course of training with one optimizer, mean over the seeds."""

    optimizer: str
    history: dict[str, np.ndarray]
    """[epochs] for each quantity that `train` returned, such as "loss" and "val_loss"."""
    seconds: float
    """Time of one training, building and compiling the model included."""

    def last(self, quantity: str) -> float:
        """The quantity after the last epoch."""
        return float(self.history[quantity][-1])

    @property
    def lowest_validation_loss(self) -> float:
        """Lowest validation loss after any epoch: where early stopping would have ended."""
        return float(np.nanmin(self.history["val_loss"]))

    @property
    def best_epoch(self) -> int:
        """Epoch of the lowest validation loss, counted from 1."""
        return int(np.nanargmin(self.history["val_loss"])) + 1


def fit(model: keras.Model, x: np.ndarray, y: np.ndarray, **arguments: Any) -> dict[str, list[float]]:
    """The history of `model.fit`; of an optimizer that averages (`use_ema`), that of what it leaves behind.

    Its validation is at the average, and its last training loss and metrics are those of the average.

    Args:
        model: compiled.
        x: inputs.
        y: targets.
        **arguments: of `model.fit`.
    """
    if not model.optimizer.use_ema:
        return model.fit(x, y, **arguments).history
    callbacks = [keras.callbacks.SwapEMAWeights(), *arguments.pop("callbacks", [])]
    history = model.fit(x, y, **arguments, callbacks=callbacks).history
    left = model.evaluate(x, y, return_dict=True, verbose=0)
    for name, value in left.items():
        history[name][-1] = value
    return history


Columns: TypeAlias = dict[str, Callable[[Fit], str]]
"""Columns of a table of fits: the cell of a fit by the column's header."""

LOSSES: Columns = {
    "training loss": lambda fit: f"{fit.last('loss'):.4f}",
    "validation loss": lambda fit: f"{fit.last('val_loss'):.3f}",
}
ACCURACY: Columns = {"validation accuracy": lambda fit: f"{fit.last('val_accuracy'):.3f}"}
LOWEST: Columns = {
    "lowest validation loss": lambda fit: f"{fit.lowest_validation_loss:.3f}",
    "epoch of the lowest": lambda fit: f"{fit.best_epoch}",
}


def fits_of(train: Train, optimizers: Optimizers, seeds: Iterable[int]) -> Iterator[Fit]:
    """Trains with each optimizer from each seed; one optimizer's mean is there before the next one starts."""
    seeds = list(seeds)
    for name, make_optimizer in optimizers.items():
        begin = time.perf_counter()
        histories = [train(make_optimizer(), seed) for seed in seeds]
        seconds = (time.perf_counter() - begin) / len(seeds)
        mean = {key: np.mean([history[key] for history in histories], axis=0) for key in histories[0]}
        yield Fit(name, mean, seconds)


def adams(rates: Iterable[float]) -> Optimizers:
    """Adam at each learning rate."""
    return {f"Adam, {rate:g}": partial(keras.optimizers.Adam, rate) for rate in rates}


def beside_adam(
    train: Train, optimizers: Optimizers, seeds: Iterable[int], rates: Sequence[float] = ADAM_RATES
) -> list[Fit]:
    """The optimizers, Adam at its default learning rate, and the Adam at the best of the rates.

    The best one is chosen afterwards by the lowest validation loss, which is then reported: an advantage.

    Args:
        train: trains with an optimizer from a seed; its history has "val_loss".
        optimizers: what to compare with Adam.
        seeds: where each training starts, the same for all optimizers.
        rates: Adam's learning rates, the default among them.
    """
    seeds = list(seeds)
    ours = list(fits_of(train, optimizers, seeds))
    by_rate = dict(zip(rates, fits_of(train, adams(rates), seeds), strict=True))
    best = min(by_rate.values(), key=lambda fit: fit.lowest_validation_loss)
    default = by_rate[ADAM_DEFAULT]
    return [
        *ours,
        default._replace(optimizer=f"{default.optimizer} (default)"),
        best._replace(optimizer=f"{best.optimizer} (best of {len(rates)})"),
    ]


def print_table(columns: Columns, fits: Iterable[Fit]) -> list[Fit]:
    """Prints a Markdown table with a row for each fit, as soon as that is there; returns the fits."""
    print(f"| optimizer | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    shown = []
    for fit in fits:
        print(f"| {fit.optimizer} | {' | '.join(cell(fit) for cell in columns.values())} |", flush=True)
        shown.append(fit)
    return shown


def draw(fits: Sequence[Fit], path: str | PathLike[str], title: str) -> None:
    """Draws the losses by epoch as a PNG: a line for training, a dotted one for validation."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for k, fit in enumerate(fits):
        epochs = np.arange(1, 1 + len(fit.history["loss"]))
        axes.plot(epochs, fit.history["loss"], color=f"C{k}", label=fit.optimizer)
        axes.plot(epochs, fit.history["val_loss"], color=f"C{k}", linestyle=":")
    axes.set(yscale="log", xlabel="epoch", ylabel="loss (dotted: validation)", title=title)
    axes.legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)
