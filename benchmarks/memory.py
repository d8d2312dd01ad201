"""Whether given weights should make smaller steps once the gradients have shrunk.

    python -m benchmarks.memory --weights=rnnprop-1 --steps=2000

RNNprop remembers squared gradients for some 1 / (1 - beta_2) = 20 steps, so it makes steps of the same size
however small the gradients become. Here its direction is multiplied by min(1, (slack r)^2), where r^2 is v^
divided by a mean of squared gradients with a longer memory. Runs tasks outside the paper's 22 and the Keras
models that weights are chosen by; prints a Markdown table of mean final losses.
"""

from __future__ import annotations

import numpy as np
from absl import app, flags

from rnnprop_tf import RNNprop, pretrained
from rnnprop_tf.network import Tensor
from rnnprop_tf.rule import SettlingRule
from trainer.evaluation.curves import LearnedRunner
from trainer.evaluation.fits import FitRunner
from trainer.problems import catalog
from trainer.problems.workloads import VALIDATION

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", "rnnprop-1", "a name or folder")
flags.DEFINE_list("tasks", [*catalog.SMALL_TASKS, *VALIDATION], "of the catalog or the workloads")
flags.DEFINE_integer("steps", 2_000, "of a run", lower_bound=1)
flags.DEFINE_integer("runs", 2, "of each", lower_bound=1)
flags.DEFINE_float("memory", 0.9999, "decay of the longer memory", lower_bound=0.0, upper_bound=1.0)
flags.DEFINE_list("slacks", ["0", "1", "1.25", "1.5"], "0 leaves the steps as they are")

FIRST_SEED = 400_000


class BiasCorrected(SettlingRule):
    """The rule with its longer memory corrected, so that it counts from the first steps on."""

    def shrinking(self, v: Tensor, u: Tensor, step: Tensor) -> Tensor:
        return super().shrinking(v, u / (1.0 - self.beta_3**step), step)


def runner_of(name: str, rule: BiasCorrected) -> LearnedRunner | FitRunner:
    found = pretrained.load(FLAGS.weights)

    def optimizer(_: object = None) -> RNNprop:
        made = RNNprop.from_pretrained(FLAGS.weights)
        made.rule = rule
        return made

    if name in VALIDATION:
        return FitRunner(VALIDATION[name], optimizer)
    return LearnedRunner(catalog.task(name).build(None), rule, found.network, found.learning_rate)


def main(_: list[str]) -> None:
    print(f"| | {' | '.join(FLAGS.slacks)} |\n{'|---' * (1 + len(FLAGS.slacks))}|")
    for name in FLAGS.tasks:
        row = []
        for slack in map(float, FLAGS.slacks):
            runner = runner_of(
                name, BiasCorrected(beta_3=FLAGS.memory, settling=1.0 / slack if slack else 0.0)
            )
            runs = (runner.run(FLAGS.steps, FIRST_SEED + k) for k in range(FLAGS.runs))
            row.append(float(np.mean([run.final_loss for run in runs])))
        print(f"| {name} | {' | '.join(f'{loss:.5f}' for loss in row)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
