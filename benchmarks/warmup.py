"""Over how many steps the learning rate of given weights should rise at first.

    python -m benchmarks.warmup --weights=rnnprop-quick

Runs RNNprop with a learning rate that rises along a line to the weights' own, on tasks outside the paper's 22
and on seeds that no evaluation uses. Prints a Markdown table of mean final losses, and the geometric mean of
their ratios to those without a warm-up.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from rnnprop_tf import RNNprop, pretrained
from trainer.evaluation.curves import KerasRunner
from trainer.problems import catalog

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", "rnnprop-quick", "a name or folder")
flags.DEFINE_list("tasks", list(catalog.SMALL_TASKS), "names of trainer.problems.catalog")
flags.DEFINE_list("warmups", ["1", "10", "20", "40", "80"], "steps; 1 is none")
flags.DEFINE_integer("runs", 3, "of each", lower_bound=1)

FIRST_SEED = 400_000


class Rising(keras.optimizers.schedules.LearningRateSchedule):
    """Along a line to `peak` at step `warmup`, a variable, so that one compiled program serves all."""

    def __init__(self, peak: float) -> None:
        self.peak = peak
        self.warmup = tf.Variable(1.0)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        return self.peak * tf.minimum(1.0, (tf.cast(step, tf.float32) + 1.0) / self.warmup)


def main(_: list[str]) -> None:
    warmups = [float(text) for text in FLAGS.warmups]
    found = pretrained.load(FLAGS.weights)
    rows = []
    for name in FLAGS.tasks:
        task, rate = catalog.task(name), Rising(found.learning_rate)
        optimizer = RNNprop.from_pretrained(FLAGS.weights, learning_rate=rate)
        runner = KerasRunner(task.build(None), optimizer)
        row = []
        for warmup in warmups:
            rate.warmup.assign(warmup)
            runs = (runner.run(task.steps, FIRST_SEED + k) for k in range(FLAGS.runs))
            row.append(float(np.mean([run.final_loss for run in runs])))
        rows.append(row)
        print(f"| {name} | {' | '.join(f'{loss:.4f}' for loss in row)} |", flush=True)
    ratios = np.exp(np.mean(np.log(np.array(rows) / np.array(rows)[:, :1]), axis=0))
    print(f"| geometric mean of the ratios | {' | '.join(f'{ratio:.3f}' for ratio in ratios)} |")


if __name__ == "__main__":
    app.run(main)
