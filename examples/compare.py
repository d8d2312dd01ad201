"""What the examples share: training a model with each optimizer, the table and the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import matplotlib as mpl
import numpy as np

from rnnprop_tf import RNNprop

mpl.use("Agg")
from matplotlib import pyplot as plt

ADAM_RATES = (0.001, 0.003, 0.01, 0.03)
ADAM_DEFAULT = 0.001

Data = tuple[np.ndarray, np.ndarray]


class Fit(NamedTuple):
    """What one optimizer reached, mean over the seeds."""

    optimizer: str
    train: np.ndarray
    """[epochs], the loss that `fit` reports."""
    validation: np.ndarray
    """[epochs]"""
    metric: float | None
    """The model's first metric on the validation data, after the last epoch; if it has one."""


def compare(
    title: str,
    make_model: Callable[[], keras.Model],
    train: Data,
    validation: Data,
    picture: Path,
    *,
    batch_size: int,
    epochs: int,
    seeds: int,
    **compile_arguments: Any,
) -> list[Fit]:
    """Trains with RNNprop's default weights, Adam as it comes, and the best Adam of `ADAM_RATES`.

    The best one is chosen afterwards by the lowest validation loss, which is then reported: an advantage.
    Prints the rows of a Markdown table and draws the losses.
    """

    def fit(name: str, make_optimizer: Callable[[], keras.optimizers.Optimizer]) -> Fit:
        histories = []
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            model = make_model()
            model.compile(make_optimizer(), **compile_arguments)
            fitted = model.fit(
                *train, batch_size=batch_size, epochs=epochs, validation_data=validation, verbose=0
            )
            histories.append(fitted.history)
        mean = {key: np.mean([history[key] for history in histories], axis=0) for key in histories[0]}
        metrics = [values[-1] for key, values in mean.items() if key not in ("loss", "val_loss")]
        return Fit(name, mean["loss"], mean["val_loss"], metrics[-1] if metrics else None)

    ours = fit("RNNprop", RNNprop.from_pretrained)
    adams = {
        rate: fit(f"Adam, {rate:g}", lambda rate=rate: keras.optimizers.Adam(rate)) for rate in ADAM_RATES
    }
    best = min(ADAM_RATES, key=lambda rate: np.nanmin(adams[rate].validation))
    fits = [ours, adams[ADAM_DEFAULT]._replace(optimizer=f"Adam, {ADAM_DEFAULT:g} (default)")]
    fits.append(adams[best]._replace(optimizer=f"Adam, {best:g} (best of {len(ADAM_RATES)})"))
    print(f"\n{title}: {make_model().count_params():,} parameters, {epochs} epochs, mean of {seeds} seeds\n")
    print("| optimizer | train loss | validation loss | validation accuracy | lowest validation loss |")
    print("|---|---|---|---|---|")
    for f in fits:
        metric = "-" if f.metric is None else f"{f.metric:.3f}"
        lowest = f"{np.nanmin(f.validation):.3f}, epoch {np.nanargmin(f.validation) + 1}"
        print(f"| {f.optimizer} | {f.train[-1]:.4f} | {f.validation[-1]:.3f} | {metric} | {lowest} |")
    _plot(title, fits, picture)
    return fits


def _plot(title: str, fits: list[Fit], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    epochs = np.arange(1, len(fits[0].train) + 1)
    for k, f in enumerate(fits):
        axes.plot(epochs, f.train, color=f"C{k}", label=f.optimizer)
        axes.plot(epochs, f.validation, color=f"C{k}", linestyle=":")
    axes.set(yscale="log", xlabel="epoch", ylabel="loss (dotted: validation)", title=title)
    axes.legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)
