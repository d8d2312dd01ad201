"""Over how many steps the learning rate of given weights should rise at first.

    python -m benchmarks.warmup --weights=rnnprop-quick

Runs RNNprop with a learning rate that rises along a line to the weights' own, for 100 steps on tasks outside
the paper's 22 and for 200 on the Keras models that weights are chosen by. Prints a Markdown table of mean
final losses, and the geometric mean of their ratios to those of the first column.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from rnnprop_tf import RNNprop, pretrained
from trainer.evaluation.curves import KerasRunner, Runner
from trainer.evaluation.fits import FitRunner
from trainer.problems import catalog
from trainer.problems.workloads import VALIDATION

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", "rnnprop-quick", "a name or folder")
flags.DEFINE_list("tasks", [*catalog.SMALL_TASKS, *VALIDATION], "of the catalog or the workloads")
flags.DEFINE_list("warmups", ["1", "10", "20", "40", "80"], "steps; 1 is none")
flags.DEFINE_integer("runs", 3, "of each", lower_bound=1)

FIRST_SEED = 400_000
KERAS_STEPS = 200


class Rising(keras.optimizers.schedules.LearningRateSchedule):
    """Along a line to `peak` at step `warmup`, a variable, so that one compiled program serves all."""

    def __init__(self, peak: float) -> None:
        self.peak = peak
        self.warmup = tf.Variable(1.0)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        return self.peak * tf.minimum(1.0, (tf.cast(step, tf.float32) + 1.0) / self.warmup)


def runner_of(name: str, rate: Rising) -> tuple[Runner | FitRunner, int]:
    """And how many steps its runs have."""

    def optimizer(_: object = None) -> RNNprop:
        return RNNprop.from_pretrained(FLAGS.weights, learning_rate=rate)

    if name in VALIDATION:
        return FitRunner(VALIDATION[name], optimizer), KERAS_STEPS
    task = catalog.task(name)
    return KerasRunner(task.build(None), optimizer()), task.steps


def main(_: list[str]) -> None:
    warmups = [float(text) for text in FLAGS.warmups]
    found = pretrained.load(FLAGS.weights)
    print(f"| | {' | '.join(FLAGS.warmups)} |\n{'|---' * (1 + len(warmups))}|")
    rows = []
    for name in FLAGS.tasks:
        rate = Rising(found.learning_rate)
        runner, steps = runner_of(name, rate)
        row = []
        for warmup in warmups:
            rate.warmup.assign(warmup)
            runs = (runner.run(steps, FIRST_SEED + k) for k in range(FLAGS.runs))
            row.append(float(np.mean([run.final_loss for run in runs])))
        rows.append(row)
        print(f"| {name} | {' | '.join(f'{loss:.4f}' for loss in row)} |", flush=True)
    ratios = np.exp(np.mean(np.log(np.array(rows) / np.array(rows)[:, :1]), axis=0))
    print(f"| geometric mean of the ratios to the first | {' | '.join(f'{ratio:.3f}' for ratio in ratios)} |")


if __name__ == "__main__":
    app.run(main)
