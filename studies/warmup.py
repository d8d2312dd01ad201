"""Over how many steps the learning rate of given weights should rise at first.

    python -m studies.warmup --weights=rnnprop-quick

Runs RNNprop with a learning rate that rises along a line to the weights' own, for 100 steps on tasks outside
the paper's 22 and for 200 on the Keras models that weights are chosen by. Prints a Markdown table of mean
final losses, and the geometric mean of their ratios to those of the first column.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from rnnprop_tf import RNNprop, pretrained
from studies import losses
from trainer import commands
from trainer.keras_models.catalog import VALIDATION
from trainer.problems import catalog

FLAGS = flags.FLAGS

KERAS_STEPS = 200
"""Steps of a Keras model's run."""


class Rising(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises along a line to `peak()` at step `warmup`, a variable: one program serves all."""

    def __init__(self, peak: Callable[[], tf.Tensor], warmup: tf.Variable) -> None:
        self.peak = peak
        self.warmup = warmup

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        return self.peak() * tf.minimum(1.0, (tf.cast(step, tf.float32) + 1.0) / self.warmup)


def steps_of(name: str) -> int:
    """Length of a run: the task's own, or `KERAS_STEPS`."""
    return KERAS_STEPS if name in VALIDATION else catalog.task(name).steps


def main(_: list[str]) -> None:
    seeds = range(losses.SEEDS_FROM, losses.SEEDS_FROM + FLAGS.runs)
    peak = pretrained.load(FLAGS.weights).learning_rate
    losses.print_head("task", *(f"mean final loss, warm-up of {warmup} steps" for warmup in FLAGS.warmups))
    rows = []
    for name in FLAGS.tasks:
        warmup = tf.Variable(1.0)
        runner = losses.runner_of(
            name,
            lambda rate: RNNprop.from_pretrained(FLAGS.weights, Rising(rate, warmup)),  # noqa: B023
        )
        row = []
        for steps in map(float, FLAGS.warmups):
            warmup.assign(steps)
            row.append(losses.final_losses(runner, steps_of(name), seeds, peak).mean())
        rows.append(row)
        losses.print_row(name, *(f"{loss:.4f}" for loss in row))
    ratios = np.exp(np.mean(np.log(np.array(rows) / np.array(rows)[:, :1]), axis=0))
    losses.print_row("geometric mean of the ratios to the first", *(f"{ratio:.3f}" for ratio in ratios))


if __name__ == "__main__":
    flags.DEFINE_string("weights", "rnnprop-quick", "name or folder of RNNprop weights")
    flags.DEFINE_list("tasks", losses.SMALL, "names of tasks of trainer.problems.catalog or of Keras models")
    flags.DEFINE_list("warmups", ["1", "10", "20", "40", "80"], "lengths of the warm-up in steps; 1 is none")
    flags.DEFINE_integer("runs", 3, "runs of each cell, whose mean it shows", lower_bound=1)
    commands.run(main)
