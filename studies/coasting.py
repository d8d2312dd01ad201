"""Whether a coordinate should take a longer step after steps without a gradient.

    python -m studies.coasting --steps=200 --runs=8

Runs tasks outside the paper's 22 with given weights and `AnnealingRule`, at each of some values of its
`LONGEST`, the most steps that the step after a sleep stands for; with 1 no step is longer. Prints a Markdown
table of mean final losses, and below them the geometric means of their ratios to the first column's.
"""

from __future__ import annotations

import dataclasses

from absl import flags

from rnnprop_tf import pretrained
from rnnprop_tf.rule import AnnealingRule, Rule
from studies import losses
from studies.sleep_rule import WORDS
from trainer import commands
from trainer.evaluation.unrolled_runner import LearnedRunner
from trainer.problems import catalog

FLAGS = flags.FLAGS

TASKS = [
    *WORDS,
    *("neighbours-pairs-b64-100", "sentences-bag-b32-100", "sentences-lstm-b16-100"),
    *("digits-nn-relu-100", "mnist-pool4-nn-relu-100", "mnist-pool2-nn-l2-relu-b64-100"),
    *("digits-cnn-100", "mnist-pool2-cnn-100", "digits-dense-b4-100", "digits-residual-b16-100"),
]


def rule_with(rule: Rule, longest: float) -> AnnealingRule:
    """`AnnealingRule` with the hyperparameters of this one and another `LONGEST`."""

    class WithLongest(AnnealingRule):
        LONGEST = longest

    return WithLongest(**dataclasses.asdict(rule))


def main(_: list[str]) -> None:
    weights = pretrained.load(FLAGS.weights)
    rules = [rule_with(weights.rule, float(longest)) for longest in FLAGS.longest]
    losses.print_head("task", *(f"mean final loss, {longest}" for longest in FLAGS.longest))
    rows = []
    for name in FLAGS.tasks:
        problem = WORDS[name]() if name in WORDS else catalog.task(name).build(FLAGS.data_dir)
        row = []
        for rule in rules:
            runner = LearnedRunner(problem, rule, weights.network)
            seeds = range(losses.SEEDS_FROM, losses.SEEDS_FROM + FLAGS.runs)
            row.append(losses.final_losses(runner, FLAGS.steps, seeds, weights.learning_rate).mean())
        losses.print_row(name, *(f"{loss:.4f}" for loss in row))
        rows.append(row)
    losses.print_ratios(rows)


if __name__ == "__main__":
    flags.DEFINE_string("weights", "rnnprop-1-small", "name or folder of RNNprop weights")
    flags.DEFINE_list("longest", ["1", "5"], "numbers of steps")
    flags.DEFINE_list("tasks", TASKS, f"tasks of trainer.problems.catalog, or of {', '.join(WORDS)}")
    flags.DEFINE_integer("steps", 200, "steps of a run", lower_bound=1)
    flags.DEFINE_integer("runs", 8, "runs of each cell, whose mean it shows", lower_bound=1)
    flags.DEFINE_string("data_dir", None, "TFDS's folder; by default TFDS_DATA_DIR, or TFDS's own")
    commands.run(main)
