"""Whether given weights should make smaller steps late in training, and how.

    python -m studies.settling --weights=rnnprop-1 --steps=2000
    python -m studies.settling --weights=rnnprop-1-small --settlings=0,2 --annealings=1000,2500 --steps=4000

Runs tasks outside the paper's 22 and the Keras models that weights are chosen by, with `SettlingRule` at each
of some values of `settling` (0: as RNNprop's rule has them) and with `AnnealingRule` at each of some values
of `annealing`; prints a Markdown table of mean final losses, and below them the geometric means of their
ratios to the first column's.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from absl import flags

from rnnprop_tf import RNNprop, pretrained
from studies import losses
from trainer import commands

FLAGS = flags.FLAGS

SMALLEST = 1e-6
"""Smaller losses count as this one in the geometric mean."""


def main(_: list[str]) -> None:
    seeds = range(losses.SEEDS_FROM, losses.SEEDS_FROM + FLAGS.runs)
    alpha = pretrained.load(FLAGS.weights).learning_rate
    neither = {"settling": 0.0, "annealing": 0.0}
    rules = [("settling", value) for value in FLAGS.settlings]
    rules += [("annealing", value) for value in FLAGS.annealings]
    losses.print_head("task", *(f"mean final loss, {kind} {value}" for kind, value in rules))
    rows = []
    for name in FLAGS.tasks:
        row = []
        for kind, value in rules:
            make = partial(
                RNNprop.from_pretrained, FLAGS.weights, beta_3=FLAGS.beta_3, **{**neither, kind: float(value)}
            )
            runner = losses.runner_of(name, make)
            row.append(losses.final_losses(runner, FLAGS.steps, seeds, alpha).mean())
        losses.print_row(name, *(f"{loss:.5f}" for loss in row))
        rows.append(np.maximum(row, SMALLEST))
    losses.print_ratios(rows)


if __name__ == "__main__":
    flags.DEFINE_string("weights", "rnnprop-1", "name or folder of RNNprop weights")
    flags.DEFINE_list("tasks", losses.SMALL, "names of tasks of trainer.problems.catalog or of Keras models")
    flags.DEFINE_integer("steps", 2_000, "steps of a run", lower_bound=1)
    flags.DEFINE_integer("runs", 2, "runs of each cell, whose mean it shows", lower_bound=1)
    flags.DEFINE_float("beta_3", 0.9999, "decay of the longer memory, below 1", lower_bound=0.0)
    flags.DEFINE_list("settlings", ["0", "1", "2", "3", "4"], "values; 0 leaves the steps as they are")
    flags.DEFINE_list("annealings", [], "values, in steps, each of 1 or more")
    commands.run(main)
