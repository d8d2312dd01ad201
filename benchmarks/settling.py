"""Whether given weights should make smaller steps once the gradients have shrunk, and how.

    python -m benchmarks.settling --weights=rnnprop-1 --steps=2000

Runs tasks outside the paper's 22 and the Keras models that weights are chosen by, with `SettlingRule` at each
of some values of `settling` (0: as RNNprop's rule has them); prints a Markdown table of mean final losses.
"""

from __future__ import annotations

import numpy as np
from absl import app, flags

from rnnprop_tf import RNNprop
from trainer.evaluation.curves import LearnedRunner
from trainer.evaluation.fits import FitRunner
from trainer.problems import catalog
from trainer.problems.workloads import VALIDATION

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", "rnnprop-1", "a name or folder")
flags.DEFINE_list("tasks", [*catalog.SMALL_TASKS, *VALIDATION], "of the catalog or the workloads")
flags.DEFINE_integer("steps", 2_000, "of a run", lower_bound=1)
flags.DEFINE_integer("runs", 2, "of each", lower_bound=1)
flags.DEFINE_float("beta_3", 0.9999, "decay of the longer memory, below 1", lower_bound=0.0)
flags.DEFINE_list("settlings", ["0", "1", "2", "3", "4"], "0 leaves the steps as they are")

FIRST_SEED = 400_000


def runner_of(name: str, settling: float) -> LearnedRunner | FitRunner:
    def optimizer(_: object = None) -> RNNprop:
        return RNNprop.from_pretrained(FLAGS.weights, settling=settling, beta_3=FLAGS.beta_3)

    if name in VALIDATION:
        return FitRunner(VALIDATION[name], optimizer)
    made, problem = optimizer(), catalog.task(name).build(None)
    return LearnedRunner(problem, made.rule, made.network, float(made.learning_rate))


def main(_: list[str]) -> None:
    print(f"| | {' | '.join(FLAGS.settlings)} |\n{'|---' * (1 + len(FLAGS.settlings))}|")
    for name in FLAGS.tasks:
        row = []
        for settling in map(float, FLAGS.settlings):
            runner = runner_of(name, settling)
            runs = (runner.run(FLAGS.steps, FIRST_SEED + k) for k in range(FLAGS.runs))
            row.append(float(np.mean([run.final_loss for run in runs])))
        print(f"| {name} | {' | '.join(f'{loss:.5f}' for loss in row)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
