"""What the average of the iterates is worth, and whether it may be the default.

    python -m studies.averaging

Keras models that weights are chosen by, trained by RNNprop plain, by RNNprop with `use_averaging` and by Adam
in one `fit`; and with `use_averaging` in `FITS` of them for as many steps, each of which begins at the
average that the one before has left. Losses are those of the model that is left behind. A loop of one's own
that does not call `finalize_variable_values` leaves what the plain RNNprop does.

Prints a Markdown table of mean losses: at the end, as they are and with the statistics of BatchNormalization
computed anew; and the lowest validation loss in the course of `fit`, as `SwapEMAWeights` has it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from rnnprop_tf import RNNprop, pretrained, recalibrate_batch_norm
from studies import losses
from trainer import commands
from trainer.evaluation.fit_runner import POINTS, FitRunner
from trainer.evaluation.runner import Run
from trainer.keras_models.catalog import VALIDATION

FLAGS = flags.FLAGS

FITS = 2 * POINTS
MODELS = ["keras-digits-cnn", "keras-digits-residual", "keras-friedman"]
"""One with BatchNormalization, one that the default weights do not settle on, and a regression."""

ROWS = ("training", "validation", "lowest validation", "training, anew", "validation, anew")


class InFits(FitRunner):
    """Trains in several calls of `fit`, and then computes statistics anew."""

    fits = 1
    anew: tuple[float, float]
    """Training and validation loss of the last run with these statistics."""

    def run(self, steps: int, seed: int, learning_rate: float) -> Run:
        run = super().run(steps, seed, learning_rate)
        x, _ = self._train
        batch = self._spec.batch_size
        data = tf.data.Dataset.from_tensor_slices(x).batch(batch, drop_remainder=True)
        recalibrate_batch_norm(self._model, data)
        training, validation, _ = self._measure()
        self.anew = training, validation
        return run

    def _fit(self, steps: int, seed: int, **arguments: Any) -> None:
        if self.fits == 1 or "epochs" not in arguments:
            super()._fit(steps, seed, **arguments)
            return
        each = steps // self.fits
        for k in range(self.fits):
            batches = self._batches(steps, seed).skip(k * each)
            alone = arguments | {"epochs": 1, "steps_per_epoch": each}
            self._model.fit(batches, shuffle=False, verbose=0, **alone)


def mean_losses(runner: InFits, rate: float) -> np.ndarray:
    """Losses as in `ROWS`."""
    found = []
    for seed in range(losses.SEEDS_FROM, losses.SEEDS_FROM + FLAGS.runs):
        curve = runner.run(FLAGS.steps, seed, rate).curve
        validation = curve["validation_loss"]
        found.append([curve["loss"][-1], validation[-1], validation.min(), *runner.anew])
    return np.mean(found, axis=0)


def main(_: list[str]) -> None:
    rate = pretrained.load(FLAGS.weights).learning_rate
    plain = partial(RNNprop.from_pretrained, FLAGS.weights)
    averaged = partial(plain, use_averaging=True)
    ways: dict[str, tuple[Callable[[Any], keras.optimizers.Optimizer], float, int]] = {
        "plain": (plain, rate, 1),
        "averaged": (averaged, rate, 1),
        f"averaged, {FITS} fits": (averaged, rate, FITS),
        "Adam, 0.001": (keras.optimizers.Adam, 0.001, 1),
    }
    losses.print_head("model, loss", *ways)
    for name in FLAGS.models:
        columns = []
        for make, alpha, fits in ways.values():
            runner = InFits(VALIDATION[name], make)
            runner.fits = fits
            columns.append(mean_losses(runner, alpha))
        for row, cells in zip(ROWS, np.transpose(columns), strict=True):
            losses.print_row(f"{name}, {row}", *(f"{loss:.5f}" for loss in cells))


if __name__ == "__main__":
    flags.DEFINE_string("weights", pretrained.DEFAULT, "name or folder of RNNprop weights")
    flags.DEFINE_list("models", MODELS, "names of trainer.keras_models.catalog.VALIDATION")
    flags.DEFINE_integer("steps", 2_000, f"steps of each training, a multiple of {FITS}", lower_bound=FITS)
    flags.DEFINE_integer("runs", 3, "seeds of each cell", lower_bound=1)
    commands.run(main)
