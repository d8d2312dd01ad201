"""How the final losses of a meta-training run's checkpoints differ, beside the criterion that chooses one.

    python -m studies.checkpoints --run_dir=runs/paper-rnnprop

Seeds that no evaluation uses. Prints a Markdown table of mean final losses and their standard errors.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from absl import flags

from rnnprop_tf import network as coordinatewise
from rnnprop_tf.network import Network
from studies import losses
from trainer import checkpoint, commands
from trainer.config import MetaTrainConfig
from trainer.evaluation.unrolled_runner import LearnedRunner
from trainer.problems import catalog

FLAGS = flags.FLAGS

FIRST_SEED = 3_000_000


def main(_: list[str]) -> None:
    saved = [
        checkpoint.load(checkpoint.path_of(FLAGS.run_dir, k)) for k in checkpoint.iterations(FLAGS.run_dir)
    ]
    config = MetaTrainConfig.from_dict(saved[0].record["config"])

    def network_of(one: checkpoint.Checkpoint) -> Network:
        return coordinatewise.from_tensors(checkpoint.part(one, "network"), config.architecture)

    runners = {
        task: LearnedRunner(catalog.task(task).build(None), config.update_rule, network_of(saved[0]))
        for task in FLAGS.tasks
    }
    seeds = range(FIRST_SEED, FIRST_SEED + FLAGS.runs)
    headers = [f"{task}, {of}" for task in FLAGS.tasks for of in ("mean final loss", "standard error")]
    losses.print_head("episodes", "average training loss", *headers)
    for one in saved:
        cells = []
        for runner in runners.values():
            runner.network = tf.nest.map_structure(tf.convert_to_tensor, network_of(one))
            found = losses.final_losses(runner, config.episode_steps, seeds, config.alpha)
            cells += [f"{found.mean():.4f}", f"{found.std(ddof=1) / np.sqrt(len(found)):.4f}"]
        average = one.record["average_loss"]  # None in the first 100 episodes.
        shown = "-" if average is None else f"{average:.4f}"
        losses.print_row(f"{one.record['iteration']:,}", shown, *cells)


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "folder of the run", required=True)
    flags.DEFINE_list("tasks", ["mnist-nn-elu-100", "mnist-nn-relu-100"], "names of trainer.problems.catalog")
    flags.DEFINE_integer("runs", 8, "runs of each checkpoint on each task", lower_bound=2)
    commands.run(main)
